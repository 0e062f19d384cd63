"""Migrations rehearsed on a restored backup: costs, budgets, down scripts, the running release."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import pytest

from runbook.connections import Connections
from runbook.errors import RefusedError, StageError
from runbook.procedures.database_migrate import MigrateFailedError, MigrateRequest, MigrateStages, database_migrate
from runbook.reports import FinalState, Legality, Rehearsal, RollbackScope, UndoOutcome
from runbook.rules.migration_names import Phase
from runbook.rules.verdict import judge_rollbacks
from runbook.settings import MigrationBudget
from runbook.stages.backup import create_backup, prove_by_copy, verify_backup
from runbook.stages.migration_plan import MigrationPlan, plan_migrations
from runbook.stages.rehearsal import copy_newest_backup, rehearse_migrations
from tests.runbook.helpers import commit, execute, query
from tests.runbook.stages.migrations import done, now, plan_of, with_settings

ROWS = 50_000


@pytest.fixture
def shop(connections: Connections) -> Connections:
    """A shop with orders, without a release that has the traffic: nobody can be disturbed."""
    execute(
        connections.database.url,
        "CREATE TABLE orders (id int PRIMARY KEY, note text, total numeric(8, 2))",
        f"INSERT INTO orders SELECT n, 'note ' || n, n / 7.0 FROM generate_series(1, {ROWS}) n",
        "CREATE TABLE small (id int)",
    )
    connections.host.active_id = None  # pyright: ignore[reportAttributeAccessIssue] - a fake of these tests
    return connections


def running(connections: Connections) -> None:
    """Let a release have the traffic."""
    smoke = '[[request]]\nname = "home"\npath = "/"\nstatus = 200\n'
    sha = commit(connections.repository.path, {"smoke.toml": smoke})
    connections.host.promote(connections.host.stage(sha, "v1").release_id)


def rehearsed(connections: Connections, scripts: Mapping[str, str]) -> Rehearsal:
    return rehearse(connections, plan_of(connections, scripts))


def rehearse(connections: Connections, plan: MigrationPlan) -> Rehearsal:
    made = create_backup(connections, reason="test", triggered_by="somebody")
    return rehearse_migrations(connections, plan, prove_by_copy(connections, made.backup_id))


def test_what_each_statement_costs_is_measured_and_production_is_untouched(
    shop: Connections, beside: Callable[[], list[str]]
) -> None:
    before = now(shop)
    found = rehearsed(
        shop,
        {
            "0001_type": "ALTER TABLE orders ADD paid boolean;\nALTER TABLE orders ALTER id TYPE bigint;\n",
            "0002_index": "CREATE INDEX orders_note ON orders (note);\n",
            "0003_apart": "CREATE INDEX CONCURRENTLY orders_total ON orders (total);\n",
        },
    )
    assert now(shop) == before
    assert beside() == []
    by_line = {f"{cost.path[-12:]}:{cost.line}": cost for cost in found.statements}
    added, widened, index, apart = (found.statements[n] for n in range(4))
    assert len(by_line) == len(found.statements) == 4
    assert (added.locks, added.rewrites) == (("AccessExclusive on public.orders",), ())
    assert widened.rewrites == ("public.orders",)
    assert widened.wal_bytes > ROWS
    assert index.statement == "CREATE INDEX orders_note ON orders (note);"
    assert apart.locks == ("ShareUpdateExclusive (by the manual)",)
    assert all(cost.duration_s >= 0 for cost in found.statements)
    [block] = found.blocked
    assert (block.table, block.closed_to) == ("public.orders", "reads and writes")
    assert widened.duration_s <= block.held_s <= found.duration_s
    assert found.refusals == ()


def test_over_budget_is_refused_with_the_table_and_the_seconds(shop: Connections) -> None:
    tiny = MigrationBudget(duration_s=0.0001, blocked_s=0.0001, queued_calls=1e-9)
    limited = with_settings(shop, budget=tiny)
    query(shop.database.url, "SELECT count(*) FROM orders")
    found = rehearsed(limited, {"0001_type": "ALTER TABLE orders ALTER id TYPE bigint;\n"})
    assert any(refusal.startswith("they take ") for refusal in found.refusals)
    assert any("public.orders is closed to reads and writes for" in refusal for refusal in found.refusals)


def test_a_table_closed_to_writes_for_long_and_to_reads_for_a_moment_is_weighed_for_both(shop: Connections) -> None:
    """However many wait for the moment, the long time is over budget."""
    calls = ["SELECT count(*) FROM orders WHERE id < 0"] * 1000
    execute(shop.database.url, "CREATE EXTENSION pg_stat_statements", *calls)
    limited = with_settings(shop, budget=MigrationBudget(blocked_s=0.2))
    text = (
        "CREATE INDEX orders_note ON orders (note);\nSELECT pg_sleep(0.2);\n"
        "ALTER TABLE orders ADD paid boolean;\nSELECT pg_sleep(0.05);\n"
    )
    found = rehearsed(limited, {"0001_both": text})
    assert {block.closed_to for block in found.blocked} == {"writes", "reads and writes"}
    [refusal] = found.refusals
    assert refusal.startswith("public.orders is closed to writes for 0.")
    assert refusal.endswith(" s, the budget is 0.2 s")


DOWN = "ALTER TABLE orders DROP paid;\n"


@pytest.mark.parametrize(
    ("up", "down", "outcome", "said"),
    [
        ("ALTER TABLE orders ADD paid boolean;\n", DOWN, UndoOutcome.RESTORES, "schema and rows are as before"),
        ("ALTER TABLE orders ADD paid boolean;\n", None, UndoOutcome.MISSING, "no down script for 0001_change"),
        ("ALTER TABLE orders ADD paid boolean;\n", "DROP TABLE gone;\n", UndoOutcome.FAILS, '"gone" does not exist'),
        ("ALTER TABLE orders ADD paid boolean;\n", "SELECT 1;\n", UndoOutcome.DIFFERS, "the schema differs"),
        (
            "ALTER TABLE orders DROP note;\n",
            "ALTER TABLE orders ADD note text;\n",
            UndoOutcome.DIFFERS,
            f"table public.orders: {ROWS} rows, other content",
        ),
    ],
    ids=["restores", "missing", "fails", "leaves another schema", "loses what was in a column"],
)
def test_the_down_scripts_are_tried_there(
    shop: Connections, up: str, down: str | None, outcome: UndoOutcome, said: str
) -> None:
    scripts = {"0001_change": up} | ({"0001_change_ROLLBACK": down} if down else {})
    found = rehearsed(shop, scripts)
    assert found.undo.outcome is outcome
    assert said in found.undo.detail


def test_a_migration_that_fails_there_leaves_production_alone(
    shop: Connections, beside: Callable[[], list[str]]
) -> None:
    before = now(shop)
    with pytest.raises(StageError, match=r"in the rehearsal on backup_\w+; production was not touched: .*0002_bad"):
        rehearsed(shop, {"0001_good": "ALTER TABLE orders ADD paid boolean;", "0002_bad": "SELECT 1/0;"})
    assert now(shop) == before
    assert beside() == []


@pytest.mark.parametrize(
    ("check", "fails"), [("SELECT 1;", False), ("SELECT 1/(count(*) - 2) FROM small;", False), ("SELECT 1/0;", True)]
)
def test_the_files_own_checks_run_there(shop: Connections, check: str, fails: bool) -> None:
    found = rehearsed(shop, {"0001_row": "INSERT INTO small VALUES (1);", "0001_row_VALIDATION": check})
    assert bool(found.refusals) is fails
    if fails:
        assert "migrations/0001_row_VALIDATION.sql: " in found.refusals[0]


def test_the_two_halves_are_told_apart(shop: Connections) -> None:
    running(shop)
    sha = commit(
        shop.repository.path,
        {
            "migrations/0001_add.sql": "ALTER TABLE orders ADD paid boolean;\n",
            "migrations/0002_drop.post.sql": "ALTER TABLE orders DROP note;\n",
        },
    )
    plan = plan_migrations(shop, sha, running_git_sha=sha)
    assert [item.name for item in plan.migrations(Phase.POST)] == ["0002_drop.post"]
    found = rehearse(shop, plan)
    assert found.schema_sha256_post not in (None, found.schema_sha256_pre)
    assert found.compatible is None, "this host cannot try a release"
    assert any("cannot try a release" in line for line in found.compatibility)


def test_a_query_of_the_running_release_that_breaks_is_a_refusal(shop: Connections) -> None:
    """Needs `pg_stat_statements`, which the server of these tests has preloaded."""
    execute(shop.database.url, "CREATE EXTENSION IF NOT EXISTS pg_stat_statements")
    for _ in range(5):
        query(shop.database.url, "SELECT note FROM orders WHERE id = %s", 7)
    running(shop)
    plan = plan_of(shop, {"0001_drop": "ALTER TABLE orders DROP note;\n"})
    found = rehearse(shop, plan)
    assert found.compatible is False
    assert any(
        "SELECT note FROM orders WHERE id = ?" in line and "does not exist" in line for line in found.compatibility
    )
    assert any("the running release fails on the new schema" in refusal for refusal in found.refusals)
    tolerant = with_settings(shop, require_compatible=False)
    accepted = rehearse_migrations(tolerant, plan, prove_by_copy(tolerant, found.backup_id))
    assert accepted.refusals == ()
    verdict = judge_rollbacks(
        has_previous=True, pending=plan.pending, rules_found=(), rehearsal=accepted, backup_id="b", restore_s=1.0
    )
    assert {item.scope: item.legality for item in verdict}[RollbackScope.APP_ONLY] is Legality.ILLEGAL


SCRIPTS = {
    "migrations/0001_add.sql": "ALTER TABLE orders ADD paid boolean;\n",
    "migrations/0001_add_ROLLBACK.sql": DOWN,
    "migrations/0002_index.sql": "CREATE INDEX CONCURRENTLY orders_note ON orders (note);\n",
    "migrations/0002_index_ROLLBACK.sql": "DROP INDEX CONCURRENTLY orders_note;\n",
}


def asked(**changes: object) -> MigrateRequest:
    return MigrateRequest("main", "test", "somebody", **changes)  # pyright: ignore[reportArgumentType]


def test_the_database_alone_is_backed_up_rehearsed_migrated_and_verified(
    shop: Connections, beside: Callable[[], list[str]]
) -> None:
    commit(shop.repository.path, SCRIPTS)
    report = database_migrate(shop, asked())
    assert (report.success, report.state, report.migrations) == (True, FinalState.VERIFIED, ("0001_add", "0002_index"))
    assert report.rehearsal is not None
    assert report.rehearsal.undo.outcome is UndoOutcome.RESTORES
    assert report.backup_id is not None
    assert shop.store.manifest(report.backup_id).is_verified
    assert [step.step for step in report.steps] == [
        "Plan",
        "Stage 3: Database Backup",
        "Stage 3: Backup Verification",
        "Stage 4: Rehearsal",
        "Stage 4: Database Migration",
        "Stage 4: Verification",
    ]
    assert done(shop) == ["0001_add", "0002_index"]
    assert beside() == []
    again = database_migrate(shop, asked())
    assert (again.migrations, again.backup_id) == ((), None), "nothing is pending, so nothing is done"


def test_a_dry_run_changes_nothing_and_needs_a_verified_backup(
    shop: Connections, beside: Callable[[], list[str]]
) -> None:
    commit(shop.repository.path, SCRIPTS)
    with pytest.raises(MigrateFailedError, match="no verified backup yet; make one with `runbook db:backup`"):
        database_migrate(shop, asked(dry_run=True))
    made = create_backup(shop, reason="test", triggered_by="somebody")
    verify_backup(shop, made.backup_id)
    before = now(shop)
    report = database_migrate(shop, asked(dry_run=True))
    assert report.rehearsal is not None
    assert report.rehearsal.migrations == ("0001_add", "0002_index")
    assert (now(shop), beside(), done(shop)) == (before, [], [])
    database_migrate(shop, asked(migration="0001_add"))
    assert done(shop) == ["0001_add"]
    plan = plan_of(shop, {})
    with pytest.raises(RefusedError, match="has other migrations than the live database"):
        copy_newest_backup(shop, MigrationPlan(plan.git_sha, plan.found, ("0009_other",), (), (), {}))


def test_what_fails_only_on_production_is_undone_by_the_rehearsed_down_scripts(shop: Connections) -> None:
    """A row that came after the backup breaks the second file; the first is taken back without loss."""
    before = now(shop)
    commit(
        shop.repository.path,
        SCRIPTS
        | {
            "migrations/0002_index.sql": "CREATE UNIQUE INDEX CONCURRENTLY orders_note ON orders (note);\n",
            "migrations/0002_index_ROLLBACK.sql": "DROP INDEX CONCURRENTLY IF EXISTS orders_note;\n",
        },
    )

    def rehearse_then_write(connections: Connections, plan: MigrationPlan, copy: object) -> Rehearsal:
        found = rehearse_migrations(connections, plan, copy)  # pyright: ignore[reportArgumentType]
        execute(connections.database.url, "INSERT INTO orders VALUES (0, 'note 1', 1)")
        return found

    stages = replace(MigrateStages(), rehearse_migrations=rehearse_then_write)
    with pytest.raises(MigrateFailedError, match=r"0002_index\.sql:1: could not create unique index") as raised:
        database_migrate(shop, asked(), stages)
    report = raised.value.report
    assert report.undone == (
        "migrations undone by their down scripts, without loss: 0002_index, 0001_add; "
        "the rehearsal had shown that they restore it",
    )
    assert report.state is FinalState.VERIFIED
    after = now(shop)
    assert after.schema_sha256 == before.schema_sha256
    assert after.tables["public.orders"].rows == ROWS + 1, "the row written meanwhile stays"
