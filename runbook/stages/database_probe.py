"""Would anybody notice that the database is gone? A health endpoint that says 200 all the same proves nothing.

Source: runbook, "Automated Health Checks" ("Database connectivity verification").
"""

from __future__ import annotations

from collections.abc import Sequence

from runbook.clients.application_host import Release
from runbook.clients.http_probe import probe
from runbook.connections import Connections
from runbook.errors import RunbookError, StageError
from runbook.rules.smoke import SmokeTest

_NOWHERE = "postgresql://nobody@127.0.0.1:1/gone"  # port 1 refuses at once
_UNNOTICED = (
    "without a database every health endpoint and smoke test still answers as expected: nothing that is asked touches "
    "it. Add a smoke test that shows data"
)
_UNSHOWN = "nothing that is asked shows that it touches the database: let a smoke test look at what comes back"


def unnoticed_loss(connections: Connections, release: Release, tests: Sequence[SmokeTest]) -> str | None:
    """Return in words why a lost database would go unnoticed; None when one of what is asked anyhow would fail.

    The release is started once more, without traffic, on a database that is not there; its health endpoints and GET
    smoke tests are asked. One that does not start without a database is noticed, too. On a host that cannot start a
    release so, the smoke tests that look at what comes back have to do.
    """
    harmless = [test for test in tests if test.method == "GET"]
    try:
        with connections.host.trial(release.release_id, _NOWHERE) as url:
            return None if _notices(connections, url, harmless) else _UNNOTICED
    except StageError:
        return None
    except RunbookError:
        return None if any(test.expected or test.contains for test in harmless) else _UNSHOWN


def _notices(connections: Connections, url: str, tests: Sequence[SmokeTest]) -> bool:
    for path in connections.settings.health_paths:
        if probe(url + path).status != 200:
            return True
    for test in tests:
        answer = probe(url + test.path)
        if test.problem(answer.status, answer.text) is not None:
            return True
    return False
