"""The errors in a release's log since it got the traffic, grouped by signature, and which of them it has brought.

Source: runbook, "What to Monitor (First 30 Minutes)" ("Error Logs"), "Stage 6: Post-Deployment Validation".
"""

from __future__ import annotations

from datetime import datetime, timedelta

from runbook.clients.application_host import Release
from runbook.connections import Connections
from runbook.errors import ServiceError
from runbook.rules.checklist import Check, Outcome
from runbook.rules.error_signatures import group_errors
from runbook.rules.watch_log import LogFinding, log_findings

BEFORE = timedelta(hours=1)
"""So long before a release got the traffic the log of what ran then is read."""
LINES = 2000
_SHOWN = 5


def release_before(connections: Connections, release: Release, promoted_at: datetime) -> Release | None:
    """Return the release that had the traffic before another got it; None when none did.

    Raises:
        ServiceError: the host does not answer.
    """
    known = [
        (other.promoted_at, other)
        for other in connections.host.releases()
        if other.release_id != release.release_id and other.promoted_at and other.promoted_at < promoted_at
    ]
    return max(known, key=lambda one: one[0])[1] if known else None


def logged_errors(
    connections: Connections, release: Release, since: datetime, *, before: Release | None
) -> tuple[LogFinding, ...]:
    """Return the errors in a release's log since a time, grouped, those that are new first.

    Args:
        connections: the environment.
        release: whose log.
        since: when it got the traffic, aware.
        before: what had the traffic before; None where nothing is known of it, nor of what is new then.

    Raises:
        ServiceError: the host does not give the log.
    """
    host = connections.host
    found = [(x.at, x.level, x.message) for x in host.logs(release.release_id, since=since, limit=LINES)]
    known: set[str] | None = None
    if before is not None:
        old = host.logs(before.release_id, since=since - BEFORE, limit=LINES)
        known = {group.signature for group in group_errors((x.at, x.level, x.message) for x in old)}
    return log_findings(group_errors(found), known)


def check_log(connections: Connections, release: Release, since: datetime) -> Check:
    """Check that a release has logged no error since it got the traffic; name those that it has brought first."""
    name = "error log"
    try:
        before = release_before(connections, release, since)
        found = logged_errors(connections, release, since, before=before)
    except ServiceError as error:
        return Check(name, Outcome.COULD_NOT_RUN, str(error))
    if not found:
        return Check(name, Outcome.PASSED, "no error since the release got the traffic")
    shown = [f"{'new: ' if one.is_new else ''}{one.group.count}x {one.group.signature}" for one in found[:_SHOWN]]
    more = [f"and {len(found) - _SHOWN} kinds more"] if len(found) > _SHOWN else []
    return Check(name, Outcome.WARNING, "; ".join([*shown, *more]))
