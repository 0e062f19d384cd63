"""Migrations on a real server: what fails leaves nothing, what is undone is as before."""

from __future__ import annotations

import re
import threading
import time
from dataclasses import replace

import psycopg
import pytest

from runbook.clients.embedded_postgres import EmbeddedPostgres
from runbook.clients.migration_history import MigrationHistory
from runbook.clients.postgres import Database
from runbook.connections import Connections
from runbook.errors import DivergedError, InvalidInputError, RefusedError, RunbookError, StageError, TransientError
from runbook.stages.migration import apply_migrations, undo_migrations
from tests.runbook.helpers import execute, query
from tests.runbook.stages.migrations import done, now, plan_of, tables, with_settings

TODAYS_TABLE = """
CREATE TABLE schema_migrations (
    {id} migration_name varchar(255) NOT NULL {unique}, executed_at timestamp NOT NULL, duration_ms int,
    checksum varchar(64) NOT NULL, status varchar(20) NOT NULL CHECK (status IN ('completed', 'failed', 'running')),
    error_message text, rollback_performed boolean NOT NULL
)
"""


def test_a_failure_in_the_third_leaves_nothing_of_the_first_two(connections: Connections) -> None:
    plan = plan_of(
        connections,
        {
            "0001_items": "CREATE TABLE items (id int PRIMARY KEY);\nINSERT INTO items VALUES (1), (2);",
            "0002_more": "DROP TABLE IF EXISTS nowhere;\nALTER TABLE items ADD price int;",
            "0003_bad": "-- a comment\nDROP TABLE IF EXISTS nowhere;\n\nSELECT\n  prize FROM items;",
        },
    )
    assert len(plan.steps) == 1
    with pytest.raises(StageError) as raised:
        apply_migrations(connections, plan)
    said = str(raised.value)
    assert said.startswith('migrations/0003_bad.sql:5: column "prize" does not exist (SQLSTATE 42703)'), said
    assert 'Perhaps you meant to reference the column "items.price"' in said
    assert "nowhere" not in said, "a notice is no error"
    assert tables(connections) == []
    assert done(connections) == []


def test_what_was_applied_is_recorded_and_not_applied_again(connections: Connections) -> None:
    plan = plan_of(
        connections, {"0001_items": "CREATE TABLE items (id int);", "0002_row": "INSERT INTO items SELECT 1"}
    )
    assert apply_migrations(connections, plan) == ("0001_items", "0002_row")
    assert apply_migrations(connections, plan) == ("0001_items", "0002_row")
    assert query(connections.database.url, "SELECT count(*) FROM items") == [(1,)]
    recorded = query(
        connections.database.url,
        "SELECT migration_name, status, length(checksum), duration_ms >= 0, executed_at > now() - interval '1 minute',"
        " error_message, rollback_performed FROM schema_migrations ORDER BY 1",
    )
    assert recorded == [(n, "completed", 64, True, True, None, False) for n in ("0001_items", "0002_row")]


def test_concurrently_is_a_step_of_its_own(connections: Connections) -> None:
    plan = plan_of(
        connections,
        {
            "0001_items": "CREATE TABLE items (id int);",
            "0002_index": "CREATE INDEX CONCURRENTLY items_id ON items (id);",
            "0003_more": "ALTER TABLE items ADD price int;",
        },
    )
    assert [step.transactional for step in plan.steps] == [True, False, True]
    apply_migrations(connections, plan)
    assert tables(connections) == ["items", "items_id"]


def test_a_failed_unique_index_leaves_no_invalid_one(connections: Connections) -> None:
    execute(connections.database.url, "CREATE TABLE items (id int)", "INSERT INTO items VALUES (1), (1)")
    plan = plan_of(connections, {"0001_unique": "CREATE UNIQUE INDEX CONCURRENTLY items_id ON items (id);"})
    with pytest.raises(StageError, match=r"migrations/0001_unique\.sql:1: could not create unique index.*23505"):
        apply_migrations(connections, plan)
    assert tables(connections) == ["items"]
    assert done(connections) == []


