"""What the statements of a migration cost: asked of their own session, right after each of them.

Source: PostgreSQL manual, "pg_locks", "Explicit Locking" and "pg_current_wal_insert_lsn".
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from psycopg import sql

from runbook.clients.postgres import Database
from runbook.reports import StatementCost
from runbook.rules.sql import Statement, without_literals

_RELATIONS = """
SELECT c.oid::bigint, format('%I.%I', n.nspname, c.relname), pg_relation_filenode(c.oid)::bigint
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p', 'm') AND c.oid >= 16384
"""
_MEASURE = (
    "SELECT {prefix} || pg_catalog.json_build_object('at', extract(epoch FROM pg_catalog.clock_timestamp()),"
    " 'begun', extract(epoch FROM pg_catalog.now()),"
    " 'wal', pg_catalog.pg_current_wal_insert_lsn() - '0/0'::pg_catalog.pg_lsn,"
    " 'locks', (SELECT pg_catalog.json_agg(pg_catalog.json_build_array(relation::bigint, mode,"
    " pg_catalog.pg_relation_filenode(relation)::bigint))"
    " FROM (SELECT DISTINCT relation, mode FROM pg_catalog.pg_locks WHERE pid = pg_catalog.pg_backend_pid()"
    " AND locktype = 'relation' AND granted AND relation >= 16384) AS held))::text;"
)
# Taken for a moment and not held to the end of a transaction, so not to be seen afterwards.
_BY_THE_MANUAL = (
    (
        re.compile(r"(?:CREATE (?:UNIQUE )?|DROP |RE)INDEX\b.*\bCONCURRENTLY\b|VACUUM(?!.*\bFULL\b)"),
        "ShareUpdateExclusive",
    ),
    (re.compile(r"VACUUM|CLUSTER"), "AccessExclusive"),
    (re.compile(r"REINDEX"), "Share"),
)
# Conflict with reading, and with writing, by their table of conflicts.
_STOPS_READING = "AccessExclusive"
_STOPS_WRITING = frozenset({"Share", "ShareRowExclusive", "Exclusive", "AccessExclusive"})


@dataclass(frozen=True)
class Held:
    """A lock on a table that was there before, with how long it was held, in seconds."""

    table: str
    mode: str
    held_s: float

    @property
    def closed_to(self) -> str:
        """What has to wait meanwhile: reads and writes, writes, or nothing."""
        if self.mode == _STOPS_READING:
            return "reads and writes"
        return "writes" if self.mode in _STOPS_WRITING else ""


@dataclass(frozen=True)
class _Moment:
    path: str
    number: int
    at: float
    begun: float
    wal: int
    locks: Sequence[tuple[int, str, int | None]]


@dataclass(frozen=True)
class Meter:
    """Makes the SQL that measures, and reads what it printed.

    The lines carry a random marker, so that no other output of a script is taken for one.
    """

    relations: Mapping[int, tuple[str, int | None]]
    marker: str = field(default_factory=lambda: secrets.token_hex(8))
    paths: list[str] = field(default_factory=list[str])

    def measure(self, path: str, number: int) -> str:
        """Return SQL to run after a statement of a file; number -1 is the moment before its first."""
        if path not in self.paths:
            self.paths.append(path)
        prefix = sql.Literal(f"{self.marker} {self.paths.index(path)} {number} ")
        return sql.SQL(_MEASURE).format(prefix=prefix).as_string()

    def read(self, printed: str, scripts: Mapping[str, Sequence[Statement]]) -> tuple[list[StatementCost], list[Held]]:
        """Return what each statement cost, and the locks on tables that were there before, with their times.

        A lock is held from the statement that takes it to the last one of its transaction.

        Args:
            printed: what psql printed.
            scripts: the statements of each file by its path.
        """
        moments = [
            _Moment(
                self.paths[int(index)], int(number), found["at"], found["begun"], found["wal"], found["locks"] or ()
            )
            for index, number, found in self._lines(printed)
        ]
        costs: list[StatementCost] = []
        held: dict[tuple[str, str], float] = {}
        since: dict[tuple[float, int, str], float] = {}
        for before, now in pairwise(moments):
            if now.number < 0:
                continue
            statement = scripts[now.path][now.number]
            locks: set[tuple[str, str]] = set()
            for oid, mode, _ in now.locks:
                if oid in self.relations:
                    lock = (self.relations[oid][0], mode.removesuffix("Lock"))
                    if (now.begun, oid, mode) not in since:
                        locks.add(lock)
                    taken = since.setdefault((now.begun, oid, mode), before.at)
                    held[lock] = max(held.get(lock, 0), now.at - taken)
            by_manual = next((mode for pattern, mode in _BY_THE_MANUAL if pattern.match(statement.shape)), "")
            if by_manual in _STOPS_WRITING and not locks:
                for table in self._named(statement):
                    held[table, by_manual] = max(held.get((table, by_manual), 0), now.at - before.at)
            rewrites = {
                self.relations[oid][0]
                for oid, _, filenode in now.locks
                if oid in self.relations and filenode not in (None, self.relations[oid][1])
            }
            costs.append(
                StatementCost(
                    path=now.path,
                    line=statement.line,
                    statement=without_literals(statement.text)[:200],
                    duration_s=round(now.at - before.at, 4),
                    locks=tuple(f"{mode} on {table}" for table, mode in sorted(locks))
                    or ((f"{by_manual} (by the manual)",) if by_manual else ()),
                    rewrites=tuple(sorted(rewrites - {name for cost in costs for name in cost.rewrites})),
                    wal_bytes=max(0, now.wal - before.wal),
                )
            )
        return costs, [Held(table, mode, round(seconds, 4)) for (table, mode), seconds in sorted(held.items())]

    def _named(self, statement: Statement) -> list[str]:
        """Return the tables that a statement names; all of them when it names none."""
        words = set(re.split(r"[^\w$]+", statement.bare))
        tables = [table for table, _ in self.relations.values()]
        return [table for table in tables if table.split(".")[-1].strip('"').upper() in words] or tables

    def _lines(self, printed: str) -> Iterable[tuple[str, str, dict[str, Any]]]:
        for match in re.finditer(rf"{self.marker} (\d+) (-?\d+) (\{{.*\}})", printed):
            yield match[1], match[2], json.loads(match[3])


def meter(database: Database) -> Meter:
    """Return a meter that knows the tables of a database as they are now."""
    with database.connect() as connection:
        rows = connection.execute(_RELATIONS).fetchall()
    return Meter({oid: (str(name), filenode) for oid, name, filenode in rows})
