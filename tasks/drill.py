"""The restore drill as tasks. A drill restores into a database of its own, so it is safe to repeat."""

from __future__ import annotations

from prefect.artifacts import create_image_artifact, create_table_artifact

from runbook.connections import Connections
from runbook.figures import as_data_uri
from runbook.plots import drill_history
from runbook.reports import DrillReport
from runbook.stages import drill, record
from tasks.backup import publish_catalogue
from tasks.progress import progress_artifacts
from tasks.retries import stage_task

_SHOWN = 100


@stage_task("Restore and Compare", retries=2)
def run_drill(connections: Connections, *, backup_id: str | None, triggered_by: str) -> DrillReport:
    """See `runbook.stages.drill.run_drill`."""
    with progress_artifacts(f"restore drill of {connections.settings.name}"):
        return drill.run_drill(connections, backup_id=backup_id, triggered_by=triggered_by)


@stage_task("Record")
def record_drill(connections: Connections, report: DrillReport) -> str:
    """See `runbook.stages.record.record_drill`; then leaves RTO and RPO over time as a table and a plot."""
    where = record.record_drill(connections, report)
    name, settings = connections.settings.name, connections.settings.backup.drill
    history = [known for known in connections.store.drills() if known.environment == name][-_SHOWN:]
    create_table_artifact(
        key=f"restore-drills-{name}",
        table=[
            {
                "at (UTC)": f"{known.timestamp:%Y-%m-%d %H:%M:%S}",
                "backup": known.backup_id,
                "result": "restored and equal" if known.success else f"failed: {known.error}",
                "RTO (s)": known.rto_s,
                "RPO (s)": known.rpo_s,
                "rows": known.rows,
                "bytes": known.size_bytes,
                "triggered by": known.triggered_by,
            }
            for known in reversed(history)
        ],
        description=f"Restore drills of {name}, newest first: time to restore (RTO), writes at stake (RPO).",
    )
    create_image_artifact(
        key=f"restore-drills-plot-{name}",
        image_url=as_data_uri(drill_history(history, settings)),
        description=f"Time to restore (RTO) and writes at stake (RPO) of {name} over time.",
    )
    publish_catalogue(connections)
    return where
