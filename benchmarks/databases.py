"""A Postgres server and a shop's database of a given size, for measuring."""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import psycopg

from runbook.clients.backup_store import BackupStore
from runbook.clients.embedded_postgres import EmbeddedPostgres
from runbook.clients.folder_store import FolderStore
from runbook.clients.git import Repository
from runbook.clients.postgres import Database
from runbook.connections import Connections
from runbook.settings import Settings

_SCHEMA = """
CREATE TABLE customers (id bigint PRIMARY KEY, email text, name text, created_at timestamptz, profile jsonb);
CREATE TABLE orders (id bigint PRIMARY KEY, customer_id bigint, status text, total numeric(12, 2),
                     placed_at timestamptz, note text);
CREATE TABLE items (id bigint PRIMARY KEY, order_id bigint, sku text, quantity int, price numeric(10, 2));
CREATE TABLE events (id bigint PRIMARY KEY, kind text, payload jsonb, at timestamptz);
"""
_ROWS = """
INSERT INTO customers SELECT n, 'user' || n || '@example.com', md5(n::text) || ' ' || md5((n * 7)::text),
    timestamptz '2025-01-01' - n * interval '1 s', jsonb_build_object('plan', n % 5, 'city', md5((n % 1000)::text))
    FROM generate_series(1, {orders} / 4) n;
INSERT INTO orders SELECT n, 1 + n % ({orders} / 4), (ARRAY['new', 'paid', 'sent', 'done'])[1 + n % 4],
    (n % 100000) / 7.0, timestamptz '2025-01-01' - n * interval '3 s',
    'order note number ' || n || ' ' || repeat('lorem ipsum ', n % 8) FROM generate_series(1, {orders}) n;
INSERT INTO items SELECT n, 1 + n / 3 % {orders},
    'SKU-' || (n::bigint * 7919 % 100000), 1 + n % 9, (n % 5000) / 9.0
    FROM generate_series(1, {orders} * 3) n;
INSERT INTO events SELECT n, (ARRAY['view', 'click', 'cart', 'buy'])[1 + n % 4],
    jsonb_build_object('page', '/p/' || n % 5000, 'ref', md5((n % 50000)::text), 'ms', n % 977),
    timestamptz '2025-01-01' - n * interval '1 s' FROM generate_series(1, {orders} * 2) n;
"""
_INDEXES = """
CREATE INDEX ON orders (customer_id); CREATE INDEX ON items (order_id); CREATE INDEX ON items (sku);
CREATE INDEX ON events (kind, at);
ALTER TABLE orders ADD FOREIGN KEY (customer_id) REFERENCES customers;
ALTER TABLE items ADD FOREIGN KEY (order_id) REFERENCES orders;
"""


class _NoHost:
    """The part of an application host that a backup asks for: nothing has the traffic."""

    def active(self) -> None:
        return None


@contextmanager
def running_server(root: Path) -> Generator[EmbeddedPostgres]:
    """Start a server with room for measuring; it is removed afterwards."""
    server = EmbeddedPostgres(root)
    server.start()
    try:
        with psycopg.connect(server.url(), autocommit=True) as connection:
            for setting in ("max_wal_size = '8GB'", "shared_buffers = '512MB'", "checkpoint_timeout = '30min'"):
                connection.execute(f"ALTER SYSTEM SET {setting}".encode())
        server.stop()
        server.start()
        yield server
    finally:
        server.remove()


def fill(server: EmbeddedPostgres, name: str, *, orders: int) -> Database:
    """Create a database with `orders` orders and what belongs to them: a million are 0.5 GB of text, 0.9 GB on disk."""
    with psycopg.connect(server.url(), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}".encode())
    with psycopg.connect(server.url(name), autocommit=True) as connection:
        for script in (_SCHEMA, _ROWS.replace("{orders}", str(orders)), _INDEXES):
            connection.execute(script.encode())
        connection.execute("VACUUM ANALYZE")
        connection.execute("CHECKPOINT")
    return Database(server.url(name))


def connect(database: Database, records: Path) -> Connections:
    """Return the connections of an environment that has this database and nothing else."""
    settings = Settings(name="bench", repository=str(records), records=str(records), database=database.name)
    host = _NoHost()
    store = BackupStore(FolderStore(records))
    return Connections(settings, Repository(records), database, host, store, ())  # pyright: ignore[reportArgumentType]


def psql(database: Database, plain: Path, name: str) -> None:
    """Restore a dump made with `pg_dump | gzip` as the script does that is in use today."""
    shell(database, f"gunzip -c {plain} | {program(database, 'psql')} --quiet --output=/dev/null --dbname={name}")


def program(database: Database, name: str) -> str:
    """Return the path of a client program that fits the server, for a shell."""
    return shlex.quote(database.programs().argv(name)[0])


def shell(database: Database, command: str) -> None:
    """Run a command line whose programs find the server."""
    subprocess.run(["bash", "-o", "pipefail", "-c", command], env=database.child_environment(), check=True)
