"""The figures of delivery, from the records of an environment.

Source: https://dora.dev/guides/dora-metrics-four-keys/.
"""

from __future__ import annotations

import logging
from datetime import UTC, datetime, timedelta

from runbook.connections import Connections
from runbook.errors import RunbookError
from runbook.reports import DeployReport
from runbook.rules.delivery import DeliveryReport, delivery_report
from runbook.stages.incidents import records_of

_log = logging.getLogger(__name__)


def report_delivery(connections: Connections, window: timedelta) -> DeliveryReport:
    """Return the figures of a span up to now.

    Raises:
        ServiceError: the store does not answer, or a record cannot be read.
    """
    until = datetime.now(UTC)
    history = connections.store.history()
    commits: dict[str, list[datetime]] = {}
    for report in history:
        if isinstance(report, DeployReport) and report.success and report.timestamp >= until - window:
            commits[report.git_sha] = _commits(connections, report)
    return delivery_report(
        connections.settings.name,
        until - window,
        until,
        history=history,
        commits=commits,
        incidents=records_of(connections).incidents(),
        drills=connections.store.drills(),
    )


def _commits(connections: Connections, report: DeployReport) -> list[datetime]:
    """Return when the commits that a deploy brought were made; nothing when the repository does not have them."""
    try:
        return connections.repository.commit_times(report.previous_git_sha, report.git_sha)
    except RunbookError as error:
        _log.warning("the lead time leaves %s out: %s", report.version, error)
        return []
