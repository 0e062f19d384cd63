"""A real server with real trouble: blocked, long and idle transactions, roles with few rights, bloat, bad indexes."""

from __future__ import annotations

import time
from collections.abc import Generator
from contextlib import ExitStack, closing, contextmanager

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from runbook.clients import diagnostic_queries as queries
from runbook.clients.database_diagnostics import Part, StatementOrder, read_state
from runbook.clients.postgres import Database
from runbook.errors import TransientError
from runbook.rules.database_health import database_findings
from runbook.rules.database_state import Sessions
from runbook.rules.health_findings import Health, overall
from tests.runbook.helpers import execute, query

SECRET = "hunter2"


@pytest.fixture
def opened() -> Generator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def monitor(database: Database) -> Generator[Database]:
    """The database as a role with pg_monitor, and no right on any table."""
    with role(database, "watcher", "IN ROLE pg_monitor") as seen:
        yield seen


@contextmanager
def role(database: Database, name: str, options: str = "") -> Generator[Database]:
    name = f"{database.name}_{name}"
    execute(database.url, f"CREATE ROLE {name} LOGIN PASSWORD 'x' {options}")
    try:
        yield Database(make_conninfo(database.url, user=name, password="x"))
    finally:
        execute(database.url, f"DROP ROLE {name}")


def session(stack: ExitStack, database: Database, name: str) -> psycopg.Connection:
    return stack.enter_context(closing(psycopg.connect(database.url, application_name=name)))


def wait_until_blocked(database: Database, pids: set[int]) -> None:
    deadline = time.monotonic() + 10
    waiting = "SELECT pid FROM pg_locks WHERE NOT granted"
    while not pids <= {pid for (pid,) in query(database.url, waiting)}:
        assert time.monotonic() < deadline, "nobody is blocked"
        time.sleep(0.01)


def sessions_of(database: Database) -> Sessions:
    sessions = read_state(database, [Part.SESSIONS]).sessions
    assert sessions is not None
    return sessions


def block(stack: ExitStack, database: Database) -> tuple[int, int, int]:
    """One session holds a table, a second waits for it, a third for the second; nobody but the first is its root."""
    execute(database.url, "CREATE TABLE IF NOT EXISTS orders (id int PRIMARY KEY, secret text)")
    root, second, third = (session(stack, database, name) for name in ("root", "second", "third"))
    root.execute("SELECT * FROM orders WHERE secret = %s", [SECRET])
    second.pgconn.send_query(b"ALTER TABLE orders ADD COLUMN note text")
    wait_until_blocked(database, {second.info.backend_pid})
    third.pgconn.send_query(b"SELECT * FROM orders WHERE secret = '" + SECRET.encode() + b"'")
    pids = root.info.backend_pid, second.info.backend_pid, third.info.backend_pid
    wait_until_blocked(database, set(pids[1:]))
    return pids


def test_blocked_queries_are_shown_with_those_in_their_way(monitor: Database, database: Database) -> None:
    with ExitStack() as stack:
        root, second, third = block(stack, database)
        sessions = sessions_of(monitor)
    by_pid = {wait.pid: wait for wait in sessions.waits}
    assert by_pid[second].blocked_by == (root,)
    assert by_pid[second].lock == "AccessExclusiveLock on orders"
    assert second in by_pid[third].blocked_by
    assert sessions.waiting == 2
    assert sessions.roots() == [(root, 2)]
    assert sum(count.waiting for count in sessions.locks) >= 2
    blocker = sessions.of(root)
    assert blocker is not None
    assert (blocker.application, blocker.state) == ("root", "idle in transaction")


def test_no_value_of_a_query_is_shown(database: Database) -> None:
    with ExitStack() as stack:
        _, _, third = block(stack, database)
        state = read_state(database)
    assert state.sessions is not None
    waiting = state.sessions.of(third)
    assert waiting is not None
    assert waiting.query == "SELECT * FROM orders WHERE secret = ?"
    assert SECRET not in repr(state)


def test_a_locked_table_keeps_no_question_waiting(database: Database) -> None:
    execute(database.url, "CREATE TABLE orders (id int)", "ANALYZE orders")
    with psycopg.connect(database.url) as holder:
        holder.execute("LOCK TABLE orders IN ACCESS EXCLUSIVE MODE")
        state = read_state(database)
    assert [missing.what for missing in state.missing if missing.what != "queries by time"] == []
    assert state.took_s < 2
    assert state.storage is not None
    assert [table.name for table in state.storage.tables] == ["public.orders"]


