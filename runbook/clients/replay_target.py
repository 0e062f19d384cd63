"""Writes of the application, applied to a restored copy of its database that is still of the backup's time.

How far it has come is written in the same transaction as the rows, in a schema of the copy that is dropped at the end:
a replay that is killed goes on where it was. A row that does not fit is put aside with the reason, never left out in
silence.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property

import psycopg
from psycopg import sql

from runbook.clients.postgres import Database
from runbook.clients.table_layout import Table
from runbook.reports import TableReplay

SCHEMA = "runbook_replay"
_BATCH = 1000
_PREPARE = f"""
CREATE SCHEMA IF NOT EXISTS {SCHEMA};
CREATE TABLE IF NOT EXISTS {SCHEMA}.place (one boolean PRIMARY KEY DEFAULT true CHECK (one), place jsonb NOT NULL);
CREATE TABLE IF NOT EXISTS {SCHEMA}.counted (name text, kind text, rows bigint NOT NULL, PRIMARY KEY (name, kind));
CREATE TABLE IF NOT EXISTS {SCHEMA}.quarantine
    (number bigserial PRIMARY KEY, name text NOT NULL, kind text NOT NULL, reason text NOT NULL,
     new_row jsonb, key jsonb);
"""
_COLUMNS = """
SELECT n.nspname, c.relname, format('%I.%I', n.nspname, c.relname),
       array_agg(a.attname::text) FILTER (WHERE a.attnum > 0 AND a.attgenerated = '')
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND NOT a.attisdropped
WHERE c.relkind IN ('r', 'p') AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema' GROUP BY 1, 2, 3
"""

Row = Mapping[str, str | None]
"""Values by column, as text."""


class ChangeKind(StrEnum):
    """What happened to a row, or to a whole table."""

    INSERT = "insert"
    UPDATE = "update"
    DELETE = "delete"
    TRUNCATE = "truncate"


@dataclass(frozen=True, slots=True)
class RowChange:
    """One change. `key` finds the row as it was before; with `whole_row` it is all of it, for nothing else does.

    `key_columns` are the names of the key's columns, of whichever kind the change is.
    """

    kind: ChangeKind
    table: Table
    new: Row = field(default_factory=dict[str, str | None])
    key: Row = field(default_factory=dict[str, str | None])
    key_columns: tuple[str, ...] = ()
    whole_row: bool = False

    @property
    def finds_rows(self) -> bool:
        """Whether a key tells the rows of the table apart."""
        return bool(self.key_columns) and not self.whole_row and self.kind is not ChangeKind.TRUNCATE


@dataclass(frozen=True)
class Quarantined:
    """A change that did not fit, and why."""

    table: str
    kind: ChangeKind
    reason: str
    new: Row | None
    key: Row | None


class ReplayTarget:
    """The copy that writes are replayed to, through one session of it."""

    def __init__(self, connection: psycopg.Connection) -> None:
        self.connection = connection
        self._statements: dict[tuple[object, ...], sql.Composed] = {}

    @cached_property
    def columns(self) -> Mapping[Table, Collection[str]]:
        """The tables of the copy, and the columns of each that can be written."""
        return {table: columns for table, (_, columns) in self._tables.items()}

    def name_of(self, table: Table) -> str:
        """Return a table's name as it is in a fingerprint: quoted where it has to be."""
        return self._tables[table][0] if table in self._tables else ".".join(table)

    @property
    def place(self) -> dict[str, object]:
        """How far the replay has come, as whoever reads the writes has said; empty at the beginning."""
        row = self.connection.execute(f"SELECT place FROM {SCHEMA}.place").fetchone()  # noqa: S608
        return dict(row[0]) if row else {}

    def apply(self, changes: Iterable[RowChange]) -> None:
        """Apply changes in the transaction that the caller has begun; what does not fit is put aside."""
        batch: list[RowChange] = []
        for change in changes:
            batch.append(change)
            if len(batch) == _BATCH:
                self._apply(batch)
                batch = []
        if batch:
            self._apply(batch)

    def insert(self, changes: Sequence[RowChange]) -> int:
        """Insert rows one by one and return how many did fit; they are not counted, the others are put aside."""
        done = 0
        for change in changes:
            try:
                with self.connection.transaction():
                    done += self.connection.execute(*self._statement(change)).rowcount
            except psycopg.OperationalError:
                raise
            except psycopg.Error as error:
                self.put_aside(change, str(error.diag.message_primary or error).strip())
        return done

    def move(self, place: Mapping[str, object]) -> None:
        """Write down how far the replay has come."""
        self.connection.execute(
            f"INSERT INTO {SCHEMA}.place (place) VALUES (%s)"  # noqa: S608
            " ON CONFLICT (one) DO UPDATE SET place = excluded.place",
            [json.dumps(place)],
        )

    def count(self, table: Table, kind: ChangeKind, rows: int) -> None:
        """Add to what was done to a table."""
        if rows:
            self.connection.execute(
                f"INSERT INTO {SCHEMA}.counted AS c VALUES (%s, %s, %s)"  # noqa: S608
                " ON CONFLICT (name, kind) DO UPDATE SET rows = c.rows + excluded.rows",
                [self.name_of(table), kind, rows],
            )

    def put_aside(self, change: RowChange, reason: str) -> None:
        """Put a change into quarantine."""
        self.connection.execute(
            f"INSERT INTO {SCHEMA}.quarantine (name, kind, reason, new_row, key) VALUES (%s, %s, %s, %s, %s)",  # noqa: S608
            [
                self.name_of(change.table),
                change.kind,
                reason,
                json.dumps(dict(change.new)),
                json.dumps(dict(change.key)),
            ],
        )

    def counted(self) -> tuple[TableReplay, ...]:
        """Return what was done so far, by table."""
        rows = self.connection.execute(
            "SELECT name, coalesce(sum(rows) FILTER (WHERE kind = 'insert'), 0)::bigint,"  # noqa: S608
            " coalesce(sum(rows) FILTER (WHERE kind = 'update'), 0)::bigint,"
            " coalesce(sum(rows) FILTER (WHERE kind IN ('delete', 'truncate')), 0)::bigint,"
            " coalesce(sum(rows) FILTER (WHERE kind = 'aside'), 0)::bigint"
            f" FROM (SELECT name, kind, rows FROM {SCHEMA}.counted"
            f" UNION ALL SELECT name, 'aside', count(*) FROM {SCHEMA}.quarantine GROUP BY 1) found"
            " GROUP BY 1 ORDER BY 1"
        ).fetchall()
        return tuple(
            TableReplay(table=name, inserted=new, updated=changed, deleted=gone, quarantined=aside)
            for name, new, changed, gone, aside in rows
        )

    def quarantined(self) -> list[Quarantined]:
        """Return what did not fit, in order."""
        rows = self.connection.execute(
            f"SELECT name, kind, reason, new_row, key FROM {SCHEMA}.quarantine ORDER BY number"  # noqa: S608
        ).fetchall()
        return [Quarantined(name, ChangeKind(kind), reason, new, key) for name, kind, reason, new, key in rows]

    def finish(self) -> None:
        """Drop what the replay has kept in the copy."""
        self.connection.execute(f"DROP SCHEMA IF EXISTS {SCHEMA} CASCADE")

    @cached_property
    def _tables(self) -> dict[Table, tuple[str, Collection[str]]]:
        rows = self.connection.execute(_COLUMNS).fetchall()
        return {(str(schema), str(table)): (str(name), frozenset(names or ())) for schema, table, name, names in rows}

    def _apply(self, batch: Sequence[RowChange]) -> None:
        try:
            with self.connection.transaction():
                self._apply_together(batch)
        except psycopg.OperationalError:
            raise
        except psycopg.Error:
            if len(batch) > 1:  # halves, until the one that does not fit is found
                middle = len(batch) // 2
                self._apply(batch[:middle])
                self._apply(batch[middle:])
            else:
                self._apply_one(batch[0])

    def _apply_one(self, change: RowChange) -> None:
        try:
            with self.connection.transaction():
                self._apply_together([change])
        except psycopg.OperationalError:
            raise
        except psycopg.Error as error:
            self.put_aside(change, str(error.diag.message_primary or error).strip())

    def _apply_together(self, batch: Sequence[RowChange]) -> None:
        sent: list[tuple[RowChange, psycopg.Cursor]] = []
        misfits: list[tuple[RowChange, str]] = []
        with self.connection.pipeline():
            for change in batch:
                if reason := self._misfit(change):
                    misfits.append((change, reason))
                    continue
                statement, values = self._statement(change)
                cursor = self.connection.cursor()
                cursor.execute(statement, values)
                sent.append((change, cursor))
        done: dict[tuple[Table, ChangeKind], int] = {}
        for change, cursor in sent:
            if cursor.rowcount == 0 and change.kind in (ChangeKind.UPDATE, ChangeKind.DELETE):
                misfits.append((change, "there is no such row in the restored copy"))
            else:
                done[change.table, change.kind] = done.get((change.table, change.kind), 0) + max(0, cursor.rowcount)
        for change, reason in misfits:
            self.put_aside(change, reason)
        for (table, kind), rows in done.items():
            self.count(table, kind, rows)

    def _misfit(self, change: RowChange) -> str:
        known = self.columns.get(change.table)
        if known is None:
            return "the table was made after the backup"
        if missing := sorted(change.key.keys() - known):
            return f"the key has a column that was made after the backup: {', '.join(missing)}"
        if change.kind is ChangeKind.INSERT and not change.new.keys() & known:
            return "no column of the row was there at the time of the backup"
        return ""

    def _statement(self, change: RowChange) -> tuple[sql.Composed, list[str | None]]:
        known = self.columns[change.table]
        new = {name: value for name, value in change.new.items() if name in known}
        shape = (change.kind, change.table, tuple(new), tuple(change.key), change.whole_row)
        if shape not in self._statements:
            self._statements[shape] = _statement_of(change, tuple(new))
        return self._statements[shape], [*new.values(), *change.key.values()]


