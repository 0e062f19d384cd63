"""The order of a migration of the database alone, and of a rehearsal that changes nothing.

Plain Python: the flow `database_migrate` hands in the same stages as Prefect tasks.
Source: runbook, "Manual Deployment" (Run migrations), "Stage 4: Database Migration".
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from pydantic import AwareDatetime, BaseModel, ConfigDict
from pydantic.alias_generators import to_camel

from runbook.connections import Connections
from runbook.errors import DivergedError, LostLockError, RunbookError, StageError
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
from runbook.reports import FinalState, MigrateReport, StepLog
from runbook.rules.checklist import Check, Outcome
from runbook.rules.migration_names import Phase
from runbook.stages import checklist, health, record, rehearsal
from runbook.stages.migration_plan import MigrationPlan, recorded_plan
from runbook.stages.restore import RestoredDatabase


@dataclass(frozen=True)
class MigrateRequest:
    """What a person or CI asked for; the options of `runbook db:migrate`."""

    git_ref: str
    reason: str
    triggered_by: str
    dry_run: bool = False
    migration: str | None = None
    phase: Phase = Phase.PRE


@dataclass(frozen=True)
class MigrateStages(MigrationStages):
    """The stages that a migration of the database alone calls; by default the plain functions."""

    plan_database: Callable[..., tuple[MigrationPlan, tuple[str, ...]]] = checklist.plan_database
    copy_newest_backup: Callable[[Connections, MigrationPlan], RestoredDatabase] = rehearsal.copy_newest_backup
    probe_state: Callable[[Connections, str | None], tuple[Check, ...]] = health.probe_state
    record_migrate: Callable[[Connections, MigrateReport], str] = record.record_migrate


class MigrateFailedError(RunbookError):
    """The migration failed after it began; the report says what was undone and how it is now."""

    def __init__(self, report: MigrateReport) -> None:
        lines = [f"the database of {report.environment} was not migrated: {report.error}"]
        lines.append(f"Undone: {'; '.join(report.undone) or 'nothing'}. State: {report.state}.")
        lines += [f"- {finding}" for finding in report.findings]
        super().__init__("\n".join(lines))
        self.report = report
        if report.state is FinalState.DIVERGED:
            self.exit_code = DivergedError.exit_code


class MigrateFacts(BaseModel):
    """What a migration writes down when it begins: enough to take it back after its process has died."""

    model_config = ConfigDict(frozen=True, alias_generator=to_camel, populate_by_name=True)

    started: AwareDatetime
    git_ref: str
    git_sha: str
    dry_run: bool
    migrations: tuple[str, ...]
    warnings: tuple[str, ...]
    reason: str
    triggered_by: str


def database_migrate(
    connections: Connections, request: MigrateRequest, stages: MigrateStages | None = None
) -> MigrateReport:
    """Back up, rehearse, apply and verify the pending migrations of a commit, or leave everything as it was.

    With `dry_run` the migrations are rehearsed on the newest verified backup and nothing else happens.

    Raises:
        RefusedError: the environment is held, another run changes it, or the plan is not acceptable; nothing was
            changed.
        MigrateFailedError: a later stage failed and what was begun was undone; `report.state` says how it is now.
        LostLockError: another run took over; this one did nothing more.
    """
    stages = stages or MigrateStages()
    with changing(connections, "migrate", reason=request.reason, triggered_by=request.triggered_by) as change:
        if not request.dry_run:
            hold_of(connections).require_none()
        return _database_migrate(change, request, stages)


def recover_migrate(change: Change, stages: MigrateStages) -> MigrateReport:
    """Take back a migration whose process has died, unless all of it was applied; return its report.

    Raises:
        ServiceError: what it takes is not at hand; it can be tried again.
    """
    connections, journal = change.connections, change.journal
    facts = MigrateFacts.model_validate(journal.entries[0].detail)
    has_release = connections.host.active() is not None
    plan = recorded_plan(connections, facts.git_sha, facts.migrations, has_release=has_release)
    run = Migrating(plan, StepLog(), journal)
    recall(connections, run)
    if journal.has_passed:
        run.findings.append("the run died after the migrations had been applied; another one finished it")
        return _conclude(connections, stages, facts, run, _final_state(connections, stages, run), None)
    return _failed(connections, stages, facts, run, StageError("the run died; another one took it back"))


def _database_migrate(change: Change, request: MigrateRequest, stages: MigrateStages) -> MigrateReport:
    connections, started, steps = change.connections, datetime.now(UTC), StepLog()
    plan, warnings = steps.run(
        "Plan", stages.plan_database, connections, request.git_ref, only=request.migration, phase=request.phase
    )
    facts = MigrateFacts(
        started=started,
        git_ref=request.git_ref,
        git_sha=plan.git_sha,
        dry_run=request.dry_run,
        migrations=plan.pending,
        warnings=warnings,
        reason=request.reason,
        triggered_by=request.triggered_by,
    )
    run = Migrating(plan, steps, change.journal)
    change.journal.write(EntryKind.BEGUN, detail=facts.model_dump(mode="json", by_alias=True))
    try:
        if request.dry_run:
            _rehearse(connections, stages, run)
        elif plan.pending:
            back_up_and_rehearse(connections, stages, run, reason=request.reason, triggered_by=request.triggered_by)
            migrate(connections, stages, run, request.phase)
            change.journal.write(EntryKind.PASSED)
    except LostLockError:
        raise
    except BaseException as error:  # also a cancelled run has to be undone; raised again below
        report = _failed(connections, stages, facts, run, error)
        if isinstance(error, Exception):
            raise MigrateFailedError(report) from error
        raise
    state = _final_state(connections, stages, run) if change.journal.has_passed else FinalState.VERIFIED
    return _conclude(connections, stages, facts, run, state, None)


def _failed(
    connections: Connections, stages: MigrateStages, facts: MigrateFacts, run: Migrating, error: BaseException
) -> MigrateReport:
    """Undo what a failed migration did, and report."""
    has_begun = any(intent.effect is Effect.MIGRATE for intent in run.journal.open_intents())
    state = FinalState.VERIFIED if _undone(connections, stages, run) else FinalState.DIVERGED
    if has_begun and state is not FinalState.DIVERGED:
        state = _final_state(connections, stages, run)
    return _conclude(connections, stages, facts, run, state, error)


def _conclude(
    connections: Connections,
    stages: MigrateStages,
    facts: MigrateFacts,
    run: Migrating,
    state: FinalState,
    error: BaseException | None,
) -> MigrateReport:
    if not facts.dry_run and state is not FinalState.DIVERGED:
        settle_preparations(connections, stages, run, started=facts.started, error=error)
    report = _report(connections, facts, run, state, error)
    if not facts.dry_run:
        report = _publish(connections, stages, report)
    if state is FinalState.DIVERGED:
        hold_diverged(connections, run.journal, triggered_by=facts.triggered_by)
    run.journal.end(state)
    return report


def _rehearse(connections: Connections, stages: MigrateStages, run: Migrating) -> None:
    if not run.plan.pending:
        return
    copy = run.steps.run("Restore", stages.copy_newest_backup, connections, run.plan)
    run.rehearsal = run.steps.run("Rehearsal", stages.rehearse_migrations, connections, run.plan, copy)
    if run.rehearsal.refusals:
        raise StageError("the rehearsal speaks against it: " + "; ".join(run.rehearsal.refusals))


def _undone(connections: Connections, stages: MigrateStages, run: Migrating) -> bool:
    try:
        undo(connections, stages, run, by_hand=lambda: _restore_by_hand(connections, run))
    except BaseException as error:  # noqa: BLE001 - whatever it is, also a second cancellation, is reported next
        run.findings.append(f"undo failed: {str(error) or type(error).__name__}")
        return False
    return True


def _restore_by_hand(connections: Connections, run: Migrating) -> str:
    made = run.backup
    if made is None:
        return ""
    return (
        f"runbook deploy:rollback --db-only --backup-id={made.backup_id} "
        f'--environment={connections.settings.name} --reason="failed migration"'
    )


def _final_state(connections: Connections, stages: MigrateStages, run: Migrating) -> FinalState:
    """Probe whether the release that has the traffic is still well; what could not be probed is unverified."""
    try:
        active = connections.host.active()
        if active is None:
            return FinalState.VERIFIED
        checks = run.steps.run("Final State", stages.probe_state, connections, active.git_sha)
    except Exception as error:  # noqa: BLE001 - whatever it is, the report is written all the same
        run.findings.append(f"the state could not be probed: {error}")
        return FinalState.UNVERIFIED
    run.findings += [f"{check.name}: {check.detail}" for check in checks if check.outcome is not Outcome.PASSED]
    return health.state_of(checks)


def _report(
    connections: Connections, facts: MigrateFacts, run: Migrating, state: FinalState, error: BaseException | None
) -> MigrateReport:
    return MigrateReport(
        environment=connections.settings.name,
        timestamp=facts.started,
        git_ref=facts.git_ref,
        git_sha=facts.git_sha,
        backup_id=run.backup.backup_id if run.backup else None,
        dry_run=facts.dry_run,
        migrations=facts.migrations,
        rehearsal=run.rehearsal,
        undone=tuple(run.undone),
        reason=facts.reason,
        triggered_by=facts.triggered_by,
        duration=run.steps.duration_s,
        success=error is None,
        state=state,
        warnings=facts.warnings,
        findings=tuple(dict.fromkeys(run.findings)),
        error=(str(error) or type(error).__name__) if error else None,
        steps=tuple(run.steps.steps),
    )


def _publish(connections: Connections, stages: MigrateStages, report: MigrateReport) -> MigrateReport:
    what = "migrated" if report.success else "not migrated"
    return publish(
        connections,
        report,
        level="info" if report.success else "error",
        title=f"database of {report.environment} {what}: {report.state}",
        record=stages.record_migrate,
        notify=stages.notify,
    )
