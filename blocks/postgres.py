"""The application's database as a form: one secret URL."""

from __future__ import annotations

from prefect.blocks.core import Block
from pydantic import Field, HttpUrl, SecretStr

from runbook.clients.postgres import Database
from runbook.clients.restore_points import RestorePoints


class PostgresDatabase(Block):
    """A Postgres database, reached by its direct host."""

    _block_type_name = "Postgres Database"
    _block_type_slug = "postgres-database"
    _description = "The application's database. Use the direct host, not the pooled one."
    _logo_url = HttpUrl("https://www.postgresql.org/media/img/about/press/elephant.png")
    _documentation_url = HttpUrl("https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-CONNSTRING-URIS")

    url: SecretStr = Field(description="postgresql://user:password@host:port/database?sslmode=verify-full")

    def get_client(self, restore_points: RestorePoints | None = None) -> Database:
        """Return the client of this database, with what makes instant copies of it."""
        return Database(self.url.get_secret_value(), restore_points=restore_points)

    def check(self) -> str:
        """Return what was found there, and with which programs it is backed up.

        Raises:
            ServiceError: in words a person can act on.
        """
        database = self.get_client()
        version, programs = database.server_version(), database.programs()
        return f"{database.name} at {database.place}: PostgreSQL {version}, pg_dump {programs.version}"
