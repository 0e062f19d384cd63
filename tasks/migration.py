"""Stage 4 as tasks.

All are safe to repeat: what the history lists is left out, a transaction that failed left nothing, a file that commits
statement by statement goes on where it ended, and a rehearsal has a copy of its own.
"""

from __future__ import annotations

from prefect.artifacts import create_markdown_artifact, create_table_artifact

from runbook.connections import Connections
from runbook.plans import costs_table, render_rehearsal, statements_table
from runbook.reports import Rehearsal
from runbook.rules.migration_names import Phase
from runbook.stages import checklist, migration, rehearsal
from runbook.stages.migration_plan import MigrationPlan
from runbook.stages.restore import RestoredDatabase
from tasks.retries import stage_task


@stage_task("Plan", retries=2)
def plan_database(
    connections: Connections, git_ref: str, *, only: str | None, phase: Phase | None
) -> tuple[MigrationPlan, tuple[str, ...]]:
    """See `runbook.stages.checklist.plan_database`; leaves the plan as an artifact."""
    plan, warnings = checklist.plan_database(connections, git_ref, only=only, phase=phase)
    publish_plan(connections, plan)
    return plan, warnings


@stage_task("Stage 4: Rehearsal")
def rehearse_migrations(connections: Connections, plan: MigrationPlan, copy: RestoredDatabase) -> Rehearsal:
    """See `runbook.stages.rehearsal.rehearse_migrations`; leaves its findings and its costs as artifacts."""
    found = rehearsal.rehearse_migrations(connections, plan, copy)
    name = connections.settings.name
    create_markdown_artifact(
        key=f"rehearsal-{name}",
        markdown=render_rehearsal(found),
        description=f"Rehearsed on {found.backup_id}: " + ("; ".join(found.refusals) or "nothing speaks against them"),
    )
    create_table_artifact(
        key=f"migration-plan-{name}",
        table=costs_table(found),
        description=f"Each statement with its locks and its predicted time, measured on {found.backup_id}.",
    )
    return found


copy_newest_backup = stage_task("Restore", retries=2)(rehearsal.copy_newest_backup)
begun_migrations = stage_task("Undo: Look", retries=3)(migration.begun_migrations)
schema_state = stage_task("Stage 4: Look at the Schema", retries=2)(migration.schema_state)
apply_migrations = stage_task("Stage 4: Database Migration", retries=3)(migration.apply_migrations)
verify_migrations = stage_task("Stage 4: Verification", retries=2)(migration.verify_migrations)
undo_migrations = stage_task("Undo: Migrations", retries=3)(migration.undo_migrations)


def publish_plan(connections: Connections, plan: MigrationPlan) -> None:
    """Leave the pending migrations, statement by statement, as a table artifact."""
    create_table_artifact(
        key=f"migrations-{connections.settings.name}",
        table=statements_table(plan),
        description=f"Migrations of {plan.git_sha[:12]} that are pending, in order: {len(plan.pending)}.",
    )
