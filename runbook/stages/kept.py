"""Databases that a swap has replaced: kept, closed, under a name with the time; listed, swapped back, or dropped.

Source: runbook, "Rollback Types"; docs/decisions/0015-undoing-a-rollback.md.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime

import psycopg

from runbook.clients.database_copies import (
    allow_sessions,
    carry_properties,
    databases_beside,
    drop,
    exists,
    swap,
)
from runbook.clients.difference_replay import (
    DifferenceReplay,
    last_renamed,
    shared_tables,
    snapshot_after,
    written_since,
)
from runbook.clients.postgres import MAINTENANCE_DATABASE
from runbook.clients.replay_target import ReplayTarget, replay_target
from runbook.clients.table_layout import OldNames, read_layout
from runbook.clients.write_capture import drop_publications
from runbook.connections import Connections
from runbook.errors import InvalidInputError, StageError
from runbook.reports import Replay, RollbackReport
from runbook.settings import ReplayMethod
from runbook.stages.preparation import end_preparations
from runbook.stages.replay import finished, own_tables
from runbook.stages.restore import BEFORE_ROLLBACK, UNDONE, FreshDatabase, Swap, name_to_keep, swap_out

_log = logging.getLogger(__name__)
_STAMPED = re.compile(rf"_({BEFORE_ROLLBACK}|{UNDONE})_(\d{{8}}_\d{{6}}_\d{{6}})")


@dataclass(frozen=True)
class KeptDatabase(FreshDatabase):
    """A database that was replaced at `at`, and which rollback that was, where its report says so.

    `has_grown` says that it was live again for a moment, by an undoing that failed, and was written to.
    """

    at: datetime
    size_bytes: int
    report: RollbackReport | None = None
    has_grown: bool = False

    def render(self) -> str:
        """Return it in words, in one line."""
        of = "of no rollback on record"
        if self.report is not None:
            of = f"of the {self.report.what} of {self.report.timestamp:%Y-%m-%d %H:%M:%S} UTC: {self.report.reason}"
        return f"{self.name}  {self.at:%Y-%m-%d %H:%M:%S} UTC  {self.size_bytes / 1e6:,.0f} MB  {of}"


def kept_databases(connections: Connections) -> tuple[KeptDatabase, ...]:
    """Return the kept databases of the environment, oldest first.

    Raises:
        TransientError: the server does not answer.
        RejectedError: the report of a run cannot be read.
    """
    database = connections.database
    prefix = database.short(database.name)
    reports = [report for report in connections.store.history() if isinstance(report, RollbackReport)]
    found: list[KeptDatabase] = []
    for name, size_bytes in databases_beside(database, database.name).items():
        match = _STAMPED.fullmatch(name.removeprefix(prefix))
        if match and _is_ours(connections, prefix, match[2]):
            at = datetime.strptime(match[2], "%Y%m%d_%H%M%S_%f").replace(tzinfo=UTC)
            kept_by = [report for report in reports if report.kept_database == name]
            named_by = [report for report in reports if any(name in finding for finding in report.findings)]
            report = next(reversed(kept_by or named_by), None)
            found.append(KeptDatabase(name, at, size_bytes, report, any(one not in kept_by for one in named_by)))
    return tuple(sorted(found, key=lambda kept: kept.at))


def require_kept(connections: Connections, name: str) -> KeptDatabase:
    """Return one kept database of the environment.

    Raises:
        InvalidInputError: there is none of this name.
    """
    known = kept_databases(connections)
    for kept in known:
        if kept.name == name:
            return kept
    raise InvalidInputError(
        "name",
        name,
        f"a kept database of {connections.settings.name}: {', '.join(kept.name for kept in known) or 'there is none'}",
        "List them with `runbook db:kept`.",
    )


def drop_kept(connections: Connections, kept: KeptDatabase) -> None:
    """Drop a kept database, and what is still captured of it. Safe to repeat.

    Raises:
        StageError: it is a branch that the provider still needs for the live one.
        TransientError: the server does not answer.
    """
    end_preparations(connections, name=kept.name)
    drop(connections.database, kept.name)
    if exists(connections.database, kept.name):
        raise StageError(f"{kept.name} is still needed by the provider: the live branch is built on it. It stays.")
    _log.info("dropped %s", kept.name)


def swapped_at(connections: Connections, undone: RollbackReport, name: str) -> int:
    """Return the number of the transaction by which a rollback swapped the database `name` out.

    Where the report does not say it, it is that which changed the kept database last: its renaming. Of a branch it is
    that which opened the live one, before it took its place.
    """
    if undone.swap_transaction is not None:
        return undone.swap_transaction
    changed = name if connections.database.branch(name) is None else connections.database.name
    with connections.database.connect(MAINTENANCE_DATABASE) as connection:
        return last_renamed(connection, changed)


def may_carry(connections: Connections, kept: KeptDatabase) -> bool:
    """Return whether what was written since a rollback can be carried into the database that it replaced.

    Only when that rollback had replayed the writes, and the database has not been live since: else both have gone
    their own ways, and the same key may mean another row in each.
    """
    replayed = kept.report is not None and kept.report.replay is not None
    return replayed and not kept.has_grown and connections.settings.rollback.replay is not ReplayMethod.NONE


def swap_back(connections: Connections, kept: FreshDatabase) -> Swap:
    """Put a kept database back in the live one's place, which is kept in turn, with the rows written meanwhile.

    Raises:
        InvalidInputError: there is no such kept database.
        StageError: the names did not change; the live database takes connections as before.
    """
    known = require_kept(connections, kept.name)
    aside = name_to_keep(connections)
    if known.report is None or not may_carry(connections, known):
        carry_properties(connections.database, kept.name)
        return Swap(aside, kept, transaction=swap(connections.database, kept.name, aside))
    since = swapped_at(connections, known.report, kept.name)  # before the properties change what says it
    carry_properties(connections.database, kept.name)
    allow_sessions(connections.database, kept.name, allowed=True)
    with _WritesSince.opened(connections, kept.name, since) as last:
        transaction = swap(connections.database, kept.name, aside, last=last)
    return Swap(aside, kept, last.replay, transaction)


def undo_swap_back(connections: Connections, swapped: Swap) -> str | None:
    """Take a swap of a kept database back: it gets its name again, closed; return what was written to it meanwhile.

    Raises:
        StageError: the names did not change.
    """
    return swap_out(connections, swapped.kept, swapped.restored.name)


def close_kept(connections: Connections, kept: FreshDatabase) -> None:
    """Close a kept database that did not take the live one's place. Safe to repeat."""
    allow_sessions(connections.database, kept.name, allowed=False)


