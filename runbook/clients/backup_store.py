"""Where backups and the records of runs are kept."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from runbook.manifest import BackupManifest
from runbook.reports import DeployReport, RollbackReport


class BackupStore(Protocol):
    """What every backup store can do; a folder and S3 implement it."""

    def check(self) -> None:
        """Raise `RejectedError`, in words a person can act on, unless the store can be written to."""
        ...

    def reserve(self, backup_id: str) -> Path:
        """Return an empty folder, private to this backup, to write its files into.

        Raises:
            TransientError: the id is taken; the next second gives another.
        """
        ...

    def publish(self, manifest: BackupManifest) -> None:
        """Make a reserved backup visible, its manifest last; until then nobody lists it."""
        ...

    def discard(self, backup_id: str) -> None:
        """Remove a reserved backup that was not published; no error when there is none."""
        ...

    def manifests(self) -> Sequence[BackupManifest]:
        """Return the manifests of all published backups, newest first."""
        ...

    def manifest(self, backup_id: str) -> BackupManifest:
        """Return one manifest; `InvalidInputError` when the id is malformed or unknown."""
        ...

    def update(self, manifest: BackupManifest) -> None:
        """Replace the manifest of a published backup, for example after its verification."""
        ...

    def files(self, manifest: BackupManifest) -> Path:
        """Return a folder with the backup's files, each checked against its sha256.

        Raises:
            RejectedError: a file is missing, is too many, or is not what the manifest says.
        """
        ...

    def write_deploy(self, report: DeployReport) -> str:
        """Keep the report of a deploy; return where (`logs/deploy_*.json`)."""
        ...

    def write_rollback(self, report: RollbackReport) -> str:
        """Keep the report of a rollback; return where (`logs/rollback_*.json`)."""
        ...

    def history(self) -> Sequence[DeployReport | RollbackReport]:
        """Return all reports, oldest first."""
        ...
