"""What a rollback would do, decided and shown before anything happens.

Source: runbook, "Rollback Procedures".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Protocol

from runbook.clients.application_host import Release
from runbook.connections import Connections
from runbook.errors import InvalidInputError, RefusedError, RunbookError
from runbook.manifest import BackupManifest, VerificationLevel
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
from runbook.rules.drills import RestorePrediction, duration_in_words, predict_restore
from runbook.rules.migration_names import Phase
from runbook.rules.releases import ReleaseRecord, choose_target, recorded_target
from runbook.rules.smoke import SmokeTest
from runbook.rules.thresholds import Severity
from runbook.rules.traffic import Traffic
from runbook.rules.unattended import evidence_objection, policy_objection
from runbook.settings import ReplayMethod
from runbook.stages.checklist import smoke_tests
from runbook.stages.identity import require_identity
from runbook.stages.migration_plan import applied_to, required_migrations
from runbook.stages.preparation import is_prepared
from runbook.stages.quote import quote_loss
from runbook.stages.replay import replay_method
from runbook.stages.restore import FreshDatabase, require_point
from runbook.stages.traffic import look_at_traffic, require_known

NO_REASON = "no reason given"


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
    severity: Severity | None = None

    def of_application(self) -> RollbackRequest:
        """Return this request for the application alone."""
        return replace(self, scope=RollbackScope.APP_ONLY, backup_id=None, latest=False, discard_writes=False)


@dataclass(frozen=True)
class Unattended:
    """What happens when nobody answers: after `after_s` what `plan` says, or, without one, nothing, by `objection`."""

    after_s: float
    plan: RollbackPlan | None
    objection: str = ""

    def announce(self, now: datetime) -> str:
        """Return what is told to everybody when the waiting begins."""
        until = now + timedelta(seconds=self.after_s)
        return f"if nobody answers until {until:%H:%M:%S} UTC, {self._what()}"

    def render(self) -> str:
        """Return it in words, without a time."""
        if self.plan is None:
            return f"if nobody consents, nothing happens: {self.objection}."
        return f"if nobody answers within {duration_in_words(self.after_s)}, {self._what()}, by the policy."

    def _what(self) -> str:
        version = self.plan.target.version if self.plan and self.plan.target else ""
        return f"the application alone goes back to {version}"


@dataclass(frozen=True)
class RollbackPlan:
    """What a rollback would do. `target` is None for the database alone, `backup` for the application alone.

    `data_loss` is what was written since the backup; it is lost only where the `method` of its replay is NONE.
    When the rollback of the time `undoes` is undone, its `kept` database comes back instead of a restored backup, and
    `written` are the rows written since. `traffic` is what was seen before, `restore` how long the restore will take,
    `unattended` what happens when nobody consents. `is_rewind`: no migration is to be undone, so to go back to the rows
    is all that there is to do.
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
    traffic: Traffic | None = None
    restore: RestorePrediction | None = None
    unattended: Unattended | None = None
    severity: Severity | None = None
    is_rewind: bool = False

    @property
    def essence(self) -> tuple[object, ...]:
        """What a person consents to; another plan with the same may be carried out instead."""
        target, backup = self.target, self.backup
        chosen = (target.git_sha if target else None, backup.backup_id if backup else None)
        unattended = self.unattended is not None and self.unattended.plan is not None
        kept = self.kept.name if self.kept else None
        return (self.active.git_sha, *chosen, self.method is ReplayMethod.NONE, unattended, self.undoes, kept)

    def render(self) -> str:
        """Return the plan in words, with what would be lost in rows."""
        lines = [f"Rollback, scope {self.scope}. {self.active.version} ({self.active.git_sha[:12]}) has the traffic."]
        if self.traffic is not None:
            lines += [f"- {finding}" for finding in self.traffic.findings]
        if self.target is not None:
            lines.append(
                f"- Application: back to {self.target.version} ({self.target.git_sha[:12]}), without a rebuild."
            )
        if self.backup is not None:
            lines.append(
                f"- Database: restored from {self.backup.backup_id} of {self.backup.created_at:%Y-%m-%d %H:%M:%S} UTC "
                "beside the live one and swapped in."
            )
            if self.restore is not None:
                lines.append(f"- Time to restore: {self.restore.render()}.")
            lines += self._writes()
        if self.verdict is not None:
            lines.append(
                f"- When it was deployed, this was {self.verdict.legality}: {'; '.join(self.verdict.evidence)}."
            )
        lines += [f"- Instead: {alternative}" for alternative in self.alternatives]
        if self.unattended is not None and self.severity is Severity.SEV1:
            lines.append(f"- Unattended: {self.unattended.render()}")
        return "\n".join(lines)

    def _writes(self) -> list[str]:
        """Say what becomes of the writes since the backup."""
        kept = "The replaced database is kept, closed; `runbook deploy:rollback:undo` swaps it back"
        written = [f"  - {loss.render()}" for loss in self.data_loss]
        if not written:
            return [f"- Loses 0 rows: nothing was written since that backup. {kept}."]
        rows = sum(loss.rows for loss in self.data_loss)
        if self.method is ReplayMethod.NONE:
            why = (
                " No migration was applied since; to go back to its rows is all there is to do."
                if self.is_rewind
                else ""
            )
            return [f"- LOSES {_rows(rows)}: all that was written since that backup.{why} {kept}.", *written]
        left = sum(loss.rows for loss in self.data_loss if loss.cannot_replay)
        how = "as they were captured" if self.method is ReplayMethod.SLOT else "as far as comparing shows them"
        loses = f"{'LOSES' if left else 'Loses'} {left} of the {_rows(rows)}"
        head = f"- {loses} written since that backup; the others are replayed, {how}. {kept}."
        lost = [f"  - LOST of {loss.table}: {loss.cannot_replay}" for loss in self.data_loss if loss.cannot_replay]
        obscured = [
            f"  - MAY LOSE of {loss.table}: what was written to {_rows(loss.obscured)} between the backup and a "
            "migration, which changed them afterwards"
            for loss in self.data_loss
            if loss.obscured
        ]
        revived = [
            f"  - of {loss.table} what was deleted since comes back: a migration has deleted rows there as well"
            for loss in self.data_loss
            if loss.revives
        ]
        aside = "  - rows that do not fit the restored schema are put aside in a file"
        return [head, *written, *lost, *obscured, *revived, aside]


