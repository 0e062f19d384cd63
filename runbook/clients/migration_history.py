"""The table of applied migrations, the locks that keep two migrations apart, and how far an unfinished file came.

Source: PostgreSQL manual, "Advisory Locks"; runbook, "Stage 4: Database Migration".
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Collection, Generator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime

import psycopg
from psycopg import sql
from psycopg.rows import dict_row

from runbook.clients.postgres import Database
from runbook.errors import RefusedError, RejectedError, ServiceError
from runbook.rules.migration_checksums import checksum, normalised_checksum
from runbook.rules.migration_names import history_name
from runbook.settings import MigrationSettings

_log = logging.getLogger(__name__)

# The table as it is in use today; adopted where it exists. The last two columns are ours.
_HISTORY = """
CREATE TABLE IF NOT EXISTS {} (
    migration_name text PRIMARY KEY,
    executed_at timestamptz NOT NULL DEFAULT now(),
    duration_ms integer,
    checksum text,
    status text NOT NULL DEFAULT 'completed',
    error_message text,
    rollback_performed boolean NOT NULL DEFAULT false,
    normalised_checksum text,
    transactions text
)
"""
_PROGRESS = """
CREATE TABLE IF NOT EXISTS {} (
    migration_name text PRIMARY KEY,
    statements_done integer NOT NULL DEFAULT 0,
    statements_begun integer,
    done_sha256 text NOT NULL DEFAULT '',
    transactions text NOT NULL DEFAULT ''
)
"""
_OURS = ("normalised_checksum", "transactions")
# The number of the transaction and, behind a colon, the tables that it has deleted rows of: nothing shows that later.
_TRANSACTION = """
pg_catalog.pg_current_xact_id()::text || coalesce((SELECT ':' || pg_catalog.string_agg(relid::text, ',')
FROM pg_catalog.pg_stat_xact_user_tables WHERE n_tup_del > 0), '')
"""
_ONE_LINE = " ".join(_TRANSACTION.split())
_TABLE_NAMES = "SELECT n.nspname, c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE "
_EVERY_TABLE = ":*"  # behind the number of a transaction that may have emptied any
_TRUNCATES = re.compile(r"\btruncate\b", re.IGNORECASE)
_COLUMNS = """
SELECT a.attname, a.attnotnull AND NOT a.atthasdef AND a.attidentity = '' AND a.attgenerated = ''
FROM pg_attribute a WHERE a.attrelid = to_regclass(%s) AND a.attnum > 0 AND NOT a.attisdropped
"""
_LOCK = "SELECT pg_try_advisory_lock(hashtextextended(%s, 0))"
_UNLOCK = "SELECT pg_advisory_unlock_all()"
_SESSION = """
SELECT set_config('idle_session_timeout', '0', false), set_config('statement_timeout', '0', false),
       set_config('lock_timeout', %s, false)