@contextmanager
def replay_target(database: Database, name: str) -> Generator[ReplayTarget]:
    """Open a restored copy for a replay, which may be one that was begun before.

    Its triggers and foreign keys do not run: what they did is among the writes.

    Raises:
        RejectedError: the role may not set `session_replication_role`.
    """
    with database.connect(name) as connection:
        connection.execute(
            "SELECT set_config('session_replication_role', 'replica', false), set_config('synchronous_commit', 'off',"
            " false), set_config('statement_timeout', '0', false), set_config('search_path', 'pg_catalog', false)"
        )
        connection.execute(_PREPARE)
        yield ReplayTarget(connection)


def _statement_of(change: RowChange, columns: Sequence[str]) -> sql.Composed:
    table = sql.Identifier(*change.table)
    names = [sql.Identifier(name) for name in columns]
    if change.kind is ChangeKind.TRUNCATE:
        return sql.SQL("DELETE FROM ONLY {}").format(table)  # tells how many rows there were
    if change.kind is ChangeKind.INSERT:
        return sql.SQL("INSERT INTO {} ({}) OVERRIDING SYSTEM VALUE VALUES ({})").format(
            table, sql.SQL(", ").join(names), sql.SQL(", ").join([sql.Placeholder()] * len(names))
        )
    if change.whole_row:  # of equal rows one is meant; some types know no equality
        same = sql.SQL(" AND ").join(
            sql.SQL("{}::text IS NOT DISTINCT FROM %s").format(sql.Identifier(name)) for name in change.key
        )
        where = sql.SQL("ctid = (SELECT ctid FROM {} WHERE {} LIMIT 1)").format(table, same)
    else:
        where = sql.SQL(" AND ").join(sql.SQL("{} = %s").format(sql.Identifier(name)) for name in change.key)
    if change.kind is ChangeKind.DELETE:
        return sql.SQL("DELETE FROM {} WHERE {}").format(table, where)
    if not names:  # only what the restored schema does not have was changed
        return sql.SQL("SELECT FROM {} WHERE {}").format(table, where)
    assigned = sql.SQL(", ").join(sql.SQL("{} = %s").format(name) for name in names)
    return sql.SQL("UPDATE {} SET {} WHERE {}").format(table, assigned, where)
