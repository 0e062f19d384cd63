"""Where bytes are kept under keys: a folder and S3 implement it; backups and records of runs are built on it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import BinaryIO, Protocol

from runbook.errors import RejectedError, TransientError
from runbook.manifest import StoredFile

CHUNK_BYTES = 1 << 20


class MissingObjectError(RejectedError):
    """There is nothing under the key."""


class ObjectExistsError(TransientError):
    """Something is under the key already."""


class ObjectLockedError(RejectedError):
    """The object may not be deleted yet: Object Lock protects it."""


@dataclass(frozen=True)
class ObjectInfo:
    """What a listing says about an object; `modified_at` is the store's own clock."""

    key: str
    size_bytes: int
    modified_at: datetime


class ObjectStore(Protocol):
    """What every store can do. Keys are relative paths with `/`, for example `database/backups/x.meta.json`.

    Every method raises `TransientError` when trying again can help and `RejectedError` when it cannot, in words a
    person can act on.
    """

    @property
    def place(self) -> str:
        """Where it is, for messages and for commands by hand; never a secret."""
        ...

    def check(self) -> None:
        """Raise `RejectedError` unless the store can be written to, read and deleted from."""
        ...

    def write(self, key: str, source: BinaryIO) -> StoredFile:
        """Store what `source` gives, in constant memory, and return its sha256 and size.

        The object appears when all of it is stored; when `source` or the store fails there is no object, and what was
        there before stays.
        """
        ...

    def create(self, key: str, data: bytes, *, protected: bool = False) -> None:
        """Store a small object; of two writers one wins and the other gets `ObjectExistsError`.

        A `protected` one may not be deleted for a time, in a store that can see to that; what `write` stores always is.
        """
        ...

    def replace(self, key: str, data: bytes) -> None:
        """Store a small object in place of the one there, if any; a reader sees the old or the new one."""
        ...

    def read(self, key: str) -> bytes:
        """Return a small object; `MissingObjectError` when there is none."""
        ...

    def open(self, key: str) -> AbstractContextManager[BinaryIO]:
        """Open an object for reading from its beginning to its end; `MissingObjectError` when there is none."""
        ...

    def now(self) -> datetime:
        """Return the time by the store's own clock, in UTC."""
        ...

    def objects(self, prefix: str) -> Iterator[ObjectInfo]:
        """List the objects whose key begins with `prefix`, by key; none that is still being written."""
        ...

    def delete(self, keys: Iterable[str]) -> None:
        """Delete objects, in the order given; no error when one is gone. `ObjectLockedError` when one is protected."""
        ...

    def locked_until(self, key: str) -> datetime | None:
        """Return until when the object is protected from deletion, or None."""
        ...

    def sweep(self, prefix: str, *, older_than: timedelta) -> int:
        """Remove what interrupted writes below `prefix` left behind, and return how much it was.

        Only what is older than `older_than` by the store's own clock: another run may be writing.
        """
        ...
