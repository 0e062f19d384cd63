"""What is kept ready for a rollback of a deploy: the writes since its backup, and that backup restored already.

Both cost the server room, so they go when the deploy is confirmed, when another one takes its place, or when too old.
Source: runbook, "Rollback Procedures"; docs/decisions/0014-replay.md.
"""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from runbook.clients.database_copies import clone, databases_beside, drop, rename_copy
from runbook.clients.write_capture import Capture, captures, end_capture, kept_wal_limit
from runbook.connections import Connections
from runbook.rules.checklist import Check, Outcome
from runbook.rules.identifiers import backup_taken_at
from runbook.settings import ReplayMethod
from runbook.stages.restore import RestoredDatabase

_log = logging.getLogger(__name__)
_CAPTURING = (ReplayMethod.AUTO, ReplayMethod.SLOT)
_PREPARED = re.compile(r"_prepared_(\d{8}_\d{6})$")


@dataclass(frozen=True)
class Preparation:
    """What is kept ready for a rollback to one backup; `size_bytes` is that of the prepared database."""

    backup_id: str
    capture: Capture | None = None
    database: str | None = None
    size_bytes: int = 0

    def render(self) -> str:
        """Return it in words, in one line."""
        parts: list[str] = []
        if self.database is not None:
            parts.append(f"restored as {self.database} ({self.size_bytes / 1e6:,.0f} MB)")
        if self.capture is not None:
            kept = f"{self.capture.retained_bytes / 1e6:,.1f} MB of WAL kept"
            parts.append(
                "the writes since are LOST" if self.capture.lost else f"the writes since are captured ({kept})"
            )
        return f"{self.backup_id}: {', '.join(parts)}"


def check_bound(connections: Connections) -> Check:
    """Check that a capture which everybody forgets fills no disk: the server itself has to give it up in time.

    Raises:
        TransientError: the server does not answer.
    """
    name = "captured writes"
    if connections.restore_points is not None or connections.settings.rollback.replay not in _CAPTURING:
        return Check(name, Outcome.PASSED, "writes are not captured here")
    limit = kept_wal_limit(connections.database)
    if limit is None:
        wanted = f"{connections.settings.rollback.maximum_wal_gb:g}GB"
        return Check(
            name,
            Outcome.WARNING,
            "the server keeps any amount of WAL for captured writes, should nobody end the capture",
            f"Set max_slot_wal_keep_size = {wanted} on the server.",
        )
    return Check(name, Outcome.PASSED, f"the server keeps {limit} of WAL for them at most")


def prepare_rollback(connections: Connections, copy: RestoredDatabase, *, keep: bool) -> str:
    """Keep a backup that was restored and found equal, closed, for a rollback; return the database's name.

    Args:
        connections: the environment.
        copy: the restored backup; nobody may be connected to it.
        keep: whether the copy itself is still needed; a clone of it is kept then.

    Raises:
        RejectedError: there is no room, or the role may not do this.
    """
    name = prepared_name(connections, copy.backup_id)
    if keep:
        clone(connections.database, copy.name, name)
    else:
        rename_copy(connections.database, copy.name, name, is_open=False)
    _log.info("%s is kept ready as %s", copy.backup_id, name)
    return name


def take_prepared(connections: Connections, backup_id: str, *, purpose: str) -> RestoredDatabase | None:
    """Take the prepared database of a backup for use, under a name of this run; None when there is none.

    Raises:
        TransientError: the server does not answer.
    """
    if not is_prepared(connections, backup_id):
        return None
    name = prepared_name(connections, backup_id)
    taken = connections.database.beside(purpose)
    rename_copy(connections.database, name, taken, is_open=True)
    return RestoredDatabase(taken, backup_id, 0.0)


def is_prepared(connections: Connections, backup_id: str) -> bool:
    """Return whether a backup is restored already, and kept ready.

    Raises:
        TransientError: the server does not answer.
    """
    beside = databases_beside(connections.database, connections.database.name)
    return prepared_name(connections, backup_id) in beside


def preparations(connections: Connections, name: str | None = None) -> tuple[Preparation, ...]:
    """Return what is kept ready, oldest first; of a database that was replaced when it is named.

    Raises:
        TransientError: the server does not answer.
    """
    found = {
        capture.backup_id: Preparation(capture.backup_id, capture) for capture in captures(connections.database, name)
    }
    if name is None:
        for database, size_bytes in databases_beside(connections.database, connections.database.name).items():
            if match := _PREPARED.search(database):
                backup_id = f"backup_{match[1]}"
                known = found.get(backup_id, Preparation(backup_id))
                found[backup_id] = Preparation(backup_id, known.capture, database, size_bytes)
    return tuple(found[backup_id] for backup_id in sorted(found))


def end_preparations(
    connections: Connections, *, name: str | None = None, other_than: str | None = None, since: datetime | None = None
) -> tuple[str, ...]:
    """Give up what is kept ready, and return the ids of the backups that it belonged to.

    Args:
        connections: the environment.
        name: the database that was captured, when it is not the live one any more.
        other_than: id of the backup of which it is kept on.
        since: only what was begun then, or later.

    Raises:
        TransientError: the server does not answer, or somebody reads from a capture.
    """
    return tuple(
        _end(connections, one)
        for one in preparations(connections, name)
        if one.backup_id != other_than
        and (since is None or backup_taken_at(one.backup_id) >= since.replace(microsecond=0))
    )


def expired_preparations(connections: Connections) -> tuple[Preparation, ...]:
    """Return what was kept ready for too long, or is of no use any more.

    Raises:
        TransientError: the server does not answer.
    """
    oldest = datetime.now(UTC) - timedelta(hours=connections.settings.rollback.keep_h)
    limit = connections.settings.rollback.maximum_wal_gb * 1e9
    return tuple(
        one
        for one in preparations(connections)
        if backup_taken_at(one.backup_id) < oldest
        or (one.capture is not None and (one.capture.lost or one.capture.retained_bytes > limit))
    )


def expire_preparations(connections: Connections) -> tuple[str, ...]:
    """Give up what has expired; return the ids of the backups.

    Raises:
        TransientError: the server does not answer.
    """
    return tuple(_end(connections, one) for one in expired_preparations(connections))


def prepared_name(connections: Connections, backup_id: str) -> str:
    """Return the name of the database that is kept ready for a rollback to a backup."""
    database = connections.database
    return f"{database.short(database.name)}_prepared_{backup_id.removeprefix('backup_')}"


def _end(connections: Connections, one: Preparation) -> str:
    if one.capture is not None:
        end_capture(connections.database, one.backup_id)
    if one.database is not None:
        drop(connections.database, one.database)
    _log.info("%s is not kept ready for a rollback any more", one.backup_id)
    return one.backup_id
