"""One Postgres server and the application's database on it: connections, client programs, errors in words."""

from __future__ import annotations

import os
import re
import subprocess
import traceback
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO
from urllib.parse import quote, urlencode

import psycopg
from psycopg import pq
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from runbook.clients.client_programs import (
    ClientPrograms,
    choose_programs,
    find_programs,
    read_output,
    run_beside,
    run_program,
)
from runbook.clients.restore_points import RestorePoints
from runbook.errors import InvalidInputError, RejectedError, TransientError
from runbook.rules.identifiers import time_stamp

MAINTENANCE_DATABASE = "postgres"
_CONNECT_TIMEOUT_S = 5
_RUN_S = 3600
_TLS_MODES = ("require", "verify-ca", "verify-full")


@dataclass(frozen=True)
class _Server:
    """What the last session that was opened has shown of a server."""

    version: int
    uses_tls: bool


_servers: dict[str, _Server] = {}  # by URL


@dataclass(frozen=True)
class Database:
    """The application's database, reached by its direct (not pooled) URL. The URL never appears in a repr.

    `stamp` is in the names of the databases that a run makes beside it, so that they are known to be that run's. With
    `restore_points`, a database beside it may be one of a server of its own, a branch: then the name is the branch's.
    """

    url: str = field(repr=False)
    stamp: str = ""
    restore_points: RestorePoints | None = field(default=None, repr=False, compare=False)

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

    @property
    def application(self) -> str:
        """Name of this project's sessions on the server; those of a run have its stamp in it."""
        return f"mantis-runbook-{self.stamp}" if self.stamp else "mantis-runbook"

    @staticmethod
    def short(name: str) -> str:
        """Cut a database name so that a suffix still fits into PostgreSQL's 63 bytes."""
        return name.encode()[:24].decode(errors="ignore")

    def beside(self, purpose: str) -> str:
        """Return a name for a database beside the live one: `<name>_<purpose>_<stamp>`, without a stamp the time."""
        return f"{self.short(self.name)}_{purpose}_{self.stamp or time_stamp(datetime.now(UTC))}"[:63]

    def branch(self, name: str) -> Database | None:
        """Return the database of a branch; None when nothing beside the live one is a branch of this name.

        Raises:
            ServiceError: the provider does not say.
        """
        if self.restore_points is None or name in (self.name, MAINTENANCE_DATABASE):
            return None
        role = str(conninfo_to_dict(self.url).get("user") or "")
        address = self.restore_points.address(name, database=self.name, role=role)
        if address is None:
            return None
        url = make_conninfo(self.url, host=address.host, port=address.port, dbname=self.name)
        return replace(self, url=url, restore_points=None)

    @contextmanager
    def connect(self, database: str | None = None, **parameters: str) -> Generator[psycopg.Connection]:
        """Open a connection in autocommit mode to the application's database, or to another one on the server.

        Args:
            database: name of the other one.
            parameters: more of the connection's parameters, for example `replication="database"`.

        Raises:
            TransientError: the server does not answer, ended the session, or a lock was not to be had.
            RejectedError: the server refused a statement.
        """
        name = database or self.name
        conninfo = make_conninfo(
            self._conninfo(name), connect_timeout=_CONNECT_TIMEOUT_S, client_encoding="UTF8", **parameters
        )
        try:
            opened = psycopg.connect(conninfo, autocommit=True, application_name=self.application)
        except psycopg.OperationalError as error:
            raise TransientError(
                f"database {name} at {self.place} does not answer: {str(error).strip()} "
                "Check that the server runs and that the URL in the environment's database block is right."
            ) from error
        except BaseException as error:
            # Interrupted: what is half open lives as long as the traceback, and keeps the server from a DROP DATABASE.
            traceback.clear_frames(error.__traceback__)
            raise
        _servers[self.url] = _Server(opened.info.server_version, bool(opened.pgconn.ssl_in_use))
        try:
            with opened as connection:
                yield connection
        except (psycopg.OperationalError, psycopg.InterfaceError) as error:
            raise TransientError(f"database {name} at {self.place}: {str(error).strip()}") from error
        except psycopg.Error as error:
            raise RejectedError(f"database {name} at {self.place}: {str(error).strip()}") from error

    def child_environment(
        self,
        database: str | None = None,
        *,
        programs: ClientPrograms | None = None,
        settings: Mapping[str, str] | None = None,
    ) -> dict[str, str]:
        """Return the environment in which a client program finds this database; nothing of it is in an argument.

        Args:
            database: name of another database on the server.
            programs: what is run; may need a library loaded first.
            settings: settings of the program's sessions.
        """
        parts = conninfo_to_dict(self._conninfo(database or self.name))
        variables: dict[str, str] = {}
        for option in pq.Conninfo.get_defaults():
            if option.envvar is None:
                continue
            variable = option.envvar.decode()
            value = parts.get(option.keyword.decode(), os.environ.get(variable))
            if value is not None:
                variables[variable] = str(value)
        variables |= {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
        if self._uses_tls() and variables.get("PGSSLMODE") not in _TLS_MODES:
            variables["PGSSLMODE"] = "require"  # what this server can do must not be given up in silence
        if settings:
            options = [f"-c {name}={_escaped(value)}" for name, value in settings.items()]
            variables["PGOPTIONS"] = " ".join([variables.get("PGOPTIONS", ""), *options]).strip()
        if programs is not None and programs.preload is not None:
            variables["LD_PRELOAD"] = programs.preload
        # A database's own time zone would be in the text of its constants, and so make equal schemas differ.
        fixed = {"LC_ALL": "C", "PGTZ": "UTC", "PGCONNECT_TIMEOUT": str(_CONNECT_TIMEOUT_S)}
        if self.stamp:
            fixed["PGAPPNAME"] = self.application
        return variables | fixed

    def url_of(self, name: str) -> str:
        """Return the URL of another database on the server, as `postgresql://user:password@host:port/name?options`."""
        known = conninfo_to_dict(self._conninfo(name))
        parts = {key: str(value) for key, value in known.items() if value is not None}
        user, password = (quote(parts.pop(key, ""), safe="") for key in ("user", "password"))
        who = f"{user}:{password}@" if password else f"{user}@" if user else ""
        host, port = parts.pop("host", "localhost"), parts.pop("port", "5432")
        name = parts.pop("dbname", name)
        place = f"[{host}]" if ":" in host else quote(host, safe=".,")
        options = f"?{urlencode(parts, quote_via=quote)}" if parts else ""
        return f"postgresql://{who}{place}:{port}/{quote(name, safe='')}{options}"

    def server_version(self) -> str:
        """Return the server's version, for example `18.6`."""
        with self.connect() as connection:
            return ".".join(str(part) for part in divmod(connection.info.server_version, 10000))

    def programs(self) -> ClientPrograms:
        """Return client programs that are not older than the server, and have TLS where it is used.

        The server is asked once a process, and again before this fails.

        Raises:
            TransientError: the server does not answer.
            RejectedError: there are none; the message lists what was found.
        """
        if (known := _servers.get(self.url)) is not None:
            try:
                return choose_programs(find_programs(), known.version // 10000, tls=self._needs_tls())
            except RejectedError:
                del _servers[self.url]
        with self.connect() as connection:
            major = connection.info.server_version // 10000
        return choose_programs(find_programs(), major, tls=self._needs_tls())

    def run(
        self,
        argv: Sequence[str],
        *,
        what: str,
        database: str | None = None,
        source: BinaryIO | None = None,
        timeout_s: float = _RUN_S,
        settings: Mapping[str, str] | None = None,
        on_line: Callable[[str], None] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run a client program against this database; return all it printed and the end of what it said on stderr.

        Args:
            argv: the program and its arguments.
            what: begins each error message.
            database: name of another database on the server.
            source: fed to its stdin in constant memory and read to its end; when reading fails, that error is raised.
            timeout_s: seconds after which it is ended.
            settings: settings of its sessions, for example `maintenance_work_mem`.
            on_line: gets each line of stderr as it comes, in the calling thread.

        Raises:
            StageError: it ended with another exit code than 0, or not in time; with the end of its stderr.
        """
        environment = self._environment_of(argv, database, settings)
        return run_program(argv, environment, what=what, timeout_s=timeout_s, source=source, on_line=on_line)

    def running(self, argv: Sequence[str], *, what: str) -> AbstractContextManager[subprocess.Popen[bytes]]:
        """Run a client program beside the body of a `with`, and wait for it at its end; end it when the body fails.

        The body gets the process, to look at, not to stop.

        Raises:
            StageError: it ended with another exit code than 0; with the end of its stderr.
        """
        return run_beside(argv, self._environment_of(argv), what=what)

    def output(self, argv: Sequence[str], *, what: str) -> AbstractContextManager[BinaryIO]:
        """Run a client program and read what it prints as a stream; end it when the `with` is left before its end.

        Raises:
            StageError: from `read` at the end of the stream, when the exit code is not 0: what was read is not all.
        """
        return read_output(argv, self._environment_of(argv), what=what)

    def _conninfo(self, name: str) -> str:
        """Return the connection string of the database, or of one beside it, be it on a branch."""
        branch = self.branch(name)
        return branch.url if branch is not None else make_conninfo(self.url, dbname=name)

    def _environment_of(
        self, argv: Sequence[str], database: str | None = None, settings: Mapping[str, str] | None = None
    ) -> dict[str, str]:
        programs = self.programs()
        chosen = Path(argv[0]).parent == programs.directory
        return self.child_environment(database, programs=programs if chosen else None, settings=settings)

    def _uses_tls(self) -> bool:
        known = _servers.get(self.url)
        return known is not None and known.uses_tls

    def _needs_tls(self) -> bool:
        mode = conninfo_to_dict(self.url).get("sslmode") or os.environ.get("PGSSLMODE")
        return mode in _TLS_MODES or self._uses_tls()


def _escaped(value: str) -> str:
    """Write a value as PGOPTIONS wants it: a backslash before what would end it."""
    return re.sub(r"([\\\s])", r"\\\1", value)
