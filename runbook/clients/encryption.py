"""Encryption of backups for recipients, in the age format: who makes backups needs no secret.

Source: https://age-encryption.org/v1; the command line tool `age` reads what is written here.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, TypeAlias

import pyrage

from runbook.clients.object_store import CHUNK_BYTES
from runbook.errors import DamagedBackupError, InvalidInputError

Identity: TypeAlias = pyrage.x25519.Identity
_NO_KEY_FITS = "No matching keys found"


def read_identities(path: Path) -> list[Identity]:
    """Return the secret keys in a file as `age-keygen` writes it.

    Raises:
        InvalidInputError: the file cannot be read, others may read it, or it holds no age secret key; its content is
            never shown.
    """
    try:
        mode, lines = path.stat().st_mode, path.read_text(encoding="ascii").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        said = error.strerror if isinstance(error, OSError) else "it is not text"
        raise _unusable(path, f"{said}") from None
    if mode & 0o077:
        raise _unusable(path, f"others may read it (mode {mode & 0o777:04o}); run `chmod 600` on it")
    keys = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    try:
        found = [Identity.from_str(key) for key in keys]
    except pyrage.IdentityError:
        raise _unusable(path, "a line of it is no age secret key") from None
    if not found:
        raise _unusable(path, "it holds no key")
    return found


@contextmanager
def encrypted(source: BinaryIO, recipients: Sequence[str]) -> Generator[BinaryIO]:
    """Encrypt a stream for recipients (age public keys) while it is read, in constant memory."""
    keys = [pyrage.x25519.Recipient.from_str(recipient) for recipient in recipients]
    with _through(source, lambda plain, target: pyrage.encrypt_io(plain, target, keys)) as stream:
        yield stream


@contextmanager
def decrypted(source: BinaryIO, identities: Sequence[Identity], what: str) -> Generator[BinaryIO]:
    """Decrypt a stream while it is read, in constant memory; `what` names it in errors.

    Raises:
        InvalidInputError: on reading, when no key fits.
        DamagedBackupError: on reading, when the content was changed or cut.
    """

    def decrypt(sealed: BinaryIO, target: BinaryIO) -> None:
        try:
            pyrage.decrypt_io(sealed, target, list(identities))
        except BrokenPipeError:  # the reader has left
            raise
        except (pyrage.DecryptError, OSError) as error:
            if _NO_KEY_FITS in str(error):
                raise InvalidInputError(
                    "identity_file",
                    "(not shown)",
                    f"a key that {what} was encrypted for; its manifest lists the public keys",
                    "Name the file with the right key.",
                ) from None
            raise DamagedBackupError(f"{what} cannot be decrypted, its content was changed or cut: {error}") from None

    with _through(source, decrypt) as stream:
        yield stream


@contextmanager
def _through(source: BinaryIO, transform: Callable[[BinaryIO, BinaryIO], None]) -> Generator[BinaryIO]:
    """Run `transform` from `source` into a pipe, in a thread; yield the other end, which raises what went wrong."""
    reading, writing = os.pipe()
    watched = _Watched(source)
    failure: list[BaseException] = []

    def work() -> None:
        try:
            with os.fdopen(writing, "wb", buffering=CHUNK_BYTES) as target:
                transform(watched, target)  # pyright: ignore[reportArgumentType] - the part of BinaryIO that is used
        except BaseException as error:  # noqa: BLE001 - raised again by whoever reads
            failure.append(watched.error or error)

    thread = threading.Thread(target=work, daemon=True)
    with os.fdopen(reading, "rb", buffering=CHUNK_BYTES) as stream:
        thread.start()
        yield _Ending(stream, thread, failure)  # pyright: ignore[reportReturnType] - the part of BinaryIO that is used
    thread.join()


class _Watched:
    """A source that remembers its own error: the library wraps it in one of its own."""

    def __init__(self, source: BinaryIO) -> None:
        self._source = source
        self.error: BaseException | None = None

    def read(self, size: int = -1) -> bytes:
        try:
            return self._source.read(size)
        except BaseException as error:
            self.error = error
            raise


class _Ending:
    """A stream that is at its end only when the thread that fills it ended well."""

    def __init__(self, stream: BinaryIO, thread: threading.Thread, failure: list[BaseException]) -> None:
        self._stream, self._thread, self._failure = stream, thread, failure

    def read(self, size: int = -1) -> bytes:
        data = self._stream.read(size)
        if not data or size < 0:
            self._thread.join()
            if self._failure:
                raise self._failure[0]
        return data


def _unusable(path: Path, why: str) -> InvalidInputError:
    return InvalidInputError(
        "identity_file", str(path), "a file of mode 0600 with an age secret key, as `age-keygen -o` writes it", why
    )
