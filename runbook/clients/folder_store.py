"""An object store as a folder. Folders are 0700 and files 0600: they hold the application's data."""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import BinaryIO

from runbook.clients.object_store import CHUNK_BYTES, MissingObjectError, ObjectExistsError, ObjectInfo
from runbook.errors import RejectedError
from runbook.manifest import StoredFile
from runbook.rules.identifiers import check_file_name

_PARTIAL = ".partial"
_MAKE_ATTEMPTS = 3


class FolderStore:
    """See `ObjectStore`. A key is a path below `root`; what is being written has a name that begins with a dot."""

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()

    @property
    def place(self) -> str:
        """See `ObjectStore.place`."""
        return str(self.root)

    def check(self) -> None:
        """See `ObjectStore.check`."""
        probe = f"database/backups/probe-{secrets.token_hex(4)}"
        self.create(probe, b"writable\n")
        self.read(probe)
        self.delete([probe])

    def write(self, key: str, source: BinaryIO) -> StoredFile:
        """See `ObjectStore.write`."""
        digest, size = hashlib.sha256(), 0
        with self._written(key) as (partial, stream):
            while chunk := source.read(CHUNK_BYTES):
                with self._usable():
                    stream.write(chunk)
                digest.update(chunk)
                size += len(chunk)
            with self._usable():
                _sync(stream)
                partial.replace(self._path(key))
                _sync_folder(partial.parent)
        return StoredFile(sha256=digest.hexdigest(), size_bytes=size)

    def create(self, key: str, data: bytes, *, protected: bool = False) -> None:  # noqa: ARG002 - nothing protects a file
        """See `ObjectStore.create`: a hard link is made in one step, or not at all."""
        with self._written(key) as (partial, stream), self._usable():
            stream.write(data)
            _sync(stream)
            try:
                self._path(key).hardlink_to(partial)
            except FileExistsError as error:
                raise ObjectExistsError(f"{self._path(key)} exists already") from error
            _sync_folder(partial.parent)

    def replace(self, key: str, data: bytes) -> None:
        """See `ObjectStore.replace`."""
        with self._written(key) as (partial, stream), self._usable():
            stream.write(data)
            _sync(stream)
            partial.replace(self._path(key))
            _sync_folder(partial.parent)

    def read(self, key: str) -> bytes:
        """See `ObjectStore.read`."""
        with self.open(key) as stream, self._usable():
            return stream.read()

    @contextmanager
    def open(self, key: str) -> Generator[BinaryIO]:
        """See `ObjectStore.open`."""
        path = self._path(key)
        with self._usable():
            try:
                stream = path.open("rb")
            except (FileNotFoundError, NotADirectoryError) as error:
                raise MissingObjectError(f"{path} does not exist") from error
        with stream:
            yield stream

    def now(self) -> datetime:
        """See `ObjectStore.now`: the time that a file made now gets."""
        with self._usable():
            _make_folder(self.root)
            probe = self.root / f".clock-{secrets.token_hex(4)}{_PARTIAL}"
            probe.touch(mode=0o600)
            try:
                return datetime.fromtimestamp(probe.stat().st_mtime, UTC)
            finally:
                probe.unlink()

    def objects(self, prefix: str) -> Iterator[ObjectInfo]:
        """See `ObjectStore.objects`."""
        with self._usable():
            found = sorted(self._below(prefix))
        for key, path in found:
            with suppress(FileNotFoundError):  # deleted by another run since
                state = path.stat()
                yield ObjectInfo(key, state.st_size, datetime.fromtimestamp(state.st_mtime, UTC))

    def delete(self, keys: Iterable[str]) -> None:
        """See `ObjectStore.delete`; a folder goes with its last file."""
        for key in keys:
            path = self._path(key)
            with self._usable():
                path.unlink(missing_ok=True)
                _sync_folder(path.parent)
                for folder in path.parents:
                    if folder == self.root or not _remove_if_empty(folder):
                        break

    def locked_until(self, key: str) -> datetime | None:
        """See `ObjectStore.locked_until`: a folder protects nothing."""
        self._path(key)
        return None

    def sweep(self, prefix: str, *, older_than: timedelta) -> int:
        """See `ObjectStore.sweep`."""
        removed = 0
        latest = (self.now() - older_than).timestamp()
        with self._usable():
            for path in self._folder_of(prefix).rglob(f".*{_PARTIAL}"):
                with suppress(FileNotFoundError):
                    if path.stat().st_mtime < latest:
                        path.unlink()
                        removed += 1
        return removed

    @contextmanager
    def _written(self, key: str) -> Generator[tuple[Path, BinaryIO]]:
        """Open a hidden file beside the one that `key` will be; whatever happens it is gone afterwards."""
        path = self._path(key)
        partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}{_PARTIAL}")
        try:
            with self._usable():
                stream = _make(partial)
            with stream:
                yield partial, stream
        finally:
            with suppress(OSError):
                partial.unlink(missing_ok=True)

    def _path(self, key: str) -> Path:
        return self.root / check_file_name(key)

    def _folder_of(self, prefix: str) -> Path:
        return self.root / prefix.rpartition("/")[0]

    def _below(self, prefix: str) -> Iterator[tuple[str, Path]]:
        for folder, _folders, names in os.walk(self._folder_of(prefix)):
            for name in names:
                path = Path(folder) / name
                key = path.relative_to(self.root).as_posix()
                if key.startswith(prefix) and not name.startswith("."):
                    yield key, path

    @contextmanager
    def _usable(self) -> Generator[None]:
        try:
            yield
        except OSError as error:
            raise RejectedError(
                f"the backup store {self.root} cannot be used: {error}. Mend the folder, its permissions or its disk."
            ) from error


def _make(path: Path) -> BinaryIO:
    """Create a file that only its owner reads; the folder may vanish meanwhile, when its last file is deleted."""
    for attempt in range(1, _MAKE_ATTEMPTS + 1):
        _make_folder(path.parent)
        try:
            return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb")
        except FileNotFoundError:
            if attempt == _MAKE_ATTEMPTS:
                raise
    raise AssertionError("unreachable")


def _make_folder(folder: Path) -> None:
    """Make a folder, and those above it that are missing; `Path.mkdir` gives only the last one its mode."""
    if not folder.parent.exists():
        _make_folder(folder.parent)
    folder.mkdir(mode=0o700, exist_ok=True)


def _remove_if_empty(folder: Path) -> bool:
    try:
        folder.rmdir()
    except OSError:
        return False
    return True


def _sync(stream: BinaryIO) -> None:
    stream.flush()
    os.fsync(stream.fileno())


def _sync_folder(folder: Path) -> None:
    with suppress(FileNotFoundError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
