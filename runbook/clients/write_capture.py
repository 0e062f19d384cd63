"""Capturing the writes after a backup: a logical replication slot that begins exactly where the backup's snapshot ends.

Only while it exists can the writes be replayed from it; the server keeps its WAL for it. It is made with the backup of
a deploy, and dropped when that deploy is confirmed, replaced or too old.
Source: PostgreSQL manual, "Logical Decoding Concepts", "Exported Snapshots".
"""

from __future__ import annotations

import logging
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import psycopg
from psycopg import sql

from runbook.clients.postgres import Database
from runbook.errors import RefusedError, ServiceError

_log = logging.getLogger(__name__)
_PREFIX = "runbook_"
_INSERTS = "_inserts"
_WAIT_S = 30
_POSSIBLE = """
SELECT current_setting('wal_level') = 'logical', r.rolreplication OR r.rolsuper,
       (SELECT count(*) FROM pg_replication_slots) + 1 < current_setting('max_replication_slots')::int,
       has_database_privilege(current_database(), 'CREATE')
FROM pg_roles r WHERE r.rolname = current_user
"""
# Partitions are published with their root, those that are still to be made, too. A table whose rows nothing tells
# apart is published for what is added alone: published for more, it would refuse to be updated.
_PUBLISHED = """
SELECT n.nspname, c.relname, c.relreplident = 'f'
       OR c.relreplident = 'i'
       OR (c.relreplident = 'd' AND EXISTS (SELECT FROM pg_index i WHERE i.indrelid = c.oid AND i.indisprimary))
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p') AND c.relpersistence = 'p' AND NOT c.relispartition
  AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
  AND NOT EXISTS (SELECT FROM pg_depend d
                  WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')
ORDER BY 1, 2
"""
_CAPTURES = """
SELECT s.slot_name, pg_wal_lsn_diff(pg_current_wal_lsn(), s.restart_lsn)::bigint, s.wal_status = 'lost'
FROM pg_replication_slots s
WHERE s.database = %s AND NOT s.temporary AND starts_with(s.slot_name, 'runbook_backup_') ORDER BY 1
"""


@dataclass(frozen=True)
class Capture:
    """The capture that belongs to a backup; for it the server keeps `retained_bytes` of WAL, unless it is `lost`."""

    backup_id: str
    retained_bytes: int
    lost: bool

    @property
    def slot(self) -> str:
        """Name of the replication slot; the publications begin with it."""
        return f"{_PREFIX}{self.backup_id}"

    @property
    def publications(self) -> tuple[str, str]:
        """Names of the publication of what is changed, and of that of what is only added."""
        return self.slot, f"{self.slot}{_INSERTS}"


@contextmanager
def capturing(database: Database, backup_id: str) -> Generator[str]:
    """Begin to capture the writes; give the id of the snapshot that a dump has to be made of, in the body of a `with`.

    When the body fails nothing is left.

    Raises:
        RefusedError: this server, or the role, does not allow it; the message says what is missing.
        TransientError: the server does not answer, or a transaction was open too long.
    """
    capture = Capture(backup_id, 0, lost=False)
    with database.connect() as connection:
        _require_possible(database, connection)
        _publish(connection, capture)
    try:
        options = f"-c lock_timeout={_WAIT_S}s"  # others' transactions are waited for
        with database.connect(replication="database", options=options) as stream:
            row = stream.execute(
                sql.SQL("CREATE_REPLICATION_SLOT {} LOGICAL pgoutput (SNAPSHOT 'export')").format(
                    sql.Identifier(capture.slot)
                )
            ).fetchone()
            assert row is not None  # noqa: S101 - the command returns one row
            yield str(row[2])
    except BaseException:
        with suppress(ServiceError):
            end_capture(database, backup_id)
        raise


def end_capture(database: Database, backup_id: str) -> None:
    """Stop capturing; no error when there is nothing to stop.

    The database that is captured may have been replaced meanwhile; its publications then go with it.
    """
    capture = Capture(backup_id, 0, lost=False)
    with database.connect() as connection:
        connection.execute(
            "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = %s", [capture.slot]
        )
        for publication in capture.publications:
            connection.execute(sql.SQL("DROP PUBLICATION IF EXISTS {}").format(sql.Identifier(publication)))


def drop_publications(database: Database, name: str) -> None:
    """Drop from a restored copy what a capture had put into the database before it was dumped."""
    with database.connect(name) as connection:
        rows = connection.execute("SELECT pubname FROM pg_publication WHERE starts_with(pubname, 'runbook_backup_')")
        for (publication,) in rows.fetchall():
            connection.execute(sql.SQL("DROP PUBLICATION {}").format(sql.Identifier(publication)))


def captures(database: Database, name: str | None = None) -> list[Capture]:
    """Return what is being captured of a database, the live one when no name is given."""
    with database.connect() as connection:
        rows = connection.execute(_CAPTURES, [name or database.name]).fetchall()
    return [Capture(str(slot).removeprefix(_PREFIX), int(size or 0), bool(lost)) for slot, size, lost in rows]


def kept_wal_limit(database: Database) -> str | None:
    """Return how much WAL the server keeps for captured writes at most, as it is configured; None: any amount.

    A server that cannot capture writes keeps none, `0`.

    Source: PostgreSQL manual, "max_slot_wal_keep_size".
    """
    with database.connect() as connection:
        row = connection.execute(
            "SELECT current_setting('wal_level'), current_setting('max_slot_wal_keep_size', true)"
        ).fetchone()
    assert row is not None  # noqa: S101 - a SELECT without FROM returns one row
    if row[0] != "logical":
        return "0"
    return None if row[1] in (None, "-1") else str(row[1])


def capture_of(database: Database, backup_id: str) -> Capture | None:
    """Return the capture of a backup when the writes can be replayed from it."""
    return next((found for found in captures(database) if found.backup_id == backup_id and not found.lost), None)


def _require_possible(database: Database, connection: psycopg.Connection) -> None:
    row = connection.execute(_POSSIBLE).fetchone()
    logical, may_replicate, has_room, may_create = row or (False, False, False, False)
    missing = [
        words
        for is_there, words in (
            (logical, "the server's `wal_level` is not `logical`"),
            (may_replicate, "the role has not the attribute REPLICATION"),
            (has_room, "all of `max_replication_slots` are in use"),
            (may_create, "the role may not create publications in the database"),
        )
        if not is_there
    ]
    if missing:
        raise RefusedError(f"writes to {database.name} cannot be captured: {'; '.join(missing)}")


def _publish(connection: psycopg.Connection, capture: Capture) -> None:
    rows = connection.execute(_PUBLISHED).fetchall()
    for publication, wanted, kinds in (
        (capture.publications[0], True, "insert, update, delete, truncate"),
        (capture.publications[1], False, "insert, truncate"),
    ):
        tables = sql.SQL(", ").join(
            sql.SQL("ONLY {}").format(sql.Identifier(schema, table))
            for schema, table, has_key in rows
            if has_key is wanted
        )
        names = sql.SQL("FOR TABLE {}").format(tables) if any(row[2] is wanted for row in rows) else sql.SQL("")
        connection.execute(sql.SQL("DROP PUBLICATION IF EXISTS {}").format(sql.Identifier(publication)))
        connection.execute(
            sql.SQL("CREATE PUBLICATION {} {} WITH (publish = {})").format(
                sql.Identifier(publication), names, sql.Literal(kinds)
            )
        )
