"""Replaying the writes after a backup without logical replication: by the difference between the database and its copy.

A row says in `xmin` which transaction wrote it, and the backup's snapshot which transactions it holds. So the rows
written since are known; what was deleted shows in the keys that are gone. It reads all tables in each pass.
Source: PostgreSQL manual, "System Columns", "Transaction ID and Snapshot Information Functions".
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import psycopg
from psycopg import sql

from runbook.clients.replay_target import ChangeKind, ReplayTarget, RowChange
from runbook.clients.table_layout import OldNames, Table
from runbook.reports import TableWritten

_TABLES = """
SELECT n.nspname, c.relname,
       ARRAY(SELECT a.attname::text FROM pg_attribute a WHERE a.attrelid = c.oid
             AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = '' ORDER BY a.attnum),
       ARRAY(SELECT a.attname::text FROM pg_index i JOIN pg_attribute a
             ON a.attrelid = c.oid AND a.attnum = ANY (i.indkey) WHERE i.indrelid = c.oid AND i.indisprimary
             ORDER BY a.attnum)
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind = 'r' AND c.relpersistence = 'p' AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
  AND NOT EXISTS (SELECT FROM pg_depend d
                  WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')
ORDER BY 1, 2
"""
_TYPES = """
SELECT attname::text, format_type(atttypid, atttypmod) FROM pg_attribute
WHERE attrelid = to_regclass(%s) AND attnum > 0 AND NOT attisdropped
"""
# The 32 bits of xmin as the full number: counted back from the next one. Not `age(xmin)`, whose base moves meanwhile.
_WRITER = (
    "(nx + ((t.xmin::text::pg_catalog.int8 - nx) & 4294967295)::pg_catalog.bit(32)::pg_catalog.int4)"
    "::text::pg_catalog.xid8"
)
_NEXT = "(SELECT pg_catalog.pg_snapshot_xmax(pg_catalog.pg_current_snapshot())::text::pg_catalog.int8 AS nx) AS z"


@dataclass(frozen=True)
class ComparedTable:
    """A table that the live database and the copy have both, with the columns that they share, and its key.

    `live` and `live_columns` are the names in the live database, the others those in the copy.
    """

    live: Table
    table: Table
    live_columns: tuple[str, ...]
    columns: tuple[str, ...]
    key: tuple[str, ...]

    @property
    def live_key(self) -> tuple[str, ...]:
        """The key's columns in the live database."""
        names = dict(zip(self.columns, self.live_columns, strict=True))
        return tuple(names[name] for name in self.key)


class DifferenceReplay:
    """Finds the writes by comparing, through one session of the live database.

    Args:
        live: a session of the live database, in autocommit mode; ended by whoever opened it.
        snapshot: the backup's, `pg_current_snapshot()`.
        target: the restored copy.
        names: what its tables and columns are called.
        skipped: numbers of transactions to leave out, asked anew at each pass.
        left_out: tables that are no application's.
        emptied: tables of the live database that migrations have deleted rows of, too, asked anew at each pass: which
            rows the application has deleted cannot be told there, so all of them stay in the copy.
        additive: the copy may hold rows that the live database lacks: they stay, and so does a table without a key.
    """

    def __init__(
        self,
        live: psycopg.Connection,
        snapshot: str,
        target: ReplayTarget,
        names: OldNames,
        *,
        skipped: Callable[[], Collection[int]],
        left_out: Collection[Table] = (),
        emptied: Callable[[], Collection[Table]] = tuple,
        additive: bool = False,
    ) -> None:
        self._live, self._snapshot, self._target, self._additive = live, snapshot, target, additive
        self._emptied = emptied
        self._names, self._skipped, self._left_out = names, skipped, left_out

    def catch_up(self) -> int:
        """Make the copy equal in what was written until now, and return how many rows that was."""
        skipped, emptied = self._skipped(), self._emptied()
        with reading(self._live):
            row = self._live.execute("SELECT pg_current_snapshot()::text").fetchone()
            assert row is not None  # noqa: S101 - a function call without FROM returns one row
            since = str(self._target.place.get("snapshot", self._snapshot))
            with self._target.connection.transaction():
                shared = shared_tables(self._live, self._target, self._names)
                changed = sum(self._carry(one, since, skipped, emptied) for one in shared)
                self._target.move({"snapshot": row[0]})
        return changed

    def _carry(self, one: ComparedTable, since: str, skipped: Collection[int], emptied: Collection[Table]) -> int:
        if one.table in self._left_out:
            return 0
        keeps_all = self._additive or one.live in emptied
        if not one.key:
            if keeps_all or touched_by(self._live, one.live, skipped):
                return 0
            return match_rows(self._live, self._target, one)
        newer = newer_rows(one.live, since, skipped)
        wanted = sql.SQL("SELECT {} {}").format(_texts(one.live_columns), newer)
        with _loaded(self._live, self._target, wanted, one.columns):
            found = self._forget_known(one)
            gone = 0 if keeps_all else self._delete_gone(one, found)
            put_in, updated = self._put_in(one)
        for kind, rows in (
            (ChangeKind.INSERT, put_in),
            (ChangeKind.UPDATE, updated),
            (ChangeKind.DELETE, gone),
        ):
            self._target.count(one.table, kind, rows)
        return found + gone

    def _forget_known(self, one: ComparedTable) -> int:
        """Forget what was found and is in the copy already; return how many rows are left."""
        same = sql.SQL(" AND ").join(
            sql.SQL("t.{0}::text IS NOT DISTINCT FROM f.{0}").format(sql.Identifier(name)) for name in one.columns
        )
        self._execute(
            sql.SQL("DELETE FROM runbook_found f USING ONLY {} t WHERE {} AND {}").format(
                sql.Identifier(*one.table), self._same_key(one), same
            )
        )
        return _number(self._target.connection, sql.SQL("SELECT count(*) FROM runbook_found"))

    def _put_in(self, one: ComparedTable) -> tuple[int, int]:
        """Put in what was found; return how many rows are new and how many replaced one with their key.

        All old rows go before the first new one comes: rows may have exchanged the values of a unique column. What the
        live database does not have any more, they keep.
        """
        table, same = sql.Identifier(*one.table), self._same_key(one)
        self._execute(sql.SQL("CREATE TEMP TABLE runbook_old (LIKE {}) ON COMMIT DROP").format(table))
        try:
            self._execute(
                sql.SQL(
                    "WITH gone AS (DELETE FROM ONLY {} t USING runbook_found f WHERE {} RETURNING t.*)"
                    " INSERT INTO runbook_old SELECT * FROM gone"
                ).format(table, same)
            )
            kept = [name for name in sorted(self._target.columns[one.table]) if name not in one.columns]
            updated = insert_found(self._target, one, sql.SQL("JOIN runbook_old t ON {}").format(same), kept)
            if (
                _number(self._target.connection, sql.SQL("SELECT count(*) FROM runbook_old")) > updated
            ):  # the old ones of those that do not fit
                self._execute(
                    sql.SQL(
                        "INSERT INTO {0} ({1}) OVERRIDING SYSTEM VALUE SELECT {1} FROM runbook_old t"
                        " WHERE NOT EXISTS (SELECT FROM ONLY {0} f WHERE {2})"
                    ).format(table, _names([*one.columns, *kept]), _equal(one.key))
                )
            new = sql.SQL("WHERE NOT EXISTS (SELECT FROM runbook_old t WHERE {})").format(same)
            return insert_found(self._target, one, new), updated
        finally:
            if self._target.connection.info.transaction_status == psycopg.pq.TransactionStatus.INTRANS:
                self._execute(sql.SQL("DROP TABLE runbook_old"))

    def _delete_gone(self, one: ComparedTable, found: int) -> int:
        """Delete the rows whose key is gone; the keys are compared only when the numbers say that there are some."""
        table = sql.Identifier(*one.table)
        known = _number(
            self._target.connection,
            sql.SQL("SELECT count(*) FROM runbook_found f WHERE EXISTS (SELECT FROM ONLY {} t WHERE {})").format(
                table, self._same_key(one)
            ),
        )
        count = sql.SQL("SELECT count(*) FROM ONLY {}")
        there = _number(self._target.connection, count.format(table))
        if there + found - known == _number(self._live, count.format(sql.Identifier(*one.live))):
            return 0
        keys = sql.SQL("SELECT {} FROM ONLY {} t").format(_texts(one.live_key), sql.Identifier(*one.live))
        with _loaded(self._live, self._target, keys, one.key, into="runbook_keys"):
            return self._execute(
                sql.SQL("DELETE FROM ONLY {} t WHERE NOT EXISTS (SELECT FROM runbook_keys f WHERE {})").format(
                    table, self._same_key(one)
                )
            )

    def _same_key(self, one: ComparedTable) -> sql.Composed:
        types = types_of(self._target, one.table)
        return sql.SQL(" AND ").join(
            sql.SQL("t.{0} = f.{0}::{1}").format(sql.Identifier(name), types[name]) for name in one.key
        )

    def _execute(self, statement: sql.SQL | sql.Composed) -> int:
        return self._target.connection.execute(statement).rowcount


@contextmanager
def reading(live: psycopg.Connection) -> Generator[None]:
    """Look at one state of the live database for the body of a `with`."""
    live.execute("SET search_path = pg_catalog; SET statement_timeout = 0; SET row_security = off")
    live.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
    try:
        yield
    finally:
        if not live.broken:
            live.execute("ROLLBACK")


def newer_rows(table: Table, since: str, skipped: Collection[int]) -> sql.Composed:
    """Return `FROM ... WHERE ...` for the rows written after a snapshot, but not by `skipped` transactions.

    Some that were written shortly before it are among them: of a transaction with savepoints that was open then a
    snapshot does not know all numbers, but they are greater than that of the oldest open one.
    """
    left_out = sql.SQL("")
    if skipped:
        left_out = sql.SQL(" AND {} <> ALL ({}::pg_catalog.xid8[])").format(
            sql.SQL(_WRITER), sql.Literal([str(number) for number in sorted(skipped)])
        )
    return sql.SQL("FROM ONLY {} t, {} WHERE {} >= pg_catalog.pg_snapshot_xmin({}::pg_catalog.pg_snapshot){}").format(
        sql.Identifier(*table), sql.SQL(_NEXT), sql.SQL(_WRITER), sql.Literal(since), left_out
    )


def last_renamed(connection: psycopg.Connection, name: str) -> int:
    """Return the number of the transaction that gave a database its name, or changed it otherwise, last.

    It has written the database's row in the list of databases; all later transactions have greater numbers.
    """
    return _number(
        connection,
        sql.SQL("SELECT {}::text FROM pg_catalog.pg_database t, {} WHERE t.datname = {}").format(
            sql.SQL(_WRITER), sql.SQL(_NEXT), sql.Literal(name)
        ),
    )


def snapshot_after(transaction: int) -> str:
    """Return the snapshot that sees a transaction and all before it."""
    return f"{transaction + 1}:{transaction + 1}:"


def written_since(live: psycopg.Connection, transaction: int) -> dict[Table, TableWritten]:
    """Return how many rows of each table later transactions have added or changed, where there are any."""
    found: dict[Table, TableWritten] = {}
    with reading(live):
        for schema, name, _, key in live.execute(_TABLES).fetchall():
            newer = newer_rows((schema, name), snapshot_after(transaction), ())
            if rows := _number(live, sql.SQL("SELECT count(*) {}").format(newer)):
                found[schema, name] = TableWritten(table=f"{schema}.{name}", rows=rows, has_key=bool(key))
    return found


def touched_by(live: psycopg.Connection, table: Table, transactions: Collection[int]) -> int:
    """Return how many rows of a table were written last by some transactions."""
    if not transactions:
        return 0
    return _number(
        live,
        sql.SQL("SELECT count(*) FROM ONLY {} t, {} WHERE {} = ANY ({}::pg_catalog.xid8[])").format(
            sql.Identifier(*table), sql.SQL(_NEXT), sql.SQL(_WRITER), sql.Literal([str(one) for one in transactions])
        ),
    )


def shared_tables(live: psycopg.Connection, target: ReplayTarget, names: OldNames) -> list[ComparedTable]:
    """Return the tables that both have. Without a key that both have, a table is compared by whole rows."""
    shared: list[ComparedTable] = []
    for schema, name, live_columns, live_key in live.execute(_TABLES).fetchall():
        table, called = names.table((schema, name)), names.columns((schema, name))
        known = target.columns.get(table)
        if known is None:
            continue
        pairs = [(one, called.get(one, one)) for one in live_columns if called.get(one, one) in known]
        key = tuple(called.get(one, one) for one in live_key)
        shared.append(
            ComparedTable(
                live=(schema, name),
                table=table,
                live_columns=tuple(one for one, _ in pairs),
                columns=tuple(one for _, one in pairs),
                key=key if set(key) <= set(known) else (),
            )
        )
    return shared


def match_rows(live: psycopg.Connection, target: ReplayTarget, one: ComparedTable) -> int:
    """Make a table of the copy hold the rows of the live one, compared whole; return how many had to be changed."""
    table = sql.Identifier(*one.table)
    row = sql.SQL("ROW({})::text").format(_texts(one.columns))
    wanted = sql.SQL("SELECT {} FROM ONLY {} t").format(_texts(one.live_columns), sql.Identifier(*one.live))
    with _loaded(live, target, wanted, one.columns):
        gone = target.connection.execute(
            sql.SQL(
                "DELETE FROM ONLY {table} WHERE ctid IN (SELECT there.ctid FROM"
                " (SELECT t.ctid, {row} AS r, row_number() OVER (PARTITION BY {row}) AS number"
                " FROM ONLY {table} t) there"
                " LEFT JOIN (SELECT {row} AS r, count(*) AS number FROM runbook_found t GROUP BY 1) here USING (r)"
                " WHERE there.number > coalesce(here.number, 0))"
            ).format(table=table, row=row)
        ).rowcount
        target.connection.execute(
            sql.SQL(
                "DELETE FROM runbook_found WHERE ctid IN (SELECT here.ctid FROM"
                " (SELECT t.ctid, {row} AS r, row_number() OVER (PARTITION BY {row}) AS number"
                " FROM runbook_found t) here"
                " JOIN (SELECT {row} AS r, count(*) AS number FROM ONLY {table} t GROUP BY 1) there USING (r)"
                " WHERE here.number <= there.number)"
            ).format(table=table, row=row)
        )
        put_in = insert_found(target, one)
    target.count(one.table, ChangeKind.DELETE, gone)
    target.count(one.table, ChangeKind.INSERT, put_in)
    return gone + put_in


def insert_found(
    target: ReplayTarget, one: ComparedTable, which: sql.Composed | None = None, kept: Sequence[str] = ()
) -> int:
    """Insert rows that were loaded into the copy, one by one when not all of them fit; return how many did.

    Args:
        target: the copy.
        one: the table.
        which: joins `t`, or chooses among the loaded rows, `f`; all when None.
        kept: columns whose values are taken from `t`.
    """
    types = types_of(target, one.table)
    values = [sql.SQL("f.{}::{}").format(sql.Identifier(name), types[name]) for name in one.columns]
    source = sql.SQL("FROM runbook_found f {}").format(which or sql.SQL(""))
    statement = sql.SQL("INSERT INTO {} ({}) OVERRIDING SYSTEM VALUE SELECT {} {}").format(
        sql.Identifier(*one.table),
        _names([*one.columns, *kept]),
        sql.SQL(", ").join([*values, *(sql.SQL("t.{}").format(sql.Identifier(name)) for name in kept)]),
        source,
    )
    try:
        with target.connection.transaction():
            return target.connection.execute(statement).rowcount
    except psycopg.OperationalError:
        raise
    except psycopg.Error:
        texts = [sql.SQL("f.{}").format(sql.Identifier(name)) for name in one.columns]
        texts += [sql.SQL("t.{}::text").format(sql.Identifier(name)) for name in kept]
        rows = target.connection.execute(sql.SQL("SELECT {} {}").format(sql.SQL(", ").join(texts), source)).fetchall()
        names = [*one.columns, *kept]
        return target.insert(
            [RowChange(ChangeKind.INSERT, one.table, dict(zip(names, row, strict=True))) for row in rows]
        )


def types_of(target: ReplayTarget, table: Table) -> Mapping[str, sql.SQL]:
    """Return the type of each column of a table of the copy, as the server writes it."""
    rows = target.connection.execute(_TYPES, [sql.Identifier(*table).as_string()]).fetchall()
    return {name: sql.SQL(written) for name, written in rows}


@contextmanager
def _loaded(
    live: psycopg.Connection,
    target: ReplayTarget,
    wanted: sql.Composed,
    columns: Sequence[str],
    *,
    into: str = "runbook_found",
) -> Generator[None]:
    """Bring rows of the live database into a temporary table of the copy, as text."""
    table = sql.Identifier(into)
    target.connection.execute(
        sql.SQL("CREATE TEMP TABLE {} ({})").format(
            table, sql.SQL(", ").join(sql.SQL("{} text").format(sql.Identifier(name)) for name in columns)
        )
    )
    with (
        live.cursor() as source,
        target.connection.cursor() as sink,
        source.copy(sql.SQL("COPY ({}) TO STDOUT").format(wanted)) as rows,
        sink.copy(sql.SQL("COPY {} FROM STDIN").format(table)) as copy,
    ):
        for data in rows:
            copy.write(data)
    target.connection.execute(sql.SQL("ANALYZE {}").format(table))
    try:
        yield
    finally:
        if target.connection.info.transaction_status == psycopg.pq.TransactionStatus.INTRANS:
            target.connection.execute(sql.SQL("DROP TABLE {}").format(table))


def _texts(columns: Sequence[str]) -> sql.Composed:
    return sql.SQL(", ").join(sql.SQL("t.{}::text").format(sql.Identifier(name)) for name in columns)


def _names(columns: Sequence[str]) -> sql.Composed:
    return sql.SQL(", ").join(sql.Identifier(name) for name in columns)


def _equal(columns: Sequence[str]) -> sql.Composed:
    return sql.SQL(" AND ").join(sql.SQL("t.{0} = f.{0}").format(sql.Identifier(name)) for name in columns)


def _number(connection: psycopg.Connection, statement: sql.SQL | sql.Composed) -> int:
    row = connection.execute(statement).fetchone()
    assert row is not None  # noqa: S101 - an aggregate without GROUP BY returns one row
    return int(row[0])
