"""Looking at who has the traffic, before anything is changed: host, public URL and records have to agree.

Source: runbook, "SEV1: Complete Outage" ("Check recent deployments"), "Rollback Verification".
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from http import HTTPStatus

from runbook.clients.application_host import Release
from runbook.clients.http_probe import probe
from runbook.connections import Connections
from runbook.errors import RefusedError
from runbook.reports import DeployReport, RollbackReport
from runbook.rules.checklist import Check, Outcome
from runbook.rules.traffic import Traffic, recorded_traffic

_LOOK_AGAIN_S = 0.2


def look_at_traffic(
    connections: Connections, active: Release | None, history: Sequence[DeployReport | RollbackReport]
) -> Traffic:
    """Ask the public URL which release answers, and compare that with the host's and the records' answer.

    A host may take a moment to send a switch everywhere, so another answer is asked again for `served_within_s`.
    """
    deadline = time.monotonic() + connections.settings.watch.served_within_s
    while True:
        traffic = _look(connections, active, history)
        if not traffic.is_unknown or time.monotonic() > deadline:
            return traffic
        time.sleep(_LOOK_AGAIN_S)


def require_known(traffic: Traffic) -> None:
    """Refuse to go on while something else answers than what the host says.

    Raises:
        RefusedError: it does; the message names what each of the three says, and what to do.
    """
    if traffic.is_unknown:
        raise RefusedError(
            f"nobody knows which release has the traffic: {traffic.render()}. Nothing was changed. Look where the "
            "domain leads, give the traffic to one of them in the host's console, and start again."
        )


def check_traffic(connections: Connections) -> Check:
    """Check that host, public URL and records agree on what runs now. An outage is no drift: a deploy may mend it.

    Raises:
        ServiceError: the host or the store does not answer.
    """
    name = "traffic"
    traffic = look_at_traffic(connections, connections.host.active(), connections.store.history())
    if traffic.is_unknown:
        action = "Give the traffic to one of them in the host's console: what is taken back later has to be known now."
        return Check(name, Outcome.FAILED, traffic.render(), action)
    if traffic.has_drifted:
        action = "Find out who did that, and why; a deploy replaces it."
        return Check(name, Outcome.WARNING, "; ".join(traffic.findings), action)
    return Check(name, Outcome.PASSED, traffic.render())


def check_active(connections: Connections, expected: Release) -> Check:
    """Check that the host says a release is active, after it was given the traffic.

    Raises:
        ServiceError: the host does not answer.
    """
    active = connections.host.active()
    outcome = Outcome.PASSED if active and active.release_id == expected.release_id else Outcome.FAILED
    found = f"{active.version} ({active.release_id})" if active else "no release"
    return Check(
        "active release", outcome, f"the host says {found}, expected {expected.version} ({expected.release_id})"
    )


def _look(
    connections: Connections, active: Release | None, history: Sequence[DeployReport | RollbackReport]
) -> Traffic:
    settings = connections.settings
    url = connections.host.public_url + settings.health_paths[0]
    answer = probe(url)
    served = answer.headers.get(settings.release_header) or None
    is_down = answer.status is None or (served is None and answer.status >= HTTPStatus.INTERNAL_SERVER_ERROR)
    if answer.status is None:
        said = f"does not answer ({answer.problem})"
    elif served is None:
        said = f"answers {answer.status} and does not name a release"
    else:
        said = f"is answered by {served[:12]}"
    return Traffic(
        active=active.git_sha if active else None,
        version=active.version if active else "",
        url=url,
        served=served,
        is_down=is_down,
        answer=said,
        recorded=recorded_traffic(history, settings.name),
        pinned=connections.host.pin(),
    )
