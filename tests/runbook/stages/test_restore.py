"""The swap of a restored database, under clients that never stop; the live one is never dropped."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest

from runbook.clients.database_copies import carry_properties, create_beside, drop, swap
from runbook.clients.embedded_postgres import EmbeddedPostgres
from runbook.clients.fingerprint import fingerprint
from runbook.clients.postgres import Database
from runbook.connections import Connections
from runbook.errors import RejectedError, StageError
from runbook.stages.backup import create_backup
from runbook.stages.restore import (
    RestoredDatabase,
    drop_restored,
    restore_beside,
    swap_in,
    undo_swap,
)
from tests.runbook.helpers import execute, query

HISTORY = "schema_migrations"


@pytest.fixture
def restored(connections: Connections) -> RestoredDatabase:
    """Say `then` in a backup that is restored, and `now` in the live database."""
    execute(connections.database.url, "CREATE TABLE state (word text)", "INSERT INTO state VALUES ('then')")
    made = create_backup(connections, reason="test", triggered_by="somebody")
    execute(connections.database.url, "UPDATE state SET word = 'now'")
    return restore_beside(connections, made.backup_id, purpose="restored")


def word(database: Database) -> object:
    return query(database.url, "SELECT word FROM state")[0][0]


def open_to_sessions(postgres: EmbeddedPostgres, name: str) -> bool:
    (row,) = query(postgres.url(), "SELECT datallowconn FROM pg_database WHERE datname = %s", name)
    return row == (True,)


@contextmanager
def restless_clients(database: Database) -> Generator[list[object]]:
    """Connect, ask and stay for a moment, over and over; yield the answers."""
    stop, answers = threading.Event(), list[object]()

    def ask() -> None:
        while not stop.is_set():
            try:
                with psycopg.connect(database.url, autocommit=True) as connection:
                    while not stop.is_set():
                        answers.extend(row[0] for row in connection.execute("SELECT word FROM state"))
            except psycopg.Error as error:
                answers.append(type(error))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        while not answers:
            time.sleep(0.01)
        yield answers
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_swap_under_clients_that_reconnect_all_the_time(
    postgres: EmbeddedPostgres, connections: Connections, restored: RestoredDatabase
) -> None:
    with restless_clients(connections.database) as answers:
        swapped = swap_in(connections.discarding_writes(), restored)
        until(lambda: answers[-1] == "then")
    assert not open_to_sessions(postgres, swapped.kept)
    assert word(connections.database) == "then"
    first = answers.index("then")
    assert "now" not in answers[first + len(threading.enumerate()) + 8 :], "nobody reached the old one afterwards"
    assert set(answers) <= {"now", "then", psycopg.OperationalError, psycopg.errors.AdminShutdown}, "no wrong answers"


def test_undoing_a_swap_brings_the_old_database_back(
    postgres: EmbeddedPostgres, connections: Connections, restored: RestoredDatabase, beside: Callable[[], list[str]]
) -> None:
    before = fingerprint(connections.database, HISTORY)
    swapped = swap_in(connections.discarding_writes(), restored)
    with restless_clients(connections.database):
        assert undo_swap(connections, swapped) is None
    assert fingerprint(connections.database, HISTORY) == before
    assert beside() == [], "nobody had written to the restored one"


def test_what_was_written_between_a_swap_and_its_undoing_is_kept_and_said(
    postgres: EmbeddedPostgres, connections: Connections, restored: RestoredDatabase, beside: Callable[[], list[str]]
) -> None:
    swapped = swap_in(connections.discarding_writes(), restored)
    execute(connections.database.url, "UPDATE state SET word = 'written'")
    said = undo_swap(connections, swapped)
    [undone] = beside()
    assert said == f"rows written between the swap and its undoing are only in {undone}, which is kept: public.state 1"
    assert word(connections.database) == "now"
    assert not open_to_sessions(postgres, undone)


def test_what_a_dump_does_not_hold_is_carried_over(
    postgres: EmbeddedPostgres, connections: Connections, restored: RestoredDatabase
) -> None:
    live = connections.database.name
    owner, reader = f"{live}_owner", f"{live}_reader"
    execute(
        postgres.url(),
        f"CREATE ROLE {owner}",
        f'CREATE ROLE "{reader} of ""all"""',
        f"GRANT CONNECT ON DATABASE {live} TO {owner}",
        f'GRANT CONNECT, TEMPORARY ON DATABASE {live} TO "{reader} of ""all""" WITH GRANT OPTION',
        f"REVOKE CONNECT, TEMPORARY ON DATABASE {live} FROM PUBLIC",
        f"""COMMENT ON DATABASE {live} IS 'the shop''s "own"'""",
        f"ALTER DATABASE {live} CONNECTION LIMIT 77",
        f'ALTER DATABASE {live} SET search_path = "$user", app, "odd, name", public',
        f"ALTER DATABASE {live} SET datestyle = 'German, DMY'",
        f"ALTER DATABASE {live} SET work_mem = '12MB'",
        f"ALTER DATABASE {live} SET \"app.tenant\" = 'it''s = a \\ tenant'",
        f"ALTER ROLE {owner} IN DATABASE {live} SET search_path = ''",
        f"ALTER ROLE {owner} IN DATABASE {live} SET statement_timeout = '5s'",
    )
    before = properties(postgres, live)
    assert before["limit"] == 77
    swapped = swap_in(connections.discarding_writes(), restored)
    assert properties(postgres, live) == before
    assert properties(postgres, swapped.kept) == before


