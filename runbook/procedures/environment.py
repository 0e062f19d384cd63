"""What is decided about an environment: its lock, its hold, its deploy, its kept databases. All of it written down.

Source: runbook, "Rollback Procedures" (nobody deploys the bad commit again before its cause is mended).
"""

from __future__ import annotations

import logging
from datetime import UTC, datetime

from runbook.clients.environment_hold import Hold
from runbook.clients.environment_lock import LockedError, LockState
from runbook.clients.journals import Journal
from runbook.connections import Connections
from runbook.errors import InvalidInputError
from runbook.journal import Effect, EntryKind
from runbook.procedures.changing import Change, changing, hold_of, lock_of
from runbook.rules.identifiers import time_stamp
from runbook.stages.kept import KeptDatabase, drop_kept, kept_databases, require_kept
from runbook.stages.preparation import end_preparations, expire_preparations, expired_preparations

_log = logging.getLogger(__name__)


def force_unlock(connections: Connections, *, reason: str, by: str) -> LockState:
    """Open the lock whoever holds it, and return who did. That run finds out before its next effect, and stops.

    What it leaves is finished or taken back by the next run, or by `runbook recover`.

    Raises:
        InvalidInputError: no reason is given.
        RefusedError: nobody holds the lock.
    """
    _require_reason(reason)
    lock = lock_of(connections)
    state = lock.force(by=by, reason=reason)
    name = connections.settings.name
    run = f"unlock_{time_stamp(datetime.now(UTC))}"
    journal = Journal(connections.store.objects, name, run, token=state.token + 1, require=lambda: None)
    journal.write(EntryKind.BEGUN, detail={"reason": reason, "triggeredBy": by, "takenFrom": state.owner.run})
    journal.end("unlocked")
    return state


def release_hold(connections: Connections, *, reason: str, by: str) -> Hold:
    """Let a held environment be deployed to again, and return the hold that was.

    Raises:
        InvalidInputError: no reason is given.
        RefusedError: it is not held, or another run changes it.
    """
    _require_reason(reason)
    with changing(connections, "release", reason=reason, triggered_by=by) as change:
        hold = hold_of(connections).require()
        detail = {"reason": reason, "triggeredBy": by, "heldFor": hold.reason, "heldBy": hold.run}
        change.journal.write(EntryKind.BEGUN, detail={**detail})
        finish_release(change)
    return hold


def finish_release(change: Change) -> None:
    """Do what a release has begun. Safe to repeat."""
    hold_of(change.connections).remove()
    change.journal.end("released")


def confirm_deploy(connections: Connections, *, by: str) -> tuple[str, ...]:
    """Give up what is kept ready for the rollback of a deploy that stays; return the ids of the backups.

    The backups themselves stay, and so does the way back to them: by a restore that takes its time.

    Raises:
        RefusedError: another run changes the environment.
        TransientError: the server does not answer.
    """
    with changing(connections, "confirm", reason="the deploy stays", triggered_by=by) as change:
        change.journal.write(EntryKind.BEGUN, detail={"triggeredBy": by})
        return finish_confirm(change)


def finish_confirm(change: Change) -> tuple[str, ...]:
    """Do what a confirmation has begun. Safe to repeat."""
    ended = end_preparations(change.connections)
    change.journal.end("confirmed")
    return ended


def give_up_expired(connections: Connections, *, triggered_by: str) -> tuple[str, ...]:
    """Give up what was kept ready for a rollback for too long; return the ids of the backups.

    Nothing while another run changes the environment: it may be using what is kept.

    Raises:
        RefusedError: a run before this one has left work behind.
        TransientError: the server does not answer.
    """
    try:
        with changing(connections, "expire", reason="kept ready for too long", triggered_by=triggered_by) as change:
            if not expired_preparations(connections):
                return ()
            change.journal.write(EntryKind.BEGUN, detail={"triggeredBy": triggered_by})
            return finish_expiry(change)
    except LockedError as error:
        _log.warning("what is kept ready for too long is given up another time: %s", error)
        return ()


def finish_expiry(change: Change) -> tuple[str, ...]:
    """Do what an expiry has begun. Safe to repeat."""
    ended = expire_preparations(change.connections)
    change.journal.end("expired")
    return ended


def drop_kept_database(connections: Connections, name: str, *, by: str) -> KeptDatabase:
    """Drop a database that a swap has replaced, and return which it was; the rollback cannot be undone afterwards.

    Raises:
        InvalidInputError: it is not a kept database of this environment.
        RefusedError: another run changes the environment.
        TransientError: the server does not answer.
    """
    with changing(connections, "drop-kept", reason=f"{name} is not needed", triggered_by=by) as change:
        kept = require_kept(connections, name)
        change.journal.write(EntryKind.BEGUN, detail={"triggeredBy": by, "database": name, "kept": kept.render()})
        finish_drop(change)
    return kept


def finish_drop(change: Change) -> None:
    """Do what the dropping of a kept database has begun. Safe to repeat."""
    name = change.journal.entries[0].detail["database"]
    for kept in kept_databases(change.connections):
        if kept.name == name:
            with change.journal.effect(Effect.DROP, database=name):
                drop_kept(change.connections, kept)
    change.journal.end("dropped")


def _require_reason(reason: str) -> None:
    if not reason.strip():
        raise InvalidInputError("reason", reason, "why, in words", "It is recorded, for those who come after you.")
