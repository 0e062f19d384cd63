"""A real Postgres for all tests below, a database of its own for each, and the connections of an environment."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Generator
from pathlib import Path

import psycopg
import pytest

from runbook.clients.backup_store import BackupStore
from runbook.clients.embedded_postgres import EmbeddedPostgres
from runbook.clients.folder_store import FolderStore
from runbook.clients.git import Repository
from runbook.clients.postgres import Database
from runbook.connections import Connections
from runbook.settings import MigrationSettings, RollbackSettings, Settings
from tests.fakes.application_host import MemoryHost
from tests.runbook.helpers import commit, execute, git

_number = itertools.count(1)


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Generator[EmbeddedPostgres]:
    server = EmbeddedPostgres(tmp_path_factory.mktemp("postgres"))
    server.start()
    try:
        execute(server.url(), "ALTER SYSTEM SET fsync = off", "SELECT pg_reload_conf()")  # tests survive no power cut
        yield server
    finally:
        server.remove()


@pytest.fixture
def database(postgres: EmbeddedPostgres) -> Generator[Database]:
    """An empty database; the names of its relatives begin with its own. A server has few slots: none is left to it."""
    name = f"shop_{next(_number)}"
    execute(postgres.url(), f"CREATE DATABASE {name} TEMPLATE template0")
    yield Database(postgres.url(name))
    slots = "SELECT slot_name FROM pg_replication_slots WHERE starts_with(database, '{name}') AND NOT active"
    execute(postgres.url(), f"SELECT pg_drop_replication_slot(slot_name) FROM ({slots.format(name=name)}) of_test")


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    """A git repository with one commit, on the branch `main`."""
    path = tmp_path / "repository"
    path.mkdir()
    git(path, "init", "--quiet", "--initial-branch=main")
    commit(path, {"README.md": "The shop.\n", "migrations/README.md": "In order.\n"})
    return Repository(path)


@pytest.fixture
def connections(database: Database, repository: Repository, tmp_path: Path) -> Connections:
    host = MemoryHost()
    host.promote(host.stage(repository.resolve("main"), "v1").release_id)
    store = BackupStore(FolderStore(tmp_path / "records"))
    settings = Settings(
        name="test",
        repository=str(repository.path),
        records=str(tmp_path / "records"),
        database=database.name,
        migrations=MigrationSettings(lock_timeout_s=0.3),
        rollback=RollbackSettings(watch_s=0),
    )
    return Connections(settings, repository, database, host, store, ())


@pytest.fixture
def beside(postgres: EmbeddedPostgres, database: Database) -> Callable[[], list[str]]:
    """Ask which databases there are beside the test's own."""

    def names() -> list[str]:
        query = "SELECT datname FROM pg_database WHERE starts_with(datname, %s) ORDER BY 1"
        with psycopg.connect(postgres.url(), autocommit=True) as connection:
            return [str(row[0]) for row in connection.execute(query, [f"{database.name}_"])]

    return names