PROPERTIES = """
SELECT datdba::regrole::text, datconnlimit, shobj_description(d.oid, 'pg_database'),
       (SELECT array_agg(a::text ORDER BY a::text) FROM unnest(datacl) a),
       (encoding, datlocprovider, datcollate, datctype, datlocale)::text,
       (SELECT array_agg((setrole, one)::text ORDER BY setrole, one) FROM pg_db_role_setting, unnest(setconfig) one
        WHERE setdatabase = d.oid)
FROM pg_database d WHERE datname = %s
"""


def properties(postgres: EmbeddedPostgres, name: str) -> dict[str, object]:
    (row,) = query(postgres.url(), PROPERTIES, name)
    return dict(zip(("owner", "limit", "comment", "grants", "locale", "settings"), row, strict=True))


def test_owner_and_locale_are_those_of_the_live_database(postgres: EmbeddedPostgres) -> None:
    execute(
        postgres.url(),
        "CREATE ROLE somebody_else",
        "CREATE DATABASE styled TEMPLATE template0 OWNER somebody_else ENCODING 'UTF8'"
        " LOCALE_PROVIDER builtin BUILTIN_LOCALE 'C.UTF-8' LOCALE 'C'",
    )
    create_beside(Database(postgres.url("styled")), "styled_copy")
    assert properties(postgres, "styled_copy") == properties(postgres, "styled")


def test_a_swap_that_fails_leaves_the_live_database_open_and_unchanged(
    postgres: EmbeddedPostgres, connections: Connections, restored: RestoredDatabase
) -> None:
    before = fingerprint(connections.database, HISTORY)
    taken = f"{connections.database.name}_taken"
    execute(postgres.url(), f"CREATE DATABASE {taken}")
    with (
        restless_clients(connections.database),
        pytest.raises(StageError, match=r"nothing was changed.*already exists"),
    ):
        swap(connections.database, restored.name, taken)
    assert open_to_sessions(postgres, connections.database.name)
    assert fingerprint(connections.database, HISTORY) == before
    assert word(connections.database) == "now"


def test_a_swap_with_a_database_that_is_gone_leaves_the_live_one_open(
    postgres: EmbeddedPostgres, connections: Connections, restored: RestoredDatabase, beside: Callable[[], list[str]]
) -> None:
    drop_restored(connections, restored)
    with pytest.raises(StageError, match="nothing was changed"):
        swap(connections.database, restored.name, f"{connections.database.name}_kept")
    assert word(connections.database) == "now"
    assert beside() == []


def test_a_swap_whose_undoing_fails_keeps_the_kept_one_closed(
    postgres: EmbeddedPostgres, connections: Connections, restored: RestoredDatabase
) -> None:
    swapped = swap_in(connections.discarding_writes(), restored)
    stamped = replace(connections, database=replace(connections.database, stamp="20250104_120000_000000"))
    execute(postgres.url(), f"CREATE DATABASE {stamped.database.beside('undone')}")
    with pytest.raises(StageError, match="already exists"):
        undo_swap(stamped, swapped)
    assert not open_to_sessions(postgres, swapped.kept)
    assert word(connections.database) == "then"


def test_a_restore_that_fails_leaves_no_database_behind(
    connections: Connections, beside: Callable[[], list[str]]
) -> None:
    execute(connections.database.url, "CREATE TABLE state (word text)")
    made = create_backup(connections, reason="test", triggered_by="somebody")
    files = Path(connections.settings.records) / "database" / "backups" / made.backup_id / "dump"
    data = next(files.glob("*.dat.zst"))
    data.write_bytes(b"not zstd")
    with pytest.raises(RejectedError, match=data.name):
        restore_beside(connections, made.backup_id, purpose="restored")
    assert beside() == []


def test_the_live_database_is_never_dropped(connections: Connections) -> None:
    execute(connections.database.url, "CREATE TABLE state (word text)", "INSERT INTO state VALUES ('now')")
    with pytest.raises(StageError, match="never dropped"):
        drop(connections.database, connections.database.name)
    with pytest.raises(StageError, match="never dropped"):
        drop_restored(connections, RestoredDatabase(connections.database.name, "backup_20250104_120000", 1.0))
    assert word(connections.database) == "now"


def test_dropping_a_restored_database_twice_is_no_error(
    connections: Connections, restored: RestoredDatabase, beside: Callable[[], list[str]]
) -> None:
    drop_restored(connections, restored)
    drop_restored(connections, restored)
    assert beside() == []


def test_properties_of_a_database_that_is_gone_are_not_carried(postgres: EmbeddedPostgres, database: Database) -> None:
    gone = Database(postgres.url("never_made"))
    with pytest.raises(StageError, match="never_made does not exist"):
        carry_properties(gone, database.name)
