"""The real Postgres and the connections of the tests of the runbook, for commands that use them."""

from __future__ import annotations

from tests.runbook.conftest import connections, database, postgres, repository

__all__ = ["connections", "database", "postgres", "repository"]
