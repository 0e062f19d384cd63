"""The application's database as a form: one secret URL."""

from __future__ import annotations

from prefect.blocks.core import Block
from pydantic import Field, SecretStr

from runbook.clients.postgres import Database
from runbook.clients.restore_points import RestorePoints


class PostgresDatabase(Block):
    """A Postgres database, reached by its direct host."""

    _block_type_name = "Postgres Database"
    _block_type_slug = "postgres-database"
    _description = "The application's database. Use the direct host, not the pooled one."

    url: SecretStr = Field(description="postgresql://user:password@host:port/database?sslmode=verify-full")

    def get_client(self, restore_points: RestorePoints | None = None) -> Database:
        """Return the client of this database, with what makes instant copies of it."""
        return Database(self.url.get_secret_value(), restore_points=restore_points)