"""
_INVALID_INDEXES = """
SELECT n.nspname, c.relname FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
JOIN pg_namespace n ON n.oid = c.relnamespace WHERE NOT i.indisvalid AND c.relkind = 'i'
"""
_UNCHECKED = """
SELECT format('%I.%I of %s', n.nspname, k.conname, k.conrelid::regclass) FROM pg_constraint k
JOIN pg_namespace n ON n.oid = k.connamespace WHERE NOT k.convalidated
"""
# Each file gets the session that it would have on its own: nothing of the one before it may leak.
_RESET = "RESET SESSION AUTHORIZATION\\; RESET ROLE\\; RESET ALL\\; CLOSE ALL\\; DEALLOCATE ALL\\; DISCARD TEMP\\; "
_OWN_ROLE = "RESET SESSION AUTHORIZATION\\; RESET ROLE\\; "
_OWN_ROLE_HERE = "SET LOCAL SESSION AUTHORIZATION DEFAULT; SET LOCAL ROLE NONE;"
# What a file deferred is checked at its end, as when it runs alone; later files may defer again.
CHECK_DEFERRED_SQL = (
    "SET CONSTRAINTS ALL IMMEDIATE\\; "
    "DO $runbook$ DECLARE c text; BEGIN FOR c IN SELECT format('%I.%I', n.nspname, k.conname)"
    " FROM pg_catalog.pg_constraint k JOIN pg_catalog.pg_namespace n ON n.oid = k.connamespace WHERE k.condeferred"
    " LOOP EXECUTE 'SET CONSTRAINTS ' || c || ' DEFERRED'; END LOOP; END $runbook$\\; "
)
"""Checks, inside a transaction, what a file has deferred."""
_BEGIN = (
    "DO $runbook$ DECLARE holder text; BEGIN"
    " IF current_setting('lock_timeout')::interval <> {lock}::interval"
    " OR current_setting('statement_timeout')::interval <> {statement}::interval"
    " THEN RAISE 'the server did not take the time-outs that were set'; END IF;"
    " IF NOT pg_catalog.pg_try_advisory_lock({key}) THEN"
    " SELECT string_agg(pid::text, ', ') INTO holder FROM pg_catalog.pg_locks WHERE locktype = 'advisory' AND granted"
    " AND ((classid::bigint << 32) | objid::bigint) = {key} AND pid <> pg_backend_pid();"
    " RAISE 'a migration whose run has died still goes on in session %', holder USING ERRCODE = '55P03',"
    " HINT = 'Wait until it has ended, or end it with pg_terminate_backend.'; END IF; END $runbook$\\; "
)
START_SQL = "SELECT pg_catalog.set_config('runbook.started', pg_catalog.clock_timestamp()::text, false);"
"""Writes down in psql's session when the next file begins."""
_OTHER_TOOLS = {
    "_prisma_migrations": "Prisma",
    "flyway_schema_history": "Flyway",
    "databasechangelog": "Liquibase",
    "alembic_version": "Alembic",
    "django_migrations": "Django",
    "knex_migrations": "Knex",
    "pgmigrations": "node-pg-migrate",
    "__drizzle_migrations": "Drizzle",
    "goose_db_version": "goose",
    "schema_version": "an older Flyway",
    "SequelizeMeta": "Sequelize",
    "typeorm_migrations": "TypeORM",
    "atlas_schema_revisions": "Atlas",
    "gorp_migrations": "sql-migrate",
    "schema_migrations": "Rails, dbmate or golang-migrate",
}


@dataclass(frozen=True)
class Applied:
    """One row of the history. `name` is the migration's; `at` is when it was applied, as the table says."""

    name: str
    status: str
    at: datetime | None
    duration_ms: int | None
    checksum: str | None
    normalised_checksum: str | None
    error: str | None


@dataclass(frozen=True)
class Progress:
    """How far a file came that commits unit by unit; statements are counted from 1.

    `begun` is the number of a statement that was begun and of which nobody wrote down how it ended.
    """

    done: int
    begun: int | None
    done_sha256: str


@dataclass(frozen=True)
class State:
    """What can be wrong in a schema: invalid indexes, and constraints that old rows were not checked against."""

    invalid_indexes: frozenset[tuple[str, str]]
    unchecked_constraints: frozenset[str]


