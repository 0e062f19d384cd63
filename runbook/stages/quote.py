"""What was written since a backup: what a rollback to it loses, or what it has to replay. Shown before any consent.

Source: runbook, "Rollback Types" (Impact).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

import psycopg
from psycopg import sql

from runbook.clients.difference_replay import newer_rows, reading, touched_by
from runbook.clients.migration_history import MigrationHistory
from runbook.clients.slot_replay import CapturedWrites, Written, count_writes
from runbook.clients.table_layout import OldNames, Table
from runbook.clients.write_capture import capture_of
from runbook.connections import Connections
from runbook.manifest import BackupManifest
from runbook.reports import TableLoss
from runbook.stages.replay import old_names, own_tables, restored_snapshot

_TABLES = """
SELECT n.nspname, c.relname, format('%I.%I', n.nspname, c.relname),
       EXISTS (SELECT FROM pg_index i WHERE i.indrelid = c.oid AND i.indisprimary)
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind = 'r' AND c.relpersistence = 'p' AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
  AND NOT EXISTS (SELECT FROM pg_depend d
                  WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')
ORDER BY 3
"""
_PLAIN = re.compile(r"[a-z_][a-z0-9_]*")


def quote_loss(connections: Connections, backup_id: str) -> tuple[TableLoss, ...]:
    """Say what the application has written to each table since a backup; tables without writes are left out.

    Exact, by primary key, where the writes were captured; otherwise an estimate from the rows' own marks and the
    numbers of rows. What migrations did to the data is not among it.

    Raises:
        InvalidInputError: the backup id is unknown, or the key to decrypt it is not at hand.
        TransientError: the server or the store does not answer.
    """
    manifest = connections.store.manifest(backup_id)
    capture = capture_of(connections.database, backup_id)
    history = MigrationHistory(connections.database, connections.settings.migrations)
    with connections.database.connect() as live:
        skipped = history.transactions(live, manifest.fingerprint.migrations)
        names = old_names(connections, manifest, live)
        written: dict[Table, Written] | None = None
        if capture is not None:
            captured = CapturedWrites(live, capture, names, left_out=own_tables(connections))
            written = count_writes(captured, skipped)
        with reading(live):
            emptied: Collection[Table] = ()
            if written is None:
                emptied = history.deleted_from(live, manifest.fingerprint.migrations)
            snapshot = restored_snapshot(connections, manifest)
            asked = _Asked(live, manifest, skipped, snapshot, emptied, names, written)
            rows = live.execute(_TABLES).fetchall()
            own = own_tables(connections)
            losses = [
                asked.loss((one[0], one[1]), one[2], has_key=one[3]) for one in rows if (one[0], one[1]) not in own
            ]
    return tuple(loss for loss in losses if loss.rows or loss.cannot_replay or loss.obscured or loss.revives)


@dataclass(frozen=True)
class _Asked:
    live: psycopg.Connection
    manifest: BackupManifest
    skipped: Collection[int]
    snapshot: str
    emptied: Collection[Table]
    names: OldNames
    written: Mapping[Table, Written] | None

    def loss(self, table: Table, name: str, *, has_key: bool) -> TableLoss:
        then = self.names.table(table)
        row = self.live.execute(sql.SQL("SELECT count(*) FROM ONLY {}").format(sql.Identifier(*table))).fetchone()
        now = int(row[0]) if row else 0
        known = self.manifest.fingerprint.tables.get(".".join(_quoted(part) for part in then))
        before = known.rows if known else 0
        cannot = ""
        changed = touched_by(self.live, table, self.skipped) if self.written is None or not has_key else 0
        if known is None and now:
            cannot = "the table was made after the backup"
        elif not has_key and (changed or table in self.emptied):
            cannot = "nothing tells its rows apart, and a migration has changed it"
        # A table made since is in no capture that could be read through the old schema.
        counted = self._counted(then) if known is not None else None
        written = counted or self._estimated(table, now, before)
        revives = table in self.emptied and known is not None and not cannot
        if revives:
            written = replace(written, deleted=0)
        return TableLoss(
            table=name,
            rows_now=now,
            rows_restored=before,
            inserted=written.inserted,
            updated=written.updated,
            deleted=before + written.inserted - now if written.emptied else written.deleted,
            is_exact=self.written is not None and has_key and known is not None,
            cannot_replay=cannot,
            obscured=changed if self.written is None and not cannot else 0,
            revives=revives,
        )

    def _counted(self, table: Table) -> Written | None:
        return None if self.written is None else self.written.get(table, Written())

    def _estimated(self, table: Table, now: int, before: int) -> Written:
        newer = newer_rows(table, self.snapshot, self.skipped)
        row = self.live.execute(sql.SQL("SELECT count(*) {}").format(newer)).fetchone()
        marked = int(row[0]) if row else 0
        added = min(marked, max(0, now - before))
        return Written(inserted=added, updated=marked - added, deleted=max(0, before + added - now))


def _quoted(name: str) -> str:
    return name if _PLAIN.fullmatch(name) else sql.Identifier(name).as_string()