def test_long_and_idle_transactions_are_shown_with_their_ages(database: Database, opened: ExitStack) -> None:
    execute(database.url, "CREATE TABLE orders (id int)")
    idle, busy = session(opened, database, "report"), session(opened, database, "export")
    idle.execute("SELECT * FROM orders WHERE id = 4711")
    busy.pgconn.send_query(b"SELECT pg_sleep(60)")
    time.sleep(0.2)
    sessions = sessions_of(database)
    busy.cancel_safe()
    found = {one.application: one for one in sessions.sessions}
    assert found["report"].state == "idle in transaction"
    assert found["report"].query == "SELECT * FROM orders WHERE id = ?"
    assert found["report"].idle_s is not None
    assert found["report"].transaction_s is not None
    assert 0.2 <= found["report"].idle_s <= found["report"].transaction_s
    assert found["report"].query_s is None
    assert found["export"].query_s is not None
    assert found["export"].query_s >= 0.2
    assert sessions.count("idle in transaction", database.name) == 1


def test_a_role_with_pg_monitor_sees_all_but_the_rows_statistics(monitor: Database, database: Database) -> None:
    execute(database.url, "CREATE TABLE orders AS SELECT 1 AS id", "ANALYZE orders")
    state = read_state(monitor, [part for part in Part if part is not Part.STATEMENTS])
    assert state.server.sees_others
    assert [missing.what for missing in state.missing] == ["bloat of tables"]
    assert "pg_read_all_data" in state.missing[0].action
    assert overall(database_findings(state)) is not Health.COULD_NOT_RUN


def test_a_role_without_pg_monitor_is_told_what_it_cannot_see(database: Database) -> None:
    with role(database, "nobody") as plain, ExitStack() as stack:
        root, second, third = block(stack, database)
        state = read_state(plain, [Part.SESSIONS, Part.TOTALS])
    assert state.sessions is not None
    assert state.sessions.roots() == [(root, 2)], "pg_locks shows waits to everybody"
    assert {second, third} == {wait.pid for wait in state.sessions.waits}
    findings = {finding.name: finding for finding in database_findings(state)}
    assert findings["what other roles do"].health is Health.COULD_NOT_RUN
    assert "pg_monitor" in findings["what other roles do"].action
    assert "long transactions" not in findings, "nobody can say that there is none"
    assert findings["connections"].health is Health.FINE


def test_connections_are_counted_against_the_limit_of_their_role(database: Database, opened: ExitStack) -> None:
    with role(database, "app", "CONNECTION LIMIT 2") as app:
        opened.enter_context(psycopg.connect(app.url))
        opened.enter_context(psycopg.connect(app.url))
        sessions = sessions_of(database)
        opened.close()
    pools = {pool.name: pool for pool in sessions.pools}
    assert pools[f"role {database.name}_app"].used_pct == 100
    assert pools["server"].limit == int(str(query(database.url, "SHOW max_connections")[0][0])) - 3
    assert pools["server"].used >= 3


def test_the_session_can_neither_write_nor_wait(database: Database) -> None:
    with psycopg.connect(database.url, autocommit=True) as connection:
        connection.execute(queries.SETTINGS, ["3s", "500ms"])
        with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
            connection.execute("CREATE TABLE orders (id int)")
        settings = "SELECT current_setting('statement_timeout'), current_setting('lock_timeout')"
        assert connection.execute(settings).fetchone() == ("3s", "500ms")


def test_bloat_is_what_packing_the_rows_anew_would_free(database: Database) -> None:
    execute(
        database.url,
        "CREATE TABLE half AS SELECT id, repeat('x', 50) AS note FROM generate_series(1, 20000) id",
        "CREATE TABLE full_ AS SELECT * FROM half",
        "CREATE TABLE never AS SELECT 1 AS id",
        "DELETE FROM half WHERE id % 2 = 0",
        "VACUUM ANALYZE half",
        "VACUUM ANALYZE full_",
    )
    storage = read_state(database, [Part.STORAGE]).storage
    assert storage is not None
    bloat = {table.name: table.bloat_pct for table in storage.tables}
    assert bloat["public.half"] == pytest.approx(50, abs=5)
    assert bloat["public.full_"] == pytest.approx(0, abs=5)
    assert bloat["public.never"] is None
    assert storage.never_analyzed == 1