def plan_rollback(connections: Connections, request: RollbackRequest) -> RollbackPlan:
    """Choose target and backup for a rollback, and refuse what could not work.

    The application goes back to the last release recorded VERIFIED before the active one, never to "the second in
    the list"; in a full rollback to the release that was active when the backup was made, so that both fit together.

    Raises:
        InvalidInputError: the combination of options, or the backup id, is not acceptable.
        RefusedError: nobody knows what has the traffic, there is no target, no usable backup, no key to decrypt it,
            the schema restored would not fit the application, or the verdict of the active release's deploy speaks
            against it.
    """
    _check_options(request)
    named = connections.store.manifest(request.backup_id) if request.backup_id else None
    active = connections.host.active()
    if active is None:
        raise RefusedError("no release has the traffic; there is nothing to roll back")
    history = connections.store.history()
    traffic = look_at_traffic(connections, active, history)
    require_known(traffic)
    before = _Before(connections, active, history, traffic)
    if request.scope is RollbackScope.APP_ONLY:
        plan = before.plan_application()
    else:
        plan = before.plan_database(request, named)
    plan = replace(plan, traffic=traffic, severity=request.severity)
    return plan if request.yes else replace(plan, unattended=before.unattended(request, plan))


@dataclass(frozen=True)
class _Before:
    """What is there before a rollback."""

    connections: Connections
    active: Release
    history: Sequence[DeployReport | RollbackReport]
    traffic: Traffic

    def plan_application(self) -> RollbackPlan:
        """Plan a rollback of the application alone."""
        verdict = self._require_legal(RollbackScope.APP_ONLY)
        target = self._target_release()
        tests = smoke_tests(self.connections, target.git_sha)
        return RollbackPlan(RollbackScope.APP_ONLY, self.active, target, tests, None, (), verdict)

    def plan_database(self, request: RollbackRequest, named: BackupManifest | None) -> RollbackPlan:
        """Plan a rollback of the database, and of the application with it in a full one."""
        connections, active = self.connections, self.active
        verdict = self._require_legal(request.scope) if request.scope is RollbackScope.FULL else None
        backup = _require_verified(named) if named else _newest_backup(connections, request, active)
        if connections.restore_points is not None:
            require_point(connections, backup)
        require_identity(connections, backup)
        target = None
        if request.scope is RollbackScope.FULL:
            target = self._release_of_backup(backup)
        _check_schema_fits(connections, backup, target or active)
        is_rewind = request.scope is RollbackScope.DB_ONLY and _has_all_migrations(connections, backup)
        if request.discard_writes or is_rewind:
            connections = connections.discarding_writes()
        losses = quote_loss(connections, backup.backup_id)
        return RollbackPlan(
            request.scope,
            active,
            target,
            smoke_tests(connections, (target or active).git_sha),
            backup,
            losses,
            verdict,
            replay_method(connections, backup.backup_id),
            self._alternatives(request, backup, losses, is_rewind=is_rewind),
            restore=_predict(connections, backup),
            is_rewind=is_rewind,
        )

    def unattended(self, request: RollbackRequest, plan: RollbackPlan) -> Unattended:
        """Return what happens when nobody consents."""
        after_s = self.connections.settings.rollback.unattended_sev1_after_s
        objection = policy_objection(after_s=after_s, severity=request.severity, scope=request.scope)
        alone = None
        if objection is None:
            try:
                alone = plan if plan.scope is RollbackScope.APP_ONLY else self.plan_application()
                objection = evidence_objection(
                    alone.verdict, has_drifted=self.traffic.has_drifted, unknown=self._unknown_migrations()
                )
            except RunbookError as error:
                objection = str(error)
        return Unattended(after_s or 0, None if objection else alone, objection or "")

    def _unknown_migrations(self) -> tuple[str, ...]:
        """Return the migrations applied that the active release does not bring."""
        brought = {item.name for item in required_migrations(self.connections, self.active.git_sha)}
        return tuple(name for name in applied_to(self.connections) if name not in brought)

    def _verdicts(self) -> dict[RollbackScope, RollbackVerdict]:
        """Return what the active release's deploy found out about each scope."""
        for report in reversed(self.history):
            if isinstance(report, DeployReport) and report.success and report.release_id == self.active.release_id:
                return {verdict.scope: verdict for verdict in report.verdict}
        return {}

    def _require_legal(self, scope: RollbackScope) -> RollbackVerdict | None:
        """Return what the active release's deploy found out about a scope; refuse one that cannot work.

        Whether a backup's schema fits is looked at for the backup that is really chosen, not here.
        """
        by_scope = self._verdicts()
        verdict = by_scope.get(scope)
        if verdict is None or verdict.legality is not Legality.ILLEGAL:
            return verdict
        legal = [other for other, known in by_scope.items() if known.legality is not Legality.ILLEGAL]
        raise RefusedError(
            f"a rollback {scope} of {self.active.version} does not work: {'; '.join(verdict.evidence)}. "
            f"What is left: {', '.join(legal) or 'a new release that mends it'}."
        )

    def _target_release(self) -> Release:
        """Return the release to go back to; when nobody recorded the active one, the one that was recorded last."""
        records, recorded = release_history(self.history), self.traffic.recorded
        if all(record.release_id != self.active.release_id for record in records) and self.traffic.has_drifted:
            last = recorded_target(records, recorded.git_sha or "")
            if last is None:
                raise RefusedError(
                    f"{self.traffic.findings[-1]}. What was active before is not recorded VERIFIED, or was marked bad, "
                    "so what to go back to is unknown. Give the traffic to a release in the host's console, or deploy."
                )
            return self.connections.host.release(last.release_id)
        return self.connections.host.release(choose_target(records, self.active.release_id).release_id)

    def _release_of_backup(self, backup: BackupManifest) -> Release:
        if backup.active_git_sha == self.active.git_sha:
            raise RefusedError(
                f"{backup.backup_id} was made while {self.active.version} was active already, so there is no other "
                "release to go back to with it. Choose an earlier backup, or the scope db-only."
            )
        for record in reversed(release_history(self.history)):
            if record.git_sha == backup.active_git_sha and record.verified and not record.marked_bad:
                return self.connections.host.release(record.release_id)
        was = (backup.active_git_sha or "no release")[:12]
        raise RefusedError(
            f"{was} was active when {backup.backup_id} was made, and it is not recorded as VERIFIED (or was marked bad)"
        )

    def _alternatives(
        self, request: RollbackRequest, backup: BackupManifest, losses: Sequence[TableLoss], *, is_rewind: bool
    ) -> tuple[str, ...]:
        """Say what the other ways would lose, in rows."""
        rows = sum(loss.rows for loss in losses)
        left = sum(loss.rows for loss in losses if loss.cannot_replay)
        found: list[str] = []
        if request.scope is RollbackScope.FULL:
            found += [self._application_alone(), *self._database_alone(backup, rows, left)]
        if is_rewind:
            return tuple(found)
        if request.discard_writes:
            found.append(f"without --discard-writes the writes are replayed; loses {left} of {_rows(rows)}.")
        elif rows:
            found.append(f"--discard-writes goes back to the rows of the backup; loses {_rows(rows)}.")
        return tuple(found)

    def _application_alone(self) -> str:
        try:
            plan = self.plan_application()
        except RunbookError as error:
            return f"not --app-only: {error}"
        verdict = plan.verdict
        known = f"{verdict.legality}: {'; '.join(verdict.evidence)}" if verdict else "never looked at"
        to = plan.target.version if plan.target else ""
        return f"--app-only takes the application back to {to}; loses 0 rows ({known})."

    def _database_alone(self, backup: BackupManifest, rows: int, left: int) -> list[str]:
        """Return the rollback of the database alone, where the active release can use the schema of the backup."""
        verdict = self._verdicts().get(RollbackScope.DB_ONLY)
        if verdict is not None and verdict.legality is Legality.ILLEGAL:
            return []
        try:
            _check_schema_fits(self.connections, backup, self.active)
        except RefusedError:
            return []
        lost = rows if _has_all_migrations(self.connections, backup) else left
        return [f"--db-only keeps {self.active.version} on the schema of {backup.backup_id}; loses {_rows(lost)}."]


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


def _rows(number: int) -> str:
    return f"{number} row{'' if number == 1 else 's'}"


def _has_all_migrations(connections: Connections, backup: BackupManifest) -> bool:
    """Return whether no migration was applied since a backup."""
    return applied_to(connections) == list(backup.fingerprint.migrations)


def _predict(connections: Connections, backup: BackupManifest) -> RestorePrediction:
    """Predict how long the restore takes; a sample's time says nothing about the whole."""
    measured = backup.verification
    return predict_restore(
        is_prepared=connections.restore_points is not None or is_prepared(connections, backup.backup_id),
        measured_s=None if measured.level is VerificationLevel.SAMPLE else measured.restore_s,
        size_bytes=backup.size_bytes,
        drills=[drill for drill in connections.store.drills() if drill.environment == connections.settings.name],
    )


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


def _check_schema_fits(connections: Connections, backup: BackupManifest, release: Release) -> None:
    needed = {item.name for item in required_migrations(connections, release.git_sha) if item.phase is Phase.PRE}
    if missing := sorted(needed - set(backup.fingerprint.migrations)):
        raise RefusedError(
            f"{release.version} cannot use the schema of {backup.backup_id}: it was made before {', '.join(missing)}. "
            "Choose a later backup, or the scope full."
        )
