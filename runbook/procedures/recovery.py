"""Finishing, or taking back, what runs have left that died: killed, crashed, out of memory, a machine that went away.

Plain Python; the flows do all of it in one task, because it has to work while half of everything is broken.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from runbook.clients.environment_lock import HeldLock
from runbook.clients.journals import Journal
from runbook.connections import Connections
from runbook.errors import RejectedError
from runbook.journal import EntryKind
from runbook.procedures.changing import Change, holding_lock, lock_of, stamped, unfinished
from runbook.procedures.database_migrate import MigrateStages, recover_migrate
from runbook.procedures.deploy import DeployStages, recover_deploy
from runbook.procedures.environment import finish_confirm, finish_drop, finish_expiry, finish_release
from runbook.procedures.rollback import RollbackStages, recover_rollback
from runbook.procedures.undo_rollback import recover_undo
from runbook.reports import DeployReport, MigrateReport, RollbackReport
from runbook.stages import recovery

_log = logging.getLogger(__name__)


Report = DeployReport | MigrateReport | RollbackReport


def recover(connections: Connections, *, triggered_by: str) -> tuple[Report, ...]:
    """Finish or take back what runs left that died with the environment's lock, newest first; return their reports.

    Safe to repeat and to be killed itself: the next one goes on. Without anything to do it is one look at the lock.

    Raises:
        LockedError: another recovery was quicker.
        ServiceError: what it takes is not at hand; try again.
    """
    lock = lock_of(connections)
    state = lock.state()
    if state is None or not state.unfinished or (state.freed is None and not lock.is_dead(state)):
        return ()
    with holding_lock(connections, "recover", reason="a run died", triggered_by=triggered_by) as (held, _):
        held.unfinished = True
        reports = [_recover(connections, held, journal) for journal in unfinished(connections, held)]
        held.unfinished = False
    return tuple(report for report in reports if report is not None)


def _recover(connections: Connections, held: HeldLock, journal: Journal) -> Report | None:
    procedure, _, stamp = journal.run.partition("_")
    if procedure not in _PROCEDURES | _DECISIONS:
        raise RejectedError(f"nobody knows how to recover {journal.run}; see {journal.place}")
    _log.warning("%s ended in the middle; see %s", journal.run, journal.place)
    journal.write(EntryKind.TAKEN_OVER, detail={"by": held.owner.run})
    change = Change(stamped(connections, stamp), held, journal)
    recovery.clean_up(change.connections)
    if procedure in _DECISIONS:
        _DECISIONS[procedure](change)
        return None
    return _PROCEDURES[procedure](change)


_PROCEDURES: dict[str, Callable[[Change], Report]] = {
    "deploy": lambda change: recover_deploy(change, DeployStages()),
    "migrate": lambda change: recover_migrate(change, MigrateStages()),
    "rollback": lambda change: recover_rollback(change, RollbackStages()),
    "undo-rollback": recover_undo,
}
_DECISIONS: dict[str, Callable[[Change], object]] = {
    "release": finish_release,
    "confirm": finish_confirm,
    "expire": finish_expiry,
    "drop-kept": finish_drop,
}