def end_captures(connections: Connections, *, name: str) -> tuple[str, ...]:
    """Give up what was captured of the database `name`, and what an ended capture has left in the live one."""
    drop_publications(connections.database, connections.database.name)
    return end_preparations(connections, name=name)


class _WritesSince:
    """The rows written to the live database since it was swapped in, carried into the one that comes back."""

    def __init__(
        self, connections: Connections, live: psycopg.Connection, target: ReplayTarget, since: int, stack: ExitStack
    ) -> None:
        self._connections, self._live, self._target = connections, live, target
        self._since, self._stack = since, stack
        layout = read_layout(live)
        self._names = OldNames(layout, layout)  # a table that one of both calls otherwise is left
        self._reader = DifferenceReplay(
            live,
            snapshot_after(since),
            target,
            self._names,
            skipped=tuple,
            left_out=own_tables(connections),
            additive=True,
        )
        self.replay: Replay | None = None

    @classmethod
    @contextmanager
    def opened(cls, connections: Connections, name: str, since: int) -> Generator[_WritesSince]:
        """Open the sessions for the body of a `with`."""
        with ExitStack() as stack:
            live = stack.enter_context(connections.database.connect())
            target = stack.enter_context(replay_target(connections.database, name))
            yield cls(connections, live, target, since, stack)

    @property
    def sessions(self) -> Sequence[int]:
        """Process ids of the sessions."""
        return self._live.info.backend_pid, self._target.connection.info.backend_pid

    def carry(self) -> None:
        """Carry what was added and changed; nobody writes any more."""
        self._reader.catch_up()
        written = written_since(self._live, self._since)
        carried = {one.live for one in shared_tables(self._live, self._target, self._names) if one.key}
        left = tuple(
            one.table
            for table, one in written.items()
            if table not in carried and table not in own_tables(self._connections)
        )
        self.replay = finished(self._connections, self._live, self._target, ReplayMethod.DIFFERENCE, left)
        self._stack.close()


def _is_ours(connections: Connections, prefix: str, stamp: str) -> bool:
    """Return whether a run of this environment kept the database; only a name that had to be cut leaves it open."""
    if prefix == connections.database.name:
        return True
    journals = connections.store.objects.objects(f"journal/{connections.settings.name}/")
    return any(f"_{stamp}/" in found.key for found in journals)
