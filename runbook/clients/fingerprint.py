"""What a database holds, as numbers that two copies of it share and two different databases do not."""

from __future__ import annotations

import hashlib
import queue
import re
import threading
from collections import deque
from collections.abc import Callable, Collection, Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import NamedTuple

import psycopg
from psycopg import sql

from runbook.clients.postgres import Database
from runbook.errors import RejectedError, StageError, TransientError
from runbook.manifest import Fingerprint, TableFingerprint
from runbook.rules.migration_names import history_name

LARGE_OBJECTS = "pg_catalog.pg_largeobject"
_OLDEST_SERVER = 140000  # has hash_record_extended
_ALONE_BYTES = 16 << 20  # less than this is read sooner than another session is opened
_STOP_S = 15

# A value's text must not depend on the session that reads it, and the application's time-outs must not end it.
_SESSION = """
SET statement_timeout = 0;
SET search_path = pg_catalog; SET extra_float_digits = 3; SET timezone = 'UTC'; SET datestyle = 'ISO, YMD';
SET intervalstyle = 'postgres'; SET bytea_output = 'hex'; SET lc_monetary = 'C'; SET xmloption = 'content';
SET quote_all_identifiers = off; SET row_security = off; SET jit = off;
SELECT set_config('lock_timeout', '30s', false) WHERE current_setting('lock_timeout') = '0';
SELECT set_config(name, '0', false) FROM pg_settings WHERE name IN
    ('transaction_timeout', 'idle_in_transaction_session_timeout', 'idle_session_timeout')
"""
# Settings of a database that would change how the constants in its schema are written.
_SCHEMA_SETTINGS = {"quote_all_identifiers": "off", "lc_monetary": "C", "bytea_output": "hex"}
# Tables that hold rows themselves and belong to no extension: leaves of partitioned tables, not their parents.
# Columns by name, because inherited ones come back in another order; virtual ones are made when they are read.
_TABLES = """
SELECT format('%%I.%%I', n.nspname, c.relname), n.nspname, c.relname, coalesce(pg_table_size(c.oid), 0),
       ARRAY(SELECT ARRAY[a.attname, CASE
                 WHEN a.atttypid = ANY ('{int2,int4,int8,bool,uuid,date,time,timestamp,timestamptz,bytea}'::regtype[])
                     THEN '{}'
                 WHEN a.atttypid IN ('text'::regtype, 'varchar'::regtype) THEN '{} COLLATE "C"'
                 WHEN EXISTS (SELECT FROM pg_cast k WHERE k.casttarget = 'text'::regtype AND k.castfunc >= 16384
                              AND k.castsource IN (a.atttypid, t.typbasetype)) THEN 'ROW({})::text COLLATE "C"'
                 ELSE '{}::text COLLATE "C"' END]
             FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
             WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated <> 'v'
             ORDER BY a.attname COLLATE "C")
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind = 'r' AND c.relpersistence <> 't' AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
  AND NOT EXISTS (SELECT 1 FROM pg_depend d
                  WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')
  AND (%(tables)s::text[] IS NULL OR format('%%I.%%I', n.nspname, c.relname) = ANY (%(tables)s))
"""
# A sum, not an exclusive or: two equal rows must not cancel each other. The hash of a row is itself a sum over its
# columns; it is hashed once more, because otherwise two rows could swap the values of one column unnoticed. (As a
# float8, all its bits that fit are hashed; as an int8, PostgreSQL would fold it to 32 first.)
_TABLE = """
SELECT count(*), coalesce(sum(hashfloat8extended(hash_record_extended(ROW({}), 0)::float8, 0)), 0)::text FROM ONLY {}
"""
# Piece by piece: a large object may be greater than a value can be. Only its owner's right to read it is needed.
_LARGE_OBJECTS = """
WITH RECURSIVE pieces (oid, number, md5, bytes) AS (
    SELECT m.oid, 0::bigint, md5(p.piece), length(p.piece)
    FROM pg_largeobject_metadata m, LATERAL (SELECT lo_get(m.oid, 0, {size}) AS piece OFFSET 0) p
  UNION ALL
    SELECT b.oid, b.number + 1, md5(p.piece), length(p.piece)
    FROM pieces b, LATERAL (SELECT lo_get(b.oid, (b.number + 1) * {size}, {size}) AS piece OFFSET 0) p
    WHERE b.bytes = {size}
)
SELECT count(*) FILTER (WHERE number = 0),
       coalesce(sum(hashtextextended(format('%s %s %s', oid, number, md5), 0)), 0)::text
FROM pieces
"""
_PIECE_BYTES = 8 << 20
_COLUMNS = "SELECT attname FROM pg_attribute WHERE attrelid = to_regclass(%s) AND attnum > 0 AND NOT attisdropped"
# What differs between two dumps of one schema: versions and dates, and a random key.
_RANDOM_LINE = re.compile(r"-- Dumped |\\(?:un)?restrict ")
# What captures the writes comes and goes with a deploy.
_OWN_LINE = re.compile(r".*\brunbook_backup_\d{8}_\d{6}|--$")
# PostgreSQL writes some expressions differently once they have been dumped and restored: `x IN ('a', 'b')` of a
# varchar casts its elements instead of the array, nested ANDs lose their parentheses, and the minus of `- 1` becomes
# part of the constant.
_REGROUPED = re.compile(r"::(?:character varying|text)(?:\[\])?|[()]")
_NEGATIVE = re.compile(r"'-(\d+(?:\.\d+)?)'::(?:integer|numeric)\b")


