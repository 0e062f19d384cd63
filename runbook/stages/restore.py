"""Restoring a backup: beside the live database, compared with its manifest, and only then put in its place.

A restore on top of a live database rolls nothing back and ends with exit code 0; so there is none.
Source: runbook, "Rollback Types".
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass

from runbook.clients.database_copies import carry_properties, create_beside, drop, swap, swap_back
from runbook.clients.fingerprint import fingerprint
from runbook.connections import Connections
from runbook.errors import RefusedError, StageError
from runbook.reports import TableLoss

_log = logging.getLogger(__name__)
_JOBS = 2


@dataclass(frozen=True)
class RestoredDatabase:
    """A backup restored beside the live database and found equal to its manifest; `restore_s` in seconds."""

    name: str
    backup_id: str
    restore_s: float


@dataclass(frozen=True)
class Swap:
    """A swap that happened: `live` is now the restored database, `kept` the one that it replaced."""

    kept: str
    restored: RestoredDatabase


def restore_beside(connections: Connections, backup_id: str, *, purpose: str) -> RestoredDatabase:
    """Restore a backup into a fresh database beside the live one and compare it with the manifest.

    Leaves no database behind when it fails.

    Raises:
        InvalidInputError: the backup id is malformed or unknown.
        RefusedError: the backup is of another environment.
        RejectedError: a file of the backup is missing or changed.
        StageError: it cannot be restored, or what came back is not what the manifest says.
    """
    manifest = connections.store.manifest(backup_id)
    if manifest.environment != connections.settings.name:
        raise RefusedError(f"{backup_id} is of environment {manifest.environment}, not of {connections.settings.name}")
    folder = connections.store.files(manifest)
    database = connections.database
    name = database.beside(purpose)
    begun = time.monotonic()
    create_beside(database, name)
    try:
        argv = database.programs().argv(
            "pg_restore", f"--jobs={_JOBS}", "--exit-on-error", f"--dbname={name}", str(folder / "dump")
        )
        database.run(argv, what=f"restore of {backup_id}", database=name)
        restore_s = round(time.monotonic() - begun, 3)
        found = fingerprint(database, connections.settings.migrations.history_table, name=name)
        if differences := manifest.fingerprint.differences(found):
            raise StageError(f"{backup_id} came back different: " + "; ".join(differences[:10]))
    except BaseException:
        drop(database, name)
        raise
    _log.info("%s restored as %s in %.1f s and found equal to its manifest", backup_id, name, restore_s)
    return RestoredDatabase(name, backup_id, restore_s)


def quote_loss(connections: Connections, backup_id: str) -> tuple[TableLoss, ...]:
    """Say what a restore of a backup would change: per table the rows now and the rows restored.

    Only tables whose content differs are listed; with equal row counts the rows themselves differ.
    """
    manifest = connections.store.manifest(backup_id)
    now = fingerprint(connections.database, connections.settings.migrations.history_table)
    losses: list[TableLoss] = []
    for table in sorted(now.tables.keys() | manifest.fingerprint.tables.keys()):
        live, then = now.tables.get(table), manifest.fingerprint.tables.get(table)
        if live != then:
            rows_now, rows_then = live.rows if live else 0, then.rows if then else 0
            losses.append(TableLoss(table=table, rows_now=rows_now, rows_restored=rows_then))
    return tuple(losses)


def swap_in(connections: Connections, restored: RestoredDatabase) -> Swap:
    """Put a restored database in the live one's place; the live one is kept, closed, under a name with the time.

    Raises:
        StageError: the names did not change; the live database takes connections as before.
    """
    carry_properties(connections.database, restored.name)
    kept = connections.database.beside("before_rollback")
    swap(connections.database, restored.name, kept)
    _log.info("%s took the place of %s, which is kept as %s", restored.name, connections.database.name, kept)
    return Swap(kept, restored)


def undo_swap(connections: Connections, swapped: Swap) -> None:
    """Put the kept database back in its place; the restored one is kept under the name it had."""
    swap_back(connections.database, swapped.kept, swapped.restored.name)


def drop_restored(connections: Connections, restored: RestoredDatabase) -> None:
    """Drop a restored database that did not take the live one's place."""
    drop(connections.database, restored.name)
