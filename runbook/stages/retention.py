"""Retention of backups: the plan first, then what it says.

Source: runbook, "Stage 3: Database Backup", "Deployment Logs" (Database Backups).
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from runbook.connections import Connections
from runbook.errors import RejectedError, RunbookError
from runbook.manifest import BackupManifest, Pin
from runbook.rules.retention import Decision, StoredBackup, plan_retention

_log = logging.getLogger(__name__)
_UNFINISHED_FOR = timedelta(hours=24)


@dataclass(frozen=True)
class Pruning:
    """What a pruning did. `failed` says of each backup that should have gone and did not, why."""

    removed: tuple[str, ...]
    swept: tuple[str, ...]
    failed: tuple[str, ...]


def plan_pruning(connections: Connections) -> tuple[Decision, ...]:
    """Decide about every backup of the environment, newest first; nothing is changed.

    A backup whose manifest cannot be read takes no part: it neither counts nor goes.

    Raises:
        ServiceError: the store does not answer.
    """
    found = [backup for backup in connections.store.manifests() if backup.environment == connections.settings.name]
    pins = connections.store.pins()
    settings, now = connections.settings.backup.retention, datetime.now(UTC)
    backups = {manifest.backup_id: _stored(manifest, pins.get(manifest.backup_id)) for manifest in found}
    first = plan_retention(list(backups.values()), settings, now=now)
    doomed = {decision.backup.backup_id for decision in first if not decision.keep}
    locked = {
        manifest.backup_id: connections.store.locked_until(manifest)
        for manifest in found
        if manifest.backup_id in doomed  # asking for each file of each backup takes long
    }
    again = [_stored(manifest, pins.get(manifest.backup_id), locked.get(manifest.backup_id)) for manifest in found]
    return tuple(plan_retention(again, settings, now=now))


def prune_backups(connections: Connections) -> Pruning:
    """Remove the backups that the retention does not keep, and what interrupted backups left behind.

    Safe under concurrent runs and safe to repeat. Right before each removal the plan is made anew: a pin, or another
    run, may have changed it. The second store loses only what the first one loses. One that cannot be removed stays
    and is reported; the others go.

    Raises:
        ServiceError: the store does not answer.
    """
    removed: list[str] = []
    failed: list[str] = []
    for backup_id in _doomed(connections):
        try:
            if backup_id not in _doomed(connections):
                continue
            _remove(connections, backup_id)
        except RunbookError as error:
            failed.append(f"{backup_id}: {error}")
            _log.warning("%s was not removed: %s", backup_id, error)
        else:
            removed.append(backup_id)
            _log.info("%s removed", backup_id)
    swept = connections.store.sweep(older_than=_UNFINISHED_FOR)
    for left in swept:
        _log.info("%s swept", left)
    return Pruning(tuple(removed), tuple(swept), tuple(failed))


def pin_backup(connections: Connections, backup_id: str, *, reason: str, by: str) -> None:
    """Keep a backup whatever the retention says, until it is unpinned.

    Raises:
        InvalidInputError: the backup id is malformed or unknown.
    """
    connections.store.pin(backup_id, Pin(reason=reason, by=by, at=datetime.now(UTC)))


def _doomed(connections: Connections) -> list[str]:
    return [decision.backup.backup_id for decision in plan_pruning(connections) if not decision.keep]


def _remove(connections: Connections, backup_id: str) -> None:
    manifest = connections.store.manifest(backup_id)
    if manifest.restore_point is not None and connections.restore_points is not None:
        try:
            connections.restore_points.remove(manifest.restore_point)
        except RejectedError as error:  # for example a branch that the live one was restored from
            _log.warning("the restore point of %s stays at its provider: %s", backup_id, error)
    if connections.second_store is not None:
        connections.second_store.remove(backup_id)
    connections.store.remove(backup_id)


def _stored(manifest: BackupManifest, pin: Pin | None, locked_until: datetime | None = None) -> StoredBackup:
    return StoredBackup(
        backup_id=manifest.backup_id,
        created_at=manifest.created_at,
        verification=manifest.verification.state,
        size_bytes=manifest.size_bytes,
        pinned=f"{pin.reason} ({pin.by})" if pin else None,
        locked_until=locked_until,
    )
