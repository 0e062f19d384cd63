"""A manifest of a small backup, for tests that are about something else."""

from __future__ import annotations

from datetime import UTC, datetime

from runbook.manifest import BackupManifest, DatabaseFacts, DumpFormat, Fingerprint
from runbook.rules.identifiers import backup_taken_at

BACKUP = "backup_20250104_120000"
FACTS = DatabaseFacts(
    server_version="18.0",
    lsn="0/0",
    snapshot="1:1:",
    size_bytes=0,
    extensions={},
    roles=(),
    references={},
    sequences={},
)


def manifest(backup_id: str = BACKUP, **changes: object) -> BackupManifest:
    """Return the manifest of a backup without files, sealed, with the changes given."""
    values: dict[str, object] = {
        "backup_id": backup_id,
        "environment": "test",
        "database": "shop",
        "created_at": backup_taken_at(backup_id) if backup_id.startswith("backup_2") else datetime.now(UTC),
        "duration_s": 1,
        "reason": "test",
        "triggered_by": "test",
        "active_git_sha": None,
        "client": "pg_dump 18.0",
        "dump_format": DumpFormat.DIRECTORY,
        "files": {},
        "facts": FACTS,
        "fingerprint": Fingerprint(schema_sha256="0", tables={}, migrations=()),
        "restore_by_hand": (),
    }
    return BackupManifest.model_validate(values | changes).sealed()
