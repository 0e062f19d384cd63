"""Stage 3 as tasks. A backup is never taken from a cache: an hour-old backup is another backup."""

from __future__ import annotations

from prefect.artifacts import create_markdown_artifact

from runbook.connections import Connections
from runbook.manifest import BackupManifest
from runbook.stages import backup
from tasks.retries import stage_task


@stage_task("Stage 3: Database Backup", retries=3)
def create_backup(connections: Connections, *, reason: str, triggered_by: str) -> BackupManifest:
    """See `runbook.stages.backup.create_backup`. Safe to repeat: a failed attempt leaves nothing."""
    return backup.create_backup(connections, reason=reason, triggered_by=triggered_by)


@stage_task("Stage 3: Backup Verification", retries=2)
def verify_backup(connections: Connections, backup_id: str) -> BackupManifest:
    """See `runbook.stages.backup.verify_backup`; leaves the manifest as an artifact. Safe to repeat."""
    manifest = backup.verify_backup(connections, backup_id)
    create_markdown_artifact(
        key=f"backup-{connections.settings.name}",
        markdown=_render(manifest),
        description=f"{manifest.backup_id}: {manifest.verification.state}",
    )
    return manifest


def _render(manifest: BackupManifest) -> str:
    lines = [
        f"# {manifest.backup_id}",
        f"- {manifest.verification.state}: {manifest.verification.detail}",
        f"- {manifest.size_bytes:,} bytes in {len(manifest.files)} files, made in {manifest.duration_s:.1f} s",
        f"- restored in {manifest.verification.restore_s or 0:.1f} s",
        f"- reason: {manifest.reason}; triggered by {manifest.triggered_by}",
        "",
        "| table | rows | checksum |",
        "|---|---:|---|",
        *(f"| {name} | {table.rows} | {table.checksum} |" for name, table in manifest.fingerprint.tables.items()),
        "",
        "Restore by hand, without this project, from the folder that holds `database/`:",
        "```sh",
        *manifest.restore_by_hand,
        "```",
    ]
    return "\n".join(lines)
