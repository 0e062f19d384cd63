"""What PostgreSQL's output plugin `pgoutput` says about a change, version 1 of its protocol, as values.

Source: PostgreSQL manual, "Logical Replication Message Formats".
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import Enum

from runbook.errors import StageError


class Unchanged(Enum):
    """A value that is stored apart from its row, was not changed, and is not sent again."""

    UNCHANGED = "unchanged"


UNCHANGED = Unchanged.UNCHANGED
Value = str | None | Unchanged


@dataclass(frozen=True, slots=True)
class Begin:
    """A transaction begins; its changes follow. `xid` is the lower half of its number."""

    xid: int


@dataclass(frozen=True, slots=True)
class Commit:
    """The transaction ends; `lsn` is where it does, in bytes."""

    lsn: int


@dataclass(frozen=True, slots=True)
class Relation:
    """A table as it was when the following changes were made; `key` are the columns that tell its rows apart."""

    oid: int
    schema: str
    table: str
    columns: tuple[str, ...]
    key: frozenset[str]
    whole_row: bool


@dataclass(frozen=True, slots=True)
class Insert:
    """A row was inserted; its values in the order of the relation's columns."""

    oid: int
    new: tuple[Value, ...]


@dataclass(frozen=True, slots=True)
class Update:
    """A row was changed; `old` has the key, or the whole row, when that was sent."""

    oid: int
    old: tuple[Value, ...] | None
    new: tuple[Value, ...]


@dataclass(frozen=True, slots=True)
class Delete:
    """A row was deleted; `old` has the key, or the whole row."""

    oid: int
    old: tuple[Value, ...]


@dataclass(frozen=True, slots=True)
class Truncate:
    """Tables were emptied."""

    oids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Other:
    """What does not matter here: a type, an origin, a message."""


Message = Begin | Commit | Relation | Insert | Update | Delete | Truncate | Other


def decode(data: bytes) -> Message:
    """Return what one message of the plugin says.

    Raises:
        StageError: it is cut off, or is none.
    """
    try:
        return _decode(_Reader(data))
    except (IndexError, struct.error, UnicodeDecodeError, ValueError) as error:
        raise StageError(f"the server sent a change that cannot be read, {len(data)} bytes: {error}") from error


class _Reader:
    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def char(self) -> str:
        self.at += 1
        return chr(self.data[self.at - 1])

    def number(self, kind: str) -> int:
        (value,) = struct.unpack_from(f">{kind}", self.data, self.at)
        self.at += struct.calcsize(kind)
        return int(value)

    def string(self) -> str:
        end = self.data.index(0, self.at)
        text = self.data[self.at : end].decode()
        self.at = end + 1
        return text

    def row(self) -> tuple[Value, ...]:
        return tuple(self._value() for _ in range(self.number("H")))

    def _value(self) -> Value:
        kind = self.char()
        if kind == "n":
            return None
        if kind == "u":
            return UNCHANGED
        if kind != "t":
            raise ValueError(f"value of kind {kind!r}")
        size = self.number("I")
        end = self.at + size
        if end > len(self.data):
            raise ValueError("a value is cut off")
        text = self.data[self.at : end].decode()
        self.at = end
        return text


def _decode(reader: _Reader) -> Message:
    kind = reader.char()
    if kind == "B":
        reader.at += 16
        return Begin(reader.number("I"))
    if kind == "C":
        reader.at += 9
        return Commit(reader.number("Q"))
    if kind == "R":
        return _relation(reader)
    if kind == "I":
        oid = reader.number("I")
        _expect(reader, "N")
        return Insert(oid, reader.row())
    if kind == "U":
        return _update(reader)
    if kind == "D":
        oid = reader.number("I")
        _expect(reader, "KO")
        return Delete(oid, reader.row())
    if kind == "T":
        count = reader.number("I")
        reader.at += 1
        return Truncate(tuple(reader.number("I") for _ in range(count)))
    if kind in "YOM":
        return Other()
    raise ValueError(f"message of kind {kind!r}")


def _relation(reader: _Reader) -> Relation:
    oid = reader.number("I")
    schema, table, identity = reader.string() or "pg_catalog", reader.string(), reader.char()
    columns: list[str] = []
    key: set[str] = set()
    for _ in range(reader.number("H")):
        in_key = reader.number("B") & 1
        name = reader.string()
        reader.at += 8
        columns.append(name)
        if in_key:
            key.add(name)
    return Relation(oid, schema, table, tuple(columns), frozenset(key), whole_row=identity == "f")


def _update(reader: _Reader) -> Update:
    oid = reader.number("I")
    old = None
    kind = _expect(reader, "KON")
    if kind != "N":
        old = reader.row()
        _expect(reader, "N")
    return Update(oid, old, reader.row())


def _expect(reader: _Reader, kinds: str) -> str:
    kind = reader.char()
    if kind not in kinds:
        raise ValueError(f"{kind!r} where one of {kinds!r} should be")
    return kind
