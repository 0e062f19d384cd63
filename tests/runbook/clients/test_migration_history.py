"""The table of applied migrations, in the shapes in which it is found."""

from __future__ import annotations

import logging

import pytest

from runbook.clients.migration_history import MigrationHistory, applied_names, require_rights
from runbook.clients.migration_run import Script, run_together
from runbook.clients.postgres import Database
from runbook.errors import RefusedError, RejectedError
from runbook.rules.migration_checksums import Drift, checksum, drift
from runbook.settings import MigrationSettings
from tests.runbook.helpers import execute, query

TODAYS = (
    "migration_name varchar(255) NOT NULL, executed_at timestamp NOT NULL, duration_ms int, "
    "checksum varchar(64) NOT NULL, status varchar(20) NOT NULL CHECK (status IN ('completed', 'failed', 'running')), "
    "error_message text, rollback_performed boolean NOT NULL"
)
A_ROW = "INSERT INTO schema_migrations VALUES ('0001_items', now(), 7, 'abc', 'completed', NULL, false)"


@pytest.fixture
def history(database: Database) -> MigrationHistory:
    return MigrationHistory(database, MigrationSettings())


def apply(history: MigrationHistory, *names: str) -> None:
    with history.locked():
        run_together(history, [Script(name, f"m/{name}.sql", "SELECT 1;") for name in names])


def states(history: MigrationHistory) -> dict[str, str]:
    return {row.name: row.status for row in history.rows()}


def test_without_a_table_nothing_is_applied_and_looking_makes_none(history: MigrationHistory) -> None:
    assert history.rows() == []
    assert history.columns() == frozenset()
    assert history.progress() == {}
    history.check()
    assert query(history.database.url, "SELECT to_regclass('schema_migrations')") == [(None,)]


@pytest.mark.parametrize("key", ["", "PRIMARY KEY (migration_name), ", "id serial PRIMARY KEY, "])
def test_todays_table_is_adopted_as_it_is(history: MigrationHistory, key: str) -> None:
    execute(history.database.url, f"CREATE TABLE schema_migrations ({TODAYS})", A_ROW)
    if key.startswith("id"):
        execute(history.database.url, "ALTER TABLE schema_migrations ADD id serial PRIMARY KEY")
    elif key:
        execute(history.database.url, "ALTER TABLE schema_migrations ADD PRIMARY KEY (migration_name)")
    apply(history, "0002_more")
    assert states(history) == {"0001_items": "completed", "0002_more": "completed"}
    first, second = history.rows()
    assert (first.checksum, first.normalised_checksum, first.duration_ms) == ("abc", None, 7)
    assert second.checksum == checksum("SELECT 1;")
    assert drift("SELECT  1;", second.checksum, second.normalised_checksum) is Drift.COSMETIC


def test_a_table_of_names_alone_will_do(history: MigrationHistory) -> None:
    execute(history.database.url, "CREATE TABLE schema_migrations (migration_name text)")
    execute(history.database.url, "INSERT INTO schema_migrations VALUES ('0001_items')")
    assert applied_names(history.rows()) == ["0001_items"]
    apply(history, "0002_more")
    assert applied_names(history.rows()) == ["0001_items", "0002_more"]
    history.record_failure("0003_bad", "SELECT 1/0;", "division by zero", rolled_back=True)
    assert applied_names(history.rows()) == ["0001_items", "0002_more"], "such a table cannot say what failed"


OTHER_TOOLS = {
    "Rails, dbmate or golang-migrate": ("schema_migrations", "version varchar PRIMARY KEY"),
    "Flyway": ("flyway_schema_history", "installed_rank int, version text, script text"),
    "Prisma": ("_prisma_migrations", "id text, checksum text, migration_name text NOT NULL, started_at timestamptz"),
}


@pytest.mark.parametrize("tool", ["Rails, dbmate or golang-migrate", "Flyway"])
def test_the_history_of_another_tool_is_refused_by_its_name(database: Database, tool: str) -> None:
    table, columns = OTHER_TOOLS[tool]
    execute(database.url, f"CREATE TABLE {table} ({columns})")
    history = MigrationHistory(database, MigrationSettings(history_table=table))
    for look in (history.rows, history.check, lambda: apply(history, "0001_items")):
        with pytest.raises(RefusedError) as raised:
            look()
        said = str(raised.value)
        assert f"public.{table} is not a history of the runbook but of {tool}: it has the columns " in said
        assert "`history_table`" in said
    assert query(database.url, "SELECT count(*) FROM pg_attribute WHERE attname = 'normalised_checksum'") == [(0,)]