class Snapshot(NamedTuple):
    """A snapshot that is held open: the session that holds it, and the id by which others adopt it."""

    connection: psycopg.Connection
    snapshot_id: str


@dataclass(frozen=True)
class _Table:
    """A table, or all large objects, and the statement that reads it."""

    name: str
    size_bytes: int
    statement: sql.Composed


@contextmanager
def exported_snapshot(
    database: Database, name: str | None = None, *, adopted: str | None = None
) -> Generator[Snapshot]:
    """Hold a snapshot of a database open; yield its session and the id by which other sessions adopt it.

    It is a new one, or the one `adopted`, which another session has exported.

    Raises:
        RejectedError: the server is older than PostgreSQL 14.

    Source: PostgreSQL manual, "Snapshot Synchronization Functions".
    """
    with _reading(database, name) as connection:
        if adopted is not None:
            _adopt(connection, adopted)
        row = connection.execute("SELECT pg_export_snapshot()").fetchone()
        assert row is not None  # noqa: S101 - a function call without FROM returns one row
        yield Snapshot(connection, str(row[0]))
        connection.execute("ROLLBACK")


def fingerprint(
    database: Database,
    history_table: str,
    *,
    name: str | None = None,
    snapshot: tuple[psycopg.Connection, str] | None = None,
    tables: Collection[str] | None = None,
    workers: int = 2,
    progress: Callable[[float], None] | None = None,
) -> Fingerprint:
    """Fingerprint a database: its schema as `pg_dump` writes it, each table's rows, the migrations applied.

    Args:
        database: the server.
        history_table: table of applied migrations; a database without it has none.
        name: database on that server; the application's when None.
        snapshot: an open snapshot to look at; a new one when None.
        tables: names of the tables to read, as they are in a fingerprint; all when None.
        workers: tables read at a time, each in a session of its own.
        progress: gets the fraction of bytes that has been read, 0 to 1, in the calling thread.

    Raises:
        TransientError: the server does not answer, or ended a session.
        RejectedError: the server is older than PostgreSQL 14, or the role may not read a table.
        StageError: `pg_dump` cannot read the schema.
    """
    if snapshot is None:
        with exported_snapshot(database, name) as opened:
            return fingerprint(
                database,
                history_table,
                name=name,
                snapshot=opened,
                tables=tables,
                workers=workers,
                progress=progress,
            )
    connection, snapshot_id = snapshot
    wanted = sorted(_tables(connection, tables), key=lambda table: (-table.size_bytes, table.name))
    if sum(table.size_bytes for table in wanted) < _ALONE_BYTES:
        schema = _schema_sha256(database, name, connection, snapshot_id)
        found = dict(_counted(((table, _read(connection, table)) for table in wanted), wanted, progress))
    else:
        with _read_beside(database, name, snapshot_id, wanted, workers) as read:
            schema = _schema_sha256(database, name, connection, snapshot_id)
            found = dict(_counted(read, wanted, progress))
    migrations = tuple(applied_migrations(connection, history_table))
    return Fingerprint(schema_sha256=schema, tables=dict(sorted(found.items())), migrations=migrations)


def applied_migrations(connection: psycopg.Connection, history_table: str) -> list[str]:
    """Return the names of the migrations recorded as applied, sorted.

    Empty when there is no history yet, or when the table of that name is another tool's.
    """
    table = f'public."{history_table}"'
    columns = {str(row[0]) for row in connection.execute(_COLUMNS, [table]).fetchall()}
    if "migration_name" not in columns:
        return []
    rows = connection.execute(
        sql.SQL("SELECT migration_name FROM {} {} ORDER BY 1").format(
            sql.Identifier("public", history_table),
            sql.SQL("WHERE status = 'completed'" if "status" in columns else ""),
        )
    ).fetchall()
    return sorted({history_name(str(row[0])) for row in rows})


@contextmanager
def _reading(database: Database, name: str | None) -> Generator[psycopg.Connection]:
    with database.connect(name) as connection:
        if connection.info.server_version < _OLDEST_SERVER:
            raise RejectedError(
                f"the server at {database.place} is PostgreSQL {connection.info.server_version // 10000}; "
                "backups are compared from PostgreSQL 14 on. Upgrade the server."
            )
        connection.execute(_SESSION)
        connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        yield connection


def _tables(connection: psycopg.Connection, only: Collection[str] | None) -> Iterator[_Table]:
    wanted = None if only is None else list(only)
    for name, schema, table, size, columns in connection.execute(_TABLES, {"tables": wanted}).fetchall():
        values = [sql.SQL(how).format(sql.Identifier(column)) for column, how in columns]
        statement = sql.SQL(_TABLE).format(sql.SQL(", ").join(values), sql.Identifier(schema, table))
        yield _Table(name, size, statement)
    row = connection.execute(
        "SELECT pg_table_size(%s) WHERE EXISTS (SELECT FROM pg_largeobject_metadata)", [LARGE_OBJECTS]
    ).fetchone()
    if row is not None and (only is None or LARGE_OBJECTS in only):
        yield _Table(LARGE_OBJECTS, row[0], sql.SQL(_LARGE_OBJECTS).format(size=sql.Literal(_PIECE_BYTES)))


