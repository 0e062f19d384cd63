"""Undoing the last rollback: what it replaced takes its place again, in the same order and with the same care.

Plain Python; see `runbook.procedures.rollback`. The undoing of an undoing is the same again.
Source: runbook, "Rollback Procedures"; docs/decisions/0015-undoing-a-rollback.md.
"""

from __future__ import annotations

from runbook.connections import Connections
from runbook.procedures.changing import Change
from runbook.procedures.rollback import RollbackStages, recover_rollback, take_back
from runbook.reports import RollbackReport
from runbook.stages import kept
from runbook.stages.undo_rollback import UndoRequest, plan_undo

UNDO_STAGES = RollbackStages(
    plan_rollback=plan_undo,
    swap_in=kept.swap_back,
    undo_swap=kept.undo_swap_back,
    drop_restored=kept.close_kept,
    end_preparations=kept.end_captures,
)


def undo_rollback(
    connections: Connections, request: UndoRequest, stages: RollbackStages = UNDO_STAGES
) -> RollbackReport:
    """Swap back the database that the last rollback kept, and give the traffic back, as far as its scope went.

    Raises:
        As `rollback`.
    """
    return take_back(connections, "undo-rollback", request, stages)


def recover_undo(change: Change) -> RollbackReport:
    """Finish an undoing whose process has died once anything was swapped or switched; else leave all as it was.

    Raises:
        ServiceError: what it takes is not at hand; it can be tried again.
    """
    return recover_rollback(change, UNDO_STAGES)
