"""What runs now, looked at from outside by whoever wants to know: nothing in here changes anything.

Source: runbook, "Stage 6: Post-Deployment Validation", "Post-Deployment Validation" and "Rollback Verification".
"""

from __future__ import annotations

import socket
import ssl
from datetime import UTC, datetime
from typing import cast
from urllib.parse import urlsplit

from runbook.clients.fingerprint import fingerprint
from runbook.clients.http_probe import probe
from runbook.connections import Connections
from runbook.errors import RefusedError, RunbookError
from runbook.reports import DeployReport, MigrateReport, RollbackReport
from runbook.rules.checklist import Check, Outcome
from runbook.stages.checklist import smoke_tests
from runbook.stages.health import look_at_release

_LOOPBACK = {"127.0.0.1", "::1", "localhost"}
_WAIT_S = 5
_SOON_D = 14
"""Days before its end from which a certificate is a warning: two weekends."""


def verify(connections: Connections) -> tuple[Check, ...]:
    """Check the release that has the traffic: health, version, smoke tests, schema, log, new errors, TLS, redirects.

    The schema is compared with what the release needs and with what the last rehearsal ended with.

    Raises:
        RefusedError: no release has the traffic.
        ServiceError: the host does not say which.
    """
    active = connections.host.active()
    if active is None:
        raise RefusedError("no release has the traffic; there is nothing to verify. Deploy one first.")
    unproven: list[Check] = []
    try:
        tests = smoke_tests(connections, active.git_sha)
    except RunbookError as error:
        tests = ()
        unproven = [Check("smoke tests", Outcome.COULD_NOT_RUN, str(error))]
    since = active.promoted_at or active.created_at
    checks = look_at_release(connections, active, tests, since)
    return (*checks, *unproven, check_schema_as_rehearsed(connections), *check_transport(connections.host.public_url))


def check_schema_as_rehearsed(connections: Connections) -> Check:
    """Check that the live schema is the one that the last rehearsal ended with: nobody has changed it by hand since."""
    name = "schema as rehearsed"
    try:
        newest = _last_rehearsed(connections)
        if newest is None:
            return Check(name, Outcome.PASSED, "nothing was rehearsed yet")
        table = connections.settings.migrations.history_table
        found = fingerprint(connections.database, table, tables=()).schema_sha256
    except RunbookError as error:
        return Check(name, Outcome.COULD_NOT_RUN, str(error))
    about = f"of {newest.timestamp:%Y-%m-%d %H:%M} UTC"
    rehearsal = newest.rehearsal
    if rehearsal is not None and found in (rehearsal.schema_sha256_pre, rehearsal.schema_sha256_post):
        return Check(name, Outcome.PASSED, f"equals that of the rehearsal {about}")
    action = "Find out who changed it (`runbook db:migrations`), and bring it in as a migration."
    return Check(name, Outcome.WARNING, f"differs from that of the rehearsal {about}", action)


def _last_rehearsed(connections: Connections) -> DeployReport | MigrateReport | None:
    """Return the last run that changed the live schema as rehearsed; None when another has changed it since.

    A rollback of the database, and the undoing of one, bring back what was there before.
    """
    name = connections.settings.name
    history = [*connections.store.history(), *connections.store.migrates()]
    for one in sorted((one for one in history if one.environment == name), key=lambda one: one.timestamp, reverse=True):
        if isinstance(one, RollbackReport):
            if one.kept_database is not None:
                return None
        elif one.success and one.rehearsal is not None and one.migrations and not _was_dry(one):
            return one
    return None


def _was_dry(report: DeployReport | MigrateReport) -> bool:
    return isinstance(report, MigrateReport) and report.dry_run


def check_transport(url: str) -> tuple[Check, ...]:
    """Check that a URL is served over TLS with a certificate that holds for a while, and that plain HTTP leads there.

    Of an address of this machine nothing is asked.
    """
    parts = urlsplit(url)
    host = parts.hostname or ""
    if parts.scheme == "http":
        if host in _LOOPBACK:
            return ()
        return (Check("TLS", Outcome.FAILED, f"{url} is not encrypted", "Serve it with https."),)
    return (_certificate(host, parts.port or 443), check_redirect(f"http://{host}/"))


def _certificate(host: str, port: int) -> Check:
    name = "TLS"
    try:
        with (
            socket.create_connection((host, port), timeout=_WAIT_S) as plain,
            ssl.create_default_context().wrap_socket(plain, server_hostname=host) as encrypted,
        ):
            found, version = encrypted.getpeercert() or {}, encrypted.version()
    except ssl.SSLError as error:
        return Check(name, Outcome.FAILED, f"{host}: {getattr(error, 'verify_message', '') or error.reason or error}")
    except OSError as error:
        return Check(name, Outcome.COULD_NOT_RUN, f"{host}: {error}")
    ends = datetime.fromtimestamp(ssl.cert_time_to_seconds(cast("str", found["notAfter"])), UTC)
    days = (ends - datetime.now(UTC)).days
    said = f"{version}, certificate until {ends:%Y-%m-%d} ({days} days)"
    if days < _SOON_D:
        return Check(name, Outcome.WARNING, said, "Renew it: what renews it by itself does not.")
    return Check(name, Outcome.PASSED, said)


def check_redirect(url: str) -> Check:
    """Check that a URL with plain HTTP leads to https, or that nobody answers there."""
    name, answer = "redirect to https", probe(url, timeout_s=_WAIT_S)
    target = answer.headers.get("location", "")
    if answer.status is None:
        return Check(name, Outcome.PASSED, f"{url} does not answer: {answer.problem}")
    if 300 <= answer.status < 400 and target.startswith("https://"):
        return Check(name, Outcome.PASSED, f"{answer.status} to {target}")
    said = f"{url} answers {answer.status}{f', to {target}' if target else ''}"
    return Check(name, Outcome.WARNING, said, "Redirect to https: what is typed without it travels in clear.")
