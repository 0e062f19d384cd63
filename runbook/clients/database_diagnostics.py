"""Looks at a database: read-only, within seconds, and with what a role may see.

What cannot be seen does not stop the rest: it is in `DatabaseState.missing`, with the reason.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import UTC, datetime
from decimal import Decimal
from enum import StrEnum
from typing import Any

from runbook.clients import diagnostic_queries as queries
from runbook.clients.postgres import Database
from runbook.clients.read_only_session import GRANT_MONITOR, ReadOnlySession, Rows
from runbook.clients.server_disk import server_disk
from runbook.clients.statement_statistics import StatementOrder, read_statements, shown
from runbook.errors import RejectedError
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
    Storage,
    Table,
    Totals,
    Wait,
    bloat_bytes,
)

__all__ = ["Part", "StatementOrder", "count_sessions", "read_state"]

_SHOWN_SESSIONS = 20
_SHOWN_WAITS = 100
_SHOWN = 20
_UNUSED_PAGES = 128  # 1 MiB; a smaller index costs next to nothing
_MANY_ROWS = 10_000


class Part(StrEnum):
    """What is looked at beside the server itself."""

    SESSIONS = "sessions"
    REPLICATION = "replication"
    TOTALS = "totals"
    STORAGE = "storage"
    STATEMENTS = "statements"


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
        session = ReadOnlySession(connection)
        server = Server(*session.needed(queries.SERVER))
        if not server.sees_others:
            why = f"{server.role} is no member of pg_monitor"
            session.missing.append(Missing("what other roles do", why, GRANT_MONITOR))
        sessions = _sessions(session, server) if Part.SESSIONS in parts else None
        replication = _replication(session, server) if Part.REPLICATION in parts else None
        totals = _totals(session) if Part.TOTALS in parts else None
        storage = _storage(session, database, limit) if Part.STORAGE in parts else None
    statements = read_statements(database, session, order, limit) if Part.STATEMENTS in parts else None
    return DatabaseState(
        database=database.name,
        at=at,
        server=server,
        sessions=sessions,
        replication=replication,
        totals=totals,
        storage=storage,
        statements=statements,
        missing=tuple(session.missing),
        took_s=round(time.monotonic() - began, 3),
    )


def count_sessions(database: Database, query: str) -> float:
    """Return the one number of a query of the settings, how many sessions of users are active; it cannot write.

    Raises:
        ServiceError: the server does not answer, the query fails, or has no single number.
    """
    with database.connect() as connection:
        row = ReadOnlySession(connection).needed(query.encode())
    if len(row) != 1 or not isinstance(row[0], (int, float, Decimal)):
        raise RejectedError("monitoring.active_sessions_query has no single number")
    return float(row[0])


def _sessions(session: ReadOnlySession, server: Server) -> Sessions | None:
    """Look at who is connected and who waits for whom."""
    groups = session.rows("connections", queries.GROUPS)
    if groups is None:
        return None
    counted = tuple(Group(*row) for row in groups)
    waits = session.rows("waits for locks", queries.WAITS, [_SHOWN_WAITS]) or []
    oldest = [_SHOWN_SESSIONS, _SHOWN_SESSIONS]
    seen = {one.pid: one for one in session.all("sessions", queries.OLDEST, oldest, _session)}
    waiting = tuple(Wait(pid, lock, waits_s, tuple(set(ahead))) for pid, lock, waits_s, ahead, _ in waits)
    named = {pid for wait in waiting for pid in (wait.pid, *wait.blocked_by)} - seen.keys()
    if named:
        seen |= {one.pid: one for one in session.all("blocking sessions", queries.THESE, [list(named)], _session)}
    return Sessions(
        groups=counted,
        pools=_pools(server, counted, session.rows("limits of connections", queries.LIMITS) or []),
        sessions=tuple(seen.values()),
        waits=waiting,
        waiting=waits[0][4] if waits else 0,
        locks=session.all("locks", queries.LOCKS, (), LockCount),
        prepared=session.all("prepared transactions", queries.PREPARED, [_SHOWN], PreparedTransaction),
    )


def _replication(session: ReadOnlySession, server: Server) -> Replication:
    """Look at replicas and slots."""
    lag = session.one("lag of this standby", queries.STANDBY_LAG) if server.is_standby else None
    return Replication(
        replicas=session.all("replicas", queries.REPLICAS, [_SHOWN], Replica),
        slots=session.all("replication slots", queries.SLOTS, [_SHOWN], Slot),
        standby_lag_s=lag,
    )


def _totals(session: ReadOnlySession) -> Totals | None:
    """Look at the counters of the database."""
    rows = session.rows("counters of the database", queries.TOTALS)
    return Totals(*rows[0]) if rows else None


def _storage(session: ReadOnlySession, database: Database, limit: int) -> Storage:
    """Look at what takes room, and at indexes that are of no use or that are wanted."""
    tables = session.all("largest tables", queries.LARGEST, [limit], _table)
    unseen = [table.name for table in tables if table.bloat_bytes is None and table.analyzed_at is not None]
    if unseen:
        why = f"this role may not read {len(unseen)} of the {len(tables)} largest tables, {unseen[0]} for example"
        session.missing.append(Missing("bloat of tables", why, "GRANT pg_read_all_data TO this role."))
    size, never = session.one("size of the database", queries.SIZE), session.one("tables", queries.NEVER_ANALYZED)
    scanned = session.all("scans of tables", queries.SCANNED_TABLES, [_MANY_ROWS, limit], _scanned)
    keys = session.all("foreign keys", queries.UNINDEXED_KEYS, [_MANY_ROWS, limit], _key)
    return Storage(
        size_bytes=size,
        wal_bytes=session.one("size of the WAL", queries.WAL_SIZE),
        tables=tables,
        never_analyzed=never or 0,
        indexes=session.all("use of indexes", queries.USELESS_INDEXES, [_UNUSED_PAGES, limit], Index),
        missing_indexes=(*scanned, *keys),
        disk=_disk(session, database),
    )


def _disk(session: ReadOnlySession, database: Database) -> Disk | None:
    found = server_disk(database.url, session.one("data directory", queries.DATA_DIRECTORY))
    if isinstance(found, str):
        session.missing.append(Missing("disk of the server", found, "Look in the provider's console."))
        return None
    return found


def _pools(server: Server, groups: Sequence[Group], limits: Rows) -> tuple[Pool, ...]:
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
    return Session(*row[:-1], query=shown(row[-1]))


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
