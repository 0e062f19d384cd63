"""Looks at a database: read-only, within seconds, and with what a role may see.

What cannot be seen does not stop the rest: it is in `DatabaseState.missing`, with the reason.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, LiteralString, TypeVar

import psycopg
from psycopg import sql

from runbook.clients import diagnostic_queries as queries
from runbook.clients.postgres import MAINTENANCE_DATABASE, Database
from runbook.clients.server_disk import server_disk
from runbook.errors import ServiceError
from runbook.rules.database_state import (
    DatabaseState,
    Disk,
    Group,
    Index,
    LockCount,
    Missing,
    MissingIndex,
    Pool,
    PreparedTransaction,
    Replica,
    Replication,
    Server,
    Session,
    Sessions,
    Slot,
    Statement,
    Statements,
    Storage,
    Table,
    Totals,
    Wait,
    bloat_bytes,
)
from runbook.rules.sql import without_literals

__all__ = ["Part", "StatementOrder", "read_state"]

_STATEMENT_S = 3.0
_TOGETHER_S = 10.0
_LOCK_TIMEOUT = "500ms"
_SHOWN_SESSIONS = 20
_SHOWN_WAITS = 100
_SHOWN = 20
_UNUSED_PAGES = 128  # 1 MiB; a smaller index costs next to nothing
_MANY_ROWS = 10_000
_HIDDEN = "<insufficient privilege>"
_GRANT = "GRANT pg_monitor TO this role."
_T = TypeVar("_T")
_Rows = list[tuple[Any, ...]]


class Part(StrEnum):
    """What is looked at beside the server itself."""

    SESSIONS = "sessions"
    REPLICATION = "replication"
    TOTALS = "totals"
    STORAGE = "storage"
    STATEMENTS = "statements"


class StatementOrder(StrEnum):
    """Which queries come first: those that take most time in all, most time each, or are asked most often."""

    TOTAL = "total"
    MEAN = "mean"
    CALLS = "calls"


def read_state(
    database: Database,
    parts: Sequence[Part] = tuple(Part),
    *,
    order: StatementOrder = StatementOrder.TOTAL,
    limit: int = _SHOWN,
) -> DatabaseState:
    """Look at the database now.

    Every question is a read-only transaction of its own with a statement_timeout of 3 s and a lock_timeout of 0.5 s;
    all of them together take 10 s at most. A role needs `pg_monitor` to see what others do, and to read tables for
    estimates of bloat.

    Args:
        database: the application's.
        parts: what to look at.
        order: which queries come first.
        limit: how many of the largest, oldest or slowest are returned.

    Raises:
        TransientError: the server does not answer, or ended the session.
    """
    began, at = time.monotonic(), datetime.now(UTC)
    with database.connect() as connection:
        look = _Look(connection, began + _TOGETHER_S, limit)
        server = look.server()
        if not server.sees_others:
            look.missing.append(Missing("what other roles do", f"{server.role} is no member of pg_monitor", _GRANT))
        sessions = look.sessions(server) if Part.SESSIONS in parts else None
        replication = look.replication(server) if Part.REPLICATION in parts else None
        totals = look.totals() if Part.TOTALS in parts else None
        storage = look.storage(database) if Part.STORAGE in parts else None
    statements = None
    if Part.STATEMENTS in parts:
        statements = _statements(database, look, order)
    return DatabaseState(
        database=database.name,
        at=at,
        server=server,
        sessions=sessions,
        replication=replication,
        totals=totals,
        storage=storage,
        statements=statements,
        missing=tuple(look.missing),
        took_s=round(time.monotonic() - began, 3),
    )


class _Look:
    """Asks one question after the other until the time is up; what gets no answer is in `missing`."""

    def __init__(self, connection: psycopg.Connection, deadline: float, limit: int) -> None:
        self.missing: list[Missing] = []
        self.limit = limit
        self._deadline = deadline
        self.use(connection)

    def use(self, connection: psycopg.Connection) -> None:
        """Ask over another connection from now on."""
        self._connection = connection
        # By SET and not at the start of the session: some providers drop what a connection string sets.
        connection.execute(queries.SETTINGS, [f"{_STATEMENT_S:g}s", _LOCK_TIMEOUT])

    def rows(self, what: str, query: LiteralString | sql.Composed, parameters: Sequence[object] = ()) -> _Rows | None:
        """Return the rows of a query; None when it gets no answer."""
        left_s = self._deadline - time.monotonic()
        if left_s <= 0:
            self.missing.append(Missing(what, f"not asked: the questions before took {_TOGETHER_S:g} s", "Look again."))
            return None
        try:
            if left_s < _STATEMENT_S:
                self._connection.execute(queries.TIMEOUT, [f"{max(1, round(left_s * 1000))}ms"])
            return self._connection.execute(query, parameters).fetchall()
        except psycopg.Error as error:
            if self._connection.closed:
                raise
            self.missing.append(Missing(what, _reason(error), _GRANT if _is_right_missing(error) else ""))
            return None

    def all(
        self, what: str, query: LiteralString, parameters: Sequence[object], make: Callable[..., _T]
    ) -> tuple[_T, ...]:
        """Return what `make` makes of each row; nothing when there is no answer."""
        return tuple(make(*row) for row in self.rows(what, query, parameters) or ())

    def one(self, what: str, query: LiteralString) -> Any:  # noqa: ANN401 - a value of the query's type
        """Return the value in the only column of the only row; None when there is no row or no answer."""
        rows = self.rows(what, query)
        return rows[0][0] if rows else None

    def server(self) -> Server:
        """Look at the server, without which nothing else makes sense."""
        row = self._connection.execute(queries.SERVER).fetchone()
        assert row is not None  # noqa: S101 - a SELECT without FROM has one row
        return Server(*row)

    def sessions(self, server: Server) -> Sessions | None:
        """Look at who is connected and who waits for whom."""
        groups = self.rows("connections", queries.GROUPS)
        if groups is None:
            return None
        counted = tuple(Group(*row) for row in groups)
        waits = self.rows("waits for locks", queries.WAITS, [_SHOWN_WAITS]) or []
        oldest = [_SHOWN_SESSIONS, _SHOWN_SESSIONS]
        seen = {one.pid: one for one in self.all("sessions", queries.OLDEST, oldest, _session)}
        waiting = tuple(Wait(pid, lock, waits_s, tuple(set(ahead))) for pid, lock, waits_s, ahead, _ in waits)
        named = {pid for wait in waiting for pid in (wait.pid, *wait.blocked_by)} - seen.keys()
        if named:
            seen |= {one.pid: one for one in self.all("blocking sessions", queries.THESE, [list(named)], _session)}
        return Sessions(
            groups=counted,
            pools=_pools(server, counted, self.rows("limits of connections", queries.LIMITS) or []),
            sessions=tuple(seen.values()),
            waits=waiting,
            waiting=waits[0][4] if waits else 0,
            locks=self.all("locks", queries.LOCKS, (), LockCount),
            prepared=self.all("prepared transactions", queries.PREPARED, [_SHOWN], PreparedTransaction),
        )

    def replication(self, server: Server) -> Replication:
        """Look at replicas and slots."""
        lag = self.one("lag of this standby", queries.STANDBY_LAG) if server.is_standby else None
        return Replication(
            replicas=self.all("replicas", queries.REPLICAS, [_SHOWN], Replica),
            slots=self.all("replication slots", queries.SLOTS, [_SHOWN], Slot),
            standby_lag_s=lag,
        )

    def totals(self) -> Totals | None:
        """Look at the counters of the database."""
        rows = self.rows("counters of the database", queries.TOTALS)
        return Totals(*rows[0]) if rows else None

    def storage(self, database: Database) -> Storage:
        """Look at what takes room, and at indexes that are of no use or that are wanted."""
        tables = self.all("largest tables", queries.LARGEST, [self.limit], _table)
        unseen = [table.name for table in tables if table.bloat_bytes is None and table.analyzed_at is not None]
        if unseen:
            why = f"this role may not read {len(unseen)} of the {len(tables)} largest tables, {unseen[0]} for example"
            self.missing.append(Missing("bloat of tables", why, "GRANT pg_read_all_data TO this role."))
        size, never = self.one("size of the database", queries.SIZE), self.one("tables", queries.NEVER_ANALYZED)
        scanned = self.all("scans of tables", queries.SCANNED_TABLES, [_MANY_ROWS, self.limit], _scanned)
        keys = self.all("foreign keys", queries.UNINDEXED_KEYS, [_MANY_ROWS, self.limit], _key)
        return Storage(
            size_bytes=size,
            wal_bytes=self.one("size of the WAL", queries.WAL_SIZE),
            tables=tables,
            never_analyzed=never or 0,
            indexes=self.all("use of indexes", queries.USELESS_INDEXES, [_UNUSED_PAGES, self.limit], Index),
            missing_indexes=(*scanned, *keys),
            disk=self._disk(database),
        )

    def _disk(self, database: Database) -> Disk | None:
        found = server_disk(database.url, self.one("data directory", queries.DATA_DIRECTORY))
        if isinstance(found, str):
            self.missing.append(Missing("disk of the server", found, "Look in the provider's console."))
            return None
        return found


def _statements(database: Database, look: _Look, order: StatementOrder) -> Statements | None:
    """Look at the queries that the server has counted, in the database or else in the server's own."""
    why = "the extension pg_stat_statements is not installed"
    for name in dict.fromkeys((database.name, MAINTENANCE_DATABASE)):
        try:
            with database.connect(name) as connection:
                look.use(connection)
                schema = look.one("pg_stat_statements", queries.STATEMENTS_SCHEMA)
                if schema is not None:
                    return _counted(database.name, look, str(schema), order)
        except ServiceError as error:
            why = str(error)
    action = "Add it to shared_preload_libraries, and CREATE EXTENSION pg_stat_statements in either database."
    look.missing.append(Missing("queries by time", why, action))
    return None


