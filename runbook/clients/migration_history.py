"""The table of applied migrations, the lock that keeps two migrations apart, and psql, which runs the scripts.

A script is run by psql itself, so that it does here exactly what it does by hand.
Source: PostgreSQL manual, "psql" and "Advisory Locks".
"""

from __future__ import annotations

import hashlib
import re
import subprocess
import tempfile
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from psycopg import sql

from runbook.clients.postgres import Database
from runbook.errors import RefusedError, StageError, TransientError
from runbook.settings import MigrationSettings

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
_LOCK_NOT_AVAILABLE = "55P03"
_PSQL_ERROR = re.compile(r"^psql:(?P<file>.*?):(?P<line>\d+): \w+:\s+(?:(?P<code>\w{5}): )?(?P<text>.*)$", re.MULTILINE)
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
            row = connection.execute(_LOCK, [f"mantis-runbook/{self.settings.history_table}"]).fetchone()
            if row is None or not row[0]:
                raise RefusedError(f"another migration of {self.database.name} runs; wait until it has ended")
            connection.execute(sql.SQL(_HISTORY).format(self._table))
            yield

    def run(self, scripts: Sequence[Script], *, transactional: bool) -> None:
        """Run scripts in order and record each; all in one transaction, or each statement on its own.

        A failed `CREATE INDEX CONCURRENTLY` leaves an invalid index behind; such an index is dropped.

        Raises:
            TransientError: a lock was not to be had within `lock_timeout_s`.
            StageError: a script failed; the message names file, line and SQLSTATE.
        """
        with tempfile.TemporaryDirectory(prefix="runbook-migration-") as folder:
            argv = self.database.programs().argv("psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", "-v", "VERBOSITY=verbose")
            if transactional:
                argv.append("-1")
            argv += ["-c", self._timeouts()]
            for number, script in enumerate(scripts):
                path = Path(folder) / f"{number:04d}_{Path(script.path).name}"
                path.write_text(script.text, encoding="utf-8")
                argv += ["-c", self._started(), "-f", str(path), "-c", self._record(script)]
            before = self._invalid_indexes()
            try:
                self._psql(argv, {f"{n:04d}_{Path(s.path).name}": s.path for n, s in enumerate(scripts)})
            except BaseException:
                self._drop_indexes(self._invalid_indexes() - before)
                raise

    def drop(self) -> None:
        """Drop the history table; for undoing the migrations that it was created for."""
        with self.database.connect() as connection:
            connection.execute(sql.SQL("DROP TABLE {}").format(self._table))

    @property
    def _table(self) -> sql.Identifier:
        return sql.Identifier("public", self.settings.history_table)

    def _timeouts(self) -> str:
        return (
            f"SET lock_timeout = '{self.settings.lock_timeout_s * 1000:.0f}ms';"
            f" SET statement_timeout = '{self.settings.statement_timeout_s * 1000:.0f}ms'"
        )

    @staticmethod
    def _started() -> str:
        return "SELECT set_config('runbook.started', clock_timestamp()::text, false)"

    def _record(self, script: Script) -> str:
        delete = sql.SQL("DELETE FROM {} WHERE migration_name = {}").format(self._table, sql.Literal(script.migration))
        if not script.forward:
            return delete.as_string()
        checksum = hashlib.sha256(script.text.encode()).hexdigest()
        insert = sql.SQL(
            "INSERT INTO {} (migration_name, duration_ms, checksum, status) VALUES ({},"
            " 1000 * extract(epoch FROM clock_timestamp() - current_setting('runbook.started', true)::timestamptz),"
            " {}, 'completed')"
        ).format(self._table, sql.Literal(script.migration), sql.Literal(checksum))
        return f"{delete.as_string()}; {insert.as_string()}"

    def _psql(self, argv: list[str], paths: dict[str, str]) -> None:
        done = subprocess.run(
            argv,
            env=self.database.child_environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            check=False,
        )
        if done.returncode == 0:
            return
        found = _PSQL_ERROR.search(done.stderr)
        if found is None:
            raise StageError(f"psql ended with {done.returncode}: {done.stderr.strip()[-2000:]}")
        where = f"{paths.get(Path(found['file']).name, found['file'])}:{found['line']}"
        detail = done.stderr[found.end() :].strip()
        message = f"{where}: {found['text']} (SQLSTATE {found['code'] or 'unknown'})\n{detail}".strip()
        raise (TransientError if found["code"] == _LOCK_NOT_AVAILABLE else StageError)(message)

    def _invalid_indexes(self) -> set[tuple[str, str]]:
        with self.database.connect() as connection:
            return {(str(schema), str(name)) for schema, name in connection.execute(_INVALID_INDEXES).fetchall()}

    def _drop_indexes(self, names: set[tuple[str, str]]) -> None:
        with self.database.connect() as connection:
            for schema, name in names:
                connection.execute(sql.SQL("DROP INDEX CONCURRENTLY IF EXISTS {}").format(sql.Identifier(schema, name)))
