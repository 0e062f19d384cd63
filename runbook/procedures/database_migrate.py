"""The order of a migration of the database alone, and of a rehearsal that changes nothing.

Plain Python: the flow `database_migrate` hands in the same stages as Prefect tasks.
Source: runbook, "Manual Deployment" (Run migrations), "Stage 4: Database Migration".
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from runbook.connections import Connections
from runbook.errors import DivergedError, RunbookError, StageError
from runbook.procedures.migrating import Migrating, MigrationStages, back_up_and_rehearse, migrate, undo
from runbook.procedures.publishing import publish
from runbook.reports import FinalState, MigrateReport, StepLog
from runbook.rules.checklist import Check, Outcome
from runbook.rules.migration_names import Phase
from runbook.stages import checklist, health, record, rehearsal
from runbook.stages.migration_plan import MigrationPlan
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


def database_migrate(
    connections: Connections, request: MigrateRequest, stages: MigrateStages | None = None
) -> MigrateReport:
    """Back up, rehearse, apply and verify the pending migrations of a commit, or leave everything as it was.

    With `dry_run` they are rehearsed on the newest verified backup, and nothing else happens.

    Raises:
        RefusedError: refused beforehand; nothing was changed.
        MigrateFailedError: it failed later and what was begun was undone; `report.state` says how it is now.
    """
    stages = stages or MigrateStages()
    started, steps = datetime.now(UTC), StepLog()
    plan, warnings = steps.run(
        "Plan", stages.plan_database, connections, request.git_ref, only=request.migration, phase=request.phase
    )
    run = Migrating(plan, steps)
    error: BaseException | None = None
    state = FinalState.VERIFIED
    try:
        if request.dry_run:
            _rehearse(connections, stages, run)
        elif plan.pending:
            back_up_and_rehearse(connections, stages, run, reason=request.reason, triggered_by=request.triggered_by)
            migrate(connections, stages, run, request.phase)
    except BaseException as failure:  # noqa: BLE001 - also a cancelled run has to be undone; raised again below
        error = failure
        state = FinalState.VERIFIED if _undone(connections, stages, run) else FinalState.DIVERGED
    if run.begun and state is not FinalState.DIVERGED:
        state = _final_state(connections, stages, run)
    report = _report(connections, request, run, started, state, error, warnings)
    if not request.dry_run:
        report = _publish(connections, stages, report)
    if error is None:
        return report
    if isinstance(error, Exception):
        raise MigrateFailedError(report) from error
    raise error


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
    connections: Connections,
    request: MigrateRequest,
    run: Migrating,
    started: datetime,
    state: FinalState,
    error: BaseException | None,
    warnings: tuple[str, ...],
) -> MigrateReport:
    return MigrateReport(
        environment=connections.settings.name,
        timestamp=started,
        git_ref=request.git_ref,
        git_sha=run.plan.git_sha,
        backup_id=run.backup.backup_id if run.backup else None,
        dry_run=request.dry_run,
        migrations=run.plan.pending,
        rehearsal=run.rehearsal,
        undone=tuple(run.undone),
        reason=request.reason,
        triggered_by=request.triggered_by,
        duration=run.steps.duration_s,
        success=error is None,
        state=state,
        warnings=warnings,
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
