"""Fingerprints: equal for a copy that went through `pg_dump` and `pg_restore`, different for anything else."""

from __future__ import annotations

import itertools
import tempfile
import threading
import time

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings

from runbook.clients.embedded_postgres import EmbeddedPostgres
from runbook.clients.fingerprint import LARGE_OBJECTS, exported_snapshot, fingerprint
from runbook.clients.postgres import Database
from runbook.errors import RejectedError, TransientError
from runbook.manifest import Fingerprint
from tests.runbook.helpers import execute, query
from tests.runbook.schemas import EVERYTHING, schemas

HISTORY = "schema_migrations"
_number = itertools.count(1)


def make(postgres: EmbeddedPostgres, *statements: str, template: str = "template0") -> Database:
    name = f"fingerprinted_{next(_number)}"
    execute(postgres.url(), f"CREATE DATABASE {name} TEMPLATE {template}")
    database = Database(postgres.url(name))
    execute(database.url, *statements)
    return database


def through_a_dump(postgres: EmbeddedPostgres, database: Database) -> tuple[Fingerprint, Fingerprint]:
    """Fingerprint a database, dump the same snapshot, restore it into a fresh one and fingerprint that."""
    back = make(postgres)
    programs = database.programs()
    with tempfile.TemporaryDirectory() as folder, exported_snapshot(database) as snapshot:
        dump = ("--format=directory", "--jobs=2", f"--snapshot={snapshot.snapshot_id}", f"--file={folder}/dump")
        with database.running(programs.argv("pg_dump", *dump), what="dump"):
            before = fingerprint(database, HISTORY, snapshot=snapshot)
        # Several jobs can deadlock where they attach the indexes of partitions.
        restore = programs.argv("pg_restore", "--exit-on-error", f"--dbname={back.name}", f"{folder}/dump")
        back.run(restore, what="restore")
    return before, fingerprint(back, HISTORY)


def test_a_database_that_has_everything_comes_back_equal(postgres: EmbeddedPostgres) -> None:
    before, after = through_a_dump(postgres, make(postgres, *EVERYTHING))
    assert before.differences(after) == []
    assert before == after
    rows = {name: table.rows for name, table in before.tables.items()}
    assert rows["app.people"] == 63
    assert rows["app.no_columns"] == rows["app.wide"] == 2
    assert rows[LARGE_OBJECTS] == 3
    assert rows['app."a.b"'] == rows['"app.a".b'] == 1, "names with dots stay apart"
    assert rows['"Odd ""schema"". ☃"."Таблица \'x\' %s {} $1"'] == 2
    assert "app.events" not in rows, "a partitioned table holds no rows itself"


