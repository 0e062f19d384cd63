"""The order of a rollback, and how a rollback that fails is itself undone.

Plain Python: the flow `rollback` hands in the same stages as Prefect tasks.
Source: runbook, "Rollback Procedures", "Rollback Verification".
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime

from runbook.clients.application_host import Release
from runbook.connections import Connections
from runbook.errors import DivergedError, RefusedError, RunbookError, StageError
from runbook.procedures.publishing import publish
from runbook.reports import FinalState, RollbackReport, RollbackScope, StepLog
from runbook.rules.checklist import Check, Outcome
from runbook.rules.smoke import SmokeTest
from runbook.stages import application, health, notification, record, restore
from runbook.stages import rollback as planning
from runbook.stages.restore import RestoredDatabase, Swap
from runbook.stages.rollback import RollbackPlan, RollbackRequest


def consent_by_flag(_connections: Connections, plan: RollbackPlan, request: RollbackRequest) -> str:
    """Return who approved: the person who passed `--yes`.

    Raises:
        RefusedError: nobody did; the message shows the plan.
    """
    if not request.yes:
        raise RefusedError(f"{plan.render()}\nNothing was changed. Pass --yes to approve this plan.")
    return f"{request.triggered_by} (--yes)"


@dataclass(frozen=True)
class RollbackStages:
    """The stages that a rollback calls; by default the plain functions."""

    plan_rollback: Callable[[Connections, RollbackRequest], RollbackPlan] = planning.plan_rollback
    ask_consent: Callable[[Connections, RollbackPlan, RollbackRequest], str] = consent_by_flag
    restore_beside: Callable[..., RestoredDatabase] = restore.restore_beside
    drop_restored: Callable[[Connections, RestoredDatabase], None] = restore.drop_restored
    warm_release: Callable[[Connections, str], Release] = application.warm_release
    smoke_release: Callable[[Connections, Release, tuple[SmokeTest, ...]], None] = application.smoke_release
    swap_in: Callable[[Connections, RestoredDatabase], Swap] = restore.swap_in
    undo_swap: Callable[[Connections, Swap], None] = restore.undo_swap
    roll_back_release: Callable[[Connections, Release], Release] = application.roll_back_release
    verify_rollback: Callable[[Connections, RollbackPlan], tuple[Check, ...]] = health.verify_rollback
    probe_state: Callable[[Connections, str | None], tuple[Check, ...]] = health.probe_state
    notify: Callable[[Connections, str, str, str], tuple[str, ...]] = notification.notify
    record_rollback: Callable[[Connections, RollbackReport], str] = record.record_rollback


class RollbackFailedError(RunbookError):
    """The rollback did not end VERIFIED or UNVERIFIED; the report says what was found."""

    def __init__(self, report: RollbackReport) -> None:
        lines = [f"rollback {report.scope} failed: {report.error}", f"State: {report.state}."]
        super().__init__("\n".join([*lines, *(f"- {finding}" for finding in report.findings)]))
        self.report = report
        if report.state is FinalState.DIVERGED:
            self.exit_code = DivergedError.exit_code


@dataclass
class _Progress:
    """How far a rollback got, for undoing it."""

    plan: RollbackPlan
    approved_by: str
    restored: RestoredDatabase | None = None
    swapping: bool = False
    swapped: Swap | None = None
    switching: bool = False
    applied: bool = False
    findings: list[str] = field(default_factory=list[str])


def rollback(
    connections: Connections, request: RollbackRequest, stages: RollbackStages | None = None
) -> RollbackReport:
    """Roll back application, database or both, and verify what runs afterwards.

    Raises:
        RefusedError: the plan is not possible or nobody approved it; nothing was changed.
        RollbackFailedError: it failed. Before its last effect everything is put back; after it the state is DIVERGED.
    """
    stages = stages or RollbackStages()
    started = datetime.now(UTC)
    steps = StepLog()
    plan = steps.run("Plan", stages.plan_rollback, connections, request)
    approved_by = steps.run("Consent", stages.ask_consent, connections, plan, request)
    if not request.yes:  # a person took their time; what they consented to has to hold still
        plan = _same(plan, steps.run("Plan Again", stages.plan_rollback, connections, request))
    progress = _Progress(plan, approved_by)
    error: BaseException | None = None
    state = FinalState.DIVERGED
    try:
        _roll_back(connections, stages, progress, steps)
        checks = steps.run("Rollback Verification", stages.verify_rollback, connections, plan)
        state = _judge(progress, checks)
        if state is FinalState.DIVERGED:
            raise StageError("verification failed: " + "; ".join(progress.findings))
    except BaseException as failure:  # noqa: BLE001 - also a cancelled run has to be undone; raised again below
        error = failure
        if not progress.applied:
            state = _undo(connections, stages, progress, steps, failure)
    report = _report(connections, request, progress, steps, started, state, error)
    report = _publish(connections, stages, report)
    if error is None:
        return report
    if isinstance(error, Exception):
        raise RollbackFailedError(report) from error
    raise error


def _same(consented: RollbackPlan, now: RollbackPlan) -> RollbackPlan:
    def essence(plan: RollbackPlan) -> tuple[str, str | None, str | None]:
        target, backup = plan.target, plan.backup
        return (plan.active.git_sha, target.git_sha if target else None, backup.backup_id if backup else None)

    if essence(consented) != essence(now):
        raise RefusedError(
            f"while consent was awaited things changed; nothing was done. It would now be:\n{now.render()}\n"
            "Start the rollback again if this is what you want."
        )
    return now


def _roll_back(connections: Connections, stages: RollbackStages, progress: _Progress, steps: StepLog) -> None:
    plan = progress.plan
    if plan.backup is not None:
        progress.restored = steps.run(
            "Database: Restore Beside", stages.restore_beside, connections, plan.backup.backup_id, purpose="restored"
        )
    if plan.target is not None:
        warm = steps.run("Application: Warm", stages.warm_release, connections, plan.target.release_id)
        if plan.scope is RollbackScope.APP_ONLY:
            # The only proof that the old application can use the schema as it is now.
            steps.run("Application: Smoke Tests in Private", stages.smoke_release, connections, warm, plan.smoke_tests)
    if progress.restored is not None:
        progress.swapping = True
        progress.swapped = steps.run("Database: Swap", stages.swap_in, connections, progress.restored)
    if plan.target is not None:
        progress.switching = True
        steps.run("Application: Roll Back", stages.roll_back_release, connections, plan.target)
    progress.applied = True


def _undo(
    connections: Connections, stages: RollbackStages, progress: _Progress, steps: StepLog, failure: BaseException
) -> FinalState:
    """Put everything back, in reverse order, and return the state that probes find."""
    try:
        if progress.switching:
            steps.run("Undo: Application", stages.roll_back_release, connections, progress.plan.active)
        if progress.swapped is not None:
            steps.run("Undo: Swap", stages.undo_swap, connections, progress.swapped)
        # Only a StageError says that the names did not change; after anything else the swap may have happened.
        elif progress.swapping and not isinstance(failure, StageError):
            raise StageError("the swap was interrupted; compare the databases before anything else is done")
        progress.swapped = None
        if progress.restored is not None:
            steps.run("Undo: Drop Restored", stages.drop_restored, connections, progress.restored)
    except BaseException as error:  # noqa: BLE001 - whatever it is, also a second cancellation, a person has to look
        progress.findings.append(f"undo failed: {str(error) or type(error).__name__}")
        return FinalState.DIVERGED
    try:
        return _judge(progress, steps.run("Final State", stages.probe_state, connections, progress.plan.active.git_sha))
    except Exception as error:  # noqa: BLE001 - whatever it is, the report is written all the same
        progress.findings.append(f"the state could not be probed: {error}")
        return FinalState.UNVERIFIED


def _judge(progress: _Progress, checks: tuple[Check, ...]) -> FinalState:
    progress.findings += [f"{check.name}: {check.detail}" for check in checks if check.outcome is not Outcome.PASSED]
    return health.state_of(checks)


def _report(
    connections: Connections,
    request: RollbackRequest,
    progress: _Progress,
    steps: StepLog,
    started: datetime,
    state: FinalState,
    error: BaseException | None,
) -> RollbackReport:
    plan = progress.plan
    return RollbackReport(
        environment=connections.settings.name,
        timestamp=started,
        scope=plan.scope,
        backup_id=plan.backup.backup_id if plan.backup else None,
        reason=request.reason,
        triggered_by=request.triggered_by,
        approved_by=progress.approved_by,
        from_git_sha=plan.active.git_sha if plan.target else None,
        to_git_sha=plan.target.git_sha if plan.target else None,
        to_version=plan.target.version if plan.target else None,
        data_loss=plan.data_loss,
        kept_database=progress.swapped.kept if progress.swapped else None,
        duration=steps.duration_s,
        success=error is None,
        state=state,
        findings=tuple(progress.findings),
        error=(str(error) or type(error).__name__) if error else None,
        steps=tuple(steps.steps),
    )


def _publish(connections: Connections, stages: RollbackStages, report: RollbackReport) -> RollbackReport:
    failed = "" if report.success else " failed"
    return publish(
        connections,
        report,
        level="warning" if report.success else "error",
        title=f"rollback {report.scope} on {report.environment}{failed}: {report.state}",
        record=stages.record_rollback,
        notify=stages.notify,
    )
