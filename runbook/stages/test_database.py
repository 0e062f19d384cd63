"""Databases for the application's test suite, in a server that exists only for it.

Source: runbook, "Stage 2: Test Suite".
"""

from __future__ import annotations

import logging
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import replace

from runbook.clients.embedded_postgres import EmbeddedPostgres
from runbook.clients.postgres import Database
from runbook.connections import Connections
from runbook.errors import RunbookError, StageError
from runbook.settings import TestCommand, TestDatabase
from runbook.stages.migration import apply_migrations
from runbook.stages.migration_plan import recorded_plan, required_migrations

_log = logging.getLogger(__name__)


class TestServer:
    """A Postgres of its own, started with the first command that wants a database."""

    __test__ = False

    def __init__(self, connections: Connections, git_sha: str) -> None:
        self._connections, self._git_sha = connections, git_sha
        root = connections.work_directory.resolve() / f"tests-{connections.settings.name}"
        self._postgres = EmbeddedPostgres(root)
        self._started = False

    def variables(self, command: TestCommand, number: int) -> dict[str, str]:
        """Return what a command finds its database by: an empty or migrated one that no other command has.

        Raises:
            StageError: there is no server, or the commit's migrations do not apply to an empty database.
        """
        if command.database is TestDatabase.NONE:
            return {}
        try:
            database = self._create(number)
        except RunbookError as error:
            raise StageError(f"{command.name}: no database for the tests: {error}") from error
        if command.database is TestDatabase.MIGRATED:
            self._migrate(command, database)
        return {"DATABASE_URL": database.url}

    def remove(self) -> None:
        """Stop the server and delete it; also one that a killed run has left."""
        try:
            self._postgres.remove()
        except RunbookError as error:
            _log.warning("the server of the test suite could not be removed: %s", error)

    def _create(self, number: int) -> Database:
        if not self._started:
            self._postgres.remove()
            self._postgres.start()
            self._started = True
        name = f"{Database.short(self._connections.settings.database)}_tests_{number}"
        with Database(self._postgres.url()).connect() as connection:
            connection.execute(f'CREATE DATABASE "{name}"'.encode())  # an identifier by its settings
        return Database(self._postgres.url(name))

    def _migrate(self, command: TestCommand, database: Database) -> None:
        connections = replace(self._connections, database=database)
        try:
            found = required_migrations(connections, self._git_sha)
            names = [migration.name for migration in found]
            apply_migrations(connections, recorded_plan(connections, self._git_sha, names, has_release=False))
        except RunbookError as error:
            raise StageError(
                f"{command.name}: the migrations of the commit do not apply to an empty database: {error}\n"
                'Mend them, or let the command make its schema itself: `database = "empty"`.'
            ) from error


@contextmanager
def suite_server(connections: Connections, git_sha: str) -> Generator[TestServer]:
    """Hold a server for the commands of one test suite, and remove it afterwards."""
    server = TestServer(connections, git_sha)
    try:
        yield server
    finally:
        if any(command.database is not TestDatabase.NONE for command in connections.settings.tests):
            server.remove()
