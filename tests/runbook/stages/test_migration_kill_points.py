"""A migration that is killed anywhere: a second run completes it; nothing is applied twice, nothing half recorded."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path

import psycopg
import pytest

from runbook.clients.embedded_postgres import EmbeddedPostgres
from runbook.clients.fingerprint import fingerprint
from runbook.clients.migration_history import MigrationHistory
from runbook.clients.postgres import Database
from runbook.connections import Connections
from runbook.errors import TransientError
from runbook.rules.migration_files import discover
from runbook.rules.migration_steps import plan_steps
from runbook.settings import MigrationSettings, Settings
from runbook.stages.migration import apply_migrations
from runbook.stages.migration_plan import MigrationPlan
from tests.runbook.helpers import execute, query
from tests.runbook.stages.migrations import with_settings

_number = count(1)
FILES = 12
KINDS = ("transactional", "index", "own transaction", "enum", "data")


def script(number: int) -> str:
    """One of twelve files: each writes each of its rows into the ledger once, and waits at points with a number."""
    row, wait = f"INSERT INTO ledger VALUES ({number}, %d);\n", f"SELECT pg_sleep(0.05) /* point {number}.%d */;\n"
    kind = KINDS[number % 5]
    if kind == "transactional":
        return row % 1 + wait % 1 + f"CREATE TABLE t{number} (id int);\n"
    if kind == "index":
        index = f"CREATE INDEX CONCURRENTLY i{number} ON items (id);\n"
        return row % 1 + wait % 1 + index + wait % 2 + row % 2
    if kind == "own transaction":
        return "BEGIN;\n" + row % 1 + wait % 1 + "COMMIT;\n" + row % 2 + wait % 2 + row % 3
    if kind == "enum":
        value = f"ALTER TYPE mood ADD VALUE 'm{number}';\n"
        return (
            value
            + wait % 1
            + f"ALTER TABLE items ADD m{number} mood DEFAULT 'm{number}';\n"
            + row % 1
            + "VACUUM items;\n"
        )
    return f"COPY ledger FROM stdin;\n{number}\t1\n{number}\t2\n\\.\n" + wait % 1 + "VACUUM ledger;\n" + row % 3


SCRIPTS = {
    f"m/{number:04d}_{KINDS[number % 5].replace(' ', '_')}.sql": script(number) for number in range(1, FILES + 1)
}
LEDGER = sorted(
    (number, part)
    for number in range(1, FILES + 1)
    for part in range(
        1, 1 + {"transactional": 1, "index": 2, "own transaction": 3, "enum": 1, "data": 3}[KINDS[number % 5]]
    )
)
CHILD = """
import json, os
from tests.runbook.stages.test_migration_kill_points import connect, plan
from runbook.stages.migration import apply_migrations
from runbook.clients.postgres import Database
apply_migrations(connect(Database(os.environ["CHILD_URL"])), plan(json.loads(os.environ["CHILD_SCRIPTS"])))
"""


def plan(scripts: dict[str, str] = SCRIPTS) -> MigrationPlan:
    found = discover(list(scripts), "m").migrations
    return MigrationPlan("", found, (), tuple(plan_steps(found, scripts)), (), scripts)


def started(url: str, scripts: dict[str, str] = SCRIPTS) -> subprocess.Popen[bytes]:
    """Run a migration in a process of its own, with a group of its own."""
    return subprocess.Popen(
        [sys.executable, "-c", CHILD],
        env=os.environ | {"CHILD_URL": url, "CHILD_SCRIPTS": json.dumps(scripts)},
        cwd=Path(__file__).parents[3],
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def connect(database: Database) -> Connections:
    """Connections of an environment of which a migration needs the database alone."""

    settings = Settings(
        name="test", repository="", database="x", migrations=MigrationSettings(lock_timeout_s=1.0, lock_attempts=15)
    )
    return Connections(settings, None, database, None, None, ())  # pyright: ignore[reportArgumentType]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Generator[EmbeddedPostgres]:
    """A server of these tests' own: they crash it."""
    own = EmbeddedPostgres(tmp_path_factory.mktemp("crashing"))
    own.start()
    try:
        execute(own.url(), "ALTER SYSTEM SET fsync = off", "SELECT pg_reload_conf()")
        yield own
    finally:
        own.remove()


