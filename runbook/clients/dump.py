"""Dumps of one snapshot by `pg_dump`: in parallel, file by file, or as one stream.

`pg_dump` compresses nothing itself: its programs from a wheel know no zstd. The files are compressed as they are
finished, which the manual allows ("files in an uncompressed archive can be compressed with the gzip, lz4, or zstd
tools"); `pg_restore` with zstd reads them as they are.

Source: PostgreSQL manual, "pg_dump", --format, --jobs, --snapshot.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Sequence
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import BinaryIO

import psutil

from runbook.clients.postgres import Database

_LOOK_EVERY_S = 0.05
_OPTIONS = ("--compress=none", "--lock-wait-timeout=30s")
_TABLE_OF_CONTENTS = "toc.dat"


def dump_files(database: Database, snapshot_id: str, folder: Path, *, jobs: int) -> Generator[Sequence[Path]]:
    """Dump a database into a folder, `jobs` tables at a time; yield again and again the files finished meanwhile.

    A file is finished once `pg_dump` has closed it; it may be moved away then. Closing the iterator stops the dump.

    Raises:
        StageError: `pg_dump` failed; what was yielded is no backup.
    """
    argv = database.programs().argv(
        "pg_dump",
        "--format=directory",
        f"--jobs={jobs}",
        f"--snapshot={snapshot_id}",
        f"--file={folder}",
        "--no-sync",  # it is only on its way to the store, which sees to that
        *_OPTIONS,
    )
    given: set[Path] = set()
    with database.running(argv, what="backup") as process:
        while process.poll() is None:
            begun = _data_files(folder) - given  # looked at first: what is opened after this is not among them
            opened = _opened_by(process.pid)
            finished = [] if opened is None else sorted(begun - opened)
            given.update(finished)
            yield finished
            time.sleep(_LOOK_EVERY_S)
    yield sorted(set(folder.iterdir()) - given)


def dump_stream(database: Database, snapshot_id: str) -> AbstractContextManager[BinaryIO]:
    """Dump a database as one stream (`--format=custom`).

    Raises:
        StageError: on reading its end, when `pg_dump` failed: a killed one must not look finished.
    """
    argv = database.programs().argv("pg_dump", "--format=custom", f"--snapshot={snapshot_id}", *_OPTIONS)
    return database.output(argv, what="backup")


def is_compressible(name: str) -> bool:
    """Return whether a file of a dump holds data; `pg_restore` wants its tables of contents as they are."""
    return name.endswith(".dat") and name != _TABLE_OF_CONTENTS


def _data_files(folder: Path) -> set[Path]:
    with suppress(FileNotFoundError):  # pg_dump makes it once it has read the schema
        return {path for path in folder.iterdir() if is_compressible(path.name)}
    return set()


def _opened_by(pid: int) -> set[Path] | None:
    """Return the files that a process and its children have open; None when that cannot be known just now."""
    try:
        process = psutil.Process(pid)
        return {Path(file.path) for one in (process, *process.children()) for file in one.open_files()}
    except psutil.Error:
        return None
