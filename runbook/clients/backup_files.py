"""The files of a backup as they lie in a store: compressed where it pays, encrypted where configured."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager
from typing import BinaryIO

import zstandard

from runbook.clients.backup_store import BackupStore
from runbook.clients.encryption import Identity, decrypted, encrypted
from runbook.errors import DamagedBackupError
from runbook.manifest import BackupManifest
from runbook.rules.restore_by_hand import AGE, ZST

_LEVEL = 1
_THREADS = 2  # the biggest table is often the last one, and nothing else to do then


def stored_name(name: str, recipients: Sequence[str]) -> str:
    """Return the name of a file in the store."""
    return f"{name}{AGE}" if recipients else name


@contextmanager
def sealed(source: BinaryIO, name: str, recipients: Sequence[str]) -> Generator[BinaryIO]:
    """Compress a stream, when `name` ends so, and encrypt it for recipients, if any, while it is read."""
    if name.endswith(ZST):
        compressor = zstandard.ZstdCompressor(level=_LEVEL, write_checksum=True, threads=_THREADS)
        source = compressor.stream_reader(source)  # pyright: ignore[reportAssignmentType] - the part that is used
    if not recipients:
        yield source
        return
    with encrypted(source, recipients) as stream:
        yield stream


@contextmanager
def opened(
    store: BackupStore, manifest: BackupManifest, name: str, identities: Sequence[Identity]
) -> Generator[BinaryIO]:
    """Open a file of a backup as it was before it was sealed; checked, decrypted and decompressed while it is read.

    Raises:
        DamagedBackupError: the file is missing, or was changed.
        InvalidInputError: no key fits.
    """
    what = f"{manifest.backup_id}: {name}"
    with ExitStack() as stack:
        source = stack.enter_context(store.open(manifest, stored_name(name, manifest.recipients)))
        if manifest.recipients:
            source = stack.enter_context(decrypted(source, identities, what))
        if name.endswith(ZST):
            source = _Decompressed(source, what)
        yield source  # pyright: ignore[reportReturnType] - the part of BinaryIO that is used


class _Decompressed:
    """A zstd stream while it is read; what cannot be decompressed is damaged."""

    def __init__(self, source: BinaryIO, what: str) -> None:
        self._stream = zstandard.ZstdDecompressor().stream_reader(source, read_across_frames=True)
        self._what = what

    def read(self, size: int = -1) -> bytes:
        try:
            return self._stream.read(size)
        except zstandard.ZstdError as error:
            raise DamagedBackupError(f"{self._what} cannot be decompressed, it was changed: {error}") from error
