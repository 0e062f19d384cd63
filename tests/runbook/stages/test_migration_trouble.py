"""Troubles seen in real directories of migrations, one test each."""

from __future__ import annotations

import psycopg
import pytest

from runbook.clients.psql import SqlError
from runbook.connections import Connections
from runbook.errors import InvalidInputError, RefusedError, StageError
from runbook.rules.checklist import Outcome
from runbook.rules.lint import Severity
from runbook.rules.migration_files import Irregularity
from runbook.stages.migration import apply_migrations, undo_migrations
from runbook.stages.migration_plan import migration_status
from tests.runbook.helpers import execute, query
from tests.runbook.stages.migrations import apply, done, now, plan_of, tables, with_settings


def test_statements_after_the_commit_of_a_file_are_not_run_twice(connections: Connections) -> None:
    """A file that ends its own transaction leaves committed work behind when a later statement fails."""
    own = (
        "BEGIN;\nCREATE TABLE items (id int);\nINSERT INTO items VALUES (1);\nCOMMIT;\nINSERT INTO items VALUES (2);\n"
    )
    bad = plan_of(connections, {"0001_own": f"{own}SELECT 1/0;\nINSERT INTO items VALUES (3);\n"})
    assert [step.transactional for step in bad.steps] == [False]
    with pytest.raises(SqlError, match=r"migrations/0001_own\.sql:6: division by zero"):
        apply_migrations(connections, bad)
    assert done(connections) == []
    [status] = migration_status(connections, bad.git_sha)
    assert (status.state, status.detail) == ("interrupted", "5 statements are done")
    apply(connections, {"0001_own": f"{own}SELECT 1/1;\nINSERT INTO items VALUES (3);\n"})
    assert query(connections.database.url, "SELECT array_agg(id ORDER BY id) FROM items") == [([1, 2, 3],)]
    assert done(connections) == ["0001_own"]


def test_an_edit_of_what_ran_already_is_refused(connections: Connections) -> None:
    with pytest.raises(SqlError):
        apply(connections, {"0001_own": "BEGIN;\nCREATE TABLE items (id int);\nCOMMIT;\nSELECT 1/0;\n"})
    with pytest.raises(StageError, match=r"0001_own\.sql was edited in its first 3 statements, which have been run"):
        apply(connections, {"0001_own": "BEGIN;\nCREATE TABLE items (id bigint);\nCOMMIT;\nSELECT 1;\n"})


@pytest.mark.parametrize(
    "insert",
    [
        "INSERT INTO schema_migrations (migration_name) VALUES ('0001_own')",
        "INSERT INTO schema_migrations (migration_name) VALUES ('0001_own.sql')",
        "INSERT INTO schema_migrations (migration_name) VALUES ('0001_own') ON CONFLICT DO NOTHING",
        "INSERT INTO public.schema_migrations (migration_name, status) VALUES ('0001_own', 'completed')",
    ],
)
def test_a_file_that_inserts_its_own_row_is_recorded_once(connections: Connections, insert: str) -> None:
    apply(connections, {"0001_own": f"CREATE TABLE items (id int);\n{insert};", "0002_next": "SELECT 1;"})
    assert done(connections) == ["0001_own", "0002_next"]
    rows = query(connections.database.url, "SELECT count(*), count(checksum) FROM schema_migrations")
    assert rows == [(2, 2)]


def test_a_file_that_inserts_another_files_row_is_an_error(connections: Connections) -> None:
    copied = "INSERT INTO schema_migrations (migration_name) VALUES ('0002_next');"
    with pytest.raises(SqlError, match="this file wrote 0002_next into the history, which has not run yet"):
        apply(connections, {"0001_copied": copied, "0002_next": "CREATE TABLE items (id int);"})
    assert (done(connections), tables(connections)) == ([], [])


def test_a_file_that_inserts_columns_of_its_own_fails_as_it_does_in_psql(connections: Connections) -> None:
    own = "INSERT INTO schema_migrations (version, description) VALUES ('1', 'x');"
    with pytest.raises(SqlError, match=r'column "version" of relation "schema_migrations" does not exist') as raised:
        apply(connections, {"0001_own": own})
    assert raised.value.sqlstate == "42703"


