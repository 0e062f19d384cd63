"""Private folders for dumps on their way to or from the store, gone afterwards, also those of runs that were killed."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from runbook.errors import RejectedError

_LOCK = "lock"


@contextmanager
def work_folder(parent: Path, purpose: str) -> Generator[Path]:
    """Make an empty folder of mode 0700 below `parent` and delete it afterwards.

    The lock in it is held while its process lives; a folder whose lock is free belonged to a run that was killed, and
    is deleted first.

    Raises:
        RejectedError: `parent` cannot be written to.
    """
    try:
        parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _sweep(parent)
        folder = Path(tempfile.mkdtemp(prefix=f"{purpose}-", dir=parent))
        # Locked before it has its name: whoever sweeps at this moment must not find it free.
        descriptor = os.open(folder / f".{_LOCK}", os.O_RDWR | os.O_CREAT, 0o600)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        (folder / f".{_LOCK}").rename(folder / _LOCK)
    except OSError as error:
        raise RejectedError(
            f"the work folder {parent} cannot be used: {error}. Mend it, or name another as `work_directory` in the "
            "settings."
        ) from error
    try:
        inside = folder / "files"
        inside.mkdir(mode=0o700)
        yield inside
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(descriptor)


def _sweep(parent: Path) -> None:
    for lock in parent.glob(f"*/{_LOCK}"):
        try:
            descriptor = os.open(lock, os.O_RDWR)
        except OSError:
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(lock.parent, ignore_errors=True)
        except BlockingIOError:
            continue
        finally:
            os.close(descriptor)
