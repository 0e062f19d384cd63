"""Runbook, "Rollback Procedures"."""

from __future__ import annotations

from prefect import flow

from blocks.environment import load_environment
from runbook.connections import Connections
from runbook.procedures import rollback as procedure
from runbook.reports import RollbackReport, RollbackScope
from runbook.rules.thresholds import Severity
from runbook.stages.rollback import NO_REASON, RollbackRequest
from tasks import application, health, notification, record, recovery, restore
from tasks import rollback as tasks

STAGES = procedure.RollbackStages(
    plan_rollback=tasks.plan_rollback,
    ask_consent=tasks.ask_consent,
    restore_replacement=restore.restore_replacement,
    drop_restored=restore.drop_restored,
    warm_release=application.warm_release,
    smoke_release=application.smoke_release,
    replay_writes=restore.replay_writes,
    swap_in=restore.swap_in,
    undo_swap=restore.undo_swap,
    roll_back_release=application.roll_back_release,
    verify_rollback=health.verify_rollback,
    probe_state=health.probe_state,
    notify=notification.notify,
    open_incident=record.open_incident,
    record_rollback=record.record_rollback,
)


@flow(name="rollback", flow_run_name="rollback-{environment}-{scope}", retries=0)
def rollback(
    environment: str,
    reason: str = "",
    severity: Severity | None = None,
    scope: RollbackScope = RollbackScope.FULL,
    latest: bool = False,
    backup_id: str | None = None,
    discard_writes: bool = False,
    yes: bool = False,
    identity_file: str | None = None,
    triggered_by: str = "",
) -> RollbackReport:
    """Take back a bad release: application, database or both.

    Args:
        environment: name of a registered environment, for example `local` or `production`.
        reason: why; it is recorded and told to everybody. Left empty: "no reason given".
        severity: how bad it is, by the runbook; it is recorded. When nobody consents to a SEV1 in time, and the
            environment's settings have a policy for that, the application alone is taken back.
        scope: full (database and application), app-only or db-only.
        latest: use the newest verified backup that fits; not with a backup_id, and not with app-only.
        backup_id: use this backup, for example backup_20250104_120000.
        discard_writes: go back to the rows of the backup and lose what was written since; otherwise it is replayed,
            except by a db-only rollback without a migration since, which can mean nothing else.
        yes: consent now; otherwise the run pauses, shows what would be lost in the artifact `rollback-quote-...` and
            asks a person to type the environment's name.
        identity_file: path, on the machine that runs this, of the file with the age secret key; only for encrypted
            backups, and only when the environment's settings name none.
        triggered_by: who or what asked; the name of this run when left empty.
    """
    who = triggered_by or record.triggered_by_run()
    request = RollbackRequest(scope, backup_id, latest, reason or NO_REASON, yes, who, discard_writes, severity)
    connections = load_environment(environment).connect().with_identity(identity_file)
    recovery.recover(connections, triggered_by=request.triggered_by)
    return procedure.rollback(connections, request, STAGES)


def roll_back_below(connections: Connections, request: RollbackRequest) -> RollbackReport:
    """Roll back in a run of its own below the one that calls this."""
    return rollback(
        connections.settings.name,
        reason=request.reason,
        severity=request.severity,
        scope=request.scope,
        latest=request.latest,
        yes=request.yes,
        triggered_by=request.triggered_by,
    )
