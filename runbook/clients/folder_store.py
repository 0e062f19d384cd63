"""The backup store as a folder: `database/backups/<backup_id>/`, `database/backups/<backup_id>.meta.json`, `logs/`.

Source: runbook, "Deployment Logs".
"""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from runbook.errors import InvalidInputError, RejectedError, TransientError
from runbook.manifest import BackupManifest, StoredFile
from runbook.reports import DeployReport, RollbackReport
from runbook.rules.identifiers import check_backup_id

ReportT = TypeVar("ReportT", DeployReport, RollbackReport)


class FolderStore:
    """A backup store in a folder. Folders are 0700 and files 0600: they hold the application's data."""

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()
        self.backups = self.root / "database" / "backups"
        self.logs = self.root / "logs"

    def check(self) -> None:
        """Raise `RejectedError` unless the folder can be written to."""
        try:
            for folder in (self.backups, self.logs):
                folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            probe = self.backups / f".probe-{secrets.token_hex(4)}"
            _write_private(probe, "writable\n")
            probe.unlink()
        except OSError as error:
            raise RejectedError(
                f"the backup store {self.root} cannot be written to: {error}. Mend the folder or its permissions."
            ) from error

    def reserve(self, backup_id: str) -> Path:
        """See `BackupStore.reserve`."""
        target = self._folder(check_backup_id(backup_id))
        partial = self._partial(backup_id)
        self.backups.mkdir(parents=True, exist_ok=True, mode=0o700)
        try:
            partial.mkdir(mode=0o700)
        except FileExistsError as error:
            raise TransientError(f"another backup is being made as {backup_id}; wait a second and try again") from error
        if target.exists() or self._meta(backup_id).exists():
            partial.rmdir()
            raise TransientError(f"{backup_id} exists already; wait a second and try again")
        return partial

    def publish(self, manifest: BackupManifest) -> None:
        """See `BackupStore.publish`: the folder gets its name first, the manifest is written last."""
        partial = self._partial(manifest.backup_id)
        for path in sorted(partial.rglob("*")):
            if path.is_file():
                path.chmod(0o600)
                _sync(path)
        _sync(partial)
        partial.rename(self._folder(manifest.backup_id))
        self.update(manifest)

    def discard(self, backup_id: str) -> None:
        """See `BackupStore.discard`."""
        shutil.rmtree(self._partial(check_backup_id(backup_id)), ignore_errors=True)

    def manifests(self) -> Sequence[BackupManifest]:
        """See `BackupStore.manifests`."""
        paths = sorted(self.backups.glob("backup_*.meta.json"), reverse=True)
        return [_read(path, BackupManifest) for path in paths]

    def manifest(self, backup_id: str) -> BackupManifest:
        """See `BackupStore.manifest`."""
        path = self._meta(check_backup_id(backup_id))
        if not path.exists():
            newest = [known.backup_id for known in self.manifests()[:5]]
            raise InvalidInputError(
                "backup_id",
                backup_id,
                "a backup in the store, newest first: " + (", ".join(newest) or "there is none yet"),
                "List all with `runbook db:backups`.",
            )
        return _read(path, BackupManifest)

    def update(self, manifest: BackupManifest) -> None:
        """See `BackupStore.update`; replaced in one step, so a reader sees the old or the new one."""
        _replace(self._meta(manifest.backup_id), manifest)

    def files(self, manifest: BackupManifest) -> Path:
        """See `BackupStore.files`."""
        folder = self._folder(manifest.backup_id)
        found = stored_files(folder) if folder.is_dir() else {}
        wrong = sorted(
            name for name in found.keys() | manifest.files.keys() if found.get(name) != manifest.files.get(name)
        )
        if wrong:
            raise RejectedError(
                f"{manifest.backup_id} is not what its manifest says ({', '.join(wrong[:5])}): missing, added or "
                "changed. It was not used; choose another backup with `runbook db:backups`."
            )
        return folder

    def write_deploy(self, report: DeployReport) -> str:
        """See `BackupStore.write_deploy`."""
        return self._write_report("deploy", report)

    def write_rollback(self, report: RollbackReport) -> str:
        """See `BackupStore.write_rollback`."""
        return self._write_report("rollback", report)

    def history(self) -> Sequence[DeployReport | RollbackReport]:
        """See `BackupStore.history`."""
        deploys: list[DeployReport | RollbackReport] = [
            _read(path, DeployReport) for path in self.logs.glob("deploy_*.json")
        ]
        rollbacks = [_read(path, RollbackReport) for path in self.logs.glob("rollback_*.json")]
        return sorted([*deploys, *rollbacks], key=lambda report: report.timestamp)

    def _write_report(self, kind: str, report: DeployReport | RollbackReport) -> str:
        self.logs.mkdir(parents=True, exist_ok=True, mode=0o700)
        path = self.logs / f"{kind}_{report.timestamp:%Y%m%d_%H%M%S_%f}.json"
        _replace(path, report)
        return str(path)

    def _folder(self, backup_id: str) -> Path:
        return self.backups / backup_id

    def _partial(self, backup_id: str) -> Path:
        return self.backups / f".{backup_id}.partial"

    def _meta(self, backup_id: str) -> Path:
        return self.backups / f"{backup_id}.meta.json"


def stored_files(folder: Path) -> dict[str, StoredFile]:
    """Return size and sha256 of every file below a folder, by path inside it."""
    found: dict[str, StoredFile] = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            with path.open("rb") as stream:
                digest = hashlib.file_digest(stream, "sha256").hexdigest()
            found[path.relative_to(folder).as_posix()] = StoredFile(sha256=digest, size_bytes=path.stat().st_size)
    return found


ModelT = TypeVar("ModelT", bound=BaseModel)


def _read(path: Path, model: type[ModelT]) -> ModelT:
    try:
        return model.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise RejectedError(f"{path} cannot be read as {model.__name__}: {error}") from error


def _replace(path: Path, record: BaseModel) -> None:
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    _write_private(temporary, record.model_dump_json(by_alias=True, indent=2) + "\n")
    temporary.replace(path)
    _sync(path.parent)


def _write_private(path: Path, text: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
