"""The restore drill: a backup is restored and compared for practice, and how long it took is kept.

Source: runbook, "Rollback Types" (Impact: "All data since backup will be lost"), "Disaster Recovery".
"""

from __future__ import annotations

import logging
import time
from datetime import UTC, datetime

from runbook.connections import Connections
from runbook.errors import DamagedBackupError, StageError
from runbook.manifest import BackupManifest, VerificationLevel
from runbook.reports import DrillReport
from runbook.rules.drills import recovery_point_s
from runbook.stages.backup import newest_backup, verify_backup

_log = logging.getLogger(__name__)


def run_drill(connections: Connections, *, backup_id: str | None, triggered_by: str) -> DrillReport:
    """Restore a backup in full, compare it, and report the measured time to restore and the writes at stake.

    A backup that turns out to be bad is marked failed and makes a report that says so, not an error: the drill has
    done its work.

    Args:
        connections: the environment.
        backup_id: the backup; the newest one of the environment when None.
        triggered_by: who or what asked.

    Raises:
        RefusedError: there is no such backup, or the key to decrypt it is not at hand.
        ServiceError: the server or the store does not answer, or there is no room.
    """
    started, begun = datetime.now(UTC), time.monotonic()
    manifest = connections.store.manifest(backup_id) if backup_id else newest_backup(connections)
    error: str | None = None
    rto_s: float | None = None
    try:
        rto_s = verify_backup(connections, manifest.backup_id, level=VerificationLevel.FULL).verification.restore_s
    except (DamagedBackupError, StageError) as failure:
        error = str(failure)
        _log.error("restore drill of %s: %s", manifest.backup_id, error)
    good = [known.created_at for known in connections.store.manifests() if _counts(connections, known)]
    return DrillReport(
        environment=connections.settings.name,
        timestamp=started,
        backup_id=manifest.backup_id,
        triggered_by=triggered_by,
        level=VerificationLevel.FULL,
        rto_s=rto_s,
        rpo_s=recovery_point_s(good, now=started),
        size_bytes=manifest.size_bytes,
        rows=sum(table.rows for table in manifest.fingerprint.tables.values()),
        duration=round(time.monotonic() - begun, 3),
        success=error is None,
        error=error,
    )


def last_drill(connections: Connections) -> DrillReport | None:
    """Return the report of the environment's last drill."""
    drills = [report for report in connections.store.drills() if report.environment == connections.settings.name]
    return drills[-1] if drills else None


def _counts(connections: Connections, manifest: BackupManifest) -> bool:
    return manifest.is_verified and manifest.environment == connections.settings.name
