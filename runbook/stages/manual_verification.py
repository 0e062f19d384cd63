"""The manual items of the checklist for one commit: what evidence there is, and what people have attested.

Source: runbook, "Manual Verification" of the checklist.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from runbook.clients.attestations import AttestationRecords
from runbook.connections import Connections
from runbook.errors import InvalidInputError, RefusedError, ServiceError
from runbook.reports import DeployReport, FinalState
from runbook.rules import audit, benchmarks, ci, review
from runbook.rules.checklist import Check, Outcome
from runbook.rules.maintenance import windows_at
from runbook.rules.manual_items import Attestation, ManualItem, manual_checks
from runbook.stages.backup import newest_verified_backup

LONGEST = timedelta(days=7)
_CHECKED = {
    ManualItem.TESTS: ci.NAME,
    ManualItem.REVIEW: review.NAME,
    ManualItem.SECURITY: audit.NAME,
    ManualItem.PERFORMANCE: benchmarks.NAME,
}
"""The checks that are evidence of an item."""


def manual_verification(
    connections: Connections, git_sha: str, checks: Sequence[Check], *, pending: Sequence[str] | None
) -> tuple[Check, ...]:
    """Return one check for each manual item.

    Args:
        connections: the environment.
        git_sha: the commit that is to be released.
        checks: what was checked by machines.
        pending: migrations that the release brings; None when that is not known.
    """
    try:
        said = _records(connections).of(git_sha)
    except ServiceError:
        said = []  # without the store nothing is deployed; its own check says so
    return manual_checks(_evidence(connections, checks, pending), said, git_sha, datetime.now(UTC))


def attest(
    connections: Connections, git_ref: str, item: ManualItem, *, by: str, note: str, valid: timedelta
) -> Attestation:
    """Keep a person's word that an item holds for a commit.

    Raises:
        InvalidInputError: the ref is unknown, nobody is named, or it is to hold for too long.
        ServiceError: the store does not answer.
    """
    if not by.strip():
        raise InvalidInputError("by", by, "the name of the person who attests", "Nobody else can answer for it.")
    if not timedelta(0) < valid <= LONGEST:
        raise InvalidInputError("valid", str(valid), f"up to {LONGEST.days} days", "What was true then may not be now.")
    now = datetime.now(UTC)
    git_sha = connections.repository.resolve(git_ref)
    made = Attestation(item=item, git_sha=git_sha, by=by.strip(), note=note.strip(), at=now, until=now + valid)
    _records(connections).keep(made)
    return made


def _evidence(
    connections: Connections, checks: Sequence[Check], pending: Sequence[str] | None
) -> dict[ManualItem, Check]:
    by_name = {check.name: check for check in checks}
    found = {item: by_name[name] for item, name in _CHECKED.items() if name in by_name}
    reviewed = found.get(ManualItem.REVIEW)
    if pending is not None and not pending:
        found[ManualItem.MIGRATIONS] = Check("", Outcome.PASSED, "none is pending")
    elif reviewed is not None and reviewed.outcome is Outcome.PASSED:
        found[ManualItem.MIGRATIONS] = Check("", Outcome.PASSED, f"part of the review: {reviewed.detail}")
    drill = by_name.get("restore drill")
    if drill is not None and drill.outcome is not Outcome.PASSED:
        found[ManualItem.ROLLBACK] = drill
    elif (target := _target(connections)) is not None:
        backup = _verified_backup(connections)
        proven = f", proven by the restore of {backup}" if backup else ""
        practised = f", {drill.detail}" if drill else ""
        detail = f"the application goes back to {target}, recorded VERIFIED; the database to the backup of the deploy"
        found[ManualItem.ROLLBACK] = Check("", Outcome.PASSED, f"{detail}{proven}{practised}")
    windows = windows_at(connections.settings.maintenance.windows, datetime.now(UTC))
    if windows:
        detail = f"until {windows[0].end:%Y-%m-%d %H:%M} UTC: {windows[0].reason}"
        found[ManualItem.MAINTENANCE] = Check("", Outcome.PASSED, detail)
    return found


def _target(connections: Connections) -> str | None:
    """Return the release that a rollback of the next one goes back to: the active one, when it is recorded VERIFIED."""
    try:
        active = connections.host.active()
        reports = [report for report in connections.store.history() if isinstance(report, DeployReport)]
    except ServiceError:
        return None
    if active is None:
        return None
    of_active = [report for report in reports if report.git_sha == active.git_sha and report.success]
    is_verified = bool(of_active) and of_active[-1].state is FinalState.VERIFIED
    return active.version if is_verified else None


def _verified_backup(connections: Connections) -> str | None:
    try:
        return newest_verified_backup(connections).backup_id
    except (ServiceError, RefusedError):
        return None


def _records(connections: Connections) -> AttestationRecords:
    return AttestationRecords(connections.store.objects, connections.settings.name)
