"""One Postgres server and the application's database on it: connections, client programs, errors in words."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import psycopg
from psycopg import pq
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from runbook.clients.embedded_postgres import bin_directory
from runbook.errors import InvalidInputError, RejectedError, StageError, TransientError

MAINTENANCE_DATABASE = "postgres"
_CONNECT_TIMEOUT_S = 5
_PROGRAMS = ("pg_dump", "pg_restore", "psql")
_TAIL = 2000


@dataclass(frozen=True)
class ClientPrograms:
    """A directory with `pg_dump`, `pg_restore` and `psql` of one version."""

    directory: Path
    version: str

    @property
    def major(self) -> int:
        """Major version, for example 18."""
        return int(self.version.split(".")[0])

    def argv(self, program: str, *arguments: str) -> list[str]:
        """Return the argument list that runs a program of this directory."""
        return [str(self.directory / program), *arguments]


@dataclass(frozen=True)
class Database:
    """The application's database, reached by its direct (not pooled) URL. The URL never appears in a repr."""

    url: str = field(repr=False)

    def __post_init__(self) -> None:
        try:
            host = str(conninfo_to_dict(self.url).get("host") or "")
        except psycopg.ProgrammingError:  # its text repeats parts of the URL
            raise InvalidInputError(
                "database url",
                "(not shown)",
                "postgresql://user:password@host:port/database",
                "Mend it; special characters in a password have to be percent-encoded.",
            ) from None
        if "-pooler" in host:
            raise InvalidInputError(
                "database url",
                host,
                "the direct host: sessions, advisory locks and pg_dump do not survive a pooler",
                "Remove `-pooler` from the host name.",
            )

    @property
    def name(self) -> str:
        """Name of the application's database."""
        return str(conninfo_to_dict(self.url).get("dbname") or MAINTENANCE_DATABASE)

    @property
    def place(self) -> str:
        """Where the server is, without user or password, for messages."""
        parts = conninfo_to_dict(self.url)
        return f"{parts.get('host', 'localhost')}:{parts.get('port', 5432)}"

    @staticmethod
    def short(name: str) -> str:
        """Cut a database name so that a suffix still fits into PostgreSQL's 63 bytes."""
        return name.encode()[:24].decode(errors="ignore")

    def beside(self, purpose: str) -> str:
        """Return a name for a database beside the live one, with the time in it: `<name>_<purpose>_<UTC time>`."""
        return f"{self.short(self.name)}_{purpose}_{datetime.now(UTC):%Y%m%d_%H%M%S_%f}"[:63]

    @contextmanager
    def connect(self, database: str | None = None) -> Generator[psycopg.Connection]:
        """Open a connection in autocommit mode to the application's database, or to another one on the server.

        Raises:
            TransientError: the server does not answer, ended the session, or a lock was not to be had.
            RejectedError: the server refused a statement.
        """
        name = database or self.name
        conninfo = make_conninfo(self.url, dbname=name, connect_timeout=_CONNECT_TIMEOUT_S)
        try:
            opened = psycopg.connect(conninfo, autocommit=True, application_name="mantis-runbook")
        except psycopg.OperationalError as error:
            raise TransientError(
                f"database {name} at {self.place} does not answer: {str(error).strip()} "
                "Check that the server runs and that the URL in the environment's database block is right."
            ) from error
        try:
            with opened as connection:
                yield connection
        except (psycopg.OperationalError, psycopg.InterfaceError) as error:
            raise TransientError(f"database {name} at {self.place}: {str(error).strip()}") from error
        except psycopg.Error as error:
            raise RejectedError(f"database {name} at {self.place}: {str(error).strip()}") from error

    def child_environment(self, database: str | None = None) -> dict[str, str]:
        """Return the environment in which a client program finds this database; nothing of it is in an argument."""
        parts = conninfo_to_dict(self.url)
        variables: dict[str, str] = {}
        for option in pq.Conninfo.get_defaults():
            if option.envvar is None:
                continue
            variable = option.envvar.decode()
            value = parts.get(option.keyword.decode(), os.environ.get(variable))
            if value is not None:
                variables[variable] = str(value)
        variables |= {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
        fixed = {"LC_ALL": "C", "PGCONNECT_TIMEOUT": str(_CONNECT_TIMEOUT_S), "PGDATABASE": database or self.name}
        return variables | fixed

    def server_version(self) -> str:
        """Return the server's version, for example `18.6`."""
        with self.connect() as connection:
            return ".".join(str(part) for part in divmod(connection.info.server_version, 10000))

    def programs(self) -> ClientPrograms:
        """Find client programs that are not older than the server: those on PATH first, then the wheel's.

        A `pg_dump` older than its server writes nothing, and a pipe hides it; so an older one is never run.

        Raises:
            RejectedError: none is new enough; the message lists what was found.
        """
        server_major = int(self.server_version().split(".")[0])
        found = find_programs()
        for programs in found:
            if programs.major >= server_major:
                return programs
        seen = ", ".join(f"{programs.directory} ({programs.version})" for programs in found) or "none at all"
        raise RejectedError(
            f"no pg_dump for PostgreSQL {server_major} (found: {seen}). "
            f"Install the PostgreSQL {server_major} client programs."
        )

    def run(
        self, argv: Sequence[str], *, what: str, database: str | None = None, timeout_s: float = 3600
    ) -> subprocess.CompletedProcess[str]:
        """Run a client program against this database and return what it printed.

        Raises:
            StageError: it ended with another exit code than 0, or not in time; with the end of its error output.
        """
        try:
            done = subprocess.run(
                argv,
                env=self.child_environment(database),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                encoding="utf-8",
                errors="surrogateescape",  # a database in another encoding is read all the same
                timeout=timeout_s,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise StageError(f"{what}: {Path(argv[0]).name} did not end within {timeout_s:.0f} s") from error
        _require_success(argv, what, done.returncode, done.stderr)
        return done

    @contextmanager
    def running(self, argv: Sequence[str], *, what: str) -> Generator[None]:
        """Run a client program beside the body of a `with`, and wait for it at its end; stop it when the body fails.

        Raises:
            StageError: it ended with another exit code than 0; with the end of its error output.
        """
        with tempfile.TemporaryFile() as said:
            process = subprocess.Popen(
                argv, env=self.child_environment(), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=said
            )
            try:
                yield
                process.wait()
            finally:
                if process.poll() is None:
                    process.terminate()
                    process.wait()
            said.seek(0)
            _require_success(argv, what, process.returncode, said.read().decode(errors="replace"))


def _require_success(argv: Sequence[str], what: str, returncode: int, said: str) -> None:
    if returncode:
        text = said.encode(errors="replace").decode().strip()[-_TAIL:]
        raise StageError(f"{what}: {Path(argv[0]).name} ended with {returncode}: {text}")


def find_programs() -> list[ClientPrograms]:
    """Return the usable directories of client programs, those on PATH first."""
    candidates: list[Path] = []
    if on_path := shutil.which("pg_dump"):
        candidates.append(Path(on_path).parent)
    candidates.append(bin_directory())
    found: list[ClientPrograms] = []
    for directory in candidates:
        if not all((directory / program).exists() for program in _PROGRAMS):
            continue
        answer = subprocess.run([directory / "pg_dump", "--version"], capture_output=True, text=True, check=False)
        if match := re.search(r"\(PostgreSQL\) (\d+(?:\.\d+)?)", answer.stdout):
            found.append(ClientPrograms(directory, match[1]))
    return found
