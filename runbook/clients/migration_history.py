"""The table of applied migrations, the lock that keeps two migrations apart, and psql, which runs the scripts.

A script is run by psql itself, so that it does here exactly what it does by hand.
Source: PostgreSQL manual, "psql" and "Advisory Locks".
"""

from __future__ import annotations

import hashlib
import logging
import math
import re
import subprocess
import tempfile
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from psycopg import sql

from runbook.clients.postgres import Database
from runbook.errors import RefusedError, ServiceError, StageError, TransientError
from runbook.settings import MigrationSettings

_log = logging.getLogger(__name__)

# The table as it is in use today; adopted where it exists.
_HISTORY = """
CREATE TABLE IF NOT EXISTS {} (
    migration_name text PRIMARY KEY,
    executed_at timestamptz NOT NULL DEFAULT now(),
    duration_ms integer,
    checksum text,
    status text NOT NULL DEFAULT 'completed',
    error_message text,
    rollback_performed boolean NOT NULL DEFAULT false
)
"""
_LOCK = "SELECT pg_try_advisory_lock(hashtextextended(%s, 0))"
_SESSION = """
SELECT set_config('idle_session_timeout', '0', false), set_config('statement_timeout', '0', false)
"""
# Trying again can help: serialization failure, deadlock, lock not available, server shutting down or starting.
_TRANSIENT = re.compile(r"^.*: +(?:40001|40P01|55P03|57P0[123]): ", re.MULTILINE)
_CONNECTION_LOST = 2  # psql's exit code
_PSQL_ERROR = re.compile(
    r"^psql:(?P<file>.*?):(?P<line>\d+): (?:error|ERROR|FATAL|PANIC):\s+(?:(?P<code>\w{5}): )?(?P<text>.*)$",
    re.MULTILINE,
)
_INVALID_INDEXES = """
SELECT n.nspname, c.relname FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
JOIN pg_namespace n ON n.oid = c.relnamespace WHERE NOT i.indisvalid AND c.relkind = 'i'
"""


@dataclass(frozen=True)
class Script:
    """A SQL script with the name it has in the history; `forward` False means that it undoes that migration."""

    migration: str
    path: str
    text: str
    forward: bool = True