def _read(connection: psycopg.Connection, table: _Table) -> TableFingerprint:
    row = connection.execute(table.statement).fetchone()
    assert row is not None  # noqa: S101 - an aggregate without GROUP BY returns one row
    return TableFingerprint(rows=row[0], checksum=row[1])


def _counted(
    read: Iterator[tuple[_Table, TableFingerprint]],
    wanted: Sequence[_Table],
    progress: Callable[[float], None] | None,
) -> Iterator[tuple[str, TableFingerprint]]:
    """Pass on what was read, and say how far it has come; an empty table counts a little, too."""
    total = sum(table.size_bytes + 1 for table in wanted)
    done = 0
    for table, found in read:
        yield table.name, found
        done += table.size_bytes + 1
        if progress is not None:
            progress(done / total)


class _Readers:
    """Sessions that adopt one snapshot and read tables, the biggest first, until all are read or one fails."""

    def __init__(self, database: Database, name: str | None, snapshot_id: str, wanted: Sequence[_Table]) -> None:
        self._database, self._name, self._snapshot_id = database, name, snapshot_id
        self._waiting, self._expected = deque(wanted), len(wanted)
        self._read: queue.Queue[tuple[_Table, TableFingerprint] | BaseException] = queue.Queue()
        self._sessions: set[psycopg.Connection] = set()
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()

    def start(self, workers: int) -> None:
        for _ in range(min(workers, self._expected)):
            thread = threading.Thread(target=self._work, daemon=True)
            self._threads.append(thread)
            thread.start()

    def read(self) -> Iterator[tuple[_Table, TableFingerprint]]:
        for _ in range(self._expected):
            got = self._read.get()
            if isinstance(got, BaseException):
                raise got
            yield got

    def cancel(self) -> None:
        """End what is still being read."""
        with self._lock:
            self._waiting.clear()
            sessions = list(self._sessions)
        for session in sessions:
            with suppress(psycopg.Error):
                session.cancel_safe(timeout=_STOP_S)

    def join(self) -> None:
        """Wait for the sessions to end; one that has not heard of it is left to its own time-outs."""
        for thread in self._threads:
            thread.join(_STOP_S)

    def _work(self) -> None:
        try:
            with _reading(self._database, self._name) as connection:
                _adopt(connection, self._snapshot_id)
                self._read_tables(connection)
        except BaseException as error:  # noqa: BLE001 - raised again in the calling thread
            self._read.put(error)

    def _read_tables(self, connection: psycopg.Connection) -> None:
        with self._lock:
            self._sessions.add(connection)
        try:
            while self._waiting:
                with suppress(IndexError):  # another one took the last
                    table = self._waiting.popleft()
                    self._read.put((table, _read(connection, table)))
        finally:
            with self._lock:
                self._sessions.discard(connection)


@contextmanager
def _read_beside(
    database: Database, name: str | None, snapshot_id: str, wanted: Sequence[_Table], workers: int
) -> Generator[Iterator[tuple[_Table, TableFingerprint]]]:
    """Read tables in several sessions beside the body of a `with`; yield what they find."""
    readers = _Readers(database, name, snapshot_id, wanted)
    try:
        readers.start(workers)
        yield readers.read()
    except BaseException:
        readers.cancel()
        raise
    finally:
        readers.join()


def _adopt(connection: psycopg.Connection, snapshot_id: str) -> None:
    try:
        connection.execute(sql.SQL("SET TRANSACTION SNAPSHOT {}").format(sql.Literal(snapshot_id)))
    except (
        psycopg.errors.UndefinedObject,
        psycopg.errors.InvalidParameterValue,
        psycopg.errors.ObjectNotInPrerequisiteState,
    ) as error:
        raise TransientError(f"the session that held the snapshot has ended: {str(error).strip()}") from error


def _schema_sha256(database: Database, name: str | None, holder: psycopg.Connection, snapshot_id: str) -> str:
    argv = database.programs().argv("pg_dump", "--schema-only", f"--snapshot={snapshot_id}", "--lock-wait-timeout=10s")
    try:
        text = database.run(argv, what="schema fingerprint", database=name, settings=_SCHEMA_SETTINGS).stdout
    except StageError:
        holder.execute("SELECT 1")  # when the session that holds the snapshot has ended, that is the error to be seen
        raise
    lines = [
        _normal(line)
        for line in text.split("\n")
        if line.strip() and not _RANDOM_LINE.match(line) and not _OWN_LINE.match(line)
    ]
    return hashlib.sha256("\n".join(lines).encode(errors="surrogateescape")).hexdigest()


def _normal(line: str) -> str:
    return _NEGATIVE.sub(r"- \1", _REGROUPED.sub("", line))
