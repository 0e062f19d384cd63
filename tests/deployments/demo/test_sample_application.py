"""The sample application against a real Postgres: each release does what its story in the demo needs."""

from __future__ import annotations

import itertools
import json
import signal
import subprocess
import sys
import threading
import time
import tomllib
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import LiteralString

import httpx
import psycopg
import pytest
from psycopg import sql

from deployments.demo.repository import build_repository
from deployments.demo.traffic import Traffic
from runbook.clients.embedded_postgres import EmbeddedPostgres, bin_directory, free_port
from runbook.clients.git import Repository

RATE_PER_S = 80
TAGS = ("v1", "v2", "v3", "v4", "v5", "v6")


@dataclass(frozen=True)
class Application:
    """A running release."""

    url: str
    process: subprocess.Popen[bytes]
    log: Path

    def get(self, path: str) -> httpx.Response:
        return httpx.get(self.url + path, timeout=10, trust_env=False)

    def post(self, path: str, body: object) -> httpx.Response:
        return httpx.post(self.url + path, json=body, timeout=10, trust_env=False)


@pytest.fixture(scope="module")
def releases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A folder with the files of each release."""
    root = tmp_path_factory.mktemp("releases")
    tags = build_repository(root / "repository")
    for tag, git_sha in tags.items():
        Repository(root / "repository").export(git_sha, root / tag)
    return {tag: root / tag for tag in TAGS}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Generator[EmbeddedPostgres]:
    postgres = EmbeddedPostgres(tmp_path_factory.mktemp("postgres"))
    try:
        postgres.start()
        yield postgres
    finally:
        postgres.remove()


def execute(url: str, statement: sql.SQL | sql.Composed | LiteralString) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(statement)


def count(url: str, rows: LiteralString) -> int:
    with psycopg.connect(url) as connection:
        row = connection.execute(sql.SQL("SELECT count(*) FROM {}").format(sql.SQL(rows))).fetchone()
    assert row is not None
    return int(row[0])


def copy_database(server: EmbeddedPostgres, name: str, template: str = "template1") -> str:
    statement = sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(sql.Identifier(name), sql.Identifier(template))
    execute(server.url(), statement)
    return server.url(name)


def psql(url: str, *files: Path) -> subprocess.CompletedProcess[str]:
    for file in files:
        argv = [str(bin_directory() / "psql"), url, "--no-psqlrc", "--quiet", "--set=ON_ERROR_STOP=1"]
        if "CONCURRENTLY" not in file.read_text():
            argv.append("--single-transaction")
        result = subprocess.run([*argv, f"--file={file}"], check=False, capture_output=True, text=True)
        if result.returncode != 0:
            return result
    return subprocess.CompletedProcess([], 0, "", "")


def forward(release: Path, first: int, last: int) -> list[Path]:
    files = (file for file in release.glob("migrations/*.sql") if not file.stem.endswith("_ROLLBACK"))
    return sorted(file for file in files if first <= int(file.name[:4]) <= last)


def schema(url: str) -> list[str]:
    argv = [str(bin_directory() / "pg_dump"), "--schema-only", f"--dbname={url}"]
    dump = subprocess.run(argv, check=True, capture_output=True, text=True).stdout
    return [line for line in dump.splitlines() if "restrict" not in line]  # a random key in each dump


@pytest.fixture(scope="module")
def schema_v1(server: EmbeddedPostgres, releases: dict[str, Path]) -> str:
    result = psql(copy_database(server, "schema_v1"), *forward(releases["v1"], 1, 2))
    assert result.returncode == 0, result.stderr
    return "schema_v1"


@pytest.fixture(scope="module")
def schema_v2(server: EmbeddedPostgres, releases: dict[str, Path], schema_v1: str) -> str:
    result = psql(copy_database(server, "schema_v2", schema_v1), *forward(releases["v2"], 3, 5))
    assert result.returncode == 0, result.stderr
    return "schema_v2"


@pytest.fixture
def database(server: EmbeddedPostgres, schema_v2: str) -> Generator[str]:
    """A database of this test alone, with the schema of v2."""
    yield copy_database(server, "shop", schema_v2)
    execute(server.url(), "DROP DATABASE IF EXISTS shop WITH (FORCE)")


@contextmanager
def running(release: Path, url: str, log: Path) -> Generator[Application]:
    port = free_port()
    environment = {
        "PORT": str(port),
        "DATABASE_URL": url,
        "APP_VERSION": release.name,
        "RELEASE_SHA": "a" * 40,
        "NEXTAUTH_SECRET": "n" * 32,
        "NEXTAUTH_URL": f"http://127.0.0.1:{port}",
        "JWT_SECRET": "j" * 32,
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    with log.open("wb") as output:
        argv = [sys.executable, "-m", "shop"]
        process = subprocess.Popen(argv, cwd=release, env=environment, stdout=output, stderr=output)
    try:
        application = Application(f"http://127.0.0.1:{port}", process, log)
        wait_until(lambda: answers(application), f"{release.name} did not start: {log.read_text()}")
        yield application
    finally:
        process.terminate()
        try:
            process.wait(timeout=15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def answers(application: Application) -> bool:
    try:
        return application.get("/api/health").is_success
    except httpx.TransportError:
        assert application.process.poll() is None, application.log.read_text()
        return False


def wait_until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


Start = Callable[[str], Application]


@pytest.fixture
def start(releases: dict[str, Path], database: str, tmp_path: Path) -> Generator[Start]:
    """Starts releases on the database of this test and stops them at its end."""
    with ExitStack() as started:
        logs = (tmp_path / f"{number}.log" for number in itertools.count())
        yield lambda tag: started.enter_context(running(releases[tag], database, next(logs)))


def failed_smoke_tests(release: Path, application: Application) -> list[str]:
    failed: list[str] = []
    for request in tomllib.loads((release / "smoke.toml").read_text())["request"]:
        method, url = request.get("method", "GET"), application.url + request["path"]
        response = httpx.request(method, url, json=request.get("body"), timeout=10, trust_env=False)
        good = response.status_code == request["status"] and request.get("contains", "") in response.text
        if good and "json" in request:
            answer = response.json()
            good = all(answer.get(key) == expected for key, expected in request["json"].items())
        if not good:
            failed.append(request["name"])
    return failed


def test_v1_serves_its_own_schema(
    server: EmbeddedPostgres, releases: dict[str, Path], schema_v1: str, tmp_path: Path
) -> None:
    url = copy_database(server, "own_schema", schema_v1)
    with running(releases["v1"], url, tmp_path / "log") as application:
        assert failed_smoke_tests(releases["v1"], application) == []


def test_every_answer_names_the_release(start: Start) -> None:
    application = start("v3")
    paths = {"/api/health": 200, "/api/health/database": 200, "/api/auth/health": 200, "/nowhere": 404, "/": 500}
    for path, status in paths.items():
        response = application.get(path)
        assert response.status_code == status, path
        assert response.headers["x-app-version"] == "v3"
        assert response.headers["x-release-sha"] == "a" * 40


@pytest.mark.parametrize("tag", ["v1", "v2"])
def test_old_and_new_code_work_on_the_expanded_schema(start: Start, releases: dict[str, Path], tag: str) -> None:
    application = start(tag)
    assert failed_smoke_tests(releases[tag], application) == []
    with Traffic(application.url, RATE_PER_S) as traffic:
        wait_until(lambda: traffic.counts().requests >= 80, "too little traffic")
        counts = traffic.counts()
    assert counts.failures == 0
    assert counts.writes > 10


def test_acknowledged_orders_are_in_the_database_once(start: Start, database: str) -> None:
    application = start("v2")
    with Traffic(application.url, RATE_PER_S) as traffic:
        wait_until(lambda: traffic.counts().writes >= 5, "too few orders")
        traffic.pause_writes()
        acknowledged = set(traffic.acknowledged_references())
    with psycopg.connect(database) as connection:
        rows = connection.execute("SELECT reference FROM orders WHERE reference IS NOT NULL").fetchall()
    assert {row[0] for row in rows} == acknowledged
    again = {"sku": "SKU-0001", "quantity": 1, "reference": next(iter(acknowledged))}
    assert application.post("/api/orders", again).status_code == 409


def test_the_page_of_v2_looks_different(start: Start) -> None:
    assert "running low" not in start("v1").get("/").text
    assert "running low" in start("v2").get("/").text


def test_down_scripts_of_v2_take_its_migrations_back(
    server: EmbeddedPostgres, releases: dict[str, Path], schema_v1: str, database: str
) -> None:
    down = sorted(releases["v2"].glob("migrations/*_ROLLBACK.sql"), reverse=True)
    assert len(down) == 3
    assert psql(database, *down).returncode == 0
    assert schema(database) == schema(server.url(schema_v1))


def test_v3_fails_its_smoke_test_while_it_looks_healthy(start: Start, releases: dict[str, Path]) -> None:
    application = start("v3")
    assert "stock is listed" in failed_smoke_tests(releases["v3"], application)
    for path in ("/api/health", "/api/health/database", "/api/auth/health"):
        assert application.get(path).status_code == 200


def test_v4_passes_its_smoke_test_and_fails_under_traffic(start: Start, releases: dict[str, Path]) -> None:
    application = start("v4")
    assert failed_smoke_tests(releases["v4"], application) == []
    with Traffic(application.url, RATE_PER_S) as traffic:
        wait_until(lambda: traffic.counts().requests >= 120, "too little traffic")
        counts = traffic.counts()
    assert 0.15 < counts.failures / counts.requests < 0.35
    assert failed_smoke_tests(releases["v4"], application) == [], "smoke passes after the failures too"


def test_v5_fails_in_its_third_migration_and_its_down_scripts_restore_the_schema(
    releases: dict[str, Path], database: str
) -> None:
    before = schema(database)
    add, index, backfill = forward(releases["v5"], 6, 8)
    assert psql(database, add, index).returncode == 0
    assert schema(database) != before
    result = psql(database, backfill)
    assert "orders_discount_within_total" in result.stderr
    assert count(database, "orders WHERE discount_cents <> 0") == 0
    down = sorted(releases["v5"].glob("migrations/000[67]*_ROLLBACK.sql"), reverse=True)
    assert psql(database, *down).returncode == 0
    assert schema(database) == before


def test_v6_passes_its_smoke_test_and_destroys_data(start: Start, releases: dict[str, Path], database: str) -> None:
    lines = count(database, "order_items")
    assert start("v2").get("/api/customers/1").json()["phone"]
    assert psql(database, *forward(releases["v6"], 6, 6)).returncode == 0
    assert not list(releases["v6"].glob("migrations/0006*_ROLLBACK.sql"))
    assert failed_smoke_tests(releases["v6"], start("v6")) == []
    assert count(database, "order_items") < lines * 0.6
    assert count(database, "products WHERE price_cents = 0") == 60
    assert start("v2").get("/api/customers/1").status_code == 500, "the code of v2 needs the column"


def test_a_swapped_database_costs_no_request(start: Start, server: EmbeddedPostgres, database: str) -> None:
    application = start("v2")
    copy_database(server, "shop_copy", "schema_v2")
    with Traffic(application.url, RATE_PER_S) as traffic, psycopg.connect(server.url(), autocommit=True) as connection:
        wait_until(lambda: traffic.counts().requests >= 20, "too little traffic")
        connection.execute("ALTER DATABASE shop WITH ALLOW_CONNECTIONS false")
        connection.execute("SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = 'shop'")
        connection.execute("ALTER DATABASE shop RENAME TO shop_old")
        time.sleep(0.3)
        connection.execute("ALTER DATABASE shop_copy RENAME TO shop")
        traffic.mark()
        wait_until(lambda: traffic.since_mark().requests >= 60, "too little traffic")
        counts = traffic.counts()
        connection.execute("DROP DATABASE shop_old WITH (FORCE)")
    assert counts.failures == 0, application.log.read_text()[-2000:]
    assert counts.longest_gap_s >= 0.3


def test_database_health_says_when_the_database_is_gone(start: Start, server: EmbeddedPostgres, database: str) -> None:
    application = start("v1")
    assert application.get("/api/health/database").status_code == 200
    execute(server.url(), "DROP DATABASE shop WITH (FORCE)")
    assert application.get("/api/health/database").status_code == 503
    assert application.get("/api/health").json() == {"status": "ok", "version": "v1"}
    assert application.get("/api/stock").status_code == 503


def test_a_terminated_release_finishes_its_requests(start: Start, database: str) -> None:
    application = start("v1")
    answers: list[int] = []
    order = {"sku": "SKU-0001", "quantity": 1}
    client = threading.Thread(target=lambda: answers.append(application.post("/api/orders", order).status_code))
    with psycopg.connect(database) as connection:
        connection.execute("SELECT FROM products WHERE sku = 'SKU-0001' FOR UPDATE")
        client.start()
        time.sleep(0.3)
        application.process.send_signal(signal.SIGTERM)
        time.sleep(0.3)
        assert answers == []
    client.join()
    assert answers == [201]
    assert application.process.wait(timeout=10) == 0


def test_logs_are_json_lines(start: Start) -> None:
    application = start("v3")
    application.get("/")
    application.get("/api/stock")
    wait_until(lambda: "GET /api/stock 500" in application.log.read_text(), "no access line")
    lines = [json.loads(line) for line in application.log.read_text().splitlines()]
    assert all({"time", "level", "message"} <= line.keys() for line in lines)
    assert any(line["message"] == "GET / 500" and line["status"] == 500 for line in lines)
    errors = [line for line in lines if line["level"] == "error"]
    assert any("KeyError" in line["message"] and line["path"] == "/api/stock" for line in errors)
