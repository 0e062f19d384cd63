"""What is true right now, asked by the demo itself: its own HTTP request, its own SQL over its own connection.

Nothing of the runbook's own code is used to look, so that the demo does not believe what it is told.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

import httpx
import psycopg
from psycopg import sql

_COLUMNS = """
SELECT table_name, column_name, data_type, is_nullable, coalesce(column_default, '')
FROM information_schema.columns WHERE table_schema = 'public' ORDER BY table_name, ordinal_position
"""
_INDEXES = "SELECT indexdef FROM pg_indexes WHERE schemaname = 'public' ORDER BY 1"
_TABLES = "SELECT tablename FROM pg_tables WHERE schemaname = 'public' ORDER BY 1"
_CONTENT = "SELECT count(*), coalesce(md5(string_agg(md5(t::text), '' ORDER BY md5(t::text))), '') FROM {} t"
_APPLIED = "SELECT migration_name FROM schema_migrations ORDER BY 1"


@dataclass(frozen=True)
class Facts:
    """Served version, schema (columns and indexes), applied migrations, and per table (rows, checksum)."""

    version: str
    schema: tuple[str, ...]
    migrations: tuple[str, ...]
    tables: dict[str, tuple[int, str]]

    @property
    def rows(self) -> int:
        """Rows of all tables together."""
        return sum(rows for rows, _ in self.tables.values())

    @property
    def schema_digest(self) -> str:
        """One short value for all columns and indexes."""
        return _digest(self.schema)

    @property
    def content_digest(self) -> str:
        """One short value for the checksums of all tables."""
        return _digest(f"{name} {checksum}" for name, (_, checksum) in sorted(self.tables.items()))


def _digest(lines: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:12]


def served_version(url: str) -> str:
    """Return the version that the public URL names in its header, or what it answered instead."""
    try:
        response = httpx.get(f"{url}/api/health", timeout=5, trust_env=False)
    except httpx.HTTPError as error:
        return f"no answer ({error})"
    return response.headers.get("x-app-version", f"no version (HTTP {response.status_code})")


def look(url: str, database_url: str) -> Facts:
    """Look at the application and its database."""
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        columns = [" ".join(row) for row in connection.execute(_COLUMNS).fetchall()]
        indexes = [str(row[0]) for row in connection.execute(_INDEXES).fetchall()]
        tables: dict[str, tuple[int, str]] = {}
        for (name,) in connection.execute(_TABLES).fetchall():
            row = connection.execute(sql.SQL(_CONTENT).format(sql.Identifier(name))).fetchone()
            assert row is not None  # noqa: S101 - an aggregate without GROUP BY returns one row
            tables[name] = (row[0], row[1])
        applied = [str(row[0]) for row in connection.execute(_APPLIED).fetchall()]
    return Facts(served_version(url), (*columns, *indexes), tuple(applied), tables)


def missing_orders(database_url: str, references: Iterable[str]) -> list[str]:
    """Return which of the orders that were acknowledged the database does not hold."""
    with psycopg.connect(database_url, autocommit=True) as connection:
        held = {str(row[0]) for row in connection.execute("SELECT reference FROM orders").fetchall()}
    return sorted(set(references) - held)
