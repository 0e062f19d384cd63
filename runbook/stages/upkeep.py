"""VACUUM and REINDEX of the live database, for a maintenance window; neither closes a table.

Source: PostgreSQL manual, "Routine Vacuuming", "Routine Reindexing", `REINDEX` ("Rebuilding Indexes Concurrently").
"""

from __future__ import annotations

import logging

import psycopg
from psycopg import sql

from runbook.connections import Connections
from runbook.errors import InvalidInputError, StageError

_log = logging.getLogger(__name__)
_INVALID = "SELECT indexrelid::regclass::text FROM pg_index WHERE NOT indisvalid"


def vacuum(connections: Connections, table: str = "") -> str:
    """Vacuum and analyse a table, or all of them; return in words what was done.

    Raises:
        InvalidInputError: there is no such table.
        ServiceError: the database does not answer, or refuses.
    """
    with connections.database.connect() as connection:
        name = _name(connection, table)
        connection.execute(sql.SQL("VACUUM (ANALYZE) {}").format(name) if name else sql.SQL("VACUUM (ANALYZE)"))
    return f"vacuumed and analysed {table or 'all tables'}"


def reindex(connections: Connections, table: str = "") -> str:
    """Build the indexes of a table, or all of the database, anew beside the old ones; return in words what was done.

    One that fails leaves an invalid index behind; those are dropped.

    Raises:
        InvalidInputError: there is no such table.
        StageError: it failed; the old indexes are there.
        ServiceError: the database does not answer.
    """
    with connections.database.connect() as connection:
        name = _name(connection, table)
        before = {str(row[0]) for row in connection.execute(_INVALID)}
        what = sql.SQL("TABLE {}").format(name) if name else sql.SQL("DATABASE")
        lock_timeout = f"SET lock_timeout = '{connections.settings.migrations.lock_timeout_s:g}s'"
        connection.execute(lock_timeout.encode())
        try:
            connection.execute(sql.SQL("REINDEX (CONCURRENTLY) {}").format(what))
        except psycopg.Error as error:
            left = [str(row[0]) for row in connection.execute(_INVALID) if str(row[0]) not in before]
            for index in left:
                connection.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {index}".encode())
            raise StageError(f"REINDEX failed, the old indexes are there: {str(error).strip()}") from error
    return f"reindexed {table or 'the database'}"


def _name(connection: psycopg.Connection, table: str) -> sql.Composable | None:
    if not table:
        return None
    try:
        row = connection.execute("SELECT to_regclass(%s)::text", [table]).fetchone()
    except psycopg.errors.InvalidName:
        row = None
    if row is None or row[0] is None:
        raise InvalidInputError("table", table, "a table of the database", "Name it as psql does: schema.table.")
    return sql.SQL(str(row[0]))  # pyright: ignore[reportArgumentType] - as the server quotes it
