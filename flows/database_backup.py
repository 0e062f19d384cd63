"""Runbook, "Stage 3: Database Backup" on its own, and "Manual Deployment" (Create database backup)."""

from __future__ import annotations

from prefect import flow

from blocks.environment import load_environment
from runbook.manifest import BackupManifest, VerificationLevel
from runbook.procedures import database_backup as procedure
from tasks import backup, notification
from tasks.record import triggered_by_run

STAGES = procedure.BackupStages(
    create_backup=backup.create_backup,
    verify_backup=backup.verify_backup,
    copy_backup=backup.copy_backup,
    notify=notification.notify,
)


@flow(name="database-backup", flow_run_name="backup-{environment}", retries=0)
def database_backup(
    environment: str,
    reason: str = "scheduled backup",
    level: VerificationLevel | None = None,
    identity_file: str | None = None,
    triggered_by: str = "",
) -> BackupManifest:
    """Make a backup, prove it, and copy it to the second store.

    Args:
        environment: name of a registered environment, for example `local` or `production`.
        reason: why; it stands in the manifest.
        level: how it is proven: checksums, sample or full; the environment's setting when left empty.
        identity_file: path, on the machine that runs this, of the file with the age secret key; only for encrypted
            backups that are restored to prove them.
        triggered_by: who or what asked; the name of this run when left empty.
    """
    connections = load_environment(environment).connect().with_identity(identity_file)
    return procedure.database_backup(
        connections, reason=reason, triggered_by=triggered_by or triggered_by_run(), level=level, stages=STAGES
    )