def _counted(name: str, look: _Look, schema: str, order: StatementOrder) -> Statements | None:
    parts = {"schema": sql.Identifier(schema), "order": sql.SQL(queries.STATEMENTS_ORDER[order])}
    total = look.rows("queries in all", sql.SQL(queries.STATEMENTS_TOTAL).format(**parts), [name])
    top = look.rows("queries by time", sql.SQL(queries.STATEMENTS).format(**parts), [name, look.limit])
    if not total or top is None:
        return None
    calls, total_s, since = total[0]
    return Statements(tuple(_statement(row, total_s) for row in top), calls, total_s, since)


def _statement(row: tuple[Any, ...], all_s: float) -> Statement:
    text, calls, total_s, maximum_s, rows, hit, read = row
    return Statement(
        query=_shown(text),
        calls=calls,
        total_s=total_s,
        mean_s=total_s / calls if calls else 0.0,
        maximum_s=maximum_s,
        rows=rows,
        cache_hit_pct=100.0 * hit / (hit + read) if hit + read else None,
        share_pct=100.0 * total_s / all_s if all_s else 0.0,
    )


def _pools(server: Server, groups: Sequence[Group], limits: _Rows) -> tuple[Pool, ...]:
    """Return the connections in use of those that the server, its databases and its roles are allowed."""
    used = {
        "database": {group.database: 0 for group in groups},
        "role": {group.user: 0 for group in groups},
    }
    for group in groups:
        used["database"][group.database] += group.connections
        used["role"][group.user] += group.connections
    whole = Pool("server", sum(group.connections for group in groups), server.usable)
    return (whole, *(Pool(f"{kind} {name}", used[kind].get(name, 0), limit) for kind, name, limit in limits))