@dataclass(frozen=True)
class MigrationHistory:
    """Runs scripts against the application's database and records them in the history table."""

    database: Database
    settings: MigrationSettings

    @contextmanager
    def locked(self) -> Generator[None]:
        """Hold the migration lock: a session's lock, so it frees itself when the run dies.

        It does not stand in the way of CONCURRENTLY, because the session that holds it is in no transaction.

        Raises:
            RefusedError: another migration runs.
        """
        with self.database.connect() as connection:
            connection.execute(_SESSION)  # the application's time-outs must not free the lock
            row = connection.execute(_LOCK, [f"mantis-runbook/{self.settings.history_table}"]).fetchone()
            if row is None or not row[0]:
                raise RefusedError(f"another migration of {self.database.name} runs; wait until it has ended")
            connection.execute(sql.SQL(_HISTORY).format(self._table))
            yield

    def run(self, scripts: Sequence[Script], *, transactional: bool) -> None:
        """Run scripts in order and record each; all in one transaction, or each statement on its own.

        A failed `CREATE INDEX CONCURRENTLY` leaves an invalid index behind; such an index is dropped. One left by an
        earlier attempt, which `IF NOT EXISTS` would take for the real one, is a failure.

        Raises:
            TransientError: a lock was not to be had within `lock_timeout_s`, or the connection was lost.
            StageError: a script failed; the message names file, line and SQLSTATE.
        """
        before = self._invalid_indexes()
        with tempfile.TemporaryDirectory(prefix="runbook-migration-") as folder:
            argv = self.database.programs().argv("psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", "-v", "VERBOSITY=verbose")
            if transactional:
                argv.append("-1")
            paths: dict[str, str] = {}
            for number, script in enumerate(scripts):
                path = Path(folder) / f"{number:04d}_{Path(script.path).name}"
                path.write_text(script.text, encoding="utf-8", newline="")
                paths[path.name] = script.path
                argv += ["-c", self._prepared(), "-f", str(path)]
                argv += ["-c", self._no_stale_index(script, before), "-c", self._record(script)]
            try:
                self._psql(argv, paths)
            except BaseException:
                self._drop_new_indexes(before)
                raise

    def drop(self) -> None:
        """Drop the history table; for undoing the migrations that it was created for."""
        with self.database.connect() as connection:
            connection.execute(sql.SQL("DROP TABLE {}").format(self._table))

    @property
    def _table(self) -> sql.Identifier:
        return sql.Identifier("public", self.settings.history_table)

    @property
    def _lock_timeout(self) -> str:
        return f"{math.ceil(self.settings.lock_timeout_s * 1000)}ms"

    def _prepared(self) -> str:
        """Give each script the session that it would have on its own: settings of the one before it must not leak."""
        return (
            "RESET SESSION AUTHORIZATION; RESET ROLE; RESET ALL;"
            f" SET lock_timeout = '{self._lock_timeout}';"
            f" SET statement_timeout = '{math.ceil(self.settings.statement_timeout_s * 1000)}ms';"
            " SELECT set_config('runbook.started', clock_timestamp()::text, false)"
        )

    @staticmethod
    def _no_stale_index(script: Script, invalid: set[tuple[str, str]]) -> str:
        named = sql.SQL(",").join(sql.Literal(name) for _, name in sorted(invalid) if name in script.text)
        check = sql.SQL(
            "DO $check$ DECLARE stale text; BEGIN"
            " SELECT min(indexrelid::regclass::text) INTO stale FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid"
            " WHERE NOT i.indisvalid AND c.relname = ANY (ARRAY[{}]::name[]);"
            " IF stale IS NOT NULL THEN RAISE 'index % is invalid, left by an earlier attempt', stale"
            " USING HINT = 'DROP INDEX CONCURRENTLY it, then try again.'; END IF; END $check$"
        )
        return check.format(named).as_string()

    def _record(self, script: Script) -> str:
        own = "RESET SESSION AUTHORIZATION; RESET ROLE;"
        delete = sql.SQL("DELETE FROM {} WHERE migration_name = {}").format(self._table, sql.Literal(script.migration))
        if not script.forward:
            return f"{own} {delete.as_string()}"
        checksum = hashlib.sha256(script.text.encode()).hexdigest()
        insert = sql.SQL(
            "INSERT INTO {} (migration_name, executed_at, duration_ms, checksum, status, rollback_performed) VALUES"
            " ({}, now(), 1000 * extract(epoch FROM clock_timestamp()"
            " - nullif(current_setting('runbook.started', true), '')::timestamptz), {}, 'completed', false)"
        ).format(self._table, sql.Literal(script.migration), sql.Literal(checksum))
        return f"{own} {delete.as_string()}; {insert.as_string()}"

    def _psql(self, argv: list[str], paths: dict[str, str]) -> None:
        done = subprocess.run(
            argv,
            env=self.database.child_environment() | {"PGCLIENTENCODING": "UTF8"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            errors="replace",
            check=False,
        )
        if done.returncode == 0:
            return
        transient = done.returncode == _CONNECTION_LOST or _TRANSIENT.search(done.stderr)
        kind = TransientError if transient else StageError
        found = _PSQL_ERROR.search(done.stderr)
        if found is None:
            raise kind(f"psql ended with {done.returncode}: {done.stderr.strip()[-2000:]}")
        where = f"{paths.get(Path(found['file']).name, found['file'])}:{found['line']}"
        rest = done.stderr[found.end() :].strip().splitlines()
        detail = "\n".join(line for line in rest if not line.startswith("LOCATION:"))  # a line of the server's source
        raise kind(f"{where}: {found['text']} (SQLSTATE {found['code'] or 'unknown'})\n{detail}".strip())

    def _invalid_indexes(self) -> set[tuple[str, str]]:
        with self.database.connect() as connection:
            return {(str(schema), str(name)) for schema, name in connection.execute(_INVALID_INDEXES).fetchall()}

    def _drop_new_indexes(self, before: set[tuple[str, str]]) -> None:
        """Drop the invalid indexes of a failed script; that this fails too must not hide why the script did."""
        try:
            names = self._invalid_indexes() - before
            with self.database.connect() as connection:
                connection.execute("SELECT set_config('lock_timeout', %s, false)", [self._lock_timeout])
                for index in names:
                    connection.execute(sql.SQL("DROP INDEX CONCURRENTLY IF EXISTS {}").format(sql.Identifier(*index)))
        except ServiceError as error:
            _log.warning("an invalid index may be left, which only slows down writing: %s", error)
