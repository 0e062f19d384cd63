"""The order of a backup on its own: made, proven, copied to the second store.

Plain Python: the flow `database_backup` hands in the same stages as Prefect tasks.
Source: runbook, "Stage 3: Database Backup", "Manual Deployment" (Create database backup).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from runbook.connections import Connections
from runbook.manifest import BackupManifest, VerificationLevel
from runbook.stages import backup, notification


@dataclass(frozen=True)
class BackupStages:
    """The stages that a backup calls; by default the plain functions."""

    create_backup: Callable[..., BackupManifest] = backup.create_backup
    verify_backup: Callable[..., BackupManifest] = backup.verify_backup
    copy_backup: Callable[[Connections, str], str | None] = backup.copy_backup
    notify: Callable[[Connections, str, str, str], tuple[str, ...]] = notification.notify


def database_backup(
    connections: Connections,
    *,
    reason: str,
    triggered_by: str,
    level: VerificationLevel | None = None,
    stages: BackupStages | None = None,
) -> BackupManifest:
    """Make a backup, prove it as `level` says (the environment's setting when None), and copy it elsewhere.

    Raises:
        RunbookError: what the failed stage raised; people were told. Earlier backups are untouched, and a backup that
            was made, but not proven or not copied, stays as it is.
    """
    stages = stages or BackupStages()
    try:
        made = stages.create_backup(connections, reason=reason, triggered_by=triggered_by)
        made = stages.verify_backup(connections, made.backup_id, level=level)
        stages.copy_backup(connections, made.backup_id)
    except Exception as error:
        stages.notify(connections, "error", f"backup of {connections.settings.name} failed", str(error))
        raise
    return made