def test_a_required_column_that_nobody_would_fill_is_refused(history: MigrationHistory) -> None:
    execute(
        history.database.url,
        f"CREATE TABLE schema_migrations ({TODAYS}, applied_by text NOT NULL, run_id int NOT NULL DEFAULT 1)",
    )
    with pytest.raises(RefusedError, match=r"does not know: applied_by\. Give them a default\."):
        history.rows()
    execute(history.database.url, "ALTER TABLE schema_migrations ALTER applied_by SET DEFAULT 'somebody'")
    apply(history, "0001_items")
    assert states(history) == {"0001_items": "completed"}


def test_what_other_tools_keep_in_the_same_database_is_listed(history: MigrationHistory) -> None:
    for table, columns in OTHER_TOOLS.values():
        execute(history.database.url, f"CREATE SCHEMA {table}_apart", f"CREATE TABLE {table}_apart.{table} ({columns})")
    execute(history.database.url, 'CREATE TABLE public."SequelizeMeta" (name text)')
    apply(history, "0001_items")
    assert history.other_tools() == {
        "_prisma_migrations_apart._prisma_migrations": "Prisma",
        "flyway_schema_history_apart.flyway_schema_history": "Flyway",
        "public.SequelizeMeta": "Sequelize",
        "schema_migrations_apart.schema_migrations": "Rails, dbmate or golang-migrate",
    }


def test_a_name_with_its_ending_is_the_same_migration(history: MigrationHistory) -> None:
    execute(
        history.database.url,
        f"CREATE TABLE schema_migrations ({TODAYS})",
        A_ROW.replace("0001_items", "0001_items.sql"),
        A_ROW.replace("0001_items", "0002_more.up.sql"),
    )
    assert applied_names(history.rows()) == ["0001_items", "0002_more"]


def test_a_failure_is_written_down_and_gives_way_to_success(history: MigrationHistory) -> None:
    apply(history, "0001_items")
    history.record_failure("0002_bad", "SELECT 1/0;", "m/0002_bad.sql:1: 'division' by zero", rolled_back=True)
    [failed] = [row for row in history.rows() if row.status == "failed"]
    assert (failed.name, failed.error) == ("0002_bad", "m/0002_bad.sql:1: 'division' by zero")
    assert failed.checksum == checksum("SELECT 1/0;")
    assert applied_names(history.rows()) == ["0001_items"]
    history.record_failure("0002_bad", "SELECT 2/0;", "again", rolled_back=False)
    assert [row.error for row in history.rows()] == [None, "again"], "one row for each migration"
    apply(history, "0002_bad")
    assert states(history) == {"0001_items": "completed", "0002_bad": "completed"}
    assert [row.error for row in history.rows()] == [None, None]


def test_that_a_failure_cannot_be_written_down_hides_nothing(
    history: MigrationHistory, caplog: pytest.LogCaptureFixture
) -> None:
    execute(history.database.url, f"CREATE TABLE schema_migrations ({TODAYS}, CHECK (status <> 'failed'))")
    with caplog.at_level(logging.WARNING):
        history.record_failure("0001_bad", "SELECT 1/0;", "division by zero", rolled_back=True)
    assert "that 0001_bad failed could not be written into its history" in caplog.text
    assert history.rows() == []


def test_a_baseline_replaces_what_is_listed_and_is_all_or_nothing(history: MigrationHistory) -> None:
    apply(history, "0001_items")
    history.record_failure("0002_more", "x", "broken", rolled_back=True)
    execute(
        history.database.url,
        "UPDATE schema_migrations SET migration_name = '0001_items.sql' WHERE status = 'completed'",
    )
    history.baseline([("0001_items", "SELECT 'new';"), ("0002_more", "SELECT 2;")])
    assert [(row.name, row.status, row.checksum, row.error) for row in history.rows()] == [
        ("0001_items", "completed", checksum("SELECT 'new';"), None),
        ("0002_more", "completed", checksum("SELECT 2;"), None),
    ]
    before = history.rows()
    execute(history.database.url, "ALTER TABLE schema_migrations ADD CHECK (migration_name <> '0004_bad')")
    with pytest.raises(RejectedError, match="violates check constraint"):
        history.baseline([("0003_good", "SELECT 3;"), ("0004_bad", "SELECT 4;")])
    assert history.rows() == before


