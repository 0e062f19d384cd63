"""Stage 5: the release on the application host: staged, smoke-tested in private, given the traffic, taken back.

Source: runbook, "Stage 5: Application Deployment" and "Application-Only Rollback".
"""

from __future__ import annotations

import logging
import time

from runbook.clients.application_host import Release, Rolls
from runbook.clients.http_probe import probe
from runbook.connections import Connections
from runbook.errors import DivergedError, RefusedError, StageError
from runbook.rules.checklist import Outcome
from runbook.rules.smoke import SmokeTest
from runbook.stages.checklist import ReleasePlan
from runbook.stages.health import check_health, run_smoke_tests

_log = logging.getLogger(__name__)


def stage_release(connections: Connections, plan: ReleasePlan) -> Release:
    """Build and start the release under its private URL. Repeating it finds the release that is there already.

    Raises:
        ServiceError: the host could not build or start it.
    """
    release = connections.host.stage(plan.git_sha, plan.version)
    _log.info("staged %s at %s", release.release_id, release.url)
    return release


def smoke_release(connections: Connections, release: Release, smoke_tests: tuple[SmokeTest, ...]) -> None:
    """Check health, served version and smoke tests of a release on its private URL.

    Raises:
        StageError: something is not as expected; the message lists all of it.
    """
    headers = connections.host.private_headers
    checks = check_health(connections, release.url, release.git_sha, headers)
    checks += run_smoke_tests(release.url, smoke_tests, headers)
    if bad := [check for check in checks if check.outcome is not Outcome.PASSED]:
        lines = [f"- {check.name}: {check.detail}" for check in bad]
        raise StageError(f"{release.version} fails on its private URL and gets no traffic:\n" + "\n".join(lines))


def promote_release(connections: Connections, release: Release) -> Release:
    """Give the public traffic to a staged release and see that it is served. Safe to repeat.

    Raises:
        ServiceError: the host refused.
        DivergedError: the host agreed, yet the public URL serves another commit.
    """
    promoted = connections.host.promote(release.release_id)
    confirm_served(connections, release.git_sha)
    _log.info("%s has the traffic", release.release_id)
    return promoted


def start_rolling(connections: Connections, release: Release) -> None:
    """Give a staged release the traffic of the first stage of a rolling release. Safe to repeat.

    Raises:
        ServiceError: the host refused.
    """
    _rolling_host(connections).start_rolling(release.release_id)
    _log.info("%s has the traffic of the first stage", release.release_id)


def advance_rolling(connections: Connections, release: Release) -> bool:
    """Give it the traffic of the next stage; return whether it has all of it, and is seen to be served.

    Raises:
        ServiceError: the host refused.
        DivergedError: the host agreed, yet the public URL serves another commit.
    """
    is_complete = _rolling_host(connections).advance_rolling(release.release_id)
    if is_complete:
        confirm_served(connections, release.git_sha)
    _log.info("%s has %s", release.release_id, "the traffic" if is_complete else "the traffic of the next stage")
    return is_complete


def require_rolling(connections: Connections) -> None:
    """Raise `RefusedError` when a rolling release is asked for and the host has none."""
    if connections.settings.rolling_release:
        _rolling_host(connections)


def _rolling_host(connections: Connections) -> Rolls:
    if isinstance(connections.host, Rolls):
        return connections.host
    raise RefusedError("`rolling_release` is set, but this application host cannot split the traffic. Turn it off.")


def warm_release(connections: Connections, release_id: str) -> Release:
    """Make sure that a release which had the traffic before runs, so that it can take it back at once.

    Raises:
        ServiceError: the host does not know it or cannot start it.
    """
    return connections.host.warm(release_id)


def roll_back_release(connections: Connections, release: Release) -> Release:
    """Give the public traffic back to an earlier release, without a rebuild, and see that it is served.

    Raises:
        ServiceError: the host refused.
        DivergedError: the host agreed, yet the public URL serves another commit.
    """
    rolled_back = connections.host.roll_back(release.release_id)
    confirm_served(connections, release.git_sha)
    _log.info("%s has the traffic again", release.release_id)
    return rolled_back


def confirm_served(connections: Connections, git_sha: str) -> None:
    """Wait until the public URL serves a commit, by the release header of its answers.

    Raises:
        DivergedError: it does not in time (`served_within_s` of the watch).
    """
    url = connections.host.public_url + connections.settings.health_paths[0]
    deadline = time.monotonic() + connections.settings.watch.served_within_s
    while True:
        answer = probe(url)
        served = answer.headers.get(connections.settings.release_header)
        if served == git_sha:
            return
        if time.monotonic() > deadline:
            found = served or answer.problem or f"no {connections.settings.release_header} header"
            raise DivergedError(f"{url} was to serve {git_sha[:12]}, but serves {found}")
        time.sleep(0.1)
