"""What every procedure that changes an environment has around it: its lock and its journal.

Prefect's concurrency limits and transactions do not do this: they need the server, and die with it.
See docs/decisions/0013-journal-and-lock.md.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from runbook.clients.environment_hold import EnvironmentHold, Hold
from runbook.clients.environment_lock import EnvironmentLock, HeldLock, Owner
from runbook.clients.journals import Journal
from runbook.connections import Connections
from runbook.errors import RefusedError
from runbook.rules.identifiers import time_stamp


@dataclass(frozen=True)
class Change:
    """A run that may change the environment: its connections, its lock and its journal.

    The names of databases that it makes have its stamp.
    """

    connections: Connections
    held: HeldLock
    journal: Journal


def lock_of(connections: Connections) -> EnvironmentLock:
    """Return the lock of an environment."""
    settings = connections.settings
    return EnvironmentLock(
        connections.store.objects,
        settings.name,
        heartbeat_s=settings.lock.heartbeat_s,
        expires_s=settings.lock.expires_s,
    )


def hold_of(connections: Connections) -> EnvironmentHold:
    """Return the hold on an environment."""
    return EnvironmentHold(connections.store.objects, connections.settings.name)


@contextmanager
def holding_lock(
    connections: Connections, procedure: str, *, reason: str, triggered_by: str
) -> Generator[tuple[HeldLock, str]]:
    """Hold the environment's lock for the body of a `with`; give it and the stamp of the run.

    Raises:
        LockedError: another run holds it.
    """
    now = datetime.now(UTC)
    run = time_stamp(now)
    owner = Owner(run=f"{procedure}_{run}", procedure=procedure, reason=reason, triggered_by=triggered_by, since=now)
    with lock_of(connections).held(owner) as held:
        yield held, run


@contextmanager
def changing(connections: Connections, procedure: str, *, reason: str, triggered_by: str) -> Generator[Change]:
    """Hold the environment's lock, and keep a journal, for the body of a `with`.

    When the journal says that something is left to be done the lock is given back saying so.

    Raises:
        LockedError: another run holds the lock.
        RefusedError: a run before this one has left work behind.
    """
    with holding_lock(connections, procedure, reason=reason, triggered_by=triggered_by) as (held, stamp):
        if left := unfinished(connections, held):
            held.unfinished = True
            raise RefusedError(
                f"{', '.join(journal.run for journal in left)} ended in the middle; first `runbook recover "
                f"--environment={connections.settings.name}`"
            )
        journal = journal_of(connections, held, held.owner.run)
        try:
            yield Change(stamped(connections, stamp), held, journal)
        finally:
            held.unfinished = journal.has_begun and not journal.has_ended


def unfinished(connections: Connections, held: HeldLock) -> list[Journal]:
    """Return the journals of earlier runs that ended in the middle, newest first."""
    journals = [journal_of(connections, held, run) for run in held.owner.unfinished]
    return [journal for journal in journals if journal.has_begun and not journal.has_ended]


def journal_of(connections: Connections, held: HeldLock, run: str) -> Journal:
    """Return the journal of a run, to be written by the holder of the lock."""
    return Journal(connections.store.objects, connections.settings.name, run, token=held.token, require=held.require)


def stamped(connections: Connections, stamp: str) -> Connections:
    """Return connections of which the databases made beside the live one have a stamp in their names."""
    return replace(connections, database=replace(connections.database, stamp=stamp))


def hold_diverged(connections: Connections, journal: Journal, *, triggered_by: str) -> None:
    """Hold an environment that a run has left in a state that nobody foresaw, unless it is held already.

    Raises:
        ServiceError: the store does not answer.
    """
    hold = hold_of(connections)
    if hold.current() is None:
        reason = f"{journal.run} ended DIVERGED; a person has to look"
        hold.place(Hold(reason=reason, by=triggered_by, since=datetime.now(UTC), run=journal.run))
