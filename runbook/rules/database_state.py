"""What can be seen of a database at one moment: sessions, waits, replication, storage, statements.

Texts of queries are without their values, so that no row and no secret is in them. Ages and times are seconds, sizes
bytes; those of tables and indexes are estimates, as of the last VACUUM or ANALYZE.

Source: PostgreSQL manual, "The Cumulative Statistics System", "pg_locks" and "pg_stat_statements".
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

_PAGE_HEADER, _ROW_POINTER, _ROW_HEADER, _ALIGNED_TO = 24, 4, 23, 8
PREPARED = 0
"""Number of the session by which PostgreSQL names a prepared transaction as a blocker."""


@dataclass(frozen=True)
class Missing:
    """Something that could not be seen, why, and what to do about it."""

    what: str
    why: str
    action: str = ""


@dataclass(frozen=True)
class Server:
    """The server and the role that asks it. `usable` is how many connections are for everybody, not for superusers."""

    version: str
    uptime_s: float
    is_standby: bool
    role: str
    sees_others: bool
    usable: int


@dataclass(frozen=True)
class Group:
    """How many client sessions have one user, database, application and state."""

    user: str
    database: str
    application: str
    state: str
    connections: int


@dataclass(frozen=True)
class Pool:
    """Connections in use of those that are allowed: of the server, of one database, of one role."""

    name: str
    used: int
    limit: int

    @property
    def used_pct(self) -> float:
        """Percent in use (0-100); 100 when none is allowed."""
        return min(100.0, 100.0 * self.used / self.limit) if self.limit > 0 else 100.0


@dataclass(frozen=True)
class Session:
    """One session. `query_s` is the age of the query that it runs, `idle_s` how long it has done nothing within one."""

    pid: int
    user: str
    application: str
    state: str
    wait: str
    transaction_s: float | None
    query_s: float | None
    idle_s: float | None
    query: str

    def render(self) -> str:
        """Return who it is, in words."""
        return f"session {self.pid} of {self.user} ({self.application or 'no application name'}, {self.state})"


@dataclass(frozen=True)
class Wait:
    """A session that waits for a lock: which one, for how long, and the sessions that are in its way."""

    pid: int
    lock: str
    waits_s: float
    blocked_by: tuple[int, ...]


@dataclass(frozen=True)
class LockCount:
    """How many locks of a mode are held, and how many are waited for."""

    mode: str
    held: int
    waiting: int


@dataclass(frozen=True)
class PreparedTransaction:
    """A transaction that was prepared for a two-phase commit and keeps its locks until somebody ends it."""

    name: str
    owner: str
    age_s: float


@dataclass(frozen=True)
class Sessions:
    """Who is connected, what they do, who waits for whom. `sessions` are the oldest and those in a `Wait`."""

    groups: tuple[Group, ...]
    pools: tuple[Pool, ...]
    sessions: tuple[Session, ...] = ()
    waits: tuple[Wait, ...] = ()
    waiting: int = 0
    locks: tuple[LockCount, ...] = ()
    prepared: tuple[PreparedTransaction, ...] = ()

    def count(self, state: str, database: str | None = None) -> int:
        """Return how many client sessions are in a state."""
        return sum(
            group.connections
            for group in self.groups
            if group.state == state and (database is None or group.database == database)
        )

    def by(self, field_name: str) -> list[tuple[str, int]]:
        """Return the number of connections by `user`, `database`, `application` or `state`, most first."""
        counts: dict[str, int] = defaultdict(int)
        for group in self.groups:
            counts[getattr(group, field_name)] += group.connections
        return sorted(counts.items(), key=lambda item: (-item[1], item[0]))

    def of(self, pid: int) -> Session | None:
        """Return a session by its number."""
        return next((one for one in self.sessions if one.pid == pid), None)

    def roots(self) -> list[tuple[int, int]]:
        """Return the sessions that block others and wait for nobody, with how many wait behind each, most first."""
        return blocking_roots({wait.pid: wait.blocked_by for wait in self.waits})


@dataclass(frozen=True)
class Replica:
    """A replica that streams; None is not known. `lag_s` is how long a commit takes until it is visible there."""

    name: str
    state: str
    lag_s: float | None
    lag_bytes: float | None


@dataclass(frozen=True)
class Slot:
    """A replication slot, and how much WAL the server keeps for it."""

    name: str
    is_active: bool
    wal_status: str
    retained_bytes: float


@dataclass(frozen=True)
class Replication:
    """Replicas and slots; `standby_lag_s` is the lag of this very server when it is a standby."""

    replicas: tuple[Replica, ...]
    slots: tuple[Slot, ...]
    standby_lag_s: float | None = None


@dataclass(frozen=True)
class Totals:
    """Counters of the database since `since`, and how much of the transaction numbers is used up, in percent."""

    transactions: int
    rollbacks: int
    blocks_hit: int
    blocks_read: int
    deadlocks: int
    temp_bytes: int
    checksum_failures: int
    wraparound_pct: float
    since: datetime | None

    @property
    def cache_hit_pct(self) -> float | None:
        """Percent of the blocks that were read from PostgreSQL's own cache; None when none was read."""
        read = self.blocks_hit + self.blocks_read
        return 100.0 * self.blocks_hit / read if read else None