@settings(
    max_examples=5,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(statements=schemas())
def test_a_small_database_of_any_kind_comes_back_equal(postgres: EmbeddedPostgres, statements: list[str]) -> None:
    before, after = through_a_dump(postgres, make(postgres, *statements))
    assert before.differences(after) == []


def test_expressions_that_postgres_writes_differently_after_a_restore_are_no_difference(
    postgres: EmbeddedPostgres,
) -> None:
    conditions = (
        "status IN ('new', 'paid')",
        "status NOT IN ('new', 'paid') AND (n > 1 AND (n > 2 AND n > 3))",
        "n BETWEEN 1 AND 5 AND n <> 13",
        "n > -1::int AND n <> -(8.5)",
    )
    tables = [
        f"CREATE TABLE t{n} (status varchar(9), n int, CONSTRAINT c CHECK ({one}))" for n, one in enumerate(conditions)
    ]
    database, again = make(postgres, *tables), make(postgres, *tables)
    written = "SELECT conrelid::regclass, pg_get_constraintdef(oid) FROM pg_constraint WHERE conname = 'c' ORDER BY 1"
    first = query(database.url, written)
    for table, text in first:
        execute(again.url, f"ALTER TABLE {table} DROP CONSTRAINT c", f"ALTER TABLE {table} ADD CONSTRAINT c {text}")
    assert not set(first) & set(query(again.url, written)), "each is written differently the second time"
    assert fingerprint(database, HISTORY) == fingerprint(again, HISTORY)


BASELINE = (
    "CREATE TABLE items (id int PRIMARY KEY, text varchar, other varchar DEFAULT 'a', amount numeric, f float8)",
    "ALTER TABLE items ADD j jsonb",
    "INSERT INTO items SELECT n, 'text ' || n, 'other ' || n, n, 0, '{\"n\": 1}' FROM generate_series(1, 5) n",
    "INSERT INTO items VALUES (6, '', NULL, 1.0, 0, NULL)",
    "CREATE TABLE twins (x int, y int)",
    "INSERT INTO twins VALUES (1, 10), (2, 20), (2, 20), (3, 30)",
    "CREATE INDEX by_text ON items (text)",
    "CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NEW; END $$",
    "CREATE TRIGGER touch BEFORE UPDATE ON twins FOR EACH ROW EXECUTE FUNCTION touch()",
    "SELECT lo_from_bytea(77, decode(repeat('00', 9000000), 'hex'))",
)


@pytest.fixture(scope="module")
def baseline(postgres: EmbeddedPostgres) -> tuple[str, Fingerprint]:
    database = make(postgres, *BASELINE)
    return database.name, fingerprint(database, HISTORY)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        pytest.param("UPDATE items SET text = 'text 2!' WHERE id = 2", "public.items", id="one value"),
        pytest.param("UPDATE items SET text = NULL WHERE id = 6", "public.items", id="'' became NULL"),
        pytest.param("UPDATE items SET other = '' WHERE id = 6", "public.items", id="NULL became ''"),
        pytest.param("UPDATE items SET amount = 1.00 WHERE id = 6", "public.items", id="1.0 became 1.00"),
        pytest.param("UPDATE items SET f = '-0' WHERE id = 6", "public.items", id="0 became -0"),
        pytest.param("UPDATE items SET j = '{\"n\": 1.0}' WHERE id = 1", "public.items", id="1 became 1.0 in jsonb"),
        pytest.param(
            "DELETE FROM twins WHERE x = 1; INSERT INTO twins VALUES (3, 30)", "public.twins", id="one row is another"
        ),
        pytest.param(
            "DELETE FROM twins WHERE x = 2; INSERT INTO twins VALUES (1, 10), (1, 10)", "public.twins", id="equal rows"
        ),
        pytest.param("UPDATE items SET text = other, other = text", "public.items", id="two columns swap values"),
        pytest.param(
            "UPDATE items SET text = 'text ' || (6 - id) WHERE id < 6",
            "public.items",
            id="rows swap values of one column",
        ),
        pytest.param(
            "UPDATE twins SET y = 40 - y WHERE x IN (1, 3)", "public.twins", id="rows swap numbers of one column"
        ),
        pytest.param("SELECT lo_put(77, 8999999, '\\x01')", LARGE_OBJECTS, id="a byte of a large object"),
        pytest.param("SELECT lo_create(78)", LARGE_OBJECTS, id="an empty large object"),
        pytest.param("DROP INDEX by_text", "the schema", id="index"),
        pytest.param("ALTER TABLE items ALTER other SET DEFAULT 'b'", "the schema", id="default"),
        pytest.param("GRANT SELECT ON items TO PUBLIC", "the schema", id="grant"),
        pytest.param("ALTER TABLE twins DISABLE TRIGGER touch", "the schema", id="trigger"),
    ],
)
def test_every_change_counts(
    postgres: EmbeddedPostgres, baseline: tuple[str, Fingerprint], change: str, named: str
) -> None:
    name, before = baseline
    (difference,) = before.differences(fingerprint(make(postgres, change, template=name), HISTORY))
    assert named in difference


def test_an_untouched_copy_is_equal(postgres: EmbeddedPostgres, baseline: tuple[str, Fingerprint]) -> None:
    name, before = baseline
    assert fingerprint(make(postgres, template=name), HISTORY) == before


