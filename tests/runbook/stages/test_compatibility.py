"""The running release on a migrated copy: a real host, real processes, a real database."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from runbook.clients.local_host import LocalHost, LocalHostConfig
from runbook.clients.workload import Workload
from runbook.connections import Connections
from runbook.reports import Rehearsal, UndoOutcome
from runbook.rules.checklist import Check, Outcome
from runbook.stages.backup import create_backup, prove_by_copy
from runbook.stages.compatibility import check_old_release
from runbook.stages.migration_plan import plan_migrations
from runbook.stages.rehearsal import rehearse_migrations
from tests.runbook.helpers import commit, execute, query
from tests.runbook.stages.migrations import with_settings

APP = """
import json, os, psycopg
from http.server import BaseHTTPRequestHandler, HTTPServer

URL = os.environ["DATABASE_URL"]
with psycopg.connect(URL) as connection:
    connection.execute("SELECT id FROM orders LIMIT 1")

class Handler(BaseHTTPRequestHandler):
    def answer(self):
        status, body = 200, "fine"
        try:
            with psycopg.connect(URL) as connection:
                if self.path == "/orders" and self.command == "POST":
                    connection.execute("INSERT INTO orders (id, note) VALUES (99, 'by a smoke test')")
                elif self.path == "/orders":
                    body = str(connection.execute("SELECT note FROM orders ORDER BY id LIMIT 1").fetchone())
        except psycopg.Error as error:
            status, body = 500, str(error)
        self.send_response(status)
        self.send_header("x-release-sha", os.environ["RELEASE_SHA"])
        self.end_headers()
        self.wfile.write(body.encode())
    do_GET = do_POST = answer
    def log_message(self, *args):
        pass

HTTPServer(("127.0.0.1", int(os.environ["PORT"])), Handler).serve_forever()
"""
SMOKE = """
[[request]]
name = "orders are listed"
path = "/orders"

