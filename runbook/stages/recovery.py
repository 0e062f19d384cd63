"""What a run that died has left behind: sessions, copies, half a backup, a live database that takes no connections.

`connections` are those of the dead run: everything it made has its stamp.
"""

from __future__ import annotations

import logging

from runbook.clients.database_copies import copies_of_run, drop, end_sessions_of_run, exists, reopen
from runbook.connections import Connections
from runbook.stages.restore import UNDONE, name_to_keep

_log = logging.getLogger(__name__)


def clean_up(connections: Connections) -> None:
    """Remove what a dead run left; nothing that is in use, and no database that alone holds some rows.

    Safe to repeat, and to be killed in the middle.

    Raises:
        TransientError: the server or the store does not answer.
        RejectedError: the role may not do this.
    """
    database = connections.database
    reopen(database)
    if ended := end_sessions_of_run(database):
        _log.warning("ended %d sessions of a run that died", ended)
    drop_copies(connections)
    for backup_id in connections.store.discard_those_of(database.stamp):
        _log.warning("removed %s, which a run that died had not finished", backup_id)


def drop_copies(connections: Connections) -> None:
    """Drop the databases that a run made beside the live one and left; not one that its swap replaced. Safe to repeat.

    Raises:
        TransientError: the server does not answer.
        RejectedError: the role may not do this.
    """
    database = connections.database
    kept = (name_to_keep(connections), database.beside(UNDONE))
    for name in copies_of_run(database):
        if name not in kept:
            drop(database, name)
            _log.warning("dropped %s, which a run had left", name)


def has_swapped(connections: Connections) -> bool:
    """Return whether the dead run has put its restored database in the live one's place."""
    return exists(connections.database, name_to_keep(connections))
