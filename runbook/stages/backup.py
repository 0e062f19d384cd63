"""Stage 3: a backup of the database, and the proof that it can be restored.

Source: runbook, "Stage 3: Database Backup"; PostgreSQL manual, "pg_dump".
"""

from __future__ import annotations

import logging
import shlex
import time
from datetime import UTC, datetime
from pathlib import Path

from runbook.clients.database_copies import drop
from runbook.clients.fingerprint import exported_snapshot, fingerprint
from runbook.clients.folder_store import stored_files
from runbook.clients.postgres import Database
from runbook.connections import Connections
from runbook.errors import RejectedError, StageError
from runbook.manifest import BackupManifest, Fingerprint
from runbook.rules.identifiers import new_backup_id
from runbook.stages.restore import restore_beside

_log = logging.getLogger(__name__)
_JOBS = 2
_DUMP = "dump"


def create_backup(connections: Connections, *, reason: str, triggered_by: str) -> BackupManifest:
    """Dump the database and fingerprint it in the same snapshot, then publish both.

    A dump that fails, or is interrupted, leaves nothing in the store. Never safe to take from a cache: an hour-old
    backup is another backup.

    Raises:
        TransientError: the server does not answer, or a backup was made in this very second.
        StageError: `pg_dump` failed.
    """
    now = datetime.now(UTC)
    begun = time.monotonic()
    backup_id = new_backup_id(now)
    active = connections.host.active()
    folder = connections.store.reserve(backup_id)
    try:
        lsn, found = _dump(connections, folder / _DUMP)
        manifest = BackupManifest(
            backup_id=backup_id,
            environment=connections.settings.name,
            database=connections.database.name,
            created_at=now,
            duration_s=round(time.monotonic() - begun, 3),
            reason=reason,
            triggered_by=triggered_by,
            active_git_sha=active.git_sha if active else None,
            server_version=connections.database.server_version(),
            client=f"pg_dump {connections.database.programs().version}",
            lsn=lsn,
            files=stored_files(folder),
            fingerprint=found,
            restore_by_hand=_restore_by_hand(backup_id, connections.database.name),
        )
        connections.store.publish(manifest)
    except BaseException:
        connections.store.discard(backup_id)
        raise
    _log.info("%s: %d bytes in %.1f s", backup_id, manifest.size_bytes, manifest.duration_s)
    return manifest


def verify_backup(connections: Connections, backup_id: str) -> BackupManifest:
    """Restore a backup into a scratch database, compare it with its manifest, and record the result.

    Raises:
        InvalidInputError: the backup id is malformed or unknown.
        RejectedError: no client program can restore it, or a file of it is missing or changed; the latter is recorded.
        StageError: it cannot be restored or is not what its manifest says; recorded as failed.
    """
    manifest = connections.store.manifest(backup_id)
    connections.database.programs()  # without them nothing is known about the backup
    try:
        restored = restore_beside(connections, backup_id, purpose="verify")
    except (RejectedError, StageError) as error:
        connections.store.update(manifest.failed(at=datetime.now(UTC), detail=str(error)))
        raise
    drop(connections.database, restored.name)
    manifest = manifest.verified(at=datetime.now(UTC), restore_s=restored.restore_s)
    connections.store.update(manifest)
    return manifest


def _dump(connections: Connections, target: Path) -> tuple[str, Fingerprint]:
    database = connections.database
    programs = database.programs()
    with exported_snapshot(database) as snapshot:
        connection, snapshot_id = snapshot
        row = connection.execute("SELECT pg_current_wal_lsn()::text").fetchone()
        argv = programs.argv(
            "pg_dump",
            "--format=directory",
            f"--jobs={_JOBS}",
            "--compress=gzip:1",
            f"--snapshot={snapshot_id}",
            "--lock-wait-timeout=30s",
            f"--file={target}",
        )
        with database.running(argv, what="backup"):
            found = fingerprint(database, connections.settings.migrations.history_table, snapshot=snapshot)
    return str(row[0]) if row else "", found


def _restore_by_hand(backup_id: str, database: str) -> tuple[str, ...]:
    fresh = shlex.quote(f"{Database.short(database)}_restored")
    return (
        f"createdb --template=template0 {fresh}",
        f"pg_restore --jobs={_JOBS} --exit-on-error --dbname={fresh} database/backups/{backup_id}/{_DUMP}",
    )