@dataclass(frozen=True)
class MigrationHistory:
    """What has been applied to one database, and the SQL that writes it down."""

    database: Database
    settings: MigrationSettings

    @contextmanager
    def locked(self) -> Generator[None]:
        """Hold the migration lock: a session's lock, so it frees itself when the run dies.

        It does not stand in the way of CONCURRENTLY, because the session that holds it is in no transaction.

        Raises:
            RefusedError: another migration runs, or the history table is another tool's.
        """
        with self.database.connect() as connection:
            connection.execute(_SESSION, [self.lock_timeout])  # the application's time-outs must not free the lock
            row = connection.execute(_LOCK, [f"mantis-runbook/{self.settings.history_table}"]).fetchone()
            if row is None or not row[0]:
                raise RefusedError(f"another migration of {self.database.name} runs; wait until it has ended")
            try:
                self._check_shape(connection)
                self._adopt(connection)
                yield
            finally:  # the server may take a while to see that a connection was closed
                with suppress(psycopg.Error):
                    connection.execute(_UNLOCK)

    def rows(self) -> list[Applied]:
        """Return the rows of the history, in the order of their names; none when there is no such table.

        Raises:
            RefusedError: the table is another tool's.
            ServiceError: the server does not answer, or the table cannot be read.
        """
        with self.database.connect() as connection:
            columns = self._columns(connection)
            if not columns:
                return []
            self._check_shape(connection)
            with connection.cursor(row_factory=dict_row) as cursor:
                found = cursor.execute(sql.SQL("SELECT * FROM {}").format(self._table)).fetchall()
        applied = [
            Applied(
                name=history_name(str(row["migration_name"])),
                status=str(row.get("status", "completed")),
                at=row.get("executed_at"),
                duration_ms=row.get("duration_ms"),
                checksum=row.get("checksum"),
                normalised_checksum=row.get("normalised_checksum"),
                error=row.get("error_message"),
            )
            for row in found
        ]
        return sorted(applied, key=lambda row: row.name)

    def check(self) -> None:
        """Raise `RefusedError` when a table of the history's name exists that is another tool's."""
        with self.database.connect() as connection:
            self._check_shape(connection)

    def other_tools(self) -> dict[str, str]:
        """Return the tables in which other tools keep their history here, and whose they may be."""
        with self.database.connect() as connection:
            rows = connection.execute(
                "SELECT n.nspname, c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
                " WHERE c.relkind = 'r' AND c.relname = ANY (%s) ORDER BY 1, 2",
                [list(_OTHER_TOOLS)],
            ).fetchall()
        ours = ("public", self.settings.history_table)
        return {f"{schema}.{name}": _OTHER_TOOLS[name] for schema, name in rows if (schema, name) != ours}

    def transactions(self, connection: psycopg.Connection, known: Collection[str]) -> frozenset[int]:
        """Return the numbers of the transactions in which migrations ran, those of the migrations in `known` left out.

        What wrote to the database in them was no application.
        """
        return frozenset(int(one.partition(":")[0]) for one in self._later(connection, known))

    def deleted_from(self, connection: psycopg.Connection, known: Collection[str]) -> frozenset[tuple[str, str]]:
        """Return the tables, by schema and name, that migrations have deleted rows of; those in `known` left out."""
        behind = [one.partition(":")[2] for one in self._later(connection, known)]
        if "*" in behind:
            which, values = "c.relkind = 'r'", list[list[int]]()
        else:
            which, values = "c.oid = ANY (%s)", [[int(oid) for oids in behind for oid in oids.split(",") if oid]]
        rows = connection.execute(_TABLE_NAMES + which, values).fetchall()
        return frozenset((str(schema), str(name)) for schema, name in rows)

    def _later(self, connection: psycopg.Connection, known: Collection[str]) -> list[str]:
        if "transactions" not in self._columns(connection):
            return []
        rows = connection.execute(
            sql.SQL("SELECT migration_name, transactions FROM {} WHERE transactions IS NOT NULL").format(self._table)
        ).fetchall()
        later = [str(numbers) for name, numbers in rows if history_name(str(name)) not in known]
        return [one for numbers in later for one in numbers.split()]

    def state(self) -> State:
        """Return what is invalid or unchecked in the schema now."""
        with self.database.connect() as connection:
            invalid = {(str(schema), str(name)) for schema, name in connection.execute(_INVALID_INDEXES).fetchall()}
            unchecked = {str(row[0]) for row in connection.execute(_UNCHECKED).fetchall()}
        return State(frozenset(invalid), frozenset(unchecked))

    def progress(self) -> dict[str, Progress]:
        """Return how far the files came that commit unit by unit and are not finished, by migration."""
        with self.database.connect() as connection:
            if not connection.execute(_COLUMNS, [self._progress_name]).fetchall():
                return {}
            rows = connection.execute(
                sql.SQL("SELECT migration_name, statements_done, statements_begun, done_sha256 FROM {}").format(
                    self._progress
                )
            ).fetchall()
        return {str(name): Progress(done, begun, sha) for name, done, begun, sha in rows}

    def begin_progress(self, migration: str) -> None:
        """Make sure that the progress of a migration can be written down; what is written already stays."""
        with self.database.connect() as connection:
            connection.execute(sql.SQL(_PROGRESS).format(self._progress))
            statement = sql.SQL("INSERT INTO {} (migration_name) VALUES (%s) ON CONFLICT DO NOTHING")
            connection.execute(statement.format(self._progress), [migration])

    def settle_progress(self, migration: str, done: int, done_sha256: str) -> None:
        """Write down that the first `done` statements of a migration are done, and none is begun."""
        statement = sql.SQL(
            "UPDATE {} SET statements_done = %s, statements_begun = NULL, done_sha256 = %s WHERE migration_name = %s"
        ).format(self._progress)
        with self.database.connect() as connection:
            connection.execute(statement, [done, done_sha256, migration])

    def end_progress(self, migrations: Collection[str]) -> None:
        """Forget the progress of migrations; the table goes with the last of them."""
        with self.database.connect() as connection, connection.transaction():
            if connection.execute(_COLUMNS, [self._progress_name]).fetchall():
                delete = sql.SQL("DELETE FROM {} WHERE migration_name = ANY (%s)").format(self._progress)
                connection.execute(delete, [list(migrations)])
                left = connection.execute(sql.SQL("SELECT count(*) FROM {}").format(self._progress)).fetchone()
                if left == (0,):
                    connection.execute(sql.SQL("DROP TABLE {}").format(self._progress))

    def begin_sql(self) -> str:
        """Return SQL, in one line, that gives the next file a fresh session with the time-outs set and read back.

        It also takes a lock that this session of psql holds until its end: when the run dies and psql goes on, no
        other run begins.
        """
        timeouts = (
            f"SET lock_timeout = '{self.lock_timeout}'\\; SET statement_timeout = '{self._statement_timeout}'\\; "
        )
        checks = sql.SQL(_BEGIN).format(
            lock=sql.Literal(self.lock_timeout),
            statement=sql.Literal(self._statement_timeout),
            key=sql.SQL("pg_catalog.hashtextextended({}, 0)").format(
                sql.Literal(f"mantis-runbook/{self.settings.history_table}/session")
            ),
        )
        return _RESET + timeouts + checks.as_string() + START_SQL

    def record_sql(
        self,
        migration: str,
        text: str,
        *,
        columns: Collection[str],
        listed: Collection[str],
        later: Sequence[str],
        has_progress: bool = False,
    ) -> str:
        r"""Return SQL, in one line and ended by `\;`, that writes down a migration as applied.

        Args:
            migration: its name.
            text: its file.
            columns: the columns of the history table.
            listed: names that have a row already, for example of a failure.
            later: names of migrations still to come; that the file wrote a row of one of them is an error.
            has_progress: whether it committed unit by unit, and its earlier transactions are in its progress.
        """
        values: dict[str, sql.Composable] = {
            "migration_name": sql.Literal(migration),
            "executed_at": sql.SQL("clock_timestamp()"),
            "duration_ms": sql.SQL(
                "1000 * extract(epoch FROM clock_timestamp()"
                " - nullif(current_setting('runbook.started', true), '')::timestamptz)"
            ),
            "checksum": sql.Literal(checksum(text)),
            "status": sql.Literal("completed"),
            "rollback_performed": sql.SQL("false"),
            "normalised_checksum": sql.Literal(normalised_checksum(text)),
            "transactions": self._transactions(migration if has_progress else None, text),
        }
        insert = self._insert(values, columns).as_string() + "\\; "
        if self.settings.history_table in text:
            return _OWN_ROLE + self._no_foreign_rows(text, columns, later) + self._forget_sql(migration) + insert
        return _OWN_ROLE + (self._forget_sql(migration) if migration in listed else "") + insert

    def forget_sql(self, migration: str) -> str:
        r"""Return SQL, in one line and ended by `\;`, that takes a migration out of the history."""
        return _OWN_ROLE + self._forget_sql(migration)

    @staticmethod
    def no_stale_index_sql(name: str) -> str:
        """Return SQL that fails when an index of this name is invalid: `IF NOT EXISTS` takes it for the real one."""
        check = sql.SQL(
            "DO $runbook$ DECLARE stale text; BEGIN"
            " SELECT min(indexrelid::regclass::text) INTO stale FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid"
            " WHERE NOT i.indisvalid AND c.relname = {};"
            " IF stale IS NOT NULL THEN RAISE 'index % is invalid, left by an earlier attempt', stale"
            " USING HINT = 'DROP INDEX CONCURRENTLY it, then try again.'; END IF; END $runbook$;"
        )
        return check.format(sql.Literal(name)).as_string()

    def begun_sql(self, migration: str, count: int) -> str:
        """Return SQL that writes down: the statements up to `count` are about to run."""
        return self._update_progress(migration, sql.SQL("statements_begun = {}").format(count))

    def forget_progress_sql(self, migration: str) -> str:
        """Return SQL that forgets the progress of a migration, to run in one transaction with recording it."""
        return (
            sql.SQL("DELETE FROM {} WHERE migration_name = {};")
            .format(self._progress, sql.Literal(migration))
            .as_string()
        )

    def done_sql(self, migration: str, count: int, sha256: str) -> str:
        """Return SQL that writes down: the statements up to `count` are done. It has to run in a transaction."""
        change = sql.SQL(
            "statements_done = {}, statements_begun = NULL, done_sha256 = {}, transactions = transactions || {} || ' '"
        ).format(count, sha256, sql.SQL(_ONE_LINE))
        return self._update_progress(migration, change)

    def record_failure(self, migration: str, text: str, error: str, *, rolled_back: bool) -> None:
        """Write down that a migration failed; that this fails, too, must not hide why it did."""
        values: dict[str, sql.Composable] = {
            "migration_name": sql.Literal(migration),
            "executed_at": sql.SQL("now()"),
            "checksum": sql.Literal(checksum(text)),
            "status": sql.Literal("failed"),
            "error_message": sql.Literal(error),
            "rollback_performed": sql.Literal(rolled_back),
        }
        try:
            with self.database.connect() as connection:
                columns = self._columns(connection)
                if {"status", "error_message"} <= columns.keys():
                    with connection.transaction():
                        connection.execute(self._forget_sql(migration).removesuffix("\\; ").encode())
                        connection.execute(self._insert(values, columns))
        except ServiceError as failure:
            _log.warning("that %s failed could not be written into its history: %s", migration, failure)

    def baseline(self, migrations: Sequence[tuple[str, str]]) -> None:
        """Write down migrations, name and text of each, as applied without running them; all or none."""
        with self.database.connect() as connection:
            columns = self._columns(connection)
            with connection.transaction():
                for name, text in migrations:
                    values: dict[str, sql.Composable] = {
                        "migration_name": sql.Literal(name),
                        "executed_at": sql.SQL("now()"),
                        "duration_ms": sql.SQL("0"),
                        "checksum": sql.Literal(checksum(text)),
                        "status": sql.Literal("completed"),
                        "rollback_performed": sql.SQL("false"),
                        "normalised_checksum": sql.Literal(normalised_checksum(text)),
                    }
                    connection.execute(self._forget_sql(name).removesuffix("\\; ").encode())
                    connection.execute(self._insert(values, columns))

    def defers(self) -> bool:
        """Return whether the database has a constraint whose check can wait until the end of a transaction."""
        with self.database.connect() as connection:
            row = connection.execute("SELECT EXISTS (SELECT FROM pg_constraint WHERE condeferrable)").fetchone()
        return row == (True,)

    def columns(self) -> frozenset[str]:
        """Return the columns of the history table; none when there is no such table."""
        with self.database.connect() as connection:
            return frozenset(self._columns(connection))

    def drop_invalid_indexes(self, keep: Collection[tuple[str, str]]) -> None:
        """Drop the invalid indexes that a failed script left; that this fails, too, must not hide why it did."""
        try:
            names = self.state().invalid_indexes - set(keep)
            with self.database.connect() as connection:
                connection.execute("SELECT set_config('lock_timeout', %s, false)", [self.lock_timeout])
                for index in sorted(names):
                    connection.execute(sql.SQL("DROP INDEX CONCURRENTLY IF EXISTS {}").format(sql.Identifier(*index)))
                    _log.info("dropped the invalid index %s.%s", *index)
        except ServiceError as error:
            _log.warning("an invalid index may be left, which only slows down writing: %s", error)

    def index_states(self, name: str) -> list[bool]:
        """Return, for each index of a name in any schema, whether it is valid."""
        with self.database.connect() as connection:
            rows = connection.execute(
                "SELECT i.indisvalid FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid WHERE c.relname = %s",
                [name],
            ).fetchall()
        return [bool(row[0]) for row in rows]

    def withdraw(self, *, existed: bool) -> None:
        """Take back what adopting the table changed, when nothing uses it: the table, or our columns in it."""
        with self.database.connect() as connection:
            if not existed:
                connection.execute(sql.SQL("DROP TABLE IF EXISTS {}").format(self._table))
                return
            for name in [ours for ours in _OURS if ours in self._columns(connection)]:
                used = sql.SQL("SELECT count({}) FROM {}").format(sql.Identifier(name), self._table)
                if connection.execute(used).fetchone() == (0,):
                    connection.execute(
                        sql.SQL("ALTER TABLE {} DROP COLUMN {}").format(self._table, sql.Identifier(name))
                    )

    @property
    def lock_timeout(self) -> str:
        """The lock time-out as PostgreSQL wants it."""
        return f"{math.ceil(self.settings.lock_timeout_s * 1000)}ms"

    @property
    def _statement_timeout(self) -> str:
        return f"{math.ceil(self.settings.statement_timeout_s * 1000)}ms"

    @property
    def _table(self) -> sql.Identifier:
        return sql.Identifier("public", self.settings.history_table)

    @property
    def _progress_name(self) -> str:
        return f'public."{self.settings.history_table}_progress"'

    @property
    def _progress(self) -> sql.Identifier:
        return sql.Identifier("public", f"{self.settings.history_table}_progress")

    def _columns(self, connection: psycopg.Connection) -> dict[str, bool]:
        """Return the columns of the history table, and whether each has to be filled."""
        rows = connection.execute(_COLUMNS, [f'public."{self.settings.history_table}"']).fetchall()
        return {str(name): bool(required) for name, required in rows}

    def _check_shape(self, connection: psycopg.Connection) -> None:
        columns = self._columns(connection)
        table = f"public.{self.settings.history_table}"
        advice = "Name another table for the runbook in `history_table` of the environment's settings."
        if columns and "migration_name" not in columns:
            tool = _OTHER_TOOLS.get(self.settings.history_table, "another tool")
            raise RefusedError(
                f"{table} is not a history of the runbook but of {tool}: it has the columns "
                f"{', '.join(sorted(columns))}, and no migration_name. {advice}"
            )
        filled = {"migration_name", "executed_at", "duration_ms", "checksum", "status", "rollback_performed"}
        if unknown := sorted(name for name, required in columns.items() if required and name not in filled):
            raise RefusedError(
                f"{table} has columns that have to be filled and that the runbook does not know: {', '.join(unknown)}. "
                f"Give them a default. {advice}"
            )

    def _adopt(self, connection: psycopg.Connection) -> None:
        connection.execute(sql.SQL(_HISTORY).format(self._table))
        if missing := [name for name in _OURS if name not in self._columns(connection)]:
            added = sql.SQL(", ").join(sql.SQL("ADD COLUMN {} text").format(sql.Identifier(name)) for name in missing)
            try:
                connection.execute(sql.SQL("ALTER TABLE {} {}").format(self._table, added))
            except psycopg.errors.InsufficientPrivilege:
                _log.info(
                    "%s keeps no %s: only its owner can add columns", self.settings.history_table, " and ".join(missing)
                )

    def _transactions(self, migration: str | None, text: str) -> sql.Composable:
        """Return SQL for the numbers of the transactions that a migration ran in, separated by spaces.

        A replay of the application's writes leaves these out.
        """
        own: sql.Composable = sql.SQL(_ONE_LINE)
        if _TRUNCATES.search(text):  # is counted nowhere
            own = sql.SQL("pg_catalog.pg_current_xact_id()::text || {}").format(sql.Literal(_EVERY_TABLE))
        if migration is None:
            return own
        return sql.SQL("(SELECT transactions FROM {} WHERE migration_name = {}) || {}").format(
            self._progress, sql.Literal(migration), own
        )

    def _insert(self, values: dict[str, sql.Composable], columns: Collection[str]) -> sql.Composed:
        wanted = {name: value for name, value in values.items() if name in columns}
        return sql.SQL("INSERT INTO {} ({}) VALUES ({})").format(
            self._table,
            sql.SQL(", ").join(sql.Identifier(name) for name in wanted),
            sql.SQL(", ").join(wanted.values()),
        )

    def _forget_sql(self, migration: str) -> str:
        names = sql.SQL(", ").join([sql.Literal(migration), sql.Literal(f"{migration}.sql")])
        delete = sql.SQL("DELETE FROM {} WHERE migration_name IN ({})").format(self._table, names)
        return delete.as_string() + "\\; "

    def _no_foreign_rows(self, text: str, columns: Collection[str], later: Sequence[str]) -> str:
        """A file that writes another one's row would make that one look applied, and it would never run."""
        named = [name for name in later if name in text]
        if not named:
            return ""
        check = sql.SQL(
            "DO $runbook$ DECLARE found text; BEGIN SELECT min(migration_name) INTO found FROM {} WHERE"
            " migration_name IN ({}){};"
            " IF found IS NOT NULL THEN RAISE 'this file wrote % into the history, which has not run yet', found"
            " USING HINT = 'Let the file write no row, or its own.'; END IF; END $runbook$"
        ).format(
            self._table,
            sql.SQL(", ").join(sql.Literal(f"{name}{suffix}") for name in named for suffix in ("", ".sql")),
            sql.SQL(" AND status = 'completed'" if "status" in columns else ""),
        )
        return check.as_string() + "\\; "

    def _update_progress(self, migration: str, change: sql.Composable) -> str:
        update = sql.SQL("UPDATE {} SET {} WHERE migration_name = {};").format(
            self._progress, change, sql.Literal(migration)
        )
        return f"{_OWN_ROLE_HERE} {update.as_string()}"


def applied_names(rows: Sequence[Applied]) -> list[str]:
    """Return the names of the migrations that a history lists as applied."""
    return [row.name for row in rows if row.status == "completed"]


def require_rights(database: Database, schema: str = "public") -> None:
    """Raise `RejectedError` when the role of the runbook may not create tables in a schema."""
    with database.connect() as connection:
        row = connection.execute("SELECT current_user, has_schema_privilege(%s, 'CREATE')", [schema]).fetchone()
    if row is not None and not row[1]:
        raise RejectedError(
            f"role {row[0]} may not create tables in schema {schema} of {database.name}; "
            f"grant it CREATE there, or use the role that owns the application's tables"
        )
