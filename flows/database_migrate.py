"""Runbook, "Stage 4: Database Migration", on its own ("Manual Deployment", "Run migrations")."""

from __future__ import annotations

from prefect import flow

from blocks.environment import load_environment
from runbook.procedures import database_migrate as procedure
from runbook.reports import MigrateReport
from runbook.rules.migration_names import Phase
from tasks import backup, health, migration, notification, record, recovery, restore

STAGES = procedure.MigrateStages(
    plan_database=migration.plan_database,
    copy_newest_backup=migration.copy_newest_backup,
    create_backup=backup.create_backup,
    prove_by_copy=backup.prove_by_copy,
    verify_backup=backup.verify_backup,
    copy_backup=backup.copy_backup,
    prepare_rollback=backup.prepare_rollback,
    rehearse_migrations=migration.rehearse_migrations,
    schema_state=migration.schema_state,
    apply_migrations=migration.apply_migrations,
    verify_migrations=migration.verify_migrations,
    begun_migrations=migration.begun_migrations,
    undo_migrations=migration.undo_migrations,
    restore_replacement=restore.restore_replacement,
    quote_loss=restore.quote_loss,
    replay_writes=restore.replay_writes,
    swap_in=restore.swap_in,
    probe_state=health.probe_state,
    notify=notification.notify,
    record_migrate=record.record_migrate,
)


@flow(name="database-migrate", flow_run_name="database-migrate-{environment}-{git_ref}", retries=0)
def database_migrate(
    environment: str,
    git_ref: str = "main",
    dry_run: bool = False,
    migration: str | None = None,
    phase: Phase = Phase.PRE,
    reason: str = "by hand",
    identity_file: str | None = None,
    triggered_by: str = "",
) -> MigrateReport:
    """Back up, rehearse, apply and verify the pending migrations of a commit, or leave everything as it was.

    Args:
        environment: name of a registered environment, for example `local` or `production`.
        git_ref: branch, tag or commit whose migrations are meant.
        dry_run: rehearse them on the newest verified backup, and change nothing.
        migration: name of one migration to apply alone; all pending ones when left empty.
        phase: pre for what a release needs; post for what waits until the release is validated.
        reason: why; it is recorded.
        identity_file: path, on the machine that runs this, of the file with the age secret key; only for encrypted
            backups, and only when the environment's settings name none.
        triggered_by: who or what asked; the name of this run when left empty.
    """
    request = procedure.MigrateRequest(
        git_ref, reason, triggered_by or record.triggered_by_run(), dry_run=dry_run, migration=migration, phase=phase
    )
    connections = load_environment(environment).connect().with_identity(identity_file)
    recovery.recover(connections, triggered_by=request.triggered_by)
    return procedure.database_migrate(connections, request, STAGES)
