"""The backup manifest: what a backup holds and how it was proven, enough to restore it without this project."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class TableFingerprint(_Record):
    """Row count and order-independent content checksum of one table."""

    rows: int = Field(ge=0)
    checksum: str


class Fingerprint(_Record):
    """What a database holds: schema, tables by qualified name, applied migrations."""

    schema_sha256: str
    tables: dict[str, TableFingerprint]
    migrations: tuple[str, ...]

    def differences(self, other: Fingerprint) -> list[str]:
        """Say in words, one line a difference, how `other` differs from this one; empty when they are equal."""
        lines: list[str] = []
        if self.schema_sha256 != other.schema_sha256:
            lines.append("the schema differs")
        if self.migrations != other.migrations:
            lines.append(f"applied migrations: {list(self.migrations)} became {list(other.migrations)}")
        for name in sorted(self.tables.keys() | other.tables.keys()):
            mine, theirs = self.tables.get(name), other.tables.get(name)
            if mine is None or theirs is None:
                lines.append(f"table {name} is {'new' if mine is None else 'missing'}")
            elif mine != theirs:
                rows = f"{mine.rows} rows became {theirs.rows}"
                lines.append(
                    f"table {name}: {rows if mine.rows != theirs.rows else f'{mine.rows} rows, other content'}"
                )
        return lines


class StoredFile(_Record):
    """One file of a backup, by its path inside the backup."""

    sha256: str
    size_bytes: int = Field(ge=0)


class VerificationState(StrEnum):
    """What is known about a backup; only a verified one is ever chosen by `--latest`."""

    UNVERIFIED = "unverified"
    VERIFIED = "verified"
    FAILED = "failed"


class Verification(_Record):
    """The proof: the backup was restored into a scratch database and its fingerprint compared."""

    state: VerificationState = VerificationState.UNVERIFIED
    at: AwareDatetime | None = None
    restore_s: float | None = None
    detail: str = "never restored"


class BackupManifest(_Record):
    """One backup. Kept as `database/backups/<backup_id>.meta.json` beside the folder of its files.

    Source: runbook, "Deployment Logs" (Database Backups).
    """

    format_version: Literal[1] = 1
    backup_id: str
    environment: str
    database: str
    created_at: AwareDatetime
    duration_s: float
    reason: str
    triggered_by: str
    active_git_sha: str | None = Field(description="Commit that had the public traffic when the backup was made.")
    server_version: str
    client: str
    lsn: str
    files: dict[str, StoredFile]
    fingerprint: Fingerprint
    verification: Verification = Verification()
    restore_by_hand: tuple[str, ...] = Field(description="Commands that restore this backup without this project.")

    @property
    def size_bytes(self) -> int:
        """Bytes of all files of the backup."""
        return sum(file.size_bytes for file in self.files.values())

    def verified(self, *, at: datetime, restore_s: float) -> BackupManifest:
        """Return this manifest with a passed verification."""
        detail = "restored into a scratch database; schema, row counts and checksums are equal"
        return self.model_copy(
            update={
                "verification": Verification(
                    state=VerificationState.VERIFIED, at=at, restore_s=restore_s, detail=detail
                )
            }
        )

    def failed(self, *, at: datetime, detail: str) -> BackupManifest:
        """Return this manifest with a failed verification."""
        return self.model_copy(
            update={"verification": Verification(state=VerificationState.FAILED, at=at, detail=detail)}
        )
