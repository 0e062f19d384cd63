"""Runbook, "Rollback Types" rehearsed: a backup nobody has restored is a rumour."""

from __future__ import annotations

from prefect import flow

from blocks.environment import load_environment
from runbook.procedures import restore_drill as procedure
from runbook.reports import DrillReport
from tasks import drill, notification
from tasks.record import triggered_by_run

STAGES = procedure.DrillStages(run_drill=drill.run_drill, record_drill=drill.record_drill, notify=notification.notify)


@flow(name="restore-drill", flow_run_name="restore-drill-{environment}", retries=0)
def restore_drill(
    environment: str, backup_id: str | None = None, identity_file: str | None = None, triggered_by: str = ""
) -> DrillReport:
    """Restore a backup into a scratch database, compare it, and keep how long it took.

    Args:
        environment: name of a registered environment, for example `local` or `production`.
        backup_id: the backup, for example backup_20250104_120000; the newest when left empty.
        identity_file: path, on the machine that runs this, of the file with the age secret key; only for encrypted
            backups, and only when the environment's settings name none.
        triggered_by: who or what asked; the name of this run when left empty.
    """
    connections = load_environment(environment).connect().with_identity(identity_file)
    return procedure.restore_drill(
        connections, backup_id=backup_id, triggered_by=triggered_by or triggered_by_run(), stages=STAGES
    )
