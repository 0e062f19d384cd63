"""Replaying the writes after a backup from the replication slot that was made with it: every change, in order.

Source: PostgreSQL manual, "Logical Decoding", "Replication Progress Tracking".
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import psycopg

from runbook.clients.replay_target import ChangeKind, ReplayTarget, Row, RowChange
from runbook.clients.table_layout import OldNames, Table
from runbook.clients.write_capture import Capture
from runbook.rules.pgoutput import (
    Begin,
    Commit,
    Delete,
    Insert,
    Message,
    Relation,
    Truncate,
    Unchanged,
    Update,
    Value,
    decode,
)

_AT_A_TIME = 20_000
_BATCH = 1_000
# To tell the server's flushed position past what was committed without waiting for the disk.
_FLUSH = "SELECT pg_logical_emit_message(true, 'runbook', '')"
_END = "SELECT pg_current_wal_flush_lsn()::text"
_CHANGES = """
SELECT data FROM pg_logical_slot_get_binary_changes(%s, %s, %s, 'proto_version', '1', 'publication_names', %s)
"""


Place = Mapping[str, object]
"""How far a replay has come: all transactions up to `lsn`, and so many `changes` of the one after it."""


class CapturedWrites:
    """The captured writes, read through one session of the live database; the capture itself stays as it is.

    Args:
        live: the session, in autocommit mode; ended by whoever opened it.
        capture: what was made with the backup.
        names: what tables and columns were called at the time of the backup.
        left_out: tables that are no application's.
        place: where to begin; at the backup when empty.
    """

    def __init__(
        self,
        live: psycopg.Connection,
        capture: Capture,
        names: OldNames,
        *,
        left_out: Collection[Table] = (),
        place: Place | None = None,
    ) -> None:
        self._live, self._capture, self._names, self._left_out = live, capture, names, left_out
        self._relations: dict[int, Relation] = {}
        self._slot = f"runbook_replay_{live.info.backend_pid}"
        self.place: Place = place or {}
        live.execute("SET synchronous_commit = on")
        live.execute("SELECT pg_copy_logical_replication_slot(%s, %s, true)", [capture.slot, self._slot])
        if lsn := self.place.get("lsn"):
            live.execute("SELECT pg_replication_slot_advance(%s, %s::pg_lsn)", [self._slot, lsn])

    def read(self, skipped: Collection[int]) -> Iterator[tuple[list[RowChange], Place]]:
        """Yield what has been committed until now, in order, and how far each part goes.

        `skipped` are the numbers of transactions to leave out.
        """
        self._live.execute(_FLUSH)
        row = self._live.execute(_END).fetchone()
        assert row is not None  # noqa: S101 - a function call without FROM returns one row
        left_out = {number & 0xFFFFFFFF for number in skipped}
        messages = _AT_A_TIME
        while messages >= _AT_A_TIME:
            messages = yield from self._read(left_out, str(row[0]))

    def _read(self, skipped: Collection[int], end: str) -> Generator[tuple[list[RowChange], Place], None, int]:
        """Yield so many messages, to the end of a transaction, but none after `end`; return how many they were."""
        lsn, ahead = self.place.get("lsn"), int(str(self.place.get("changes", 0)))
        read, number, is_skipped = 0, 0, False
        batch: list[RowChange] = []
        with self._live.transaction(), self._live.cursor(name="changes") as cursor:
            cursor.itersize = _BATCH
            cursor.execute(_CHANGES, [self._slot, end, _AT_A_TIME, ",".join(self._capture.publications)])
            for row in cursor:
                read += 1
                message = decode(bytes(row[0]))
                if isinstance(message, Begin):
                    number, is_skipped = 0, message.xid in skipped
                elif isinstance(message, Commit):
                    lsn, ahead, number = f"{message.lsn >> 32:X}/{message.lsn & 0xFFFFFFFF:X}", 0, 0
                elif isinstance(message, Relation):
                    self._relations[message.oid] = self._translated(message)
                elif not is_skipped:
                    for change in self._changes(message):
                        number += 1
                        if number > ahead:
                            batch.append(change)
                if len(batch) >= _BATCH:
                    yield batch, {"lsn": lsn, "changes": number}
                    batch = []
        self.place = {"lsn": lsn, "changes": 0}
        yield batch, self.place
        return read

    def _changes(self, message: Message) -> Iterator[RowChange]:
        if isinstance(message, Truncate):
            for oid in message.oids:
                yield from self._change(ChangeKind.TRUNCATE, oid, None, None)
        elif isinstance(message, Insert):
            yield from self._change(ChangeKind.INSERT, message.oid, None, message.new)
        elif isinstance(message, Update):
            yield from self._change(ChangeKind.UPDATE, message.oid, message.old, message.new)
        elif isinstance(message, Delete):
            yield from self._change(ChangeKind.DELETE, message.oid, message.old, None)

    def _translated(self, relation: Relation) -> Relation:
        """Return a table as it is called in the copy."""
        schema, table = self._names.table_of(relation.oid, (relation.schema, relation.table))
        columns = tuple(self._names.columns_of(relation.oid, relation.columns))
        key = {new for old, new in zip(relation.columns, columns, strict=True) if old in relation.key}
        return replace(relation, schema=schema, table=table, columns=columns, key=frozenset(key))

    def _change(
        self, kind: ChangeKind, oid: int, old: Sequence[Value] | None, new: Sequence[Value] | None
    ) -> Iterator[RowChange]:
        relation = self._relations[oid]
        table = (relation.schema, relation.table)
        if table in self._left_out:
            return
        values, columns = _row(relation, new or ()), tuple(sorted(relation.key))
        key: Row = {}
        if kind in (ChangeKind.UPDATE, ChangeKind.DELETE):
            before = _row(relation, old) if old is not None else values
            key = {name: before[name] for name in columns if name in before}
        yield RowChange(kind, table, values, key, columns, relation.whole_row)


class SlotReplay:
    """Applies the captured writes to a restored copy.

    Args:
        captured: the writes.
        target: the copy.
        skipped: numbers of transactions to leave out, asked anew at each pass.
    """

    def __init__(
        self, captured: CapturedWrites, target: ReplayTarget, *, skipped: Callable[[], Collection[int]]
    ) -> None:
        self._captured, self._target, self._skipped = captured, target, skipped

    def catch_up(self) -> int:
        """Apply all that has been committed until now, and return how many changes that was."""
        applied = 0
        for changes, place in self._captured.read(self._skipped()):
            with self._target.connection.transaction():
                self._target.apply(changes)
                self._target.move(place)
            applied += len(changes)
        return applied


@dataclass
class Written:
    """Rows written to a table, by key: what became of each in the end. Without a key only additions are known.

    After a table was `emptied` all rows that it had before are deleted, and not counted here.
    """

    inserted: int = 0
    updated: int = 0
    deleted: int = 0
    emptied: bool = False


def count_writes(captured: CapturedWrites, skipped: Collection[int]) -> dict[Table, Written]:
    """Return what was written to each table since the backup, each row once, however often it was changed."""
    fates: dict[Table, dict[Hashable, ChangeKind]] = {}
    found: dict[Table, Written] = {}
    emptied: set[Table] = set()
    for changes, _ in captured.read(skipped):
        for change in changes:
            if change.kind is ChangeKind.TRUNCATE:
                emptied.add(change.table)
                fates[change.table], found[change.table] = {}, Written()
            elif change.finds_rows:
                _note(fates.setdefault(change.table, {}), change)
            else:
                found.setdefault(change.table, Written()).inserted += change.kind is ChangeKind.INSERT
    kinds = (ChangeKind.INSERT, ChangeKind.UPDATE, ChangeKind.DELETE)
    for table, rows in fates.items():
        found.setdefault(table, Written())
        counted = list(rows.values())
        added, changed, gone = (counted.count(kind) for kind in kinds)
        found[table] = Written(found[table].inserted + added, changed, gone, emptied=table in emptied)
    return found


def _note(rows: dict[Hashable, ChangeKind], change: RowChange) -> None:
    """Note what became of a row: one that was added and is gone again was never there."""
    old = tuple(change.key.values())
    new = tuple(change.new[name] for name in change.key_columns if name in change.new)
    moves = change.kind is ChangeKind.UPDATE and new != old
    if (change.kind is ChangeKind.DELETE or moves) and rows.pop(old, None) is not ChangeKind.INSERT:
        rows[old] = ChangeKind.DELETE
    if change.kind is ChangeKind.INSERT or moves:
        rows[new] = ChangeKind.UPDATE if rows.get(new) is ChangeKind.DELETE else ChangeKind.INSERT
    elif change.kind is ChangeKind.UPDATE:
        rows.setdefault(old, ChangeKind.UPDATE)


def _row(relation: Relation, values: Sequence[Value]) -> dict[str, str | None]:
    """Return values by column; those that were not changed, and so not sent, are left out."""
    return {
        name: value for name, value in zip(relation.columns, values, strict=False) if not isinstance(value, Unchanged)
    }
