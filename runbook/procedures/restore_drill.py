"""The order of a restore drill: restored and compared, written down, and said aloud when it failed.

Plain Python: the flow `restore_drill` hands in the same stages as Prefect tasks.
Source: runbook, "Rollback Types", "Disaster Recovery".
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from runbook.connections import Connections
from runbook.errors import RunbookError, StageError
from runbook.reports import DrillReport
from runbook.rules.drills import over_budget
from runbook.stages import drill, notification, record


@dataclass(frozen=True)
class DrillStages:
    """The stages that a drill calls; by default the plain functions."""

    run_drill: Callable[..., DrillReport] = drill.run_drill
    record_drill: Callable[[Connections, DrillReport], str] = record.record_drill
    notify: Callable[[Connections, str, str, str], tuple[str, ...]] = notification.notify


def restore_drill(
    connections: Connections, *, backup_id: str | None, triggered_by: str, stages: DrillStages | None = None
) -> DrillReport:
    """Drill the restore of a backup, the newest when none is named, and keep the report.

    Raises:
        RunbookError: the drill could not be run; people were told.
        StageError: the backup cannot be restored, or the restore took longer than its budget; reported all the same.
    """
    stages = stages or DrillStages()
    title = f"restore drill on {connections.settings.name} failed"
    try:
        report = stages.run_drill(connections, backup_id=backup_id, triggered_by=triggered_by)
        stages.record_drill(connections, report)
    except RunbookError as error:
        stages.notify(connections, "error", title, str(error))
        raise
    findings = [report.error] if report.error else over_budget(report, connections.settings.backup.drill)
    if findings:
        stages.notify(connections, "error", title, "\n".join(findings))
        raise StageError("; ".join(findings))
    return report