def test_an_invalid_index_of_an_earlier_attempt_is_not_taken_for_the_real_one(connections: Connections) -> None:
    url = connections.database.url
    execute(url, "CREATE TABLE items (id int)", "INSERT INTO items VALUES (1), (1)")
    with pytest.raises(psycopg.errors.UniqueViolation):
        execute(url, "CREATE UNIQUE INDEX CONCURRENTLY items_id ON items (id)")
    execute(url, "DELETE FROM items")
    again = "CREATE UNIQUE INDEX CONCURRENTLY IF NOT EXISTS items_id ON items (id);"
    plan = plan_of(connections, {"0001_unique": again})
    with pytest.raises(StageError, match="index items_id is invalid, left by an earlier attempt"):
        apply_migrations(connections, plan)
    assert done(connections) == []
    assert tables(connections) == ["items", "items_id"], "it was there before"
    plan = plan_of(connections, {"0001_unique": f"DROP INDEX CONCURRENTLY IF EXISTS items_id;\n{again}"})
    apply_migrations(connections, plan)
    assert done(connections) == ["0001_unique"]


DOWN = {
    "0001_items": "CREATE TABLE items (id int, kind varchar(9) CHECK (kind IN ('a', 'b')));",
    "0001_items_ROLLBACK": "DROP TABLE items;",
    "0002_index": "CREATE INDEX CONCURRENTLY items_id ON items (id);",
    "0002_index.down": "DROP INDEX CONCURRENTLY items_id;",
    "0003_price": "ALTER TABLE items ADD price int;",
    "0003_price_ROLLBACK": "BEGIN;\nALTER TABLE items DROP price;\nCOMMIT;",
}


def test_down_scripts_bring_schema_and_history_back(connections: Connections) -> None:
    execute(connections.database.url, "CREATE TABLE other (id int)")
    before = now(connections)
    plan = plan_of(connections, DOWN)
    apply_migrations(connections, plan)
    assert undo_migrations(connections, plan, before) == ("0003_price", "0002_index", "0001_items")
    assert now(connections) == before


def test_undoing_keeps_what_was_applied_before(connections: Connections) -> None:
    first = {name: text for name, text in DOWN.items() if name.startswith("0001")}
    apply_migrations(connections, plan_of(connections, first))
    before = now(connections)
    plan = plan_of(connections, DOWN)
    apply_migrations(connections, plan)
    assert undo_migrations(connections, plan, before) == ("0003_price", "0002_index")
    assert now(connections).differences(before) == []
    assert done(connections) == ["0001_items"]


def test_undoing_a_failed_migration_undoes_the_steps_before_it(connections: Connections) -> None:
    before = now(connections)
    plan = plan_of(connections, DOWN | {"0004_bad": "SELECT 1/0;", "0004_bad_ROLLBACK": "SELECT 1/0;"})
    with pytest.raises(StageError, match="division by zero"):
        apply_migrations(connections, plan)
    assert done(connections) == ["0001_items", "0002_index"]
    undo_migrations(connections, plan, before)
    assert now(connections) == before


def test_without_a_down_script_nothing_is_undone(connections: Connections) -> None:
    before = now(connections)
    plan = plan_of(connections, {name: text for name, text in DOWN.items() if name != "0002_index.down"})
    apply_migrations(connections, plan)
    after = now(connections)
    with pytest.raises(StageError, match="no down script for 0002_index"):
        undo_migrations(connections, plan, before)
    assert now(connections) == after


def test_a_down_script_that_fails_is_named(connections: Connections) -> None:
    before = now(connections)
    plan = plan_of(connections, DOWN | {"0003_price_ROLLBACK": "ALTER TABLE items DROP prize;"})
    apply_migrations(connections, plan)
    with pytest.raises(StageError, match=r"migrations/0003_price_ROLLBACK\.sql:1: column \"prize\""):
        undo_migrations(connections, plan, before)


def test_down_scripts_that_do_not_restore_the_schema_are_told(connections: Connections) -> None:
    before = now(connections)
    plan = plan_of(connections, DOWN | {"0001_items_ROLLBACK": "ALTER TABLE items RENAME TO items_old;"})
    apply_migrations(connections, plan)
    with pytest.raises(DivergedError, match="schema is not what it was"):
        undo_migrations(connections, plan, before)