def test_indexes_that_nobody_reads_that_are_broken_and_that_are_missing_are_shown(database: Database) -> None:
    execute(
        database.url,
        "CREATE TABLE customers (id int PRIMARY KEY)",
        "INSERT INTO customers SELECT generate_series(1, 50)",
        "CREATE TABLE orders (id int PRIMARY KEY, customer int REFERENCES customers, note text)",
        "INSERT INTO orders SELECT id, id % 50 + 1, 'same ' || id FROM generate_series(1, 40000) id",
        "CREATE INDEX unread ON orders (note)",
        "ANALYZE orders",
    )
    with pytest.raises(psycopg.errors.UniqueViolation):
        execute(database.url, "CREATE UNIQUE INDEX CONCURRENTLY broken ON orders (customer)")
    storage = read_state(database, [Part.STORAGE]).storage
    assert storage is not None
    assert {(index.name, index.is_valid) for index in storage.indexes} == {
        ("public.broken", False),
        ("public.unread", True),
    }
    assert [(missing.table, "orders_customer_fkey" in missing.why) for missing in storage.missing_indexes] == [
        ("public.orders", True)
    ]
    execute(database.url, "DROP INDEX broken", "CREATE INDEX customer ON orders (customer)")
    storage = read_state(database, [Part.STORAGE]).storage
    assert storage is not None
    assert storage.missing_indexes == ()


def test_a_slot_that_nobody_reads_is_shown_with_the_wal_it_keeps(database: Database) -> None:
    execute(database.url, f"SELECT pg_create_physical_replication_slot('{database.name}_left', true)")
    try:
        execute(database.url, "CREATE TABLE orders AS SELECT generate_series(1, 5000) AS id")
        replication = read_state(database, [Part.REPLICATION]).replication
    finally:
        execute(database.url, f"SELECT pg_drop_replication_slot('{database.name}_left')")
    assert replication is not None
    slot = next(slot for slot in replication.slots if slot.name == f"{database.name}_left")
    assert not slot.is_active
    assert slot.retained_bytes > 100_000


def test_slow_queries_are_those_that_take_most(database: Database) -> None:
    execute(
        database.url,
        "CREATE EXTENSION pg_stat_statements",
        "SELECT pg_sleep(0.05)",
        *["SELECT 1 AS quick"] * 3,
        f"CREATE ROLE {database.name}_x PASSWORD '{SECRET}'",
        f"DROP ROLE {database.name}_x",
    )
    slowest = read_state(database, [Part.STATEMENTS], order=StatementOrder.MEAN, limit=3).statements
    often = read_state(database, [Part.STATEMENTS], order=StatementOrder.CALLS, limit=50).statements
    assert slowest is not None
    assert often is not None
    assert len(slowest.top) == 3
    sleep = next(one for one in slowest.top if one.query == "SELECT pg_sleep(?)")
    assert sleep.mean_s >= 0.05
    assert sleep.share_pct > 1
    quick = next(one for one in often.top if one.query == "SELECT ? AS quick")
    assert quick.calls == 3
    assert often.calls >= 6
    assert SECRET not in repr(often), "statements that are no queries keep their values on some servers"


def test_without_pg_stat_statements_everything_else_is_still_there(database: Database) -> None:
    other = Database(make_conninfo(database.url))
    state = read_state(other, [Part.SESSIONS, Part.STATEMENTS])
    if query(make_conninfo(database.url, dbname="postgres"), queries.STATEMENTS_SCHEMA):
        assert state.statements is not None, "another test has installed it in the server's own database"
        return
    assert state.statements is None
    assert [missing.what for missing in state.missing] == ["queries by time"]
    assert "CREATE EXTENSION pg_stat_statements" in state.missing[0].action
    assert state.sessions is not None
    assert overall(database_findings(state)) is Health.FINE


def test_a_server_that_does_not_answer_is_an_error_in_words() -> None:
    with pytest.raises(TransientError, match="does not answer"):
        read_state(Database("postgresql://nobody@127.0.0.1:1/shop"))