UP_AND_DOWN = "CREATE TABLE items (id int);\n\n-- Down Migration\nDROP TABLE items;\n"


def test_an_executable_down_part_is_refused_with_its_line(connections: Connections) -> None:
    plan = plan_of(connections, {"0001_items": UP_AND_DOWN})
    [refusal] = [check for check in plan.checks if check.outcome is Outcome.FAILED]
    assert refusal.name == "lint: executable-down-part"
    assert refusal.detail.startswith("migrations/0001_items.sql:3: ")


def test_an_executable_down_part_that_is_allowed_leaves_nothing_as_in_psql(connections: Connections) -> None:
    allowed = with_settings(connections, lint={"executable-down-part": Severity.OFF})
    apply(allowed, {"0001_items": UP_AND_DOWN})
    assert (done(connections), tables(connections)) == (["0001_items"], [])


@pytest.mark.parametrize("text", ["", "\n", "-- nothing to do\n", "/* nothing */;"])
def test_an_empty_file_is_refused(connections: Connections, text: str) -> None:
    with pytest.raises(InvalidInputError, match=r"0002_empty\.sql.*at least one statement"):
        plan_of(connections, {"0001_items": "CREATE TABLE items (id int);", "0002_empty": text})


def test_a_cron_expression_that_ends_a_comment_fails_as_it_does_in_psql(connections: Connections) -> None:
    cron = "/* Runs every five minutes:\n   */5 * * * * refresh\n*/\nCREATE TABLE items (id int);\n"
    with pytest.raises(SqlError, match=r"migrations/0001_cron\.sql:\d+: syntax error") as raised:
        apply(connections, {"0001_cron": cron})
    assert raised.value.sqlstate == "42601"
    assert tables(connections) == []


def test_a_block_that_commits_runs_on_its_own(connections: Connections) -> None:
    batches = (
        "CREATE TABLE items (id int);\n"
        "DO $$ BEGIN FOR n IN 1..3 LOOP INSERT INTO items VALUES (n); COMMIT; END LOOP; END $$;\n"
    )
    plan = plan_of(connections, {"0001_batches": batches})
    assert "DO with a COMMIT" in plan.steps[0].reason
    apply_migrations(connections, plan)
    assert query(connections.database.url, "SELECT count(*) FROM items") == [(3,)]


def test_a_block_that_commits_and_was_interrupted_is_left_to_a_person(connections: Connections) -> None:
    """Nobody can know how far it came; a person finishes it and says so."""
    script = "CREATE TABLE items (id int);\nDO $$ BEGIN INSERT INTO items VALUES (1); COMMIT; PERFORM 1/0; END $$;\n"
    with pytest.raises(SqlError, match="division by zero"):
        apply(connections, {"0001_batches": script})
    with pytest.raises(StageError, match=r"0001_batches\.sql:2: nobody knows .* `runbook db:baseline") as raised:
        apply(connections, {"0001_batches": script})
    assert "DO $$ BEGIN INSERT" in str(raised.value)
    assert query(connections.database.url, "SELECT count(*) FROM items") == [(1,)]


def test_concurrently_needs_no_marker(connections: Connections) -> None:
    plan = plan_of(
        connections,
        {
            "0001_items": "CREATE TABLE items (id int);",
            "0002_index": "-- an index\nCREATE INDEX\n  concurrently items_id ON items (id);\nANALYZE items;\n",
        },
    )
    assert [step.transactional for step in plan.steps] == [True, False]
    apply_migrations(connections, plan)
    assert tables(connections) == ["items", "items_id"]


def test_a_lock_table_gets_the_transaction_that_it_needs(connections: Connections) -> None:
    apply(
        connections,
        {"0001_items": "CREATE TABLE items (id int);\nLOCK TABLE items;\nINSERT INTO items VALUES (1);"},
    )
    assert query(connections.database.url, "SELECT count(*) FROM items") == [(1,)]


