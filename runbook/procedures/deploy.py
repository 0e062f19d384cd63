"""The order of a deploy, and how a deploy that fails is undone.

Plain Python: the flow `deploy` hands in the same stages as Prefect tasks.
Source: runbook, "Standard Deployment (Automated)", "Deployment Stages".
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime

from runbook.clients.application_host import Release
from runbook.connections import Connections
from runbook.errors import DivergedError, RunbookError, StageError
from runbook.manifest import BackupManifest, Fingerprint
from runbook.procedures.publishing import publish
from runbook.reports import DeployReport, FinalState, StepLog, TableLoss
from runbook.rules.checklist import Check, Outcome
from runbook.rules.smoke import SmokeTest
from runbook.stages import application, backup, checklist, health, migration, notification, record, restore, test_suite
from runbook.stages.checklist import ReleasePlan
from runbook.stages.health import Verdict, WatchResult
from runbook.stages.restore import RestoredDatabase, Swap
from runbook.stages.test_suite import TestReport

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class DeployRequest:
    """What a person or CI asked for."""

    git_ref: str
    reason: str
    triggered_by: str


@dataclass(frozen=True)
class DeployStages:
    """The stages that a deploy calls; by default the plain functions."""

    plan_release: Callable[[Connections, str], tuple[ReleasePlan, tuple[str, ...]]] = checklist.plan_release
    run_test_suite: Callable[[Connections, str], TestReport] = test_suite.run_test_suite
    create_backup: Callable[..., BackupManifest] = backup.create_backup
    verify_backup: Callable[[Connections, str], BackupManifest] = backup.verify_backup
    copy_backup: Callable[[Connections, str], str | None] = backup.copy_backup
    apply_migrations: Callable[[Connections, ReleasePlan], tuple[str, ...]] = migration.apply_migrations
    undo_migrations: Callable[[Connections, ReleasePlan, Fingerprint], tuple[str, ...]] = migration.undo_migrations
    restore_beside: Callable[..., RestoredDatabase] = restore.restore_beside
    quote_loss: Callable[[Connections, str], tuple[TableLoss, ...]] = restore.quote_loss
    swap_in: Callable[[Connections, RestoredDatabase], Swap] = restore.swap_in
    stage_release: Callable[[Connections, ReleasePlan], Release] = application.stage_release
    smoke_release: Callable[[Connections, Release, tuple[SmokeTest, ...]], None] = application.smoke_release
    promote_release: Callable[[Connections, Release], Release] = application.promote_release
    roll_back_release: Callable[[Connections, Release], Release] = application.roll_back_release
    validate_release: Callable[[Connections, ReleasePlan, Release, datetime], tuple[Check, ...]] = (
        health.validate_release
    )
    watch_release: Callable[[Connections, ReleasePlan, Release, datetime], WatchResult] = health.watch_release
    probe_state: Callable[[Connections, str | None], tuple[Check, ...]] = health.probe_state
    notify: Callable[[Connections, str, str, str], tuple[str, ...]] = notification.notify
    record_deploy: Callable[[Connections, DeployReport], str] = record.record_deploy


class DeployFailedError(RunbookError):
    """The deploy failed after it began; the report says what was undone and what runs now."""

    def __init__(self, report: DeployReport) -> None:
        lines = [f"{report.version} was not released: {report.error}"]
        lines.append(f"Undone: {'; '.join(report.undone) or 'nothing'}. State: {report.state}.")
        lines += [f"- {finding}" for finding in report.findings]
        super().__init__("\n".join(lines))
        self.report = report
        if report.state is FinalState.DIVERGED:
            self.exit_code = DivergedError.exit_code


@dataclass
class _Progress:
    """How far a deploy got, for undoing it."""

    plan: ReleasePlan
    previous: Release | None
    steps: StepLog
    warnings: tuple[str, ...]
    findings: list[str] = field(default_factory=list[str])
    backup: BackupManifest | None = None
    migrating: bool = False
    release: Release | None = None
    promoting: bool = False
    undone: list[str] = field(default_factory=list[str])
    inconclusive: bool = False


def deploy(connections: Connections, request: DeployRequest, stages: DeployStages | None = None) -> DeployReport:
    """Take a commit through the seven stages, or leave everything as it was.

    Raises:
        RefusedError: refused by the checklist; nothing was changed.
        DeployFailedError: a later stage failed and what was begun was undone; `report.state` says how it is now.
    """
    stages = stages or DeployStages()
    started = datetime.now(UTC)
    steps = StepLog()
    plan, warnings = steps.run("Stage 1: Pre-Deployment Validation", stages.plan_release, connections, request.git_ref)
    progress = _Progress(plan, connections.host.active(), steps, warnings)
    error: BaseException | None = None
    try:
        _release(connections, request, stages, progress)
        state = _final_state(connections, stages, progress, plan.git_sha)
        if state is FinalState.DIVERGED:
            raise StageError(f"what runs is not what was released: {progress.findings[-1]}")
    except BaseException as failure:  # noqa: BLE001 - also a cancelled run has to be undone; raised again below
        error = failure
        undone = _undo(connections, stages, progress)
        state = _final_state(connections, stages, progress, plan.previous_git_sha)
        state = state if undone else FinalState.DIVERGED
    report = _publish(connections, stages, _report(connections, request, progress, started, state, error))
    if error is None:
        return report
    if isinstance(error, Exception):
        raise DeployFailedError(report) from error
    raise error


def _release(connections: Connections, request: DeployRequest, stages: DeployStages, progress: _Progress) -> None:
    plan, run = progress.plan, progress.steps.run
    run("Stage 2: Test Suite", stages.run_test_suite, connections, plan.git_sha)
    reason = f"before deploying {plan.version}"
    progress.backup = run(
        "Stage 3: Database Backup", stages.create_backup, connections, reason=reason, triggered_by=request.triggered_by
    )
    run("Stage 3: Backup Verification", stages.verify_backup, connections, progress.backup.backup_id)
    _copy_backup(connections, stages, progress, progress.backup.backup_id)
    if plan.pending:
        progress.migrating = True
        run("Stage 4: Database Migration", stages.apply_migrations, connections, plan)
    progress.release = run("Stage 5: Staging", stages.stage_release, connections, plan)
    run("Stage 5: Smoke Tests in Private", stages.smoke_release, connections, progress.release, plan.smoke_tests)
    progress.promoting = True
    promoted_at = datetime.now(UTC)
    run("Stage 5: Promotion", stages.promote_release, connections, progress.release)
    checks = run("Stage 6: Validation", stages.validate_release, connections, plan, progress.release, promoted_at)
    progress.findings += [f"{check.name}: {check.detail}" for check in checks if check.outcome is not Outcome.PASSED]
    if failed := [check for check in checks if check.outcome is Outcome.FAILED]:
        raise StageError("validation failed: " + "; ".join(f"{check.name}: {check.detail}" for check in failed))
    watched = run("Stage 6: Watch", stages.watch_release, connections, plan, progress.release, promoted_at)
    _log.info("%s: %s", watched.verdict, watched.detail)
    if watched.verdict is Verdict.DEGRADED:
        raise StageError(watched.detail)
    if watched.verdict is Verdict.INCONCLUSIVE:
        progress.inconclusive = True
        progress.findings.append(f"watch: {watched.detail}")


def _copy_backup(connections: Connections, stages: DeployStages, progress: _Progress, backup_id: str) -> None:
    """Copy the backup to the second store; a proven one is in the first, so a copy that fails is a finding."""
    if connections.second_store is None:
        return
    try:
        progress.steps.run("Stage 3: Second Copy", stages.copy_backup, connections, backup_id)
    except RunbookError as error:
        progress.findings.append(f"{backup_id} has no copy in the second store: {error}")


def _final_state(
    connections: Connections, stages: DeployStages, progress: _Progress, runs_now: str | None
) -> FinalState:
    """Probe what runs now; probes that could not run leave the state unverified, never unreported."""
    try:
        checks = progress.steps.run("Final State", stages.probe_state, connections, runs_now)
    except Exception as error:  # noqa: BLE001 - whatever it is, the report is written all the same
        progress.findings.append(f"the state could not be probed: {error}")
        return FinalState.UNVERIFIED
    progress.findings += [f"{check.name}: {check.detail}" for check in checks if check.outcome is not Outcome.PASSED]
    state = health.state_of(checks)
    return FinalState.UNVERIFIED if progress.inconclusive and state is FinalState.VERIFIED else state


def _undo(connections: Connections, stages: DeployStages, progress: _Progress) -> bool:
    """Undo a failed deploy, least loss first, and return whether that worked.

    Once the release may have had the traffic its migrations stay: rows may have been written that a down script would
    destroy, and the previous release is probed afterwards with the schema as it is.
    """
    progress.inconclusive = False  # said of the release that goes
    try:
        if progress.promoting:
            _undo_promotion(connections, stages, progress)
        elif progress.migrating and progress.backup:
            _undo_migrations(connections, stages, progress, progress.backup)
    except BaseException as error:  # noqa: BLE001 - whatever it is, also a second cancellation, is reported next
        progress.findings.append(f"undo failed: {str(error) or type(error).__name__}")
        return False
    return True


def _undo_promotion(connections: Connections, stages: DeployStages, progress: _Progress) -> None:
    if progress.plan.pending:
        progress.findings.append(f"these migrations stay applied: {', '.join(progress.plan.pending)}")
    if progress.previous is None:
        raise StageError("this is the first release, there is no earlier one to give the traffic back to")
    progress.steps.run("Undo: Application", stages.roll_back_release, connections, progress.previous)
    progress.undone.append(f"the traffic went back to {progress.previous.version}")


def _undo_migrations(
    connections: Connections, stages: DeployStages, progress: _Progress, made_before: BackupManifest
) -> None:
    try:
        names = progress.steps.run(
            "Undo: Migrations", stages.undo_migrations, connections, progress.plan, made_before.fingerprint
        )
        progress.undone.append(f"migrations undone: {', '.join(names) or 'by their own transaction'}")
    except RunbookError as error:
        undoable = isinstance(error, StageError | DivergedError)  # else the server or another run is in the way
        if not undoable or not connections.settings.migrations.restore_on_failure:
            by_hand = _restore_by_hand(connections, progress, made_before)
            raise StageError(
                f"{error}. Restore the backup made before it, if its loss is acceptable: {by_hand}"
            ) from error
        _undo_by_restore(connections, stages, progress, made_before, error)


def _undo_by_restore(
    connections: Connections, stages: DeployStages, progress: _Progress, made_before: BackupManifest, why: Exception
) -> None:
    run, backup_id = progress.steps.run, made_before.backup_id
    restored = run("Undo: Restore", stages.restore_beside, connections, backup_id, purpose="restored")
    losses = run("Undo: Quote Loss", stages.quote_loss, connections, backup_id)
    swapped = run("Undo: Swap", stages.swap_in, connections, restored)
    changed = ", ".join(f"{loss.table} had {loss.rows_now} rows and has {loss.rows_restored}" for loss in losses)
    progress.undone.append(
        f"{backup_id} restored because {why}; the replaced database is kept as {swapped.kept}; "
        f"tables that differ: {changed or 'none'}"
    )


def _restore_by_hand(connections: Connections, progress: _Progress, made_before: BackupManifest) -> str:
    if progress.previous is None:  # `deploy:rollback` refuses while no release has the traffic
        return " && ".join(made_before.restore_by_hand)
    return (
        f"runbook deploy:rollback --db-only --backup-id={made_before.backup_id} "
        f'--environment={connections.settings.name} --reason="failed migration"'
    )


def _report(
    connections: Connections,
    request: DeployRequest,
    progress: _Progress,
    started: datetime,
    state: FinalState,
    error: BaseException | None,
) -> DeployReport:
    plan = progress.plan
    return DeployReport(
        environment=connections.settings.name,
        timestamp=started,
        git_ref=plan.git_ref,
        git_sha=plan.git_sha,
        version=plan.version,
        release_id=progress.release.release_id if progress.release else None,
        previous_git_sha=plan.previous_git_sha,
        backup_id=progress.backup.backup_id if progress.backup else None,
        migrations=plan.pending,
        undone=tuple(progress.undone),
        reason=request.reason,
        triggered_by=request.triggered_by,
        duration=progress.steps.duration_s,
        success=error is None,
        state=state,
        warnings=progress.warnings,
        findings=tuple(dict.fromkeys(progress.findings)),
        error=(str(error) or type(error).__name__) if error else None,
        steps=tuple(progress.steps.steps),
    )


def _publish(connections: Connections, stages: DeployStages, report: DeployReport) -> DeployReport:
    what = "released" if report.success else "not released"
    return publish(
        connections,
        report,
        level="info" if report.success else "error",
        title=f"{report.version} {what} to {report.environment}: {report.state}",
        record=stages.record_deploy,
        notify=stages.notify,
    )
