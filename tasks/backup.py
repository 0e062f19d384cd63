"""Stage 3 as tasks. A backup is never taken from a cache: an hour-old backup is another backup."""

from __future__ import annotations

from prefect.artifacts import create_markdown_artifact, create_table_artifact

from runbook.connections import Connections
from runbook.manifest import BackupManifest, VerificationLevel
from runbook.stages import backup, preparation
from runbook.stages.restore import RestoredDatabase
from tasks.progress import progress_artifacts
from tasks.retries import stage_task

_CATALOGUE_ROWS = 200


@stage_task("Stage 3: Database Backup", retries=3)
def create_backup(connections: Connections, *, reason: str, triggered_by: str, capture: bool = False) -> BackupManifest:
    """See `runbook.stages.backup.create_backup`. Safe to repeat: a failed attempt leaves nothing."""
    with progress_artifacts(f"backup of {connections.settings.name}"):
        return backup.create_backup(connections, reason=reason, triggered_by=triggered_by, capture=capture)


@stage_task("Stage 3: Backup Verification", retries=2)
def verify_backup(
    connections: Connections, backup_id: str, *, level: VerificationLevel | None = None
) -> BackupManifest:
    """See `runbook.stages.backup.verify_backup`; leaves manifest and catalogue as artifacts. Safe to repeat."""
    with progress_artifacts(f"verification of {backup_id}"):
        manifest = backup.verify_backup(connections, backup_id, level=level)
    _publish_proof(connections, manifest)
    return manifest


@stage_task("Stage 3: Backup Verification", retries=2)
def prove_by_copy(connections: Connections, backup_id: str) -> RestoredDatabase:
    """See `runbook.stages.backup.prove_by_copy`; leaves manifest and catalogue as artifacts. Safe to repeat."""
    with progress_artifacts(f"verification of {backup_id}"):
        copy = backup.prove_by_copy(connections, backup_id)
    _publish_proof(connections, connections.store.manifest(backup_id))
    return copy


prepare_rollback = stage_task("Stage 3: Prepared Rollback")(preparation.prepare_rollback)
copy_backup = stage_task("Stage 3: Second Copy", retries=3)(backup.copy_backup)


def publish_catalogue(connections: Connections) -> None:
    """Leave the list of the environment's backups as a table artifact, newest first."""
    name = connections.settings.name
    found = [manifest for manifest in connections.store.manifests() if manifest.environment == name]
    pins = connections.store.pins()
    create_table_artifact(
        key=f"backup-catalogue-{name}",
        table=[
            {
                "backup": manifest.backup_id,
                "state": str(manifest.verification.state),
                "level": str(manifest.verification.level or ""),
                "reason": manifest.reason,
                "restored in (s)": manifest.verification.restore_s,
                "made in (s)": manifest.duration_s,
                "bytes": manifest.size_bytes,
                "rows": sum(table.rows for table in manifest.fingerprint.tables.values()),
                "encrypted": "yes" if manifest.recipients else "no",
                "pinned": pins[manifest.backup_id].reason if manifest.backup_id in pins else "",
                "release": (manifest.active_git_sha or "")[:12],
                "triggered by": manifest.triggered_by,
            }
            for manifest in found[:_CATALOGUE_ROWS]
        ],
        description=f"Backups of {name} in {connections.store.place}, newest first: {len(found)}.",
    )


def _publish_proof(connections: Connections, manifest: BackupManifest) -> None:
    create_markdown_artifact(
        key=f"backup-{connections.settings.name}",
        markdown=_render(manifest),
        description=f"{manifest.backup_id}: {manifest.verification.state}",
    )
    publish_catalogue(connections)


def _render(manifest: BackupManifest) -> str:
    facts, proof = manifest.facts, manifest.verification
    lines = [
        f"# {manifest.backup_id}",
        f"- {proof.state}: {proof.detail}",
        f"- {manifest.size_bytes:,} bytes in {len(manifest.files)} files of {facts.size_bytes:,} bytes of database, "
        f"made in {manifest.duration_s:.1f} s by {manifest.client}",
        f"- restored in {proof.restore_s:.1f} s" if proof.restore_s is not None else "- never restored",
        f"- encrypted for {', '.join(manifest.recipients)}" if manifest.recipients else "- not encrypted",
        f"- PostgreSQL {facts.server_version}, LSN {facts.lsn}, snapshot {facts.snapshot}",
        f"- extensions: {', '.join(f'{name} {version}' for name, version in facts.extensions.items()) or 'none'}",
        f"- reason: {manifest.reason}; triggered by {manifest.triggered_by}",
        "",
        "| table | rows | checksum |",
        "|---|---:|---|",
        *(f"| {name} | {table.rows} | {table.checksum} |" for name, table in manifest.fingerprint.tables.items()),
        "",
        "Restore by hand, without this project:",
        "```sh",
        *manifest.restore_by_hand,
        "```",
    ]
    return "\n".join(lines)
