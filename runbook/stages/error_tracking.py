"""What Sentry is told of a release, and what it says about it. That it does not answer stops nothing.

Source: runbook, "Post-Deployment Validation" and "What to Monitor (First 30 Minutes)" ("Error logs").
"""

from __future__ import annotations

import logging

from runbook.clients.application_host import Release
from runbook.connections import Connections
from runbook.errors import ServiceError
from runbook.rules.checklist import Check, Outcome

_log = logging.getLogger(__name__)
_SHOWN = 3


def mark_deploy(connections: Connections, release: Release, run: str) -> str | None:
    """Tell Sentry that a release has the traffic; return what went wrong with telling, in words."""
    sentry = connections.sentry
    if sentry is None:
        return None
    name = sentry.release_name(release.git_sha, release.version)
    try:
        sentry.mark_release(name, release.git_sha)
        sentry.mark_deploy(name, connections.settings.name, run, url=connections.run_url)
    except ServiceError as error:
        _log.warning("Sentry does not know of this deploy: %s", error)
        return f"Sentry does not know of this deploy: {error}"
    return None


def check_new_issues(connections: Connections, release: Release) -> Check | None:
    """Return which issues were seen in a release for the first time; None without Sentry."""
    sentry, name = connections.sentry, "new issues in Sentry"
    if sentry is None:
        return None
    try:
        found = sentry.new_issues(sentry.release_name(release.git_sha, release.version))
    except ServiceError as error:
        return Check(name, Outcome.COULD_NOT_RUN, str(error))
    if not found:
        return Check(name, Outcome.PASSED, f"none in {release.version}")
    shown = "; ".join(f"{issue.short_id} {issue.title} ({issue.count}x)" for issue in found[:_SHOWN])
    more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
    return Check(name, Outcome.WARNING, f"{shown}{more}")