@dataclass(frozen=True)
class Table:
    """A table with what belongs to it: `size_bytes` of all, `heap_bytes` of its rows alone, `bloat_bytes` of nothing.

    None: never analysed, or the role may not see its statistics.
    """

    name: str
    size_bytes: int
    heap_bytes: int
    bloat_bytes: int | None
    live_rows: int
    dead_rows: int
    sequential_scans: int
    index_scans: int
    vacuumed_at: datetime | None
    analyzed_at: datetime | None

    @property
    def dead_pct(self) -> float:
        """Percent of the rows that are dead (0-100)."""
        rows = self.live_rows + self.dead_rows
        return 100.0 * self.dead_rows / rows if rows else 0.0

    @property
    def bloat_pct(self) -> float | None:
        """Percent of the heap that is empty (0-100)."""
        if self.bloat_bytes is None:
            return None
        return 100.0 * self.bloat_bytes / self.heap_bytes if self.heap_bytes else 0.0


@dataclass(frozen=True)
class Index:
    """An index that is of no use: nobody has read it since the statistics began, or its build has failed."""

    name: str
    table: str
    size_bytes: int
    is_valid: bool


@dataclass(frozen=True)
class MissingIndex:
    """A table that may want an index, and what says so."""

    table: str
    why: str


@dataclass(frozen=True)
class Disk:
    """The disk below a path, where its use can be told."""

    path: str
    used_pct: float
    free_bytes: int


@dataclass(frozen=True)
class Storage:
    """What takes room; None is not known. `tables` are the largest, `never_analyzed` are in none of the estimates."""

    size_bytes: int | None
    wal_bytes: int | None
    tables: tuple[Table, ...] = ()
    never_analyzed: int = 0
    indexes: tuple[Index, ...] = ()
    missing_indexes: tuple[MissingIndex, ...] = ()
    disk: Disk | None = None


@dataclass(frozen=True)
class Statement:
    """A query as the server has counted it, without its values. `share_pct` is of the time of all."""

    query: str
    calls: int
    total_s: float
    mean_s: float
    maximum_s: float
    rows: int
    cache_hit_pct: float | None
    share_pct: float


@dataclass(frozen=True)
class Statements:
    """The queries that take most, out of all that were counted since `since`: `calls`, and `total_s` seconds."""

    top: tuple[Statement, ...]
    calls: int
    total_s: float
    since: datetime | None


@dataclass(frozen=True)
class DatabaseState:
    """All that was asked for. A part that is None was not asked for, or is in `missing` with the reason."""

    database: str
    at: datetime
    server: Server
    sessions: Sessions | None = None
    replication: Replication | None = None
    totals: Totals | None = None
    storage: Storage | None = None
    statements: Statements | None = None
    missing: tuple[Missing, ...] = ()
    took_s: float = 0.0


def blocking_roots(blocked_by: Mapping[int, Sequence[int]]) -> list[tuple[int, int]]:
    """Return the sessions that block others and wait for nobody, with how many wait behind each, most first.

    Those that wait for one another in a circle have no root; PostgreSQL ends such a deadlock itself.

    Args:
        blocked_by: of each session that waits, the sessions in its way.
    """
    behind: dict[int, set[int]] = defaultdict(set)
    for waiting in blocked_by:
        seen: set[int] = set()
        ahead = list(blocked_by[waiting])
        while ahead:
            pid = ahead.pop()
            if pid in seen or pid == waiting:
                continue
            seen.add(pid)
            ahead += blocked_by.get(pid, ())
        for pid in seen - blocked_by.keys():
            behind[pid].add(waiting)
    return sorted(((pid, len(waiting)) for pid, waiting in behind.items()), key=lambda item: (-item[1], item[0]))


def bloat_bytes(
    *, pages: int, page_bytes: int, rows: float, row_bytes: float | None, columns: int, fillfactor: int = 100
) -> int | None:
    """Estimate how much of a table's pages is empty: what it has beyond what its rows would take, packed anew.

    Dead rows that wait for VACUUM count as empty too. None when the table was never analysed (`rows` below 0), or the
    width of its rows is not known. Off by a few percent for rows of very different lengths.

    Args:
        pages: pages of the table.
        page_bytes: size of a page.
        rows: its live rows.
        row_bytes: mean width of a row's values.
        columns: number of its columns.
        fillfactor: percent of a page that is filled by inserts (10-100).
    """
    if rows == 0:
        return pages * page_bytes
    if rows < 0 or row_bytes is None:
        return None
    header = _aligned(_ROW_HEADER + (columns + 7) // 8)
    row = header + _aligned(row_bytes) + _ROW_POINTER
    per_page = max(1, int((page_bytes - _PAGE_HEADER) * fillfactor / 100 / row))
    needed = math.ceil(rows / per_page)
    return max(0, pages - needed) * page_bytes


def _aligned(size: float) -> int:
    return math.ceil(size / _ALIGNED_TO) * _ALIGNED_TO