def _session(*row: Any) -> Session:  # noqa: ANN401 - the columns of `_SESSION`
    return Session(*row[:-1], query=_shown(row[-1]))


def _table(*row: Any) -> Table:  # noqa: ANN401 - the columns of `LARGEST`
    name, pages, page_bytes, all_pages, rows, row_bytes, columns, fillfactor, live, dead, *rest = row
    empty = bloat_bytes(
        pages=pages, page_bytes=page_bytes, rows=rows, row_bytes=row_bytes, columns=columns, fillfactor=fillfactor
    )
    return Table(name, int(all_pages) * page_bytes, pages * page_bytes, empty, live, dead, *rest)


def _scanned(table: str, scans: int, rows: int, index_scans: int) -> MissingIndex:
    return MissingIndex(table, f"read from end to end {scans} times, {rows} rows each; {index_scans} times by an index")


def _key(table: str, constraint: str, referenced: str) -> MissingIndex:
    why = f"foreign key {constraint} has no index: deleting or renumbering a row of {referenced} reads all of {table}"
    return MissingIndex(table, why)


def _shown(query: str | None) -> str:
    return query if query == _HIDDEN else without_literals(query or "")


def _is_right_missing(error: psycopg.Error) -> bool:
    return isinstance(error, psycopg.errors.InsufficientPrivilege)


def _reason(error: psycopg.Error) -> str:
    if isinstance(error, psycopg.errors.QueryCanceled):
        return f"no answer within {_STATEMENT_S:g} s"
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