[[request]]
name = "an order is taken"
path = "/orders"
method = "POST"
"""
NO_QUERIES = Workload({}, ())


@pytest.fixture
def shop(connections: Connections, tmp_path: Path) -> Generator[Connections]:
    """A shop whose release runs on the local host and has the traffic."""
    execute(
        connections.database.url,
        "CREATE TABLE orders (id int PRIMARY KEY, note text)",
        "INSERT INTO orders VALUES (1, 'first')",
    )
    sha = commit(connections.repository.path, {"app.py": APP, "smoke.toml": SMOKE})
    root = tmp_path / "host"
    root.mkdir()
    (root / "app.env").write_text(f"DATABASE_URL={connections.database.url}\n")
    host = LocalHost.start(root, LocalHostConfig(connections.repository.path, ("{python}", "app.py")))
    try:
        host.promote(host.stage(sha, "v1").release_id)
        settings = connections.settings.model_copy(update={"health_paths": ("/api/health",)})
        yield replace(connections, host=host, settings=settings)
    finally:
        LocalHost.stop(root)


@pytest.fixture
def copy_of(shop: Connections) -> Callable[..., str]:
    """Copy the live database and change the copy; return its name."""

    def make(*changes: str) -> str:
        name = shop.database.beside("copy")
        execute(shop.database.url_of("postgres"), f"CREATE DATABASE {name} TEMPLATE {shop.database.name}")
        execute(shop.database.url_of(name), *changes)
        return name

    return make


def outcomes(checks: tuple[Check, ...]) -> dict[str, Outcome]:
    return {check.name: check.outcome for check in checks}


def test_a_release_that_works_passes_and_writes_only_into_the_copy(
    shop: Connections, copy_of: Callable[..., str]
) -> None:
    name = copy_of("ALTER TABLE orders ADD paid boolean")
    workload = Workload({}, ("SELECT note FROM orders WHERE id = $1",))
    found = check_old_release(shop, name, {}, workload)
    assert outcomes(found) == {
        "GET /api/health": Outcome.PASSED,
        "served version": Outcome.PASSED,
        "smoke: orders are listed": Outcome.PASSED,
        "smoke: an order is taken": Outcome.PASSED,
        "recorded queries": Outcome.PASSED,
    }
    assert found[-1].detail == "all 1 can still be planned"
    assert query(shop.database.url, "SELECT count(*) FROM orders") == [(1,)]
    assert query(shop.database.url_of(name), "SELECT count(*) FROM orders") == [(2,)]


def test_what_the_release_asks_for_in_vain_is_named(shop: Connections, copy_of: Callable[..., str]) -> None:
    name = copy_of("ALTER TABLE orders DROP note")
    text = "SELECT note FROM orders WHERE note = 'private' AND id = $1"
    found = check_old_release(shop, name, {}, Workload({}, (text, "SELECT id FROM orders")))
    failed = {check.name: check.detail for check in found if check.outcome is Outcome.FAILED}
    assert failed.keys() == {"smoke: orders are listed", "smoke: an order is taken", "recorded query"}
    assert 'SELECT note FROM orders WHERE note = ? AND id = ?: column "note" does not exist' in failed["recorded query"]
    assert outcomes(found)["GET /api/health"] is Outcome.PASSED


def test_a_release_that_does_not_even_start_is_told_with_its_log(
    shop: Connections, copy_of: Callable[..., str]
) -> None:
    found = check_old_release(shop, copy_of("ALTER TABLE orders RENAME TO purchases"), {}, NO_QUERIES)
    [check] = found
    assert (check.name, check.outcome) == ("running release v1", Outcome.FAILED)
    assert 'relation "orders" does not exist' in check.detail
    password = shop.database.url.split(":")[2].partition("@")[0]
    assert password not in check.detail


def test_a_query_that_failed_before_is_neither_blamed_nor_counted(
    shop: Connections, copy_of: Callable[..., str]
) -> None:
    name = copy_of()
    queries = ("SELECT note FROM orders", "SELECT old FROM elsewhere", "SELECT id FROM orders")
    found = check_old_release(shop, name, {"SELECT old FROM elsewhere": "gone"}, Workload({}, queries))
    assert found[-1].outcome is Outcome.PASSED
    assert found[-1].detail == "all 2 can still be planned; 1 could not be planned before either"


def test_what_cannot_be_tried_is_not_taken_for_a_failure(shop: Connections, copy_of: Callable[..., str]) -> None:
    name = copy_of()
    no_smoke = commit(shop.repository.path, {"smoke.toml": "not = [toml"})
    shop.host.promote(shop.host.stage(no_smoke, "v2").release_id)
    [check] = check_old_release(shop, name, {}, NO_QUERIES)
    assert (check.name, check.outcome) == ("running release v2", Outcome.COULD_NOT_RUN)
    assert "smoke.toml" in check.detail


def test_without_a_release_that_has_the_traffic_nobody_can_be_disturbed(connections: Connections) -> None:
    connections.host.active_id = None  # pyright: ignore[reportAttributeAccessIssue] - a fake of these tests
    [check] = check_old_release(connections, "nowhere", {}, NO_QUERIES)
    assert (check.outcome, check.detail) == (Outcome.PASSED, "no release has the traffic")


def rehearsed(shop: Connections, scripts: Mapping[str, str]) -> Rehearsal:
    active = shop.host.active()
    assert active is not None
    sha = commit(shop.repository.path, {f"migrations/{name}.sql": text for name, text in scripts.items()})
    plan = plan_migrations(shop, sha, running_git_sha=active.git_sha)
    made = create_backup(shop, reason="test", triggered_by="somebody")
    return rehearse_migrations(shop, plan, prove_by_copy(shop, made.backup_id))


def test_what_breaks_the_release_belongs_into_the_second_half(
    shop: Connections, beside: Callable[[], list[str]]
) -> None:
    scripts = {
        "0001_add": "ALTER TABLE orders ADD remark text;\nUPDATE orders SET remark = note WHERE id = 1;\n",
        "0001_add_ROLLBACK": "ALTER TABLE orders DROP remark;\n",
        "0002_drop.post": "ALTER TABLE orders DROP note;\n",
        "0002_drop.post_ROLLBACK": "ALTER TABLE orders ADD note text;\nUPDATE orders SET note = remark WHERE id > 0;\n",
    }
    found = rehearsed(shop, scripts)
    assert (found.compatible, found.compatible_at_end, found.refusals) == (True, False, ())
    assert any(line.startswith("after the second half: smoke: orders are listed: ") for line in found.compatibility), (
        found.compatibility
    )
    assert {cost.path: cost.line for cost in found.statements} == {
        "migrations/0001_add.sql": 2,
        "migrations/0002_drop.post.sql": 1,
    }
    assert query(shop.database.url, "SELECT id, note FROM orders") == [(1, "first")]
    assert beside() == []
    assert found.undo.outcome is UndoOutcome.RESTORES, found.undo.detail


def test_what_breaks_the_release_at_once_is_refused_unless_the_errors_are_accepted(
    shop: Connections, beside: Callable[[], list[str]]
) -> None:
    scripts = {"0001_drop": "ALTER TABLE orders DROP note;\n"}
    found = rehearsed(shop, scripts)
    assert found.compatible is False
    [refusal] = found.refusals
    assert refusal.startswith("the running release fails on the new schema while it still has the traffic: smoke: ")
    assert "(.post.sql)" in refusal
    accepted = rehearsed(with_settings(shop, require_compatible=False), scripts)
    assert (accepted.compatible, accepted.refusals) == (False, ())
    assert beside() == []