@dataclass
class Killing:
    """One migration that is killed, and what it is killed with."""

    server: EmbeddedPostgres
    database: Database
    child: subprocess.Popen[bytes]
    cut: Callable[[], None]

    def session(self) -> int:
        """Return the process of psql's session."""
        [(pid,)] = query(
            self.database.url, "SELECT pid FROM pg_stat_activity WHERE application_name LIKE 'mantis-runbook-%'"
        )
        return int(str(pid))

    def the_run(self) -> None:
        os.kill(self.child.pid, signal.SIGKILL)  # psql goes on without it

    def the_run_and_psql(self) -> None:
        os.killpg(self.child.pid, signal.SIGKILL)

    def its_session(self) -> None:
        ours = "application_name LIKE 'mantis-runbook-%'"  # in one statement: the points pass quickly
        execute(self.database.url, f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {ours}")

    def the_backend(self) -> None:
        os.kill(self.session(), signal.SIGKILL)  # the server ends all sessions and recovers

    def the_server(self) -> None:
        self.server.stop()
        self.server.start()

    def the_network(self) -> None:
        self.cut()


def reaches(url: str, point: str) -> None:
    """Wait until psql is at a point."""
    asked = "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'mantis-runbook-%%' AND query LIKE %s"
    deadline = time.monotonic() + 30
    with psycopg.connect(url, autocommit=True) as connection:
        while connection.execute(asked, [f"%{point}%"]).fetchone() == (0,):
            assert time.monotonic() < deadline, f"{point} was never reached"
            time.sleep(0.005)


@contextmanager
def forwarding(port: int) -> Generator[tuple[int, Callable[[], None]]]:
    """Forward connections to a port of this machine; yield the port to connect to, and what cuts all of them."""
    listening = socket.create_server(("127.0.0.1", 0))
    open_ones: list[socket.socket] = []

    def pump(source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)
        for end in (source, target):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def accept() -> None:
        with suppress(OSError):
            while True:
                here, _ = listening.accept()
                open_ones.append(here)
                there = socket.create_connection(("127.0.0.1", port))
                open_ones.append(there)
                for ends in ((here, there), (there, here)):
                    threading.Thread(target=pump, args=ends, daemon=True).start()

    def cut() -> None:
        for end in open_ones:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    accepting = threading.Thread(target=accept)
    accepting.start()
    try:
        yield listening.getsockname()[1], cut
    finally:
        listening.shutdown(socket.SHUT_RDWR)  # closing alone does not wake the thread that accepts
        accepting.join()
        listening.close()
        cut()
        for end in open_ones:
            end.close()


@pytest.fixture(scope="module")
def undisturbed(server: EmbeddedPostgres) -> str:
    """The schema that all of it leaves when nobody disturbs it."""
    database = fresh(server)
    apply_migrations(connect(database), plan())
    return fingerprint(database, "schema_migrations").schema_sha256


def fresh(server: EmbeddedPostgres) -> Database:
    name = f"killed_{next(_number)}"
    execute(server.url(), f"CREATE DATABASE {name} TEMPLATE template0")
    execute(
        server.url(name),
        "CREATE TABLE ledger (file int, part int)",
        "CREATE TABLE items (id int)",
        "INSERT INTO items SELECT generate_series(1, 1000)",
        "CREATE TYPE mood AS ENUM ('good')",
    )
    return Database(server.url(name))


def complete(database: Database) -> None:
    """Run again, as a task that is tried again does, until nothing stands in the way."""
    for attempt in range(20):
        try:
            apply_migrations(connect(database), plan())
        except TransientError:
            assert attempt < 19
            time.sleep(0.3)
        else:
            return


POINTS = (
    ("the_run", "point 7.2"),
    ("the_run_and_psql", "point 5.1"),
    ("the_run_and_psql", "CREATE INDEX CONCURRENTLY i6 "),
    ("its_session", "point 3.1"),
    ("its_session", "CREATE INDEX CONCURRENTLY i11 "),
    ("the_backend", "point 3.1"),
    ("the_server", "CREATE INDEX CONCURRENTLY i1 "),
    ("the_network", "point 4.1"),
)


@pytest.mark.parametrize(("victim", "point"), POINTS, ids=[f"{victim} at {point.strip()}" for victim, point in POINTS])
def test_a_second_run_completes_what_a_kill_left(
    server: EmbeddedPostgres, undisturbed: str, victim: str, point: str
) -> None:
    database = fresh(server)
    port = int(server.url().rsplit(":", 1)[1].split("/")[0])
    with forwarding(port) as (through, cut):
        url = database.url.replace(f":{port}/", f":{through}/") if victim == "the_network" else database.url
        child = started(url)
        try:
            with holding(database, point):
                reaches(database.url, point)
                getattr(Killing(server, database, child, cut), victim)()
            assert child.wait(60) != 0, "it was killed before its end"
        finally:
            with suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            child.wait()
        complete(database)
    assert sorted(query(database.url, "SELECT file, part FROM ledger")) == LEDGER, "each row once"
    names = query(database.url, "SELECT migration_name, status FROM schema_migrations ORDER BY 1")
    assert names == [(Path(path).stem, "completed") for path in sorted(SCRIPTS)]
    history = MigrationHistory(database, connect(database).settings.migrations)
    assert history.progress() == {}
    assert history.state().invalid_indexes == frozenset()
    assert fingerprint(database, "schema_migrations").schema_sha256 == undisturbed


@contextmanager
def holding(database: Database, point: str) -> Generator[None]:
    """Keep an index from being finished while a test looks at it: CONCURRENTLY waits for older transactions."""
    if "CONCURRENTLY" not in point:
        yield
        return
    with psycopg.connect(database.url) as connection:
        connection.execute("SELECT 1")
        connection.rollback()
        reaches(database.url, point.replace("CREATE INDEX CONCURRENTLY i", "point ").strip() + ".1")
        connection.execute("INSERT INTO items VALUES (0)")
        connection.execute("DELETE FROM items WHERE id = 0")
        with suppress(psycopg.OperationalError):
            yield
        with suppress(psycopg.Error):
            connection.commit()


def test_no_run_begins_beside_a_psql_that_outlived_its_own(server: EmbeddedPostgres) -> None:
    database = fresh(server)
    connections = with_settings(connect(database), lock_attempts=1)
    slow = {"m/0001_slow.sql": "CREATE TABLE slow (id int);\nSELECT pg_sleep(4) /* point slow */;\n"}
    child = started(database.url, slow)
    reaches(database.url, "point slow")
    child.kill()
    child.wait()
    again = plan(slow)
    with pytest.raises(Exception, match="a migration whose run has died still goes on in session"):
        apply_migrations(connections, again)
    apply_migrations(replace(connections, settings=connect(database).settings), again)
    assert query(database.url, "SELECT count(*) FROM schema_migrations") == [(1,)]
