"""What the local application host keeps under its root, and how it reads and writes it.

    config.json  what to run                    host.json        where the daemon answers, and its token
    app.env      variables of every release     active.json      who has the traffic, who had it when
    host.log     what the daemon says           logs/<id>.log    what a release says
    releases/<id>/{source/, release.json}

Everything is replaced as a whole, so a reader never sees half a file.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import secrets
import shutil
import time
from collections import deque
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

from runbook.clients.application_host import LogLine
from runbook.errors import RejectedError, TransientError

_KEPT_VARIABLES = ("PATH", "HOME", "LANG")
_VARIABLE_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_GIT_SHA = re.compile(r"[0-9a-f]{40}")
_LOG_BYTES = 4 * 1024 * 1024


@dataclass(frozen=True)
class LocalHostConfig:
    """What the local host runs.

    `{python}` in `start_command` becomes the interpreter that runs the host; the command runs in the checked out
    source and must listen on 127.0.0.1, port `$PORT`. A release is ready when `health_path` answers 200 within
    `ready_timeout_s`. `keep_warm` releases that had the traffic before keep running beside the active one.
    """

    repository: Path
    start_command: tuple[str, ...]
    health_path: str = "/api/health"
    ready_timeout_s: float = 20
    keep_warm: int = 2


@dataclass(frozen=True)
class HostAddress:
    """Where a daemon answers, the token it asks for, and which process it is."""

    admin_url: str
    public_url: str
    token: str
    pid: int
    create_time: float


def write_private(path: Path, content: dict[str, Any]) -> None:
    """Replace a JSON file in one step, readable by its owner alone, on disk when this returns."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as out:
        json.dump(content, out, indent=1)
        out.flush()
        os.fsync(out.fileno())
    temporary.replace(path)


def read_json(path: Path) -> dict[str, Any] | None:
    """Return the content of a JSON file, or None when there is no such file."""
    try:
        return cast(dict[str, Any], json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None


def write_config(root: Path, config: LocalHostConfig) -> None:
    """Write the configuration; the daemon reads it anew for every release that it starts."""
    write_private(root / "config.json", asdict(config) | {"repository": str(config.repository.resolve())})


def read_config(root: Path) -> LocalHostConfig:
    """Return the configuration that `write_config` wrote.

    Raises:
        RejectedError: there is none.
    """
    content = read_json(root / "config.json")
    if content is None:
        raise RejectedError(f"{root} holds no local host: config.json is missing")
    content["repository"] = Path(content["repository"])
    content["start_command"] = tuple(cast(list[str], content["start_command"]))
    return LocalHostConfig(**content)


def read_address(root: Path) -> HostAddress | None:
    """Return where the last daemon of this root answered; it may not run any more."""
    content = read_json(root / "host.json")
    return HostAddress(**content) if content is not None else None


@contextmanager
def exclusive(path: Path, *, timeout_s: float) -> Generator[None]:
    """Hold a lock file; the kernel gives it back when the process ends, however it ends.

    Raises:
        TransientError: another process holds it for longer than `timeout_s`.
    """
    deadline = time.monotonic() + timeout_s
    with path.open("a") as handle:
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise TransientError(f"another process holds {path} for more than {timeout_s:g} s") from None
                time.sleep(0.02)
        yield


def minimal_environment() -> dict[str, str]:
    """Return the few variables that processes of the local host take over from whoever started it."""
    return {name: os.environ[name] for name in _KEPT_VARIABLES if name in os.environ}


def read_variables(root: Path) -> dict[str, str]:
    """Return the variables in app.env: KEY=VALUE lines, values as they stand; `#` starts a comment line.

    Raises:
        RejectedError: a line is neither; it is named by number, since its text may be a secret.
    """
    path = root / "app.env"
    if not path.exists():
        return {}
    path.chmod(0o600)
    variables: dict[str, str] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        name, equals, value = line.partition("=")
        if not equals or not _VARIABLE_NAME.fullmatch(name.strip()):
            raise RejectedError(f"app.env, line {number}: not KEY=VALUE")
        variables[name.strip()] = value
    return variables


def check_git_sha(git_sha: str) -> None:
    """Refuse what is not a full SHA, before it becomes part of a path or of a command.

    Raises:
        RejectedError: it is not.
    """
    if not _GIT_SHA.fullmatch(git_sha):
        raise RejectedError(f"git SHA {git_sha!r}: expected 40 lower case hexadecimal digits")


@contextmanager
def new_release_directory(releases: Path, release_id: str) -> Generator[Path]:
    """Yield a temporary directory that becomes `releases/release_id` when the block ends without an error."""
    temporary = releases / f".tmp-{release_id}-{secrets.token_hex(4)}"
    temporary.mkdir()
    try:
        yield temporary
        temporary.rename(releases / release_id)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def tail(path: Path, lines: int, *, offset: int = 0) -> list[str]:
    """Return the last lines of a log file, oldest first, from `offset` bytes on; of a large file its last 4 MiB."""
    if not path.exists():
        return []
    with path.open("rb") as log:
        size = log.seek(0, os.SEEK_END)
        log.seek(max(offset, size - _LOG_BYTES))
        return [line.decode(errors="replace").rstrip("\r\n") for line in deque(log, maxlen=lines)]


def read_log(path: Path, *, since: datetime | None, limit: int) -> list[LogLine]:
    """Return the newest `limit` lines of a release's log that are not older than `since`, oldest first.

    A line without a time of its own counts as written just before the next line that has one (the last lines:
    when the file was last written), so `since` never hides a new line.
    """
    if not path.exists():
        return []
    at = datetime.fromtimestamp(path.stat().st_mtime, UTC)
    newest_first: list[LogLine] = []
    for line in _reversed_lines(path):
        parsed = _structured(line)
        if parsed is None:
            is_error = "Traceback" in line or "Error" in line
            parsed = LogLine(at, "error" if is_error else "info", line)
        at = parsed.at
        if since is None or at >= since:
            newest_first.append(parsed)
        if len(newest_first) == limit:
            break
    return newest_first[::-1]


def _reversed_lines(path: Path) -> Iterator[str]:
    yield from (line for line in reversed(tail(path, 100_000)) if line)


def _structured(line: str) -> LogLine | None:
    """Return a line that is a JSON object with `time`, `level` and `message`, or None."""
    if not line.startswith("{"):
        return None
    try:
        content = cast(dict[str, Any], json.loads(line))
        time_ = content["time"]
        at = datetime.fromisoformat(time_) if isinstance(time_, str) else datetime.fromtimestamp(time_, UTC)
        level, message = str(content["level"]).lower(), str(content["message"])
    except (ValueError, KeyError, TypeError, OverflowError, OSError):
        return None
    at = at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)
    return replace(LogLine(at, level, message), level="warning" if level == "warn" else level)