def test_the_order_is_that_of_the_numbers_not_of_the_names(connections: Connections) -> None:
    applied = apply(
        connections,
        {
            "10_third": "ALTER TABLE items ADD kind text;",
            "9_second": "ALTER TABLE items ADD price int;",
            "1_first": "CREATE TABLE items (id int);",
        },
    )
    assert applied == ("1_first", "9_second", "10_third")


MIXED = {
    "0001_items": "CREATE TABLE items (id int);",
    "20250104_price": "ALTER TABLE items ADD price int;",
    "20250104120000_kind": "ALTER TABLE items ADD kind text;",
    "1736000000_note": "ALTER TABLE items ADD note text;",
}


def test_mixed_timestamp_formats_are_refused_by_name(connections: Connections) -> None:
    with pytest.raises(InvalidInputError, match="mixed-versions") as raised:
        plan_of(connections, MIXED)
    assert all(name in str(raised.value) for name in MIXED)


def test_mixed_timestamp_formats_that_are_allowed_are_ordered_by_time(connections: Connections) -> None:
    allowed = with_settings(connections, allowed=(Irregularity.MIXED_VERSIONS,))
    plan = plan_of(allowed, MIXED)
    assert plan.pending == ("0001_items", "20250104_price", "20250104120000_kind", "1736000000_note")
    assert any("mixed-versions" in check.detail for check in plan.checks), "what is allowed is shown all the same"


SAME = {"1_items": "CREATE TABLE items (id int);", "0001_orders": "CREATE TABLE orders (id int);"}


def test_the_same_number_with_and_without_zeros_is_refused(connections: Connections) -> None:
    with pytest.raises(InvalidInputError, match=r"same-version.*0001_orders\.sql and migrations/1_items\.sql"):
        plan_of(connections, SAME)


def test_the_same_number_that_is_allowed_is_ordered_by_name(connections: Connections) -> None:
    allowed = with_settings(connections, allowed=(Irregularity.SAME_VERSION,))
    assert apply(allowed, SAME) == ("0001_orders", "1_items")


@pytest.mark.parametrize("variant", ["0001_items_FIXED", "0001_items_COMPAT", "0002_items_corrected"])
def test_a_variant_is_refused_until_somebody_says_which_is_meant(connections: Connections, variant: str) -> None:
    scripts = {"0001_items": "CREATE TABLE items (id int);", variant: "CREATE TABLE items (id bigint);"}
    with pytest.raises(InvalidInputError, match="variant"):
        plan_of(connections, scripts)
    chosen = with_settings(connections, left_out=("0001_items",))
    plan = plan_of(chosen, scripts)
    assert plan.pending == (variant,)
    assert any("0001_items" in check.detail for check in plan.checks if check.name == "migrations left out")


def test_a_file_that_comes_late_is_refused_and_with_leave_applied(connections: Connections) -> None:
    apply(connections, {"0001_items": "CREATE TABLE items (id int);", "0003_price": "ALTER TABLE items ADD p int;"})
    late = {"0002_kind": "ALTER TABLE items ADD kind text;"}
    with pytest.raises(InvalidInputError, match=r"out-of-order.*0002_kind\.sql comes before 0003_price"):
        plan_of(connections, late)
    allowed = with_settings(connections, allowed=(Irregularity.OUT_OF_ORDER,))
    assert apply(allowed, late) == ("0002_kind",)
    assert done(connections) == ["0001_items", "0002_kind", "0003_price"]


def test_several_tools_histories_in_one_database_are_told_apart(connections: Connections) -> None:
    execute(
        connections.database.url,
        "CREATE TABLE _prisma_migrations (id text PRIMARY KEY, migration_name text)",
        "CREATE TABLE flyway_schema_history (installed_rank int, version text)",
    )
    plan = plan_of(connections, {"0001_items": "CREATE TABLE items (id int);"})
    [check] = [check for check in plan.checks if check.name == "other histories"]
    assert check.outcome is Outcome.WARNING
    assert "public._prisma_migrations (Prisma)" in check.detail
    assert "public.flyway_schema_history (Flyway)" in check.detail
    assert "runbook db:baseline" in check.action


