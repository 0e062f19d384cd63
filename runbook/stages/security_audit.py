"""The security audit of a commit: its own lock files held against what is known of packages.

Source: runbook, "Manual Verification" ("Security audit passed").
"""

from __future__ import annotations

from pathlib import Path

from runbook.connections import Connections
from runbook.errors import RunbookError
from runbook.rules.audit import NAME, UnreadableAuditError, Vulnerabilities, judge_audits, read_audit
from runbook.rules.checklist import Check, Outcome
from runbook.settings import CheckoutCommand
from runbook.stages.checkout_report import checkout_of, report_of


def security_audit(connections: Connections, git_sha: str, *, strict: bool) -> list[Check]:
    """Return whether the audits of the settings pass for a commit; nothing where there are none.

    An audit that could not be made (no program, no network, no report) has not passed; it stops only what is strict,
    because an outage of a registry must not keep a repair from production.
    """
    if not connections.settings.audits:
        return []
    try:
        with checkout_of(connections, git_sha) as checkout:
            found = [(audit.name, _audited(audit, checkout)) for audit in connections.settings.audits]
    except (RunbookError, UnreadableAuditError) as error:
        return [Check(NAME, Outcome.COULD_NOT_RUN, str(error), "Try again.", is_needed=strict)]
    return [judge_audits(found)]


def _audited(audit: CheckoutCommand, checkout: Path) -> Vulnerabilities:
    """Return what an audit reports; its exit code says only that there is something to report."""
    report = report_of(audit, checkout)
    try:
        return read_audit(report.printed)
    except UnreadableAuditError as error:
        raise UnreadableAuditError(f"{audit.name}: {error}{report.complaint}") from None