def test_settings_of_the_database_do_not_count(postgres: EmbeddedPostgres) -> None:
    statements = (
        "CREATE TABLE t (at timestamptz CHECK (at > '2000-01-01 00:00+00'), raw bytea DEFAULT '\\x00', f float8)",
        "INSERT INTO t VALUES ('2024-02-03 04:05+00', '\\xff', 1 / 3.0)",
    )
    plain, odd = make(postgres, *statements), make(postgres, *statements)
    given = {
        "timezone": "'Asia/Tokyo'",
        "bytea_output": "'escape'",
        "datestyle": "'German'",
        "extra_float_digits": "-9",
    }
    given |= {"quote_all_identifiers": "on", "intervalstyle": "'iso_8601'"}
    execute(postgres.url(), *(f"ALTER DATABASE {odd.name} SET {name} = {value}" for name, value in given.items()))
    assert fingerprint(plain, HISTORY) == fingerprint(odd, HISTORY)


def test_a_lossy_cast_to_text_hides_nothing(database: Database) -> None:
    execute(
        database.url,
        "CREATE TYPE mood AS ENUM ('sad', 'happy')",
        "CREATE FUNCTION same(mood) RETURNS text LANGUAGE sql IMMUTABLE AS $$ SELECT 'same' $$",
        "CREATE CAST (mood AS text) WITH FUNCTION same(mood)",
        "CREATE TABLE moods (mood mood)",
        "INSERT INTO moods VALUES ('sad')",
    )
    before = fingerprint(database, HISTORY)
    execute(database.url, "UPDATE moods SET mood = 'happy'")
    assert before.differences(fingerprint(database, HISTORY)) == ["table public.moods: 1 rows, other content"]


def test_an_owner_without_other_rights_is_enough(postgres: EmbeddedPostgres, database: Database) -> None:
    owner = f"owner_of_{database.name}"
    execute(
        postgres.url(),
        f"CREATE ROLE {owner} LOGIN PASSWORD 'owner'",
        f"ALTER DATABASE {database.name} OWNER TO {owner}",
    )
    password = (postgres.root / "password").read_text()
    url = database.url.replace(f"postgres:{password}@", f"{owner}:owner@")
    execute(url, "CREATE SCHEMA mine", "CREATE TABLE mine.t AS SELECT 1 AS x", "SELECT lo_from_bytea(5, 'abc')")
    seen = fingerprint(Database(url), HISTORY)
    assert seen == fingerprint(database, HISTORY)
    assert seen.tables.keys() == {"mine.t", LARGE_OBJECTS}


def test_only_the_tables_asked_for_are_read(database: Database) -> None:
    execute(database.url, "CREATE TABLE one ()", 'CREATE TABLE "Two" ()', "SELECT lo_create(1)")
    whole = fingerprint(database, HISTORY)
    part = fingerprint(database, HISTORY, tables=['public."Two"'])
    assert part.tables == {'public."Two"': whole.tables['public."Two"']}
    assert fingerprint(database, HISTORY, tables=[LARGE_OBJECTS]).tables.keys() == {LARGE_OBJECTS}
    assert part.schema_sha256 == whole.schema_sha256


def test_an_old_snapshot_is_seen_whatever_is_written_meanwhile(database: Database) -> None:
    execute(database.url, "CREATE TABLE items AS SELECT 1 AS x")
    before = fingerprint(database, HISTORY)
    with exported_snapshot(database) as snapshot:
        execute(database.url, "UPDATE items SET x = 2", "CREATE TABLE fresh ()", "SELECT lo_create(1)")
        assert fingerprint(database, HISTORY, snapshot=snapshot) == before


@pytest.fixture(scope="module")
def big(postgres: EmbeddedPostgres) -> Database:
    """Tables that are read in sessions of their own, beside each other."""
    rows = "SELECT n, md5(n::text) AS text, n / 7.0::float8 AS f, jsonb_build_object('n', n) AS j"
    return make(
        postgres,
        f"CREATE TABLE huge AS {rows} FROM generate_series(1, 400000) n",
        f"CREATE TABLE large AS {rows} FROM generate_series(1, 150000) n",
        "CREATE TABLE small AS SELECT 1 AS x",
    )