@pytest.mark.parametrize("columns", ["version bigint PRIMARY KEY, dirty boolean", "version varchar PRIMARY KEY"])
def test_another_tools_table_of_the_same_name_is_never_written_to(connections: Connections, columns: str) -> None:
    execute(connections.database.url, f"CREATE TABLE schema_migrations ({columns})")
    before = now(connections)
    with pytest.raises(RefusedError, match="not a history of the runbook but of Rails, dbmate or golang-migrate"):
        plan_of(connections, {"0001_items": "CREATE TABLE items (id int);"})
    own = with_settings(connections, history_table="runbook_migrations")
    assert apply(own, {}) == ("0001_items",)
    assert now(connections).tables["public.schema_migrations"] == before.tables["public.schema_migrations"]


def test_a_down_script_that_fails_is_named_and_the_schema_is_told_apart(connections: Connections) -> None:
    before = now(connections)
    scripts = {"0001_items": "CREATE TABLE items (id int);", "0001_items_ROLLBACK": "DROP TABLE item;"}
    plan = plan_of(connections, scripts)
    apply_migrations(connections, plan)
    with pytest.raises(SqlError, match=r'0001_items_ROLLBACK\.sql:1: table "item" does not exist'):
        undo_migrations(connections, plan, before)


@pytest.mark.parametrize(
    "text",
    ["SELECT 'open", 'SELECT "open', "SELECT $x$ open", "/* open", "CREATE TABLE items (id int;"],
    ids=["string", "identifier", "dollar quote", "comment", "parenthesis"],
)
def test_a_file_that_can_never_be_parsed_is_refused_with_its_line(connections: Connections, text: str) -> None:
    with pytest.raises(InvalidInputError, match=r"0001_bad\.sql.*line 2"):
        plan_of(connections, {"0001_bad": f"SELECT 1;\n{text}\n"})


def test_what_one_file_defers_is_checked_at_its_end(connections: Connections) -> None:
    """Run one by one each file commits; in one transaction the next could not even alter the table."""
    deferred = (
        "CREATE TABLE items (id int PRIMARY KEY, parent int REFERENCES items DEFERRABLE INITIALLY DEFERRED);\n"
        "INSERT INTO items VALUES (1, 2), (2, NULL);\n"
    )
    apply(connections, {"0001_items": deferred, "0002_price": "ALTER TABLE items ADD price int;"})
    broken = {"0003_row": "INSERT INTO items VALUES (3, 4);", "0004_more": "ALTER TABLE items ADD note text;"}
    with pytest.raises(SqlError, match=r"after migrations/0003_row\.sql: .*violates foreign key constraint"):
        apply(connections, broken)


def test_nothing_of_one_files_session_reaches_the_next(connections: Connections) -> None:
    leaking = (
        "SET search_path = pg_catalog;\nSET ROLE pg_monitor;\nRESET ROLE;\n"
        "CREATE TEMP TABLE scratch (id int);\nPREPARE asked AS SELECT 1;\n\\set name 'value'\n"
    )
    following = "CREATE TABLE items (id int);\nCREATE TEMP TABLE scratch (id int);\nPREPARE asked AS SELECT 1;\n"
    apply(connections, {"0001_leaking": leaking, "0002_following": following})
    assert query(connections.database.url, "SELECT count(*) FROM public.items") == [(0,)]


def test_a_migration_never_hides_behind_a_busy_server(connections: Connections) -> None:
    plan = plan_of(connections, {"0001_items": "CREATE TABLE items (id int);"})
    limited = with_settings(connections, maximum_transaction_s=0.01)
    with psycopg.connect(connections.database.url) as open_one:
        open_one.execute("SELECT 'secret'")
        open_one.execute("SELECT pg_sleep(0.05)")
        with pytest.raises(Exception, match="too busy for a migration: session") as raised:
            apply_migrations(limited, plan)
        assert str(open_one.info.backend_pid) in str(raised.value)
    assert tables(connections) == []
