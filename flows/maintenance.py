"""Runbook, "Maintenance window scheduled (if needed)": the queue of approved changes, worked off in the window."""

from __future__ import annotations

from typing import Any

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.states import Completed, Failed

from blocks.environment import load_environment
from flows.backup_retention import backup_retention
from flows.deploy import deploy
from flows.restore_drill import restore_drill
from flows.rollback import rollback
from runbook.connections import Connections
from runbook.errors import RefusedError
from runbook.procedures import maintenance as procedure
from runbook.reports import RollbackScope
from runbook.rules.maintenance_queue import Change, ChangeKind
from tasks import maintenance as tasks
from tasks import notification


def _deploy(connections: Connections, change: Change) -> str:
    name, who = connections.settings.name, f"{change.approved_by} (maintenance window)"
    report = deploy(name, change.parameters["git_ref"], reason=change.reason, triggered_by=who)
    return f"{report.version} is released: {report.state}"


def _rollback(connections: Connections, change: Change) -> str:
    report = rollback(
        connections.settings.name,
        reason=change.reason,
        scope=RollbackScope(change.parameters.get("scope", RollbackScope.APP_ONLY)),
        backup_id=change.parameters.get("backup_id"),
        discard_writes=change.parameters.get("discard_writes") == "true",
        yes=True,
        triggered_by=f"{change.approved_by} (maintenance window)",
    )
    return f"rolled back {report.scope}: {report.state}"


def _drill(connections: Connections, change: Change) -> str:
    report = restore_drill(connections.settings.name, change.parameters.get("backup_id"))
    took = f" in {report.rto_s:.0f} s" if report.rto_s is not None else ""
    return f"{report.backup_id} was restored{took}"


def _retention(connections: Connections, _: Change) -> str:
    return f"{len(backup_retention(connections.settings.name, dry_run=False))} backups were removed"


def _vacuum(connections: Connections, change: Change) -> str:
    return tasks.vacuum(connections, change.parameters.get("table", ""))


def _reindex(connections: Connections, change: Change) -> str:
    return tasks.reindex(connections, change.parameters.get("table", ""))


STAGES = procedure.MaintenanceStages(
    make={
        ChangeKind.DEPLOY: _deploy,
        ChangeKind.ROLLBACK: _rollback,
        ChangeKind.DRILL: _drill,
        ChangeKind.RETENTION: _retention,
        ChangeKind.VACUUM: _vacuum,
        ChangeKind.REINDEX: _reindex,
    },
    notify=notification.notify,
)


@flow(name="maintenance", flow_run_name="maintenance-{environment}", retries=0)
def maintenance(environment: str) -> State[Any]:
    """Work off the queue of approved changes while a maintenance window is open; on a schedule.

    Outside of a window, and with nothing that waits, the run is completed at once.

    Args:
        environment: name of a registered environment, for example `local` or `production`.
    """
    connections = load_environment(environment).connect()
    try:
        report = procedure.maintenance(connections, STAGES)
    except RefusedError as error:
        return Completed(name="Nothing To Do", message=str(error))
    tasks.show(connections)
    message = "; ".join(report.lines()) or "nothing was made"
    return Failed(message=message) if report.has_failed else Completed(message=message)


@flow(name="maintenance-schedule", flow_run_name="maintenance-schedule-{environment}-{kind}", retries=0)
def maintenance_schedule(
    environment: str, kind: ChangeKind, reason: str, by: str, parameters: dict[str, str] | None = None
) -> str:
    """Approve a change for the next maintenance window. Returns its id.

    Args:
        environment: name of a registered environment.
        kind: deploy, rollback, drill, retention, vacuum or reindex.
        reason: why.
        by: your name; it is you who approves it.
        parameters: deploy: git_ref; rollback: scope (app-only unless given), backup_id, discard_writes; drill:
            backup_id; vacuum and reindex: table.
    """
    connections = load_environment(environment).connect()
    change = tasks.schedule(connections, kind, parameters or {}, reason=reason, by=by)
    tasks.show(connections)
    return change.id


@flow(name="maintenance-cancel", flow_run_name="maintenance-cancel-{environment}", retries=0)
def maintenance_cancel(environment: str, change: str, reason: str, by: str) -> None:
    """Take a change out of the queue.

    Args:
        environment: name of a registered environment.
        change: its id, as the artifact `maintenance-queue-...` shows it.
        reason: why.
        by: your name.
    """
    connections = load_environment(environment).connect()
    tasks.cancel(connections, change, reason=reason, by=by)
    tasks.show(connections)
