"""The maintenance window as tasks; the queue is a table in the UI."""

from __future__ import annotations

from prefect.artifacts import create_table_artifact

from runbook.connections import Connections
from runbook.procedures import maintenance
from runbook.stages import upkeep
from tasks.retries import stage_task

vacuum = stage_task("Maintenance: Vacuum")(upkeep.vacuum)
reindex = stage_task("Maintenance: Reindex")(upkeep.reindex)
schedule = stage_task("Maintenance: Schedule")(maintenance.schedule)
cancel = stage_task("Maintenance: Cancel")(maintenance.cancel)


@stage_task("Maintenance: Show the Queue", retries=2)
def show(connections: Connections) -> None:
    """Leave the queue as an artifact, `maintenance-queue-*`: what waits first."""
    queue = maintenance.records_of(connections).queue()
    rows = [
        {
            "change": change.id,
            "what": f"{change.kind} {' '.join(f'{name}={value}' for name, value in change.parameters.items())}".strip(),
            "state": str(change.state),
            "reason": change.reason,
            "approved by": change.approved_by,
            "detail": change.detail,
            "seconds": change.duration_s,
        }
        for change in sorted(queue, key=lambda one: not one.is_due)
    ]
    create_table_artifact(
        key=f"maintenance-queue-{connections.settings.name}",
        table=rows,
        description=f"Approved changes of {connections.settings.name}: {sum(one.is_due for one in queue)} wait.",
    )
