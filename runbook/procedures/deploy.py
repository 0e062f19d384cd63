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
from runbook.reports import DeployReport, FinalState, StepLog
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
    apply_migrations: Callable[[Connections, ReleasePlan], tuple[str, ...]] = migration.apply_migrations
    undo_migrations: Callable[[Connections, ReleasePlan, Fingerprint], tuple[str, ...]] = migration.undo_migrations
    restore_beside: Callable[..., RestoredDatabase] = restore.restore_beside
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
        undone = "; ".join(report.undone) or "nothing had to be undone"
        super().__init__(f"{report.version} was not released: {report.error}\nUndone: {undone}. State: {report.state}.")
        self.report = report
        if report.state is FinalState.DIVERGED:
            self.exit_code = DivergedError.exit_code


@dataclass
class _Progress:
    """How far a deploy got, for undoing it."""

    plan: ReleasePlan
    previous: Release | None
    steps: StepLog
    findings: list[str]
    backup: BackupManifest | None = None
    migrating: bool = False
    release: Release | None = None
    promoting: bool = False
    undone: list[str] = field(default_factory=list[str])
    undo_failed: bool = False
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
    progress = _Progress(plan, connections.host.active(), steps, list(warnings))
    error: BaseException | None = None
    try:
        _release(connections, request, stages, progress)
    except BaseException as failure:  # noqa: BLE001 - also a cancelled run has to be undone; raised again below
        error = failure
        _undo(connections, stages, progress)
    report = _report(connections, request, stages, progress, error, started)
    _publish(connections, stages, report)
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


def _undo(connections: Connections, stages: DeployStages, progress: _Progress) -> None:
    """Undo a failed deploy, least loss first.

    Once the release had the traffic its migrations stay: rows may have been written that a down script would destroy,
    and the previous release is probed afterwards with the schema as it is.
    """
    try:
        if progress.promoting:
            _undo_promotion(connections, stages, progress)
        elif progress.migrating and progress.backup:
            _undo_migrations(connections, stages, progress, progress.backup)
    except Exception as error:  # noqa: BLE001 - whatever it is, the state is probed and reported next
        progress.undo_failed = True
        progress.findings.append(f"undo failed: {error}")


def _undo_promotion(connections: Connections, stages: DeployStages, progress: _Progress) -> None:
    if progress.previous is None:
        progress.findings.append("the first release has no earlier one to go back to; it keeps the traffic")
        return
    progress.steps.run("Undo: Application", stages.roll_back_release, connections, progress.previous)
    progress.undone.append(f"the traffic went back to {progress.previous.version}")
    if progress.plan.pending:
        progress.findings.append(f"these migrations stay applied: {', '.join(progress.plan.pending)}")


def _undo_migrations(
    connections: Connections, stages: DeployStages, progress: _Progress, made_before: BackupManifest
) -> None:
    try:
        names = progress.steps.run(
            "Undo: Migrations", stages.undo_migrations, connections, progress.plan, made_before.fingerprint
        )
        progress.undone.append(f"migrations undone: {', '.join(names) or 'by their own transaction'}")
    except StageError as error:
        if not connections.settings.migrations.restore_on_failure:
            command = f"runbook deploy:rollback --db-only --backup-id={made_before.backup_id} --reason=..."
            raise StageError(
                f"{error}. Restore the backup made before it, if its loss is acceptable: {command}"
            ) from error
        restored = progress.steps.run(
            "Undo: Restore", stages.restore_beside, connections, made_before.backup_id, purpose="restored"
        )
        swapped = progress.steps.run("Undo: Swap", stages.swap_in, connections, restored)
        progress.undone.append(
            f"{made_before.backup_id} restored because {error}; the replaced database is kept as {swapped.kept}"
        )


def _report(
    connections: Connections,
    request: DeployRequest,
    stages: DeployStages,
    progress: _Progress,
    error: BaseException | None,
    started: datetime,
) -> DeployReport:
    plan = progress.plan
    runs_now = plan.git_sha if error is None else plan.previous_git_sha
    checks = progress.steps.run("Final State", stages.probe_state, connections, runs_now)
    state = health.state_of(checks)
    progress.findings += [f"{check.name}: {check.detail}" for check in checks if check.outcome is not Outcome.PASSED]
    if progress.undo_failed:
        state = FinalState.DIVERGED
    elif progress.inconclusive and state is FinalState.VERIFIED:
        state = FinalState.UNVERIFIED
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
        findings=tuple(progress.findings),
        error=(str(error) or type(error).__name__) if error else None,
        steps=tuple(progress.steps.steps),
    )


def _publish(connections: Connections, stages: DeployStages, report: DeployReport) -> None:
    where = stages.record_deploy(connections, report)
    if report.success:
        title, level = f"{report.version} released to {report.environment}: {report.state}", "info"
    else:
        title, level = f"{report.version} not released to {report.environment}, undone: {report.state}", "error"
    stages.notify(connections, level, title, f"{report.error or report.reason} ({where})")
