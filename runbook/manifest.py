"""The backup manifest: what a backup holds and how it was proven, enough to restore it without this project."""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from enum import StrEnum
from typing import Annotated, Literal

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field

from runbook.rules.identifiers import check_backup_id, check_file_name


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

    def only(self, tables: Collection[str]) -> Fingerprint:
        """Return this fingerprint with the given tables alone."""
        return self.model_copy(update={"tables": {name: self.tables[name] for name in self.tables if name in tables}})

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


class SequenceRange(_Record):
    """Values of a sequence right before and right after the dump: sequences belong to no snapshot."""

    before: int | None
    after: int | None

    def admits(self, value: int | None) -> bool:
        """Return whether a dump made meanwhile may have found `value`; None is a sequence that was never called."""
        if (self.before is None) != (self.after is None):  # called for the first time, or reset, meanwhile
            return True
        if value is None or self.before is None or self.after is None:
            return value == self.before
        return min(self.before, self.after) <= value <= max(self.before, self.after)


class StoredFile(_Record):
    """One file of a backup, as it is stored: sha256 and size of what is in the store."""

    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    size_bytes: int = Field(ge=0)


class DatabaseFacts(_Record):
    """What was known of the database in the snapshot of the dump.

    `snapshot` is `pg_current_snapshot()`: which transactions the backup holds. `references` are for each table the
    tables that its foreign keys name. Roles, grants and settings of the
    database are in the backup's file `globals.sql`; here are only the names of the roles.
    """

    server_version: str
    lsn: str
    snapshot: str
    size_bytes: int = Field(ge=0)
    extensions: dict[str, str]
    roles: tuple[str, ...]
    references: dict[str, tuple[str, ...]]
    sequences: dict[str, SequenceRange]


class DumpFormat(StrEnum):
    """How the dump was made.

    DIRECTORY: in parallel, into files of one table each; needs room for the tables being dumped. STREAM: one file,
    straight into the store; needs no room.
    """

    DIRECTORY = "directory"
    STREAM = "stream"


class VerificationLevel(StrEnum):
    """How a backup is proven.

    CHECKSUMS: every file is read back and is what was written; the backup stays unverified. SAMPLE: the schema and
    a part of the tables are restored and compared. FULL: everything is restored and compared.
    """

    CHECKSUMS = "checksums"
    SAMPLE = "sample"
    FULL = "full"


class VerificationState(StrEnum):
    """What is known about a backup; only a verified one is ever chosen by `--latest`."""

    UNVERIFIED = "unverified"
    VERIFIED = "verified"
    FAILED = "failed"


class Verification(_Record):
    """The proof: the backup was restored into a scratch database and its fingerprint compared.

    `restore_s` is the measured time to restore, in seconds: fetching, restoring, comparing.
    """

    state: VerificationState = VerificationState.UNVERIFIED
    level: VerificationLevel | None = None
    at: AwareDatetime | None = None
    restore_s: float | None = None
    detail: str = "never restored"


class RestorePoint(_Record):
    """An instant copy beside the dump, kept by the database's provider until `expires_at`.

    `snapshot` is `pg_current_snapshot()` right before it was made: all that it sees is in the copy.
    """

    kind: str
    point_id: str
    name: str
    lsn: str | None
    expires_at: AwareDatetime | None
    snapshot: str | None = None


class Pin(_Record):
    """Why a backup is kept, whatever the retention says."""

    reason: str
    by: str
    at: AwareDatetime


class BackupManifest(_Record):
    """One backup. Kept as `database/backups/<backup_id>.meta.json` beside the folder of its files.

    `files` are paths inside `database/backups/<backup_id>/`. `seal` is the sha256 of all the rest; a manifest that
    was changed by hand, or cut, is refused.

    Source: runbook, "Deployment Logs" (Database Backups).
    """

    format_version: Literal[1] = 1
    backup_id: Annotated[str, AfterValidator(check_backup_id)]
    environment: str
    database: str
    created_at: AwareDatetime
    duration_s: float
    reason: str
    triggered_by: str
    active_git_sha: str | None = Field(description="Commit that had the public traffic when the backup was made.")
    client: str
    dump_format: DumpFormat
    recipients: tuple[str, ...] = Field(default=(), description="age public keys it is encrypted for; none: plain.")
    files: dict[Annotated[str, AfterValidator(check_file_name)], StoredFile]
    facts: DatabaseFacts
    fingerprint: Fingerprint
    restore_point: RestorePoint | None = None
    verification: Verification = Verification()
    restore_by_hand: tuple[str, ...] = Field(description="Commands that restore this backup without this project.")
    seal: str = ""

    @property
    def size_bytes(self) -> int:
        """Bytes of all files of the backup, as stored."""
        return sum(file.size_bytes for file in self.files.values())

    @property
    def is_verified(self) -> bool:
        """Whether it was restored and found equal."""
        return self.verification.state is VerificationState.VERIFIED

    def with_verification(self, verification: Verification) -> BackupManifest:
        """Return this manifest with the outcome of a verification."""
        return self.model_copy(update={"verification": verification})

    def sealed(self) -> BackupManifest:
        """Return this manifest with the seal that fits its content."""
        return self.model_copy(update={"seal": self._digest()})

    @property
    def is_intact(self) -> bool:
        """Whether the seal fits the content."""
        return self.seal == self._digest()

    def _digest(self) -> str:
        return hashlib.sha256(self.model_dump_json(exclude={"seal"}).encode()).hexdigest()