ODD_SCRIPTS = {
    "own transaction": "BEGIN;\nCREATE TABLE items (id int);\nINSERT INTO items VALUES (1);\nCOMMIT;\n",
    "dollar quotes": "CREATE TABLE items (id int);\n"
    "DO $do$ BEGIN\n  EXECUTE $$INSERT INTO items VALUES (1);$$;\nEND $do$;",
    "copy": "CREATE TABLE items (id int, t text);\nCOPY items FROM stdin;\n1\ta;b'$$\n\\.\nUPDATE items SET t = '';\n",
    "crlf": "CREATE TABLE items (id int);\r\n-- a comment\r\nINSERT INTO items\r\nVALUES (1);\r\n",
    "byte order mark": b"\xef\xbb\xbfCREATE TABLE items (id int);INSERT INTO items VALUES (1)",
    "no search_path": "SELECT pg_catalog.set_config('search_path', '', false);\nCREATE TABLE public.items (id int);\n"
    "INSERT INTO public.items VALUES (1);",
    "discard all": "CREATE TABLE items (id int);\nINSERT INTO items VALUES (1);\nDISCARD ALL;",
    "other role": "CREATE TABLE items (id int);\nINSERT INTO items VALUES (1);\nSET ROLE pg_monitor;",
    "other user": "CREATE TABLE items (id int);\nINSERT INTO items VALUES (1);\nSET SESSION AUTHORIZATION pg_monitor;",
    "quotes and unicode": 'CREATE TABLE items (id int, "ß""☃" text);\nINSERT INTO items VALUES (1, E\'\\\'ü\');',
    "percent": "CREATE TABLE items (id int);\nINSERT INTO items SELECT 1 WHERE 'a%s{}' LIKE 'a%';",
}


@pytest.mark.parametrize("kind", ODD_SCRIPTS)
def test_every_kind_of_script_works_and_does_not_disturb_the_next(connections: Connections, kind: str) -> None:
    plan = plan_of(connections, {"0001_odd": ODD_SCRIPTS[kind], "0002_next": "ALTER TABLE items ADD price int;"})
    apply_migrations(connections, plan)
    assert query(connections.database.url, "SELECT count(*) FROM items WHERE price IS NULL") == [(1,)]
    assert done(connections) == ["0001_odd", "0002_next"]


def test_a_script_that_ends_in_an_open_transaction_is_refused(connections: Connections) -> None:
    with pytest.raises(InvalidInputError, match=r"0001_open\.sql:1.*COMMIT for each BEGIN"):
        plan_of(connections, {"0001_open": "BEGIN;\nCREATE TABLE items (id int);\n"})


def test_a_script_is_utf8_whatever_the_database(postgres: EmbeddedPostgres, connections: Connections) -> None:
    execute(postgres.url(), "CREATE DATABASE latin_shop TEMPLATE template0 ENCODING 'LATIN1' LOCALE 'C'")
    latin = replace(connections, database=Database(postgres.url("latin_shop")))
    plan = plan_of(latin, {"0001_text": "CREATE TABLE items (id int);\nCOMMENT ON TABLE items IS 'ß';"})
    apply_migrations(latin, plan)
    assert query(latin.database.url, "SELECT obj_description('items'::regclass)") == [("ß",)]


@pytest.mark.timeout(30)
def test_a_lock_held_by_somebody_else_gives_up_in_time_and_applies_nothing(connections: Connections) -> None:
    execute(connections.database.url, "CREATE TABLE items (id int)")
    plan = plan_of(connections, {"0001_new": "CREATE TABLE new (id int);", "0002_more": "ALTER TABLE items ADD p int;"})
    with psycopg.connect(connections.database.url) as holder:
        holder.execute("SELECT * FROM items")
        with pytest.raises(
            StageError, match=r"migrations/0002_more\.sql:1: .*lock timeout \(SQLSTATE 55P03\)"
        ) as raised:
            apply_migrations(with_settings(connections, lock_attempts=1), plan)
        assert f"Blocked by session {holder.info.backend_pid} of " in str(raised.value)
        assert "idle in transaction" in str(raised.value)
        assert "SELECT * FROM items" in str(raised.value)
    assert tables(connections) == ["items"]
    apply_migrations(connections, plan)
    assert done(connections) == ["0001_new", "0002_more"]


