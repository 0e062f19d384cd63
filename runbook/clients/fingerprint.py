"""What a database holds, as numbers that two copies of it share and two different databases do not."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Generator
from contextlib import contextmanager

import psycopg
from psycopg import sql

from runbook.clients.postgres import Database
from runbook.manifest import Fingerprint, TableFingerprint

# A row's text must not depend on the session that reads it, and the application's time-outs must not end it.
_SESSION = """
SET search_path = pg_catalog; SET extra_float_digits = 3; SET timezone = 'UTC'; SET datestyle = 'ISO, YMD';
SET intervalstyle = 'postgres'; SET bytea_output = 'hex'; SET row_security = off;
SELECT set_config('lock_timeout', '30s', false) WHERE current_setting('lock_timeout') = '0';
SELECT set_config(name, '0', false) FROM pg_settings WHERE name IN
    ('statement_timeout', 'transaction_timeout', 'idle_in_transaction_session_timeout', 'idle_session_timeout')
"""
# Tables that hold rows themselves and belong to no extension: leaves of partitioned tables, not their parents.
_TABLES = """
SELECT n.nspname, c.relname
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind = 'r' AND c.relpersistence <> 't' AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
  AND NOT EXISTS (SELECT 1 FROM pg_depend d
                  WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')
ORDER BY 1, 2
"""
# A sum, not an exclusive or: two equal rows must not cancel each other. `t.*`, because a column may be called `t`.
_TABLE = "SELECT count(*), coalesce(sum(hashtextextended((t.*)::text, 0)), 0)::text FROM ONLY {} t"
# What differs between two dumps of one schema: versions and dates, and a random key.
_RANDOM_LINE = re.compile(r"-- Dumped |\\(?:un)?restrict ")
# PostgreSQL writes some expressions differently once they have been dumped and restored: `x IN ('a', 'b')` of a
# varchar casts its elements instead of the array, and nested ANDs lose their parentheses.
_REGROUPED = re.compile(r"::(?:character varying|text)(?:\[\])?|[()]")


@contextmanager
def exported_snapshot(database: Database, name: str | None = None) -> Generator[tuple[psycopg.Connection, str]]:
    """Hold a snapshot of a database open; yield its connection and the id that other sessions can adopt.

    Source: PostgreSQL manual, "Snapshot Synchronization Functions".
    """
    with database.connect(name) as connection:
        connection.execute(_SESSION)
        connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        row = connection.execute("SELECT pg_export_snapshot()").fetchone()
        assert row is not None  # noqa: S101 - a function call without FROM returns one row
        yield connection, str(row[0])
        connection.execute("ROLLBACK")


def fingerprint(
    database: Database,
    history_table: str,
    *,
    name: str | None = None,
    snapshot: tuple[psycopg.Connection, str] | None = None,
) -> Fingerprint:
    """Fingerprint a database: its schema as `pg_dump` writes it, each table's rows, the migrations applied.

    Args:
        database: the server.
        history_table: table of applied migrations; a database without it has none.
        name: database on that server; the application's when None.
        snapshot: an open snapshot to look at; a new one when None.

    Raises:
        TransientError: the server does not answer.
        StageError: `pg_dump` cannot read the schema.
    """
    if snapshot is None:
        with exported_snapshot(database, name) as opened:
            return fingerprint(database, history_table, name=name, snapshot=opened)
    connection, snapshot_id = snapshot
    tables: dict[str, TableFingerprint] = {}
    for schema, table in connection.execute(_TABLES).fetchall():
        row = connection.execute(sql.SQL(_TABLE).format(sql.Identifier(schema, table))).fetchone()
        assert row is not None  # noqa: S101 - an aggregate without GROUP BY returns one row
        tables[f"{schema}.{table}"] = TableFingerprint(rows=row[0], checksum=row[1])
    return Fingerprint(
        schema_sha256=_schema_sha256(database, name, snapshot_id),
        tables=tables,
        migrations=tuple(applied_migrations(connection, history_table)),
    )


def applied_migrations(connection: psycopg.Connection, history_table: str) -> list[str]:
    """Return the names of the migrations recorded as applied, sorted; empty when there is no history yet."""
    exists = connection.execute("SELECT to_regclass(%s)", [f'public."{history_table}"']).fetchone()
    if exists is None or exists[0] is None:
        return []
    rows = connection.execute(
        sql.SQL("SELECT migration_name FROM {} WHERE status = 'completed' ORDER BY 1").format(
            sql.Identifier("public", history_table)
        )
    ).fetchall()
    return [str(row[0]) for row in rows]


def _schema_sha256(database: Database, name: str | None, snapshot_id: str) -> str:
    argv = database.programs().argv("pg_dump", "--schema-only", f"--snapshot={snapshot_id}", "--lock-wait-timeout=10s")
    text = database.run(argv, what="schema fingerprint", database=name).stdout
    lines = [_REGROUPED.sub("", line) for line in text.split("\n") if line.strip() and not _RANDOM_LINE.match(line)]
    return hashlib.sha256("\n".join(lines).encode(errors="surrogateescape")).hexdigest()