def test_several_sessions_see_the_same_as_one_and_say_how_far_they_are(big: Database) -> None:
    heard: list[tuple[float, int]] = []
    with exported_snapshot(big) as snapshot:
        execute(big.url, "DELETE FROM large WHERE n = 1")

        def hear(fraction: float) -> None:
            heard.append((fraction, threading.get_ident()))

        several = fingerprint(big, HISTORY, snapshot=snapshot, workers=3, progress=hear)
        assert fingerprint(big, HISTORY, snapshot=snapshot, workers=1) == several
    assert several.tables["public.large"].rows == 150000
    fractions = [fraction for fraction, _ in heard]
    assert fractions == sorted(fractions)
    assert len(fractions) == 3
    assert fractions[-1] == 1
    assert {thread for _, thread in heard} == {threading.get_ident()}
    assert fingerprint(big, HISTORY).tables["public.large"].rows == 149999


def sessions(postgres: EmbeddedPostgres, database: Database) -> int:
    count = "SELECT count(*) FROM pg_stat_activity WHERE datname = %s AND application_name = 'mantis-runbook'"
    return int(str(query(postgres.url(), count, database.name)[0][0]))


@pytest.mark.timeout(60)
def test_a_session_lost_in_the_middle_may_be_tried_again_and_leaves_no_other_behind(
    postgres: EmbeddedPostgres, big: Database
) -> None:
    ended = threading.Event()

    def end_one() -> None:
        end = """SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                 WHERE datname = %s AND backend_type = 'client backend' AND query LIKE '%%hash_record%%."huge"%%'"""
        with psycopg.connect(postgres.url(), autocommit=True) as connection:
            while not ended.is_set():
                if connection.execute(end, [big.name]).fetchall():
                    ended.set()

    before = threading.active_count()
    thread = threading.Thread(target=end_one)
    thread.start()
    try:
        with pytest.raises(TransientError, match="terminating connection"):
            fingerprint(big, HISTORY)
        assert ended.is_set()
    finally:
        ended.set()
        thread.join()
    assert threading.active_count() == before
    while sessions(postgres, big):
        time.sleep(0.01)


@pytest.mark.timeout(60)
def test_work_that_is_interrupted_leaves_no_session_behind(postgres: EmbeddedPostgres, big: Database) -> None:
    def interrupt(_fraction: float) -> None:
        raise KeyboardInterrupt

    before = threading.active_count()
    with pytest.raises(KeyboardInterrupt):
        fingerprint(big, HISTORY, progress=interrupt)
    assert threading.active_count() == before
    while sessions(postgres, big):
        time.sleep(0.01)


def test_a_snapshot_whose_session_has_ended_may_be_tried_again(postgres: EmbeddedPostgres, big: Database) -> None:
    def end_and_read() -> None:
        with exported_snapshot(big) as snapshot:
            execute(postgres.url(), f"SELECT pg_terminate_backend({snapshot.connection.info.backend_pid}, 5000)")
            fingerprint(big, HISTORY, snapshot=snapshot)

    with pytest.raises(TransientError, match="terminating connection"):
        end_and_read()


def test_a_table_that_may_not_be_read_is_named(postgres: EmbeddedPostgres, database: Database) -> None:
    reader = f"reader_of_{database.name}"
    execute(postgres.url(), f"CREATE ROLE {reader} LOGIN PASSWORD 'reader'")
    execute(database.url, "CREATE TABLE secret (id int)")
    password = (postgres.root / "password").read_text()
    limited = Database(database.url.replace(f"postgres:{password}@", f"{reader}:reader@"))
    with (
        pytest.raises(RejectedError, match="permission denied for table secret"),
        exported_snapshot(limited) as snapshot,
    ):
        fingerprint(database, HISTORY, snapshot=snapshot)
