"""The order of a deploy, and how a deploy that fails is undone.

Plain Python: the flow `deploy` hands in the same stages as Prefect tasks.
Source: runbook, "Standard Deployment (Automated)", "Deployment Stages".
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from pydantic import AwareDatetime, BaseModel, ConfigDict
from pydantic.alias_generators import to_camel

from runbook.clients.application_host import Release
from runbook.clients.journals import Journal
from runbook.connections import Connections
from runbook.errors import DivergedError, LostLockError, RefusedError, RunbookError, StageError
from runbook.journal import Effect, EntryKind
from runbook.procedures.changing import Change, changing, hold_diverged, hold_of
from runbook.procedures.migrating import (
    Migrating,
    MigrationStages,
    back_up_and_rehearse,
    migrate,
    recall,
    settle_preparations,
    undo,
)
from runbook.procedures.publishing import publish
from runbook.reports import DeployReport, FinalState, RollbackVerdict, StepLog
from runbook.rules.checklist import Check, Outcome
from runbook.rules.migration_names import Phase
from runbook.rules.release_watch import Verdict
from runbook.rules.smoke import SmokeTest
from runbook.rules.thresholds import Action
from runbook.rules.verdict import judge_rollbacks
from runbook.stages import application, checklist, error_tracking, health, record, test_suite
from runbook.stages.checklist import ReleasePlan
from runbook.stages.health import WatchResult
from runbook.stages.migration_plan import applied_to, recorded_plan
from runbook.stages.showing import Showing, showing
from runbook.stages.test_suite import TestReport

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class DeployRequest:
    """What a person or CI asked for.

    With `application_only` what comes before the release of the application was done by hand, or is not needed.
    `skip_tests` is why the test suite is not run; empty: it is.
    """

    git_ref: str
    reason: str
    triggered_by: str
    application_only: bool = False
    skip_tests: str = ""


@dataclass(frozen=True)
class DeployStages(MigrationStages):
    """The stages that a deploy calls, those of its migration among them; by default the plain functions."""

    plan_release: Callable[[Connections, str], tuple[ReleasePlan, tuple[str, ...]]] = checklist.plan_release
    run_test_suite: Callable[[Connections, str], TestReport] = test_suite.run_test_suite
    stage_release: Callable[[Connections, ReleasePlan], Release] = application.stage_release
    smoke_release: Callable[[Connections, Release, tuple[SmokeTest, ...]], None] = application.smoke_release
    promote_release: Callable[[Connections, Release], Release] = application.promote_release
    start_rolling: Callable[[Connections, Release], None] = application.start_rolling
    advance_rolling: Callable[[Connections, Release], bool] = application.advance_rolling
    roll_back_release: Callable[[Connections, Release], Release] = application.roll_back_release
    validate_release: Callable[[Connections, ReleasePlan, Release, datetime], tuple[Check, ...]] = (
        health.validate_release
    )
    watch_release: Callable[[Connections, ReleasePlan, Release, datetime], WatchResult] = health.watch_release
    probe_state: Callable[[Connections, str | None], tuple[Check, ...]] = health.probe_state
    record_deploy: Callable[[Connections, DeployReport], str] = record.record_deploy


_LOOKS_AT_A_STAGE = 3
"""So often a stage of a rolling release is watched before it counts as not shown to be healthy."""


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


class DeployFacts(BaseModel):
    """What a deploy writes down when it begins: enough to finish it, or to take it back, after its process has died."""

    model_config = ConfigDict(frozen=True, alias_generator=to_camel, populate_by_name=True)

    started: AwareDatetime
    git_ref: str
    git_sha: str
    version: str
    previous_git_sha: str | None
    previous_release_id: str | None
    migrations: tuple[str, ...]
    warnings: tuple[str, ...]
    reason: str
    triggered_by: str


@dataclass
class _Progress:
    """How far a deploy got."""

    facts: DeployFacts
    plan: ReleasePlan
    previous: Release | None
    migrating: Migrating
    shown: Showing
    release: Release | None = None
    inconclusive: bool = False

    @property
    def steps(self) -> StepLog:
        return self.migrating.steps

    @property
    def findings(self) -> list[str]:
        return self.migrating.findings

    @property
    def undone(self) -> list[str]:
        return self.migrating.undone

    @property
    def journal(self) -> Journal:
        return self.migrating.journal


def deploy(connections: Connections, request: DeployRequest, stages: DeployStages | None = None) -> DeployReport:
    """Take a commit through the seven stages, or leave everything as it was.

    Raises:
        RefusedError: the environment is held, or another run changes it, or the checklist refuses; nothing was changed.
        DeployFailedError: a later stage failed and what was begun was undone; `report.state` says how it is now.
        LostLockError: another run took over; this one did nothing more.
    """
    stages = stages or DeployStages()
    with changing(connections, "deploy", reason=request.reason, triggered_by=request.triggered_by) as change:
        hold_of(connections).require_none()
        return _deploy(change, request, stages)


def recover_deploy(change: Change, stages: DeployStages) -> DeployReport:
    """Finish a deploy whose process has died, when it had passed, and undo it otherwise; return its report.

    Raises:
        ServiceError: what it takes is not at hand; it can be tried again.
    """
    connections, journal = change.connections, change.journal
    facts = DeployFacts.model_validate(journal.entries[0].detail)
    previous = connections.host.release(facts.previous_release_id) if facts.previous_release_id else None
    migrations = recorded_plan(connections, facts.git_sha, facts.migrations, has_release=previous is not None)
    plan = ReleasePlan(facts.git_ref, facts.git_sha, facts.version, facts.previous_git_sha, migrations, ())
    shown = _shown(change, plan)
    progress = _Progress(facts, plan, previous, Migrating(migrations, StepLog(), journal), shown)
    recall(connections, progress.migrating)
    for entry in journal.open_intents():
        if entry.effect is Effect.PROMOTE:
            progress.release = connections.host.release(str(entry.detail["releaseId"]))
    if not journal.has_passed:
        return _failed(connections, stages, progress, StageError("the run died; another one took it back"))
    progress.findings.append("the run died after the release had passed; another one finished it")
    progress.inconclusive = bool(set(migrations.pending) - set(applied_to(connections)))
    if progress.inconclusive:
        progress.findings.append("the second half of the migration is not complete. `runbook db:migrate --phase=post`")
    state = _final_state(connections, stages, progress, plan.git_sha)
    if state is FinalState.DIVERGED:
        return _failed(connections, stages, progress, StageError("what runs is not what was released"))
    return _conclude(connections, stages, progress, state, None)


def _deploy(change: Change, request: DeployRequest, stages: DeployStages) -> DeployReport:
    connections, started, steps = change.connections, datetime.now(UTC), StepLog()
    plan, warnings = steps.run("Stage 1: Pre-Deployment Validation", stages.plan_release, connections, request.git_ref)
    if request.application_only and plan.migrations.pending:
        raise RefusedError(
            f"{plan.version} brings {', '.join(plan.migrations.pending)}, not applied yet: to release the application "
            "alone would break it. Apply them first (`runbook db:migrate`), or deploy as usual."
        )
    application.require_rolling(connections)
    previous = connections.host.active()
    facts = DeployFacts(
        started=started,
        git_ref=plan.git_ref,
        git_sha=plan.git_sha,
        version=plan.version,
        previous_git_sha=plan.previous_git_sha,
        previous_release_id=previous.release_id if previous else None,
        migrations=plan.migrations.pending,
        warnings=warnings,
        reason=request.reason,
        triggered_by=request.triggered_by,
    )
    progress = _Progress(facts, plan, previous, Migrating(plan.migrations, steps, change.journal), _shown(change, plan))
    change.journal.write(EntryKind.BEGUN, detail=facts.model_dump(mode="json", by_alias=True))
    progress.shown.begin()
    steps.followers.append(progress.shown.step)
    try:
        if request.application_only:
            progress.findings.append("neither tested nor backed up: the application alone was to be released")
        else:
            _prepare(connections, stages, progress, skip_tests=request.skip_tests.strip())
        _release(connections, stages, progress)
        state = _final_state(connections, stages, progress, plan.git_sha)
        if state is FinalState.DIVERGED:
            raise StageError(f"what runs is not what was released: {progress.findings[-1]}")
    except LostLockError:
        progress.shown.leave()
        raise
    except BaseException as error:  # also a cancelled run has to be undone; raised again below
        if change.journal.has_passed and not isinstance(error, Exception):
            progress.shown.leave()
            raise  # the release has passed, and stays: whoever recovers the run finishes it
        report = _failed(connections, stages, progress, error)
        if isinstance(error, Exception):
            raise DeployFailedError(report) from error
        raise
    return _conclude(connections, stages, progress, state, None)


def _shown(change: Change, plan: ReleasePlan) -> Showing:
    return showing(change.connections, change.journal.run, plan.git_sha, "deploy", plan.version)


def _prepare(connections: Connections, stages: DeployStages, progress: _Progress, *, skip_tests: str) -> None:
    plan = progress.plan
    if skip_tests:
        progress.findings.append(f"the test suite was skipped: {skip_tests}")
    else:
        tested = progress.steps.run("Stage 2: Test Suite", stages.run_test_suite, connections, plan.git_sha)
        progress.findings.extend(f"flaky: {name} failed and passed with the same commit" for name in tested.flaky)
    reason = f"before deploying {plan.version}"
    back_up_and_rehearse(
        connections, stages, progress.migrating, reason=reason, triggered_by=progress.facts.triggered_by
    )
    migrate(connections, stages, progress.migrating, Phase.PRE)


def _release(connections: Connections, stages: DeployStages, progress: _Progress) -> None:
    plan, run, journal = progress.plan, progress.steps.run, progress.journal
    with journal.effect(Effect.STAGE):
        release = run("Stage 5: Staging", stages.stage_release, connections, plan)
    progress.release = release
    run("Stage 5: Smoke Tests in Private", stages.smoke_release, connections, release, plan.smoke_tests)
    promoted_at = datetime.now(UTC)
    with journal.effect(Effect.PROMOTE, releaseId=release.release_id, previous=progress.facts.previous_release_id):
        if connections.settings.rolling_release:
            _roll_out(connections, stages, progress, release)
        else:
            run("Stage 5: Promotion", stages.promote_release, connections, release)
    if trouble := error_tracking.mark_deploy(connections, release, journal.run):
        progress.findings.append(trouble)
    checks = run("Stage 6: Validation", stages.validate_release, connections, plan, release, promoted_at)
    progress.findings.extend(f"{check.name}: {check.detail}" for check in checks if check.outcome is not Outcome.PASSED)
    if failed := [check for check in checks if check.outcome is Outcome.FAILED]:
        raise StageError("validation failed: " + "; ".join(f"{check.name}: {check.detail}" for check in failed))
    watched = run("Stage 6: Watch", stages.watch_release, connections, plan, release, promoted_at)
    _log.info("%s: %s", watched.verdict, watched.detail)
    if watched.action is Action.ROLL_BACK:
        raise StageError(watched.detail)
    if watched.verdict is not Verdict.HEALTHY:
        progress.inconclusive = True
        progress.findings.append(f"watch: {watched.detail}")
    journal.write(EntryKind.PASSED)
    _second_half(connections, stages, progress)


def _roll_out(connections: Connections, stages: DeployStages, progress: _Progress, release: Release) -> None:
    """Give a release the traffic stage by stage: the next one only when the watch of this one says healthy.

    What is not known is looked at again, `_LOOKS_AT_A_STAGE` times in all; then the traffic goes back.
    """
    run, looks = progress.steps.run, 0
    run("Stage 5: Rolling Release, Start", stages.start_rolling, connections, release)
    while True:
        since, looks = datetime.now(UTC), looks + 1
        watched = run(
            "Stage 5: Rolling Release, Watch", stages.watch_release, connections, progress.plan, release, since
        )
        _log.info("rolling release: %s: %s", watched.verdict, watched.detail)
        if watched.verdict is Verdict.HEALTHY:
            if run("Stage 5: Rolling Release, Next Stage", stages.advance_rolling, connections, release):
                return
            looks = 0
        elif watched.action is Action.ROLL_BACK or looks == _LOOKS_AT_A_STAGE:
            raise StageError(f"the rolling release does not go on: {watched.detail}")


def _failed(connections: Connections, stages: DeployStages, progress: _Progress, error: BaseException) -> DeployReport:
    """Undo what a failed deploy did, and report."""
    undone = _undo(connections, stages, progress)
    state = _final_state(connections, stages, progress, progress.plan.previous_git_sha)
    return _conclude(connections, stages, progress, state if undone else FinalState.DIVERGED, error)


def _conclude(
    connections: Connections,
    stages: DeployStages,
    progress: _Progress,
    state: FinalState,
    error: BaseException | None,
) -> DeployReport:
    if state is not FinalState.DIVERGED:
        settle_preparations(connections, stages, progress.migrating, started=progress.facts.started, error=error)
    progress.findings.extend(progress.shown.end(success=error is None, state=state))
    report = _publish(connections, stages, _report(connections, progress, state, error))
    if state is FinalState.DIVERGED:
        hold_diverged(connections, progress.journal, triggered_by=progress.facts.triggered_by)
    progress.journal.end(state)
    return report


def _second_half(connections: Connections, stages: DeployStages, progress: _Progress) -> None:
    """Apply what was to wait for validation. The release works without it, so that it fails takes nothing back."""
    if progress.inconclusive and progress.plan.migrations.post_steps:
        progress.findings.append("the second half of the migration waits: the release is not known to be healthy")
        return
    try:
        migrate(connections, stages, progress.migrating, Phase.POST)
    except RunbookError as error:
        progress.inconclusive = True
        progress.findings.append(
            f"the second half of the migration is not complete: {error}. Then `runbook db:migrate --phase=post`"
        )


def _final_state(
    connections: Connections, stages: DeployStages, progress: _Progress, runs_now: str | None
) -> FinalState:
    """Probe what runs now; probes that could not run leave the state unverified, never unreported."""
    try:
        checks = progress.steps.run("Final State", stages.probe_state, connections, runs_now)
    except Exception as error:  # noqa: BLE001 - whatever it is, the report is written all the same
        progress.findings.append(f"the state could not be probed: {error}")
        return FinalState.UNVERIFIED
    progress.findings.extend(f"{check.name}: {check.detail}" for check in checks if check.outcome is not Outcome.PASSED)
    state = health.state_of(checks)
    return FinalState.UNVERIFIED if progress.inconclusive and state is FinalState.VERIFIED else state


def _undo(connections: Connections, stages: DeployStages, progress: _Progress) -> bool:
    """Undo a failed deploy, least loss first, and return whether that worked.

    Once the release may have had the traffic its migrations stay: rows may have been written that a down script would
    destroy, and the previous release is probed afterwards with the schema as it is.
    """
    progress.inconclusive = False  # said of the release that goes
    try:
        if any(intent.effect is Effect.PROMOTE for intent in progress.journal.open_intents()):
            _undo_promotion(connections, stages, progress)
        else:
            undo(connections, stages, progress.migrating, by_hand=lambda: _restore_by_hand(connections, progress))
    except BaseException as error:  # noqa: BLE001 - whatever it is, also a second cancellation, is reported next
        progress.findings.append(f"undo failed: {str(error) or type(error).__name__}")
        return False
    return True


def _undo_promotion(connections: Connections, stages: DeployStages, progress: _Progress) -> None:
    if pending := progress.plan.migrations.pending:
        progress.findings.append(f"these migrations stay applied: {', '.join(pending)}")
    if progress.previous is None:
        raise StageError("this is the first release, there is no earlier one to give the traffic back to")
    progress.steps.run("Undo: Application", stages.roll_back_release, connections, progress.previous)
    progress.undone.append(f"the traffic went back to {progress.previous.version}")
    for intent in progress.journal.open_intents():
        if intent.effect is Effect.PROMOTE:
            progress.journal.undone(intent)


def _restore_by_hand(connections: Connections, progress: _Progress) -> str:
    made = progress.migrating.backup
    if made is None:
        return ""
    if progress.previous is None:  # `deploy:rollback` refuses while no release has the traffic
        return " && ".join(made.restore_by_hand)
    return (
        f"runbook deploy:rollback --db-only --backup-id={made.backup_id} "
        f'--environment={connections.settings.name} --reason="failed migration"'
    )


def _verdict(progress: _Progress) -> tuple[RollbackVerdict, ...]:
    run, made = progress.migrating, progress.migrating.backup
    return judge_rollbacks(
        has_previous=progress.previous is not None,
        pending=run.plan.pending,
        rules_found=[finding.rule for finding in run.plan.findings],
        rehearsal=run.rehearsal,
        backup_id=made.backup_id if made else None,
        restore_s=run.restore_s,
    )


def _report(
    connections: Connections, progress: _Progress, state: FinalState, error: BaseException | None
) -> DeployReport:
    facts, run = progress.facts, progress.migrating
    return DeployReport(
        environment=connections.settings.name,
        timestamp=facts.started,
        git_ref=facts.git_ref,
        git_sha=facts.git_sha,
        version=facts.version,
        release_id=progress.release.release_id if progress.release else None,
        previous_git_sha=facts.previous_git_sha,
        backup_id=run.backup.backup_id if run.backup else None,
        migrations=facts.migrations,
        rehearsal=run.rehearsal,
        verdict=_verdict(progress),
        undone=tuple(progress.undone),
        reason=facts.reason,
        triggered_by=facts.triggered_by,
        duration=progress.steps.duration_s,
        success=error is None,
        state=state,
        warnings=facts.warnings,
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
