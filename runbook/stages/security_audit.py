"""The security audit of a commit: its own lock files held against what is known of packages.

Source: runbook, "Manual Verification" ("Security audit passed").
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from runbook.clients.checkout_command import run_in_checkout
from runbook.connections import Connections
from runbook.errors import RunbookError
from runbook.rules.audit import NAME, UnreadableAuditError, Vulnerabilities, judge_audits, read_audit
from runbook.rules.checklist import Check, Outcome
from runbook.settings import CheckoutCommand


def security_audit(connections: Connections, git_sha: str, *, strict: bool) -> list[Check]:
    """Return whether the audits of the settings pass for a commit; nothing where there are none.

    An audit that could not be made (no program, no network, no report) has not passed; it stops only what is strict,
    because an outage of a registry must not keep a repair from production.
    """
    if not connections.settings.audits:
        return []
    try:
        with tempfile.TemporaryDirectory(prefix="runbook-audit-", ignore_cleanup_errors=True) as folder:
            checkout = Path(folder) / "source"
            connections.repository.export(git_sha, checkout)
            found = [(audit.name, _audited(audit, checkout)) for audit in connections.settings.audits]
    except (RunbookError, UnreadableAuditError) as error:
        return [Check(NAME, Outcome.COULD_NOT_RUN, str(error), "Try again.", is_needed=strict)]
    return [judge_audits(found)]


def _audited(audit: CheckoutCommand, checkout: Path) -> Vulnerabilities:
    """Return what an audit reports; its exit code says only that there is something to report."""
    output, errors = checkout.parent / "report", checkout.parent / "errors"
    try:
        code = run_in_checkout(audit.argv, checkout, audit.timeout_s, output=output, errors=errors)
    except OSError as error:
        raise UnreadableAuditError(f"{audit.name}: {audit.argv[0]} cannot be started: {error}") from error
    if code is None:
        raise UnreadableAuditError(f"{audit.name} did not end within {audit.timeout_s:g} s")
    try:
        return read_audit(output.read_text(encoding="utf-8", errors="replace"))
    except UnreadableAuditError as error:
        last = errors.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1:]
        raise UnreadableAuditError(
            " ".join([f"{audit.name}: {error}", *(f"({line[:200]})" for line in last)])
        ) from None
