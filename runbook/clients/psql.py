"""psql, which runs the scripts: what it says about an error, told with the file, line and statement of its cause.

A script is run by psql itself, so that it does here exactly what it does by hand.
Source: PostgreSQL manual, "psql".
"""

from __future__ import annotations

import re
import signal
import subprocess
import tempfile
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from runbook.clients.lock_watch import LockWatch
from runbook.clients.postgres import Database
from runbook.errors import StageError, TransientError

_MAIN = "main.sql"
# Trying again can help: serialization failure, deadlock, server shutting down or starting.
_TRANSIENT = frozenset({"40001", "40P01", "57P01", "57P02", "57P03"})
_LOCK_NOT_AVAILABLE = "55P03"
_CONNECTION_LOST = 2  # psql's exit code
_STATEMENT_SHOWN = 300
_ENDS_WITHIN_S = 10
_ERROR = re.compile(
    r"^psql:(?P<file>[^:\n]*):(?P<line>\d+): (?:error|ERROR|FATAL|PANIC):\s+(?:(?P<code>[0-9A-Z]{5}): )?(?P<text>.*)$",
    re.MULTILINE,
)
_STATEMENT = re.compile(r"^psql:[^:\n]*:\d+: STATEMENT:  (.*)", re.MULTILINE | re.DOTALL)
_LINE_OF_STATEMENT = re.compile(r"^LINE (\d+): ", re.MULTILINE)
_SECRET = re.compile(r"\b(?:PASSWORD|SECRET|TOKEN|CONNECTION)\b", re.IGNORECASE)


class SqlError(StageError):
    """A statement failed. `sqlstate` is PostgreSQL's code, `path` and `line` (from 1) say where."""

    def __init__(self, message: str, *, sqlstate: str, path: str, line: int) -> None:
        super().__init__(message)
        self.sqlstate, self.path, self.line = sqlstate, path, line


class LockTimeoutError(TransientError):
    """A lock was not to be had within the lock time-out; the message names who held it."""


@dataclass(frozen=True)
class Piece:
    """One part of what psql runs, in order: a file, or a line of SQL of ours.

    `path` is what people are told, `lines` the file's own line for each line of `text`; both are for files.
    """

    text: str
    path: str
    lines: Sequence[int] = ()

    @property
    def is_file(self) -> bool:
        """Whether it came from a file of the application's."""
        return bool(self.lines)


def run_psql(
    database: Database, pieces: Sequence[Piece], *, one_transaction: bool, lock_timeout_s: float, output: bool = False
) -> str:
    """Run pieces in one session of psql, which stops at the first error; return what it printed when `output`.

    Raises:
        LockTimeoutError: a lock was not to be had.
        TransientError: the connection was lost, or the server ended the session.
        SqlError: a statement failed.
    """
    session = f"{database.application}-{uuid.uuid4().hex[:12]}"
    programs = database.programs()
    argv = programs.argv("psql", "-X", "-q", "-b", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-v", "VERBOSITY=verbose")
    argv += [*(["-1"] if one_transaction else []), "-f", _MAIN]
    environment = database.child_environment(programs=programs) | {"PGCLIENTENCODING": "UTF8", "PGAPPNAME": session}
    with (
        tempfile.TemporaryDirectory(prefix="runbook-migration-") as folder,
        LockWatch(database, session, every_s=min(0.1, lock_timeout_s / 4)) as watch,
    ):
        shown = _write(Path(folder), pieces)
        code, printed, said = _run(argv, environment, folder, output=output)
    if code:
        raise _error(code, said, shown, watch.blocked_by)
    return printed


def _write(folder: Path, pieces: Sequence[Piece]) -> Mapping[tuple[str, int], Piece]:
    """Write the script that includes all pieces; return which piece a file, or a line of the script, is."""
    shown: dict[tuple[str, int], Piece] = {}
    main: list[str] = []
    for number, piece in enumerate(pieces):
        if piece.is_file:
            name = f"{number:05d}.sql"
            (folder / name).write_text(piece.text, encoding="utf-8", newline="")
            shown[name, 0] = piece
            main.append(f"\\i {name}")
        else:
            main.append(piece.text)
        shown[_MAIN, len(main)] = piece
    (folder / _MAIN).write_text("\n".join(main) + "\n", encoding="utf-8", newline="")
    return shown


def _run(argv: Sequence[str], environment: Mapping[str, str], folder: str, *, output: bool) -> tuple[int, str, str]:
    with subprocess.Popen(
        argv,
        cwd=folder,
        env=dict(environment),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE if output else subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        errors="replace",
    ) as process:
        try:
            printed, said = process.communicate()
        except BaseException:
            _end(process)
            raise
    return process.returncode, printed or "", said


def _end(process: subprocess.Popen[str]) -> None:
    """Cancel the statement that runs, which rolls back its transaction; end psql when it does not come back."""
    process.send_signal(signal.SIGINT)
    try:
        process.communicate(timeout=_ENDS_WITHIN_S)
    except subprocess.TimeoutExpired:
        process.kill()


def _error(
    code: int, said: str, shown: Mapping[tuple[str, int], Piece], blocked_by: str
) -> TransientError | SqlError | StageError:
    found = _ERROR.search(said)
    if found is None:
        kind = TransientError if code == _CONNECTION_LOST else StageError
        return kind(f"psql ended with {code}: {said.strip()[-2000:]}")
    name, reported = found["file"], int(found["line"])
    piece = shown.get((name, 0)) or shown.get((name, reported)) or Piece("", name)
    details, statement = _details(said[found.end() :])
    line = _line(piece, reported, statement, details)
    sqlstate = found["code"] or "unknown"
    where = f"{piece.path}:{line}" if piece.is_file else f"after {piece.path}"
    lines = [f"{where}: {found['text']} (SQLSTATE {sqlstate})", *details]
    if piece.is_file and statement and not _SECRET.search(statement):
        lines.append(f"STATEMENT: {' '.join(statement.split())[:_STATEMENT_SHOWN]}")
    if sqlstate == _LOCK_NOT_AVAILABLE:
        return LockTimeoutError("\n".join([*lines, *([f"Blocked by {blocked_by}"] if blocked_by else [])]))
    if code == _CONNECTION_LOST or sqlstate in _TRANSIENT:
        return TransientError("\n".join(lines))
    return SqlError("\n".join(lines), sqlstate=sqlstate, path=piece.path, line=line)


def _details(rest: str) -> tuple[list[str], str]:
    """Return what the server added (position, detail, hint), and the statement that psql echoed."""
    echoed = _STATEMENT.search(rest)
    text = rest[: echoed.start()] if echoed else rest
    lines = [line for line in text.strip("\n").splitlines() if line and not line.startswith("LOCATION:")]
    return lines, echoed[1].rstrip("\n") if echoed else ""


def _line(piece: Piece, reported: int, statement: str, details: Sequence[str]) -> int:
    """Return the line of the file: psql reports where the statement ends, the server counts from its beginning."""
    position = _LINE_OF_STATEMENT.search("\n".join(details))
    line = reported
    if position and statement:
        line = max(1, reported - statement.count("\n") + int(position[1]) - 1)
    return piece.lines[min(line, len(piece.lines)) - 1] if piece.is_file else line
