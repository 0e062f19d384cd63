"""The backup store as a folder: `database/backups/<backup_id>/`, `database/backups/<backup_id>.meta.json`, `logs/`.

Source: runbook, "Deployment Logs".
"""

from __future__ import annotations

import hashlib
import logging
import os
import secrets
import shutil
from collections.abc import Generator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from runbook.errors import InvalidInputError, RejectedError, TransientError
from runbook.manifest import BackupManifest, StoredFile
from runbook.reports import DeployReport, RollbackReport
from runbook.rules.identifiers import check_backup_id

_log = logging.getLogger(__name__)


class FolderStore:
    """A backup store in a folder. Folders are 0700 and files 0600: they hold the application's data."""

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()
        self.backups = self.root / "database" / "backups"
        self.logs = self.root / "logs"

    def check(self) -> None:
        """Raise `RejectedError` unless the folder can be written to."""
        with self._usable():
            for folder in (self.backups, self.logs):
                _make_private(folder)
            probe = self.backups / f".probe-{secrets.token_hex(4)}"
            _write_private(probe, "writable\n")
            probe.unlink()

    def reserve(self, backup_id: str) -> Path:
        """See `BackupStore.reserve`."""
        partial = self._partial(backup_id)
        with self._usable():
            _make_private(self.backups)
            try:
                partial.mkdir(mode=0o700)
            except FileExistsError as error:
                message = f"another backup is being made as {backup_id}; wait a second and try again"
                raise TransientError(message) from error
            if self._folder(backup_id).exists() or self._meta(backup_id).exists():
                with suppress(FileNotFoundError):
                    partial.rmdir()
                raise TransientError(f"{backup_id} exists already; wait a second and try again")
        return partial

    def publish(self, manifest: BackupManifest) -> None:
        """See `BackupStore.publish`: the folder gets its name first, the manifest is written last."""
        partial = self._partial(manifest.backup_id)
        with self._usable():
            for path in sorted(partial.rglob("*"), reverse=True):
                path.chmod(0o700 if path.is_dir() else 0o600)
                _sync(path)
            _sync(partial)
            partial.rename(self._folder(manifest.backup_id))
        self.update(manifest)

    def discard(self, backup_id: str) -> None:
        """See `BackupStore.discard`; one whose publishing was interrupted has its name already, but no manifest."""
        shutil.rmtree(self._partial(backup_id), ignore_errors=True)
        if not self._meta(backup_id).exists():
            shutil.rmtree(self._folder(backup_id), ignore_errors=True)

    def manifests(self) -> Sequence[BackupManifest]:
        """See `BackupStore.manifests`; one that cannot be read is left out, so that the others stay usable."""
        found: list[BackupManifest] = []
        for path in sorted(self.backups.glob("backup_*.meta.json"), reverse=True):
            try:
                found.append(self.manifest(path.name.removesuffix(".meta.json")))
            except (InvalidInputError, RejectedError) as error:
                _log.warning("left out of the list of backups: %s", error)
        return found

    def manifest(self, backup_id: str) -> BackupManifest:
        """See `BackupStore.manifest`."""
        path = self._meta(backup_id)
        if not path.exists():
            newest = [known.backup_id for known in self.manifests()[:5]]
            raise InvalidInputError(
                "backup_id",
                backup_id,
                "a backup in the store, newest first: " + (", ".join(newest) or "there is none yet"),
                "List all with `runbook db:backups`.",
            )
        manifest = _read(path, BackupManifest)
        if manifest.backup_id != backup_id:
            raise RejectedError(f"{path} is the manifest of {manifest.backup_id!r}; it was not used")
        return manifest

    def update(self, manifest: BackupManifest) -> None:
        """See `BackupStore.update`; replaced in one step, so a reader sees the old or the new one."""
        with self._usable():
            _replace(self._meta(manifest.backup_id), manifest)

    def files(self, manifest: BackupManifest) -> Path:
        """See `BackupStore.files`."""
        folder = self._folder(manifest.backup_id)
        with self._usable():
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
        """See `BackupStore.history`; one that cannot be read may be the one that marks a release bad, so it refuses."""
        deploys: list[DeployReport | RollbackReport] = [
            _read(path, DeployReport) for path in self.logs.glob("deploy_*.json")
        ]
        rollbacks = [_read(path, RollbackReport) for path in self.logs.glob("rollback_*.json")]
        return sorted([*deploys, *rollbacks], key=lambda report: report.timestamp)

    def _write_report(self, kind: str, report: DeployReport | RollbackReport) -> str:
        path = self.logs / f"{kind}_{report.timestamp:%Y%m%d_%H%M%S_%f}.json"
        with self._usable():
            _make_private(self.logs)
            _replace(path, report)
        return str(path)

    @contextmanager
    def _usable(self) -> Generator[None]:
        try:
            yield
        except OSError as error:
            raise RejectedError(
                f"the backup store {self.root} cannot be used: {error}. Mend the folder or its permissions."
            ) from error

    def _folder(self, backup_id: str) -> Path:
        return self.backups / check_backup_id(backup_id)

    def _partial(self, backup_id: str) -> Path:
        return self.backups / f".{check_backup_id(backup_id)}.partial"

    def _meta(self, backup_id: str) -> Path:
        return self.backups / f"{check_backup_id(backup_id)}.meta.json"


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
        raise RejectedError(
            f"{path} cannot be read as {model.__name__}: {error}. Mend it, or move it away if it is not the runbook's."
        ) from error


def _replace(path: Path, record: BaseModel) -> None:
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        _write_private(temporary, record.model_dump_json(by_alias=True, indent=2) + "\n")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    _sync(path.parent)


def _make_private(folder: Path) -> None:
    """Make a folder, and those above it that are missing; `Path.mkdir` gives only the last one its mode."""
    if not folder.parent.exists():
        _make_private(folder.parent)
    folder.mkdir(mode=0o700, exist_ok=True)


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
