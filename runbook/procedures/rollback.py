"""The order of a rollback, and how a rollback that fails is itself undone.

Plain Python: the flow `rollback` hands in the same stages as Prefect tasks.
Source: runbook, "Rollback Procedures", "Rollback Verification".
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from pydantic import AwareDatetime, BaseModel, ConfigDict
from pydantic.alias_generators import to_camel

from runbook.clients.application_host import Release
from runbook.clients.environment_hold import Hold
from runbook.clients.journals import Journal
from runbook.connections import Connections
from runbook.errors import DivergedError, LostLockError, RefusedError, RunbookError, StageError, UnansweredError
from runbook.journal import Effect, Entry, EntryKind
from runbook.procedures.changing import Change, changing, hold_diverged, hold_of
from runbook.procedures.publishing import publish
from runbook.reports import FinalState, RollbackReport, RollbackScope, StepLog, TableLoss, TableWritten
from runbook.rules.checklist import Check, Outcome
from runbook.rules.drills import duration_in_words
from runbook.rules.smoke import SmokeTest
from runbook.rules.thresholds import Severity
from runbook.settings import ReplayMethod
from runbook.stages import application, health, notification, preparation, record, recovery, replay, restore
from runbook.stages import rollback as planning
from runbook.stages.checklist import smoke_tests
from runbook.stages.record import OpenedIncident
from runbook.stages.restore import FreshDatabase, RestoredDatabase, Swap, name_to_keep
from runbook.stages.rollback import ConsentRequest, RollbackPlan, RollbackRequest
from runbook.stages.showing import Showing, showing

_log = logging.getLogger(__name__)


def consent_by_flag(_connections: Connections, plan: RollbackPlan, request: ConsentRequest) -> str:
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

    plan_rollback: Callable[..., RollbackPlan] = planning.plan_rollback
    ask_consent: Callable[..., str] = consent_by_flag
    take_prepared: Callable[..., RestoredDatabase | None] = preparation.take_prepared
    restore_replacement: Callable[..., RestoredDatabase] = restore.restore_replacement
    drop_restored: Callable[[Connections, FreshDatabase], None] = restore.drop_restored
    warm_release: Callable[[Connections, str], Release] = application.warm_release
    smoke_release: Callable[[Connections, Release, tuple[SmokeTest, ...]], None] = application.smoke_release
    replay_writes: Callable[[Connections, str, str], None] = replay.replay_writes
    swap_in: Callable[..., Swap] = restore.swap_in
    end_preparations: Callable[..., tuple[str, ...]] = preparation.end_preparations
    undo_swap: Callable[[Connections, Swap], str | None] = restore.undo_swap
    roll_back_release: Callable[[Connections, Release], Release] = application.roll_back_release
    has_swapped: Callable[[Connections], bool] = recovery.has_swapped
    drop_copies: Callable[[Connections], None] = recovery.drop_copies
    verify_rollback: Callable[[Connections, RollbackPlan], tuple[Check, ...]] = health.verify_rollback
    probe_state: Callable[[Connections, str | None], tuple[Check, ...]] = health.probe_state
    notify: Callable[[Connections, str, str, str], tuple[str, ...]] = notification.notify
    open_incident: Callable[[Connections, RollbackReport, Sequence[Entry]], OpenedIncident] = record.open_incident
    record_rollback: Callable[[Connections, RollbackReport], str] = record.record_rollback


class RollbackFailedError(RunbookError):
    """The rollback did not end VERIFIED or UNVERIFIED; the report says what was found."""

    def __init__(self, report: RollbackReport) -> None:
        lines = [f"{report.what} failed: {report.error}", f"State: {report.state}."]
        super().__init__("\n".join([*lines, *(f"- {finding}" for finding in report.findings)]))
        self.report = report
        if report.state is FinalState.DIVERGED:
            self.exit_code = DivergedError.exit_code


class RollbackFacts(BaseModel):
    """What a rollback writes down when it begins: enough to finish it after its process has died."""

    model_config = ConfigDict(frozen=True, alias_generator=to_camel, populate_by_name=True)

    started: AwareDatetime
    scope: RollbackScope
    backup_id: str | None
    data_loss: tuple[TableLoss, ...]
    from_release_id: str
    to_release_id: str | None
    approved_by: str
    reason: str
    triggered_by: str
    undoes: AwareDatetime | None = None
    kept: str | None = None
    written: tuple[TableWritten, ...] = ()
    severity: Severity | None = None


@dataclass
class _Progress:
    """How far a rollback got."""

    facts: RollbackFacts
    plan: RollbackPlan
    steps: StepLog
    journal: Journal
    shown: Showing
    fresh: FreshDatabase | None = None
    kept: str | None = None
    swapped: Swap | None = None
    findings: list[str] = field(default_factory=list[str])

    def began(self, effect: Effect) -> bool:
        return any(intent.effect is effect for intent in self.journal.open_intents())


def rollback(
    connections: Connections, request: RollbackRequest, stages: RollbackStages | None = None
) -> RollbackReport:
    """Roll back application, database or both, and verify what runs afterwards.

    The lock is not held while a person thinks; what they consented to is looked at again when it is.

    Raises:
        RefusedError: the plan is not possible, nobody approved it and no policy did, or another run changes the
            environment; nothing was changed.
        RollbackFailedError: it failed. Before its last effect everything is put back; after it the state is DIVERGED.
        LostLockError: another run took over; this one did nothing more.
    """
    return take_back(connections, "rollback", request, stages or RollbackStages())


def take_back(
    connections: Connections, procedure: str, request: ConsentRequest, stages: RollbackStages
) -> RollbackReport:
    """Plan, ask for consent, and roll back as planned; `procedure` is the name of that in the lock and the journal.

    Raises:
        As `rollback`.
    """
    steps = StepLog()
    consented: tuple[RollbackPlan, str] | None = None
    if not request.yes:
        shown = steps.run("Plan", stages.plan_rollback, connections, request)
        try:
            consented = (shown, steps.run("Consent", stages.ask_consent, connections, shown, request))
        except UnansweredError as error:
            consented = _by_policy(shown, error)
            if isinstance(request, RollbackRequest):
                request = request.of_application()
    with changing(connections, procedure, reason=request.reason, triggered_by=request.triggered_by) as change:
        if consented is None:
            plan = steps.run("Plan", stages.plan_rollback, change.connections, request)
            approved_by = steps.run("Consent", stages.ask_consent, change.connections, plan, request)
        else:
            again = steps.run("Plan Again", stages.plan_rollback, change.connections, request)
            plan, approved_by = _same(consented[0], again), consented[1]
        return _rollback(change, request, plan, approved_by, steps, stages)


def recover_rollback(change: Change, stages: RollbackStages) -> RollbackReport:
    """Finish a rollback whose process has died once anything was swapped or switched; else leave all as it was.

    Going on loses less than going back: what was written to the restored database since would be lost with it.

    Raises:
        ServiceError: what it takes is not at hand; it can be tried again.
    """
    connections, journal = change.connections, change.journal
    facts = RollbackFacts.model_validate(journal.entries[0].detail)
    active = connections.host.release(facts.from_release_id)
    target = connections.host.release(facts.to_release_id) if facts.to_release_id else None
    backup = connections.store.manifest(facts.backup_id) if facts.backup_id else None
    tests = smoke_tests(connections, (target or active).git_sha)
    fresh = FreshDatabase(facts.kept) if facts.kept else None
    plan = RollbackPlan(facts.scope, active, target, tests, backup, facts.data_loss, undoes=facts.undoes, kept=fresh)
    progress = _Progress(facts, plan, StepLog(), journal, _shown(change, plan))
    swapped = progress.began(Effect.SWAP) and stages.has_swapped(connections)
    if not (swapped or journal.has_passed or progress.began(Effect.ROLL_BACK_APPLICATION)):
        if fresh is not None:
            stages.drop_restored(connections, fresh)
        state = _probed(connections, stages, progress)
        error = StageError("the run died before anything was changed")
        return _conclude(connections, stages, progress, state, error)
    progress.findings.append("the run died; another one finished it")
    progress.kept = name_to_keep(connections) if swapped else None
    if not journal.has_passed:
        _switch(connections, stages, progress)
        journal.write(EntryKind.PASSED)
    state, failed = _verified(connections, stages, progress)
    return _conclude(connections, stages, progress, state, failed)


def _rollback(
    change: Change,
    request: ConsentRequest,
    plan: RollbackPlan,
    approved_by: str,
    steps: StepLog,
    stages: RollbackStages,
) -> RollbackReport:
    connections, journal = change.connections, change.journal
    if plan.backup is not None and plan.method is ReplayMethod.NONE:
        connections = connections.discarding_writes()
    facts = RollbackFacts(
        started=datetime.now(UTC),
        scope=plan.scope,
        backup_id=plan.backup.backup_id if plan.backup else None,
        data_loss=plan.data_loss,
        from_release_id=plan.active.release_id,
        to_release_id=plan.target.release_id if plan.target else None,
        approved_by=approved_by,
        reason=request.reason,
        triggered_by=request.triggered_by,
        undoes=plan.undoes,
        kept=plan.kept.name if plan.kept else None,
        written=plan.written,
        severity=plan.severity,
    )
    journal.write(EntryKind.BEGUN, detail=facts.model_dump(mode="json", by_alias=True))
    progress = _Progress(facts, plan, steps, journal, _shown(change, plan))
    progress.shown.begin()
    steps.followers.append(progress.shown.step)
    error: BaseException | None = None
    state = FinalState.DIVERGED
    try:
        _roll_back(connections, stages, progress)
        state, error = _verified(connections, stages, progress)
    except LostLockError:
        progress.shown.leave()
        raise
    except BaseException as failure:  # also a cancelled run has to be undone; raised again below
        if journal.has_passed and not isinstance(failure, Exception):
            progress.shown.leave()
            raise  # all is done, and only its verification was cut off: whoever recovers it goes on with that
        error = failure
        if not journal.has_passed:
            state = _undo(connections, stages, progress, failure)
    report = _conclude(connections, stages, progress, state, error)
    if error is None:
        return report
    if isinstance(error, Exception):
        raise RollbackFailedError(report) from error
    raise error


def _shown(change: Change, plan: RollbackPlan) -> Showing:
    target, task = plan.target, "undo-rollback" if plan.undoes else "rollback"
    sha, version = (target.git_sha, target.version) if target else (None, "of the database")
    return showing(change.connections, change.journal.run, sha, task, version)


def _by_policy(shown: RollbackPlan, error: UnansweredError) -> tuple[RollbackPlan, str]:
    """Return what the policy does when nobody answers, and who approved it: the policy.

    Raises:
        RefusedError: it does nothing; the message says why.
    """
    unattended = shown.unattended
    if unattended is None or unattended.plan is None:
        raise RefusedError(f"{error}; {unattended.objection if unattended else 'nothing was changed'}") from error
    waited = duration_in_words(unattended.after_s)
    plan = replace(unattended.plan, unattended=unattended)
    return plan, f"policy for an unattended SEV1: nobody answered for {waited} (asked for: {shown.scope})"


def _same(consented: RollbackPlan, now: RollbackPlan) -> RollbackPlan:
    if consented.essence != now.essence:
        raise RefusedError(
            f"while consent was awaited things changed; nothing was done. It would now be:\n{now.render()}\n"
            "Start again if this is what you want."
        )
    return now


def _roll_back(connections: Connections, stages: RollbackStages, progress: _Progress) -> None:
    plan, run, journal = progress.plan, progress.steps.run, progress.journal
    progress.fresh = plan.kept
    restored = None
    if plan.backup is not None:
        with journal.effect(Effect.COPY, backupId=plan.backup.backup_id):
            backup_id = plan.backup.backup_id
            restored = run("Database: Prepared", stages.take_prepared, connections, backup_id, purpose="restored")
            if restored is None:
                restored = run(
                    "Database: Restore Beside", stages.restore_replacement, connections, backup_id, purpose="restored"
                )
            progress.fresh = restored  # inside: also when the outcome cannot be written there is something to drop
    if plan.target is not None:
        warm = run("Application: Warm", stages.warm_release, connections, plan.target.release_id)
        if plan.scope is RollbackScope.APP_ONLY:
            # The only proof that the old application can use the schema as it is now.
            run("Application: Smoke Tests in Private", stages.smoke_release, connections, warm, plan.smoke_tests)
    if restored is not None:
        run("Database: Replay Writes", stages.replay_writes, connections, restored.backup_id, restored.name)
    if progress.fresh is not None:
        with journal.effect(Effect.SWAP, restored=progress.fresh.name):
            progress.swapped = run("Database: Swap", stages.swap_in, connections, progress.fresh)
        progress.kept = progress.swapped.kept
    _switch(connections, stages, progress)
    journal.write(EntryKind.PASSED)


def _switch(connections: Connections, stages: RollbackStages, progress: _Progress) -> None:
    plan = progress.plan
    if plan.target is not None:
        with progress.journal.effect(
            Effect.ROLL_BACK_APPLICATION, releaseId=plan.target.release_id, previous=plan.active.release_id
        ):
            progress.steps.run("Application: Roll Back", stages.roll_back_release, connections, plan.target)


def _verified(
    connections: Connections, stages: RollbackStages, progress: _Progress
) -> tuple[FinalState, StageError | None]:
    """Hold the environment, so that nobody deploys the bad release again, and verify what runs."""
    facts = progress.facts
    bad = progress.plan.active.version if progress.plan.target and not facts.undoes else None
    undone = f"the rollback of {facts.undoes:%Y-%m-%d %H:%M:%S} UTC was undone: " if facts.undoes else ""
    hold = Hold(reason=undone + facts.reason, by=facts.triggered_by, since=datetime.now(UTC), run=progress.journal.run)
    with progress.journal.effect(Effect.HOLD):
        hold_of(connections).place(hold.model_copy(update={"bad_version": bad}))
    if progress.kept is not None:
        try:
            stages.end_preparations(connections, name=progress.kept)
        except RunbookError as error:  # the server keeps more than it has to
            progress.findings.append(f"{progress.kept} is still captured: {error}")
    checks = progress.steps.run("Rollback Verification", stages.verify_rollback, connections, progress.plan)
    state = _judge(progress, checks)
    if state is FinalState.DIVERGED:
        return state, StageError("verification failed: " + "; ".join(progress.findings))
    return state, None


def _undo(connections: Connections, stages: RollbackStages, progress: _Progress, failure: BaseException) -> FinalState:
    """Put everything back, in reverse order, and return the state that probes find."""
    run, plan, fresh = progress.steps.run, progress.plan, progress.fresh
    try:
        if progress.began(Effect.ROLL_BACK_APPLICATION):
            run("Undo: Application", stages.roll_back_release, connections, plan.active)
        # Only a StageError says that the names did not change; after anything else the swap may have happened.
        unknown = progress.kept is None and not isinstance(failure, StageError)
        if fresh is not None and progress.began(Effect.SWAP):
            if unknown and stages.has_swapped(connections):
                progress.kept = name_to_keep(connections)
            if progress.kept is not None:
                written = run("Undo: Swap", stages.undo_swap, connections, Swap(progress.kept, fresh))
                progress.kept, progress.fresh, progress.swapped = None, None, None
                progress.findings += [written] if written else []
        if progress.fresh is not None:
            run("Undo: Drop Restored", stages.drop_restored, connections, progress.fresh)
        elif progress.began(Effect.COPY):  # interrupted before anybody could take note of it
            run("Undo: Drop Copies", stages.drop_copies, connections)
        for intent in reversed(progress.journal.open_intents()):
            progress.journal.undone(intent)
    except BaseException as error:  # noqa: BLE001 - whatever it is, also a second cancellation, a person has to look
        progress.findings.append(f"undo failed: {str(error) or type(error).__name__}")
        return FinalState.DIVERGED
    return _probed(connections, stages, progress)


def _probed(connections: Connections, stages: RollbackStages, progress: _Progress) -> FinalState:
    """Probe whether all is as it was; probes that could not run leave the state unverified, never unreported."""
    try:
        active = progress.plan.active.git_sha
        return _judge(progress, progress.steps.run("Final State", stages.probe_state, connections, active))
    except Exception as error:  # noqa: BLE001 - whatever it is, the report is written all the same
        progress.findings.append(f"the state could not be probed: {error}")
        return FinalState.UNVERIFIED


def _judge(progress: _Progress, checks: tuple[Check, ...]) -> FinalState:
    progress.findings += [f"{check.name}: {check.detail}" for check in checks if check.outcome is not Outcome.PASSED]
    return health.state_of(checks)


def _conclude(
    connections: Connections,
    stages: RollbackStages,
    progress: _Progress,
    state: FinalState,
    error: BaseException | None,
) -> RollbackReport:
    progress.findings += progress.shown.end(success=error is None, state=state)
    report = _with_incident(connections, stages, progress, _report(connections, progress, state, error))
    report = _publish(connections, stages, report)
    if state is FinalState.DIVERGED:
        hold_diverged(connections, progress.journal, triggered_by=progress.facts.triggered_by)
    progress.journal.end(state)
    return report


def _report(
    connections: Connections, progress: _Progress, state: FinalState, error: BaseException | None
) -> RollbackReport:
    facts, plan, steps, swapped = progress.facts, progress.plan, progress.steps, progress.swapped
    return RollbackReport(
        environment=connections.settings.name,
        timestamp=facts.started,
        scope=plan.scope,
        backup_id=facts.backup_id,
        reason=facts.reason,
        severity=facts.severity,
        triggered_by=facts.triggered_by,
        approved_by=facts.approved_by,
        from_git_sha=plan.active.git_sha if plan.target else None,
        to_git_sha=plan.target.git_sha if plan.target else None,
        to_version=plan.target.version if plan.target else None,
        data_loss=plan.data_loss,
        kept_database=progress.kept,
        replay=swapped.replay if swapped else None,
        undoes=facts.undoes,
        written=facts.written,
        swap_transaction=swapped.transaction if swapped else None,
        passed=progress.journal.has_passed,
        duration=steps.duration_s,
        success=error is None,
        state=state,
        findings=tuple(progress.findings),
        error=(str(error) or type(error).__name__) if error else None,
        steps=tuple(steps.steps),
    )


def _with_incident(
    connections: Connections, stages: RollbackStages, progress: _Progress, report: RollbackReport
) -> RollbackReport:
    """Open the incident report, whatever came of the rollback; that it cannot be opened hides nothing of it.

    Source: runbook, "Post-Rollback Actions".
    """
    try:
        opened = stages.open_incident(connections, report, tuple(progress.journal.entries))
    except Exception as error:  # noqa: BLE001 - see above
        finding = f"the incident report could not be opened: {error}"
        _log.error("%s: %s", progress.journal.run, finding)
        return report.model_copy(update={"findings": (*report.findings, finding)})
    return report.model_copy(update={"incident_report": opened.where})


def _publish(connections: Connections, stages: RollbackStages, report: RollbackReport) -> RollbackReport:
    failed = "" if report.success else " failed"
    return publish(
        connections,
        report,
        level="warning" if report.success else "error",
        title=f"{report.what} on {report.environment}{failed}: {report.state}",
        record=stages.record_rollback,
        notify=stages.notify,
        more=(f"Incident report: {report.incident_report or 'it could not be opened'}",),
    )
