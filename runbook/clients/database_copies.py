"""Databases beside the live one: made empty, filled, and swapped in by rename.

Source: PostgreSQL manual, "ALTER DATABASE"; renaming is transactional, but only with no session connected.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Protocol

import psycopg
from psycopg import sql

from runbook.clients.database_facts import database_properties
from runbook.clients.postgres import MAINTENANCE_DATABASE, Database
from runbook.errors import RejectedError, ServiceError, StageError, TransientError

_LOCALE = """
SELECT pg_get_userbyid(datdba), pg_encoding_to_char(encoding), datcollate, datctype, datlocprovider,
       to_jsonb(d)->>(CASE WHEN to_jsonb(d) ? 'datlocale' THEN 'datlocale' ELSE 'daticulocale' END)
FROM pg_database d WHERE datname = %s
"""
_TERMINATE = """
SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity
WHERE datname IN (%s, %s) AND pid <> pg_backend_pid() AND pid <> ALL (%s::int[])
"""
# A session of a branch may have the same process id, so those to be spared have to have the right name, too.
_TERMINATE_ALL_BUT = """
SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity
WHERE datname = %s AND pid <> pg_backend_pid() AND NOT (pid = ANY (%s::int[]) AND application_name = %s)
"""
_RENAME_ATTEMPTS = 2
_RESTART_S = 60.0
_LOOK_EVERY_S = 0.1
_SWAPPED = "SELECT bool_or(datname = %(old)s) AND NOT bool_or(datname = %(fresh)s) FROM pg_database"


def create_beside(database: Database, name: str) -> None:
    """Create an empty database with the live one's owner, encoding and locale.

    Raises:
        RejectedError: it exists already, or the role may not create databases.
    """
    with database.connect(MAINTENANCE_DATABASE) as connection:
        row = connection.execute(_LOCALE, [database.name]).fetchone()
        if row is None:
            raise StageError(f"database {database.name} does not exist at {database.place}")
        owner, encoding, collate, ctype, provider, locale = row
        parts: list[sql.Composable] = [
            sql.SQL("CREATE DATABASE {} TEMPLATE template0 OWNER {} ENCODING {} LC_COLLATE {} LC_CTYPE {}").format(
                sql.Identifier(name),
                sql.Identifier(owner),
                sql.Literal(encoding),
                sql.Literal(collate),
                sql.Literal(ctype),
            )
        ]
        if provider == "c":
            parts.append(sql.SQL("LOCALE_PROVIDER libc"))
        elif provider == "i":
            parts.append(sql.SQL("LOCALE_PROVIDER icu ICU_LOCALE {}").format(sql.Literal(locale)))
        elif provider == "b":
            parts.append(sql.SQL("LOCALE_PROVIDER builtin BUILTIN_LOCALE {}").format(sql.Literal(locale)))
        connection.execute(sql.SQL(" ").join(parts))


def drop(database: Database, name: str) -> None:
    """Drop a database beside the live one, with the sessions in it; no error when it is gone.

    A branch that its provider still needs stays.

    Raises:
        StageError: the name is the live database's.
    """
    if name == database.name:
        raise StageError(f"{name} is the live database; it is never dropped")
    if database.restore_points is not None and database.restore_points.sizes(name):
        database.restore_points.close(name)
        return
    with database.connect(MAINTENANCE_DATABASE) as connection:
        connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))


def carry_properties(database: Database, name: str) -> None:
    """Give a copy what a dump does not hold of the live one: owner, limit, comment, grants and settings.

    A branch has all of it.
    """
    if database.branch(name) is not None:
        return
    with database.connect(MAINTENANCE_DATABASE) as connection, connection.transaction():
        for statement in database_properties(connection, database.name, sql.Identifier(name)):
            connection.execute(statement)


def clone(database: Database, source: str, name: str) -> None:
    """Copy a database that nobody is connected to; the copy is closed to sessions.

    Raises:
        RejectedError: somebody is connected, there is no room, or the role may not do this.
    """
    with database.connect(MAINTENANCE_DATABASE) as connection:
        files = sql.SQL(" STRATEGY file_copy" if connection.info.server_version >= 150000 else "")
        connection.execute(
            sql.SQL("CREATE DATABASE {} TEMPLATE {}{}").format(sql.Identifier(name), sql.Identifier(source), files)
        )
        _allow_connections(connection, name, allowed=False)


def rename_copy(database: Database, name: str, to: str, *, is_open: bool) -> None:
    """Rename a database beside the live one, and open it to sessions, or close it."""
    with database.connect(MAINTENANCE_DATABASE) as connection, connection.transaction():
        _rename(connection, name, to)
        _allow_connections(connection, to, allowed=is_open)


def allow_sessions(database: Database, name: str, *, allowed: bool) -> None:
    """Open a database beside the live one to sessions, or close it and end those in it; no error when it is gone.

    Raises:
        StageError: the live one is to be closed.
    """
    if name == database.name and not allowed:
        raise StageError(f"{name} is the live database; only a swap closes it")
    if (branch := database.branch(name)) is not None:
        database, name = branch, branch.name
    with database.connect(MAINTENANCE_DATABASE) as connection:
        if connection.execute("SELECT FROM pg_database WHERE datname = %s", [name]).fetchone() is None:
            return
        _allow_connections(connection, name, allowed=allowed)
        if not allowed:
            connection.execute(_TERMINATE, [name, name, []]).fetchall()


def databases_beside(database: Database, name: str) -> dict[str, int]:
    """Return the databases that were made beside the database `name`, and their sizes in bytes."""
    with database.connect(MAINTENANCE_DATABASE) as connection:
        rows = connection.execute(
            "SELECT datname, pg_database_size(oid) FROM pg_database WHERE starts_with(datname, %s) ORDER BY 1",
            [f"{database.short(name)}_"],
        ).fetchall()
    beside = {str(found): int(size) for found, size in rows}
    if database.restore_points is not None:
        beside |= database.restore_points.sizes(f"{database.short(name)}_")
    return beside


def exists(database: Database, name: str) -> bool:
    """Return whether the server has a database, or its provider a branch, of this name."""
    if database.restore_points is not None and name in database.restore_points.sizes(name):
        return True
    with database.connect(MAINTENANCE_DATABASE) as connection:
        return connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [name]).fetchone() is not None


def reopen(database: Database) -> None:
    """Let the live database take connections, as it does unless a swap was killed in the middle."""
    closed = "SELECT FROM pg_database WHERE datname = %s AND NOT datallowconn"
    with database.connect(MAINTENANCE_DATABASE) as connection:
        if connection.execute(closed, [database.name]).fetchone() is not None:
            _allow_connections(connection, database.name, allowed=True)


def end_sessions_of_run(database: Database) -> int:
    """End the sessions that the run of `database.stamp` has left on the server, and return how many they were.

    A program that was started by a killed process goes on without it until its session ends.
    """
    asked = (
        "SELECT count(pg_terminate_backend(pid, 5000)) FROM pg_stat_activity"
        " WHERE starts_with(application_name, %s) AND pid <> pg_backend_pid()"
    )
    with database.connect(MAINTENANCE_DATABASE) as connection:
        row = connection.execute(asked, [database.application]).fetchone()
    return int(row[0]) if row else 0


def copies_of_run(database: Database) -> list[str]:
    """Return the names of the databases beside the live one that have the stamp of a run, `database.stamp`."""
    with database.connect(MAINTENANCE_DATABASE) as connection:
        rows = connection.execute("SELECT datname FROM pg_database ORDER BY 1").fetchall()
    prefix, suffix = f"{database.short(database.name)}_", f"_{database.stamp}"
    names = [str(row[0]) for row in rows]
    if database.restore_points is not None:
        names += sorted(database.restore_points.sizes(prefix))
    return [name for name in names if name.startswith(prefix) and name.endswith(suffix)]


class LastWrites(Protocol):
    """What is to be done between the last write to the live database and the swap, by sessions opened beforehand."""

    @property
    def sessions(self) -> Sequence[int]:
        """Process ids of those sessions."""
        ...

    def carry(self) -> None:
        """Bring the last writes into the fresh database, and end the sessions."""
        ...


def swap(database: Database, fresh: str, old: str, *, last: LastWrites | None = None) -> int | None:
    """Put `fresh` in the live database's place and keep the live one, closed to new sessions, as `old`.

    New sessions are fenced off first; without that a busy application makes the rename fail. Either both names
    change or none. Returns the number of the transaction that changed them, None when the answer to it was lost.
    A branch takes the place of the whole server.

    Args:
        database: the live one.
        fresh: name of what takes its place.
        old: the name that the live one gets.
        last: what comes between fence and swap.

    Raises:
        StageError: the rename did not happen; the live database takes connections again.
    """
    live = database.name
    if (branch := database.branch(fresh)) is not None:
        return _swap_branch(database, branch, fresh, old, last)
    try:
        with database.connect(MAINTENANCE_DATABASE) as connection:
            _allow_connections(connection, live, allowed=False)
            if last is not None:
                connection.execute(_TERMINATE, [live, fresh, list(last.sessions)]).fetchall()
                last.carry()
            for attempt in range(1, _RENAME_ATTEMPTS + 1):
                try:
                    return _exchange(connection, fresh, live, old)
                except psycopg.errors.ObjectInUse:  # a session slipped in just before the fence
                    if attempt == _RENAME_ATTEMPTS:
                        raise
    except BaseException as error:
        # Also when the run is cancelled here; harmless when the names have changed already.
        with database.connect(MAINTENANCE_DATABASE) as connection:
            _allow_connections(connection, live, allowed=True)
            row = connection.execute(_SWAPPED, {"fresh": fresh, "old": old}).fetchone()
        if isinstance(error, ServiceError):
            if row is not None and row[0]:  # only the server's answer to the commit was lost
                return None
            message = f"{fresh} could not take the place of {live}; nothing was changed: {error}"
            raise StageError(message) from error
        raise
    return None


def _swap_branch(database: Database, branch: Database, fresh: str, old: str, last: LastWrites | None) -> int | None:
    """Do what `swap` says where a branch takes the place of the live one.

    Both are closed, or opened, before: what the provider keeps is as it was at that moment.
    """
    points = database.restore_points
    assert points is not None  # noqa: S101 - there would be no branch without
    transaction: int | None = None
    try:
        with database.connect(MAINTENANCE_DATABASE) as connection:
            _allow_connections(connection, database.name, allowed=False)
            spared = (list(last.sessions) if last is not None else [], database.application)
            connection.execute(_TERMINATE_ALL_BUT, [database.name, *spared]).fetchall()
            if last is not None:
                last.carry()
        with branch.connect(MAINTENANCE_DATABASE) as connection, connection.transaction():
            _allow_connections(connection, branch.name, allowed=True)
            row = connection.execute("SELECT pg_current_xact_id()::text").fetchone()
            transaction = int(row[0]) if row else None
        points.take_place(fresh, preserve_as=old)
    except BaseException as error:
        _reopen_patiently(database)
        if old in points.sizes(old) and isinstance(error, TransientError):  # only the answer was lost
            return transaction
        if isinstance(error, RejectedError | StageError):
            raise StageError(f"{fresh} could not take the place of the live branch: {error}") from error
        raise
    _reopen_patiently(database)
    points.close(fresh)
    return transaction


def _reopen_patiently(database: Database) -> None:
    """Let the live database take connections, when its server does, which has been started anew."""
    deadline = time.monotonic() + _RESTART_S
    while True:
        try:
            reopen(database)
        except TransientError:
            if time.monotonic() > deadline:
                raise
            time.sleep(_LOOK_EVERY_S)
        else:
            return


def _exchange(connection: psycopg.Connection, fresh: str, live: str, old: str) -> int:
    connection.execute(_TERMINATE, [live, fresh, []]).fetchall()
    with connection.transaction():
        connection.execute("SELECT set_config('lock_timeout', '5s', true)")
        _rename(connection, live, old)
        _rename(connection, fresh, live)
        _allow_connections(connection, live, allowed=True)
        row = connection.execute("SELECT pg_current_xact_id()::text").fetchone()
    assert row is not None  # noqa: S101 - a function call without FROM returns one row
    return int(row[0])


def _allow_connections(connection: psycopg.Connection, name: str, *, allowed: bool) -> None:
    connection.execute(
        sql.SQL("ALTER DATABASE {} WITH ALLOW_CONNECTIONS {}").format(sql.Identifier(name), sql.Literal(allowed))
    )


def _rename(connection: psycopg.Connection, name: str, to: str) -> None:
    connection.execute(sql.SQL("ALTER DATABASE {} RENAME TO {}").format(sql.Identifier(name), sql.Identifier(to)))
