"""Runbook, "Rollback Procedures": the last rollback, undone."""

from __future__ import annotations

from dataclasses import replace

from prefect import flow

from blocks.environment import load_environment
from flows import rollback
from runbook.procedures import undo_rollback as procedure
from runbook.reports import RollbackReport
from runbook.stages.undo_rollback import UndoRequest
from tasks import record, recovery, restore
from tasks import rollback as tasks

STAGES = replace(
    rollback.STAGES,
    plan_rollback=tasks.plan_undo,
    swap_in=restore.swap_back,
    undo_swap=restore.undo_swap_back,
    drop_restored=restore.close_kept,
    end_preparations=procedure.UNDO_STAGES.end_preparations,
)


@flow(name="undo-rollback", flow_run_name="undo-rollback-{environment}", retries=0)
def undo_rollback(environment: str, reason: str, yes: bool = False, triggered_by: str = "") -> RollbackReport:
    """Undo the last rollback: the database that it replaced and the release that it took the traffic from come back.

    Args:
        environment: name of a registered environment, for example `local` or `production`.
        reason: why; it is recorded and told to everybody.
        yes: consent now; otherwise the run pauses and asks a person to type the environment's name.
        triggered_by: who or what asked; the name of this run when left empty.
    """
    request = UndoRequest(reason, yes, triggered_by or record.triggered_by_run())
    connections = load_environment(environment).connect()
    recovery.recover(connections, triggered_by=request.triggered_by)
    return procedure.undo_rollback(connections, request, STAGES)