@pytest.mark.timeout(30)
def test_cleaning_up_after_a_failed_index_does_not_wait_for_ever(connections: Connections) -> None:
    execute(connections.database.url, "CREATE TABLE items (id int)")
    plan = plan_of(connections, {"0001_index": "CREATE INDEX CONCURRENTLY items_id ON items (id);"})
    with psycopg.connect(connections.database.url) as holder:
        holder.execute("INSERT INTO items VALUES (1)")
        with pytest.raises(StageError, match=r"no lock in 1 attempts: .*lock timeout"):
            apply_migrations(with_settings(connections, lock_attempts=1), plan)


def test_a_server_that_ends_the_session_can_be_tried_again(connections: Connections) -> None:
    plan = plan_of(connections, {"0001_end": "SELECT pg_terminate_backend(pg_backend_pid());"})
    with pytest.raises(TransientError, match="terminating connection"):
        apply_migrations(connections, plan)


def test_a_statement_that_takes_too_long_is_stopped(connections: Connections) -> None:
    limits = connections.settings.migrations.model_copy(update={"statement_timeout_s": 0.2})
    quick = replace(connections, settings=connections.settings.model_copy(update={"migrations": limits}))
    with pytest.raises(StageError, match=r"statement timeout \(SQLSTATE 57014\)"):
        apply_migrations(quick, plan_of(connections, {"0001_slow": "SELECT pg_sleep(5);"}))


def test_of_two_migrations_at_once_the_second_is_refused(connections: Connections) -> None:
    plan = plan_of(connections, {"0001_slow": "CREATE TABLE items (id int);\nSELECT pg_sleep(1);"})
    ended = list[RunbookError | None]()

    def migrate() -> None:
        try:
            apply_migrations(connections, plan)
        except RunbookError as error:
            ended.append(error)
        else:
            ended.append(None)

    threads = [threading.Thread(target=migrate) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(type(error).__name__ for error in ended) == ["NoneType", "RefusedError"]
    assert done(connections) == ["0001_slow"]


def test_a_time_out_of_the_application_does_not_free_the_lock(connections: Connections) -> None:
    execute(connections.database.url, f"ALTER DATABASE {connections.database.name} SET idle_session_timeout = '20ms'")
    history = MigrationHistory(connections.database, connections.settings.migrations)
    with history.locked():
        time.sleep(0.2)
        with pytest.raises(RefusedError, match="another migration"), history.locked():
            pass


@pytest.mark.parametrize(
    ("id_column", "unique"), [("id serial PRIMARY KEY,", ""), ("id serial PRIMARY KEY,", "UNIQUE"), ("", "")]
)
def test_the_history_in_use_today_is_adopted(connections: Connections, id_column: str, unique: str) -> None:
    url = connections.database.url
    execute(
        url,
        TODAYS_TABLE.format(id=id_column, unique=unique),
        "INSERT INTO schema_migrations (migration_name, executed_at, checksum, status, rollback_performed)"
        " VALUES ('0001_items', now(), 'x', 'completed', false), ('0002_row', now(), 'x', 'failed', true)",
        "CREATE TABLE items (id int)",
    )
    plan = plan_of(
        connections, {"0001_items": "CREATE TABLE items (id int);", "0002_row": "INSERT INTO items VALUES (1)"}
    )
    assert plan.pending == ("0002_row",)
    apply_migrations(connections, plan)
    recorded = query(url, "SELECT migration_name, status FROM schema_migrations ORDER BY 1")
    assert recorded == [("0001_items", "completed"), ("0002_row", "completed")]


def test_the_name_of_a_file_may_hold_what_a_command_line_would_read(connections: Connections) -> None:
    plan = plan_of(connections, {"0001_-c": "CREATE TABLE items (id int);"})
    apply_migrations(connections, plan)
    assert done(connections) == ["0001_-c"]


def test_a_message_names_the_repositorys_file_not_a_copy(connections: Connections) -> None:
    plan = plan_of(connections, {"0001_bad": "SELECT nonsense;\n"})
    with pytest.raises(StageError, match=r"^migrations/0001_bad\.sql:1: column \"nonsense\" does not") as raised:
        apply_migrations(connections, plan)
    assert not re.search("runbook-migration-", str(raised.value))
