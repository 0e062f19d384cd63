"""Applying two hundred migrations, beside psql with the same files in one transaction."""

from __future__ import annotations

import statistics
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import psycopg

from benchmarks.databases import running_server
from runbook.clients.backup_store import BackupStore
from runbook.clients.folder_store import FolderStore
from runbook.clients.git import Repository
from runbook.clients.local_host import LocalHost
from runbook.clients.postgres import Database
from runbook.connections import Connections
from runbook.rules.migration_files import discover
from runbook.rules.migration_steps import plan_steps
from runbook.settings import Settings
from runbook.stages.migration import apply_migrations
from runbook.stages.migration_plan import MigrationPlan

FILES = 200


@dataclass(frozen=True)
class Result:
    """Medians in seconds."""

    psql_s: float
    apply_s: float


def script(number: int) -> str:
    """One migration as they are written: a table with its indexes, rows, and a change to an earlier table."""
    text = """-- {number}: another part of the shop
CREATE TABLE part_{number} (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name text NOT NULL,
    price numeric(10, 2) CHECK (price >= 0),
    created_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX part_{number}_name ON part_{number} (name);
CREATE INDEX part_{number}_created_at ON part_{number} (created_at);
INSERT INTO part_{number} (name, price) SELECT 'part ' || n, n FROM generate_series(1, 200) n;
COMMENT ON TABLE part_{number} IS 'Parts of kind {number}; see the manual';
""".replace("{number}", str(number))
    if number > 1:
        text += f"ALTER TABLE part_{number - 1} ADD COLUMN successor bigint;\n"
    return text


def measure(rounds: int, folder: Path) -> Result:
    """Alternate between both on one server, each time in a fresh database."""
    scripts = {f"migrations/{number:04d}_part.sql": script(number) for number in range(1, FILES + 1)}
    for path, text in scripts.items():
        target = folder / path
        target.parent.mkdir(exist_ok=True)
        target.write_text(text)
    found = discover(list(scripts), "migrations").migrations
    plan = MigrationPlan("", found, (), tuple(plan_steps(found, scripts)), (), scripts)
    psql_s: list[float] = []
    apply_s: list[float] = []
    with running_server(folder / "postgres") as server:
        for _ in range(rounds):
            database = _fresh(server.url(), Database(server.url("shop")))
            files = [word for path in scripts for word in ("-f", str(folder / path))]
            programs = database.programs()
            argv = programs.argv("psql", "-X", "-q", "-1", "-v", "ON_ERROR_STOP=1", *files)
            begun = time.monotonic()
            subprocess.run(argv, env=database.child_environment(programs=programs), check=True)
            psql_s.append(time.monotonic() - begun)
            connections = _connections(_fresh(server.url(), database), folder)
            begun = time.monotonic()
            apply_migrations(connections, plan)
            apply_s.append(time.monotonic() - begun)
    return Result(statistics.median(psql_s), statistics.median(apply_s))


def _fresh(server_url: str, database: Database) -> Database:
    with psycopg.connect(server_url, autocommit=True) as connection:
        connection.execute("DROP DATABASE IF EXISTS shop")
        connection.execute("CREATE DATABASE shop")
    return database


def _connections(database: Database, folder: Path) -> Connections:
    settings = Settings(name="bench", repository=str(folder), database="shop")
    host = LocalHost("http://127.0.0.1:1", "", "")  # a migration asks nothing of it
    return Connections(settings, Repository(folder), database, host, BackupStore(FolderStore(folder)), ())
