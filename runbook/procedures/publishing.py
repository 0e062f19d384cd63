"""The end of every procedure: its report is kept and people are told, whatever of it does not work."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import TypeVar

from runbook.connections import Connections
from runbook.reports import DeployReport, FinalState, MigrateReport, RollbackReport
from runbook.stages import incidents

ReportT = TypeVar("ReportT", DeployReport, RollbackReport, MigrateReport)
_log = logging.getLogger(__name__)


def publish(
    connections: Connections,
    report: ReportT,
    *,
    level: str,
    title: str,
    record: Callable[[Connections, ReportT], str],
    notify: Callable[[Connections, str, str, str], tuple[str, ...]],
    more: Sequence[str] = (),
) -> ReportT:
    """Record a report and send a notification; return the report, with a finding when it could not be kept.

    `more` is what people are told besides. What was done while an incident is open is an action taken in it.
    Nothing that goes wrong in here may hide how the run itself ended.
    """
    try:
        where = record(connections, report)
    except Exception as error:  # noqa: BLE001 - see above
        where = f"the report could not be kept: {error}"
        _log.error("%s: %s", title, where)
        report = report.model_copy(update={"findings": (*report.findings, where)})
    lines = [report.error or report.reason, *(report.findings if report.state is not FinalState.VERIFIED else ())]
    try:
        notify(connections, level, title, "\n".join([*lines, *more, f"({where})"]))
    except Exception as error:  # noqa: BLE001 - see above
        _log.error("%s: nobody could be told: %s", title, error)
    is_action = report.success and not (isinstance(report, MigrateReport) and report.dry_run)
    try:
        incidents.note_run(connections, title, by=report.triggered_by, is_action=is_action)
    except Exception as error:  # noqa: BLE001 - see above
        _log.warning("%s: not written to the incident that is open: %s", title, error)
    return report
