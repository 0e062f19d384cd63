"""What a rollback would do, decided and shown before anything happens.

Source: runbook, "Rollback Procedures".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from runbook.clients.application_host import Release
from runbook.connections import Connections
from runbook.errors import InvalidInputError, RefusedError
from runbook.manifest import BackupManifest
from runbook.reports import (
    DeployReport,
    FinalState,
    Legality,
    RollbackReport,
    RollbackScope,
    RollbackVerdict,
    TableLoss,
    TableWritten,
)
from runbook.rules.migration_names import Phase
from runbook.rules.releases import ReleaseRecord, choose_target
from runbook.rules.smoke import SmokeTest
from runbook.settings import ReplayMethod
from runbook.stages.checklist import smoke_tests
from runbook.stages.identity import require_identity
from runbook.stages.migration_plan import applied_to, required_migrations
from runbook.stages.quote import quote_loss
from runbook.stages.replay import replay_method
from runbook.stages.restore import FreshDatabase


class ConsentRequest(Protocol):
    """What every request says that somebody has to consent to; with `yes` whoever asks has consented."""

    @property
    def reason(self) -> str:
        """Why; it is recorded."""
        ...

    @property
    def yes(self) -> bool:
        """Whether whoever asks consents."""
        ...

    @property
    def triggered_by(self) -> str:
        """Who or what asks."""
        ...


@dataclass(frozen=True)
class RollbackRequest:
    """What a person asked for; the options of `runbook deploy:rollback`."""

    scope: RollbackScope
    backup_id: str | None
    latest: bool
    reason: str
    yes: bool
    triggered_by: str
    discard_writes: bool = False


@dataclass(frozen=True)
class RollbackPlan:
    """What a rollback would do. `target` is None for the database alone, `backup` for the application alone.

    `data_loss` is what was written since the backup; it is lost only where the `method` of its replay is NONE.
    When the rollback of the time `undoes` is undone, its `kept` database comes back instead of a restored backup, and
    `written` are the rows written since.
    """

    scope: RollbackScope
    active: Release
    target: Release | None
    smoke_tests: tuple[SmokeTest, ...]
    backup: BackupManifest | None
    data_loss: tuple[TableLoss, ...]
    verdict: RollbackVerdict | None = None
    method: ReplayMethod = ReplayMethod.NONE
    alternatives: tuple[str, ...] = ()
    undoes: datetime | None = None
    kept: FreshDatabase | None = None
    written: tuple[TableWritten, ...] = ()

    @property
    def essence(self) -> tuple[object, ...]:
        """What a person consents to; another plan with the same may be carried out instead."""
        target, backup = self.target, self.backup
        chosen = (target.git_sha if target else None, backup.backup_id if backup else None)
        return (self.active.git_sha, *chosen, self.undoes, self.kept.name if self.kept else None)

    def render(self) -> str:
        """Return the plan in words, with what would be lost in rows."""
        lines = [f"Rollback, scope {self.scope}. {self.active.version} ({self.active.git_sha[:12]}) has the traffic."]
        if self.target is not None:
            lines.append(
                f"- Application: back to {self.target.version} ({self.target.git_sha[:12]}), without a rebuild."
            )
        if self.backup is not None:
            lines.append(
                f"- Database: restored from {self.backup.backup_id} of {self.backup.created_at:%Y-%m-%d %H:%M:%S} UTC "
                "beside the live one and swapped in; the last restore took "
                f"{self.backup.verification.restore_s or 0:.1f} s."
            )
            lines += self._writes()
        if self.verdict is not None:
            lines.append(
                f"- When it was deployed, this was {self.verdict.legality}: {'; '.join(self.verdict.evidence)}."
            )
        lines += [f"- Instead: {alternative}" for alternative in self.alternatives]
        return "\n".join(lines)

    def _writes(self) -> list[str]:
        """Say what becomes of the writes since the backup."""
        written = [f"  - {loss.render()}" for loss in self.data_loss]
        if not written:
            return ["- Nothing was written since that backup; the replaced database is kept, closed."]
        if self.method is ReplayMethod.NONE:
            head = "- All that was written since that backup is LOST; the replaced database is kept, closed:"
            return [head, *written]
        how = "as it was captured" if self.method is ReplayMethod.SLOT else "as far as comparing shows it"
        head = f"- What was written since that backup is replayed, {how}; the replaced database is kept, closed:"
        lost = [f"  - LOST of {loss.table}: {loss.cannot_replay}" for loss in self.data_loss if loss.cannot_replay]
        return [head, *written, *lost, "  - rows that do not fit the restored schema are put aside in a file"]


def plan_rollback(connections: Connections, request: RollbackRequest) -> RollbackPlan:
    """Choose target and backup for a rollback, and refuse what could not work.

    The application goes back to the last release recorded VERIFIED before the active one, never to "the second in
    the list"; in a full rollback to the release that was active when the backup was made, so that both fit together.

    Raises:
        InvalidInputError: the combination of options, or the backup id, is not acceptable.
        RefusedError: there is no target, no usable backup, no key to decrypt it, the schema restored would not fit
            the application, or the verdict of the active release's deploy speaks against it.
    """
    _check_options(request)
    if request.discard_writes:
        connections = connections.discarding_writes()
    named = connections.store.manifest(request.backup_id) if request.backup_id else None
    active = connections.host.active()
    if active is None:
        raise RefusedError("no release has the traffic; there is nothing to roll back")
    verdict = _require_legal(connections, request, active)
    if request.scope is RollbackScope.APP_ONLY:
        target = _target_release(connections, active)
        tests = smoke_tests(connections, target.git_sha)
        return RollbackPlan(request.scope, active, target, tests, None, (), verdict)
    backup = _require_verified(named) if named else _newest_backup(connections, request, active)
    require_identity(connections, backup)
    target = None
    if request.scope is RollbackScope.FULL:
        target = _release_of_backup(connections, backup, active)
    _check_schema_fits(connections, backup, target or active)
    _check_changes_something(connections, request, backup)
    tests = smoke_tests(connections, (target or active).git_sha)
    losses = quote_loss(connections, backup.backup_id)
    method = replay_method(connections, backup.backup_id)
    return RollbackPlan(
        request.scope, active, target, tests, backup, losses, verdict, method, _alternatives(request, losses)
    )


def release_history(reports: Sequence[DeployReport | RollbackReport]) -> list[ReleaseRecord]:
    """Return the releases that got the traffic, oldest first, from the reports of past runs.

    A release that a rollback took the traffic from is marked bad, until that is undone or a later deploy of its commit
    is VERIFIED.
    """
    bad: set[str | None] = set()
    undoing: dict[datetime | None, bool] = {None: True}  # by time; what is undone twice is a rollback again
    for report in reports:
        if isinstance(report, RollbackReport) and report.success:
            undoing[report.timestamp] = not undoing.get(report.undoes, False)
            if undoing[report.timestamp]:
                bad.discard(report.to_git_sha)
            else:
                bad.add(report.from_git_sha)
        elif isinstance(report, DeployReport) and report.success and report.state is FinalState.VERIFIED:
            bad.discard(report.git_sha)
    return [
        ReleaseRecord(
            release_id=report.release_id,
            git_sha=report.git_sha,
            version=report.version,
            verified=report.state is FinalState.VERIFIED,
            marked_bad=report.git_sha in bad,
            backup_id=report.backup_id,
            at=report.timestamp,
        )
        for report in reports
        if isinstance(report, DeployReport) and report.success and report.release_id
    ]


def _check_changes_something(connections: Connections, request: RollbackRequest, backup: BackupManifest) -> None:
    """Refuse to restore the database alone when replaying all writes would make it what it is now."""
    if request.scope is not RollbackScope.DB_ONLY or request.discard_writes:
        return
    if applied_to(connections) == list(backup.fingerprint.migrations):
        raise RefusedError(
            f"no migration was applied since {backup.backup_id}: with the writes since then replayed, the database "
            "would hold what it holds now. To go back to the rows of the backup, and lose what was written since, add "
            "--discard-writes; `runbook deploy:rollback` without --yes shows how much that is."
        )


def _alternatives(request: RollbackRequest, losses: Sequence[TableLoss]) -> tuple[str, ...]:
    """Say what the other ways would lose."""
    rows = sum(loss.inserted + loss.updated + loss.deleted for loss in losses)
    left = sum(loss.inserted + loss.updated + loss.deleted for loss in losses if loss.cannot_replay)
    found: list[str] = []
    if request.scope is RollbackScope.FULL:
        found.append("--app-only changes no row and loses none, where the verdict allows it.")
    if request.discard_writes:
        found.append(f"without --discard-writes {rows - left} of these {rows} rows are replayed.")
    elif rows:
        found.append(f"with --discard-writes the rows are those of the backup, and {rows} written since are lost.")
    return tuple(found)


def _check_options(request: RollbackRequest) -> None:
    if request.scope is RollbackScope.APP_ONLY:
        if request.discard_writes:
            raise InvalidInputError(
                "discard_writes",
                True,
                "nothing together with the scope app-only",
                "Leave it out: the application alone is rolled back without touching a row.",
            )
        if request.backup_id:
            raise InvalidInputError(
                "backup_id",
                request.backup_id,
                "nothing together with the scope app-only",
                "Leave it out, or choose the scope full or db-only.",
            )
        return
    if request.backup_id and request.latest:
        raise InvalidInputError(
            "latest", True, "either latest or a backup_id", "Leave one of them out; both name a backup."
        )
    if not request.backup_id and not request.latest:
        raise InvalidInputError(
            "backup_id",
            None,
            "a backup id, or latest, with the scopes full and db-only",
            "Add --latest or --backup-id=<id>; list the backups with `runbook db:backups`.",
        )


def _require_legal(connections: Connections, request: RollbackRequest, active: Release) -> RollbackVerdict | None:
    """Return what the active release's deploy found out about this rollback; refuse one that cannot work.

    Whether a backup's schema fits is looked at for the backup that is really chosen, not here.
    """
    for report in reversed(connections.store.history()):
        if isinstance(report, DeployReport) and report.success and report.release_id == active.release_id:
            by_scope = {verdict.scope: verdict for verdict in report.verdict}
            verdict = by_scope.get(request.scope)
            if verdict is None or request.scope is RollbackScope.DB_ONLY or verdict.legality is not Legality.ILLEGAL:
                return verdict if request.scope is not RollbackScope.DB_ONLY else None
            legal = [scope for scope, other in by_scope.items() if other.legality is not Legality.ILLEGAL]
            raise RefusedError(
                f"a rollback {request.scope} of {active.version} does not work: {'; '.join(verdict.evidence)}. "
                f"What is left: {', '.join(legal) or 'a new release that mends it'}."
            )
    return None


def _require_verified(manifest: BackupManifest) -> BackupManifest:
    if not manifest.is_verified:
        raise RefusedError(
            f"{manifest.backup_id} is {manifest.verification.state}: {manifest.verification.detail}. "
            "Only a backup that was restored once and found equal is used."
        )
    return manifest


def _newest_backup(connections: Connections, request: RollbackRequest, active: Release) -> BackupManifest:
    for manifest in connections.store.manifests():
        if not manifest.is_verified or manifest.environment != connections.settings.name:
            continue
        # What the bad release has already changed cannot be undone by a backup made while it was active.
        if request.scope is RollbackScope.FULL and manifest.active_git_sha == active.git_sha:
            continue
        return manifest
    raise RefusedError("there is no verified backup to go back to; list all with `runbook db:backups`")


def _target_release(connections: Connections, active: Release) -> Release:
    record = choose_target(release_history(connections.store.history()), active.release_id)
    return connections.host.release(record.release_id)


def _release_of_backup(connections: Connections, backup: BackupManifest, active: Release) -> Release:
    if backup.active_git_sha == active.git_sha:
        raise RefusedError(
            f"{backup.backup_id} was made while {active.version} was active already, so there is no other release to "
            "go back to with it. Choose an earlier backup, or the scope db-only."
        )
    for record in reversed(release_history(connections.store.history())):
        if record.git_sha == backup.active_git_sha and record.verified and not record.marked_bad:
            return connections.host.release(record.release_id)
    was = (backup.active_git_sha or "no release")[:12]
    raise RefusedError(
        f"{was} was active when {backup.backup_id} was made, and it is not recorded as VERIFIED (or was marked bad)"
    )


def _check_schema_fits(connections: Connections, backup: BackupManifest, release: Release) -> None:
    needed = {item.name for item in required_migrations(connections, release.git_sha) if item.phase is Phase.PRE}
    if missing := sorted(needed - set(backup.fingerprint.migrations)):
        raise RefusedError(
            f"{release.version} cannot use the schema of {backup.backup_id}: it was made before {', '.join(missing)}. "
            "Choose a later backup, or the scope full."
        )