def test_withdrawing_takes_back_what_adopting_made(history: MigrationHistory) -> None:
    url = history.database.url
    with history.locked():
        history.withdraw(existed=False)
    assert query(url, "SELECT to_regclass('schema_migrations')") == [(None,)]
    execute(url, f"CREATE TABLE schema_migrations ({TODAYS})", A_ROW)
    before = history.columns()
    with history.locked():
        assert "normalised_checksum" in history.columns()
        history.withdraw(existed=True)
    assert history.columns() == before
    assert applied_names(history.rows()) == ["0001_items"]


def test_withdrawing_keeps_a_column_that_is_in_use(history: MigrationHistory) -> None:
    apply(history, "0001_items")
    history.withdraw(existed=True)
    assert "normalised_checksum" in history.columns()
    assert applied_names(history.rows()) == ["0001_items"]


def test_the_lock_frees_itself_and_names_the_database(history: MigrationHistory) -> None:
    refused = pytest.raises(RefusedError, match=rf"another migration of {history.database.name} runs")
    with history.locked(), refused, history.locked():
        pass
    with pytest.raises(LookupError), history.locked():
        raise LookupError
    with history.locked():
        pass


def test_two_histories_of_one_database_do_not_lock_each_other(history: MigrationHistory) -> None:
    other = MigrationHistory(history.database, MigrationSettings(history_table="other_migrations"))
    with history.locked(), other.locked():
        assert history.columns() == other.columns() != frozenset()


@pytest.fixture
def limited(database: Database) -> Database:
    """The database as a role sees it that may read and write rows, and no more."""
    role = f"limited_{database.name}"
    execute(
        database.url,
        "REVOKE CREATE ON SCHEMA public FROM PUBLIC",
        f"CREATE ROLE {role} LOGIN PASSWORD 'l1mited'",
    )
    return Database(f"postgresql://{role}:l1mited@{database.url.partition('@')[2]}")


def test_a_role_that_may_not_create_tables_is_told_so(limited: Database) -> None:
    with pytest.raises(RejectedError) as raised:
        require_rights(limited)
    role = f"limited_{limited.name}"
    assert (
        str(raised.value)
        .split(": ")[-1]
        .startswith(f"role {role} may not create tables in schema public of {limited.name}; grant it CREATE there")
    )
    assert "l1mited" not in str(raised.value)


def test_a_role_that_does_not_own_the_history_uses_it_as_it_is(limited: Database, database: Database) -> None:
    role = f"limited_{database.name}"
    execute(
        database.url,
        f"CREATE TABLE schema_migrations ({TODAYS})",
        f"GRANT CREATE ON SCHEMA public TO {role}",
        f"GRANT SELECT, INSERT, DELETE ON schema_migrations TO {role}",
    )
    history = MigrationHistory(limited, MigrationSettings())
    require_rights(limited)
    apply(history, "0001_items")
    assert states(history) == {"0001_items": "completed"}
    assert "normalised_checksum" not in history.columns()


def test_progress_is_kept_until_it_is_forgotten_and_its_table_goes_with_it(history: MigrationHistory) -> None:
    history.begin_progress("0001_a")
    history.begin_progress("0002_b")
    history.settle_progress("0001_a", 3, "f" * 64)
    history.begin_progress("0001_a")
    assert {name: (found.done, found.begun) for name, found in history.progress().items()} == {
        "0001_a": (3, None),
        "0002_b": (0, None),
    }
    history.end_progress(["0001_a"])
    assert list(history.progress()) == ["0002_b"]
    history.end_progress(["0002_b", "0009_never"])
    assert query(history.database.url, "SELECT to_regclass('schema_migrations_progress')") == [(None,)]
