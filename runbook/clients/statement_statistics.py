"""The queries that take most, as pg_stat_statements has counted them; their texts without values.

Source: PostgreSQL manual, "pg_stat_statements"; runbook, "SEV3: Performance Degradation".
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any

from psycopg import sql

from runbook.clients import diagnostic_queries as queries
from runbook.clients.postgres import MAINTENANCE_DATABASE, Database
from runbook.clients.read_only_session import ReadOnlySession
from runbook.errors import ServiceError
from runbook.rules.database_state import Missing, Statement, Statements
from runbook.rules.sql import without_literals

_HIDDEN = "<insufficient privilege>"


class StatementOrder(StrEnum):
    """Which queries come first: those that take most time in all, most time each, or are asked most often."""

    TOTAL = "total"
    MEAN = "mean"
    CALLS = "calls"


def read_statements(
    database: Database, session: ReadOnlySession, order: StatementOrder, limit: int
) -> Statements | None:
    """Look at the queries that the server has counted, in the database or else in the server's own.

    None when it has counted none; the session then lacks them.
    """
    why = "the extension pg_stat_statements is not installed"
    for name in dict.fromkeys((database.name, MAINTENANCE_DATABASE)):
        try:
            with database.connect(name) as connection:
                session.use(connection)
                schema = session.one("pg_stat_statements", queries.STATEMENTS_SCHEMA)
                if schema is not None:
                    return _counted(database.name, session, str(schema), order, limit)
        except ServiceError as error:
            why = str(error)
    action = "Add it to shared_preload_libraries, and CREATE EXTENSION pg_stat_statements in either database."
    session.missing.append(Missing("queries by time", why, action))
    return None


def _counted(name: str, session: ReadOnlySession, schema: str, order: StatementOrder, limit: int) -> Statements | None:
    parts = {"schema": sql.Identifier(schema), "order": sql.SQL(queries.STATEMENTS_ORDER[order])}
    total = session.rows("queries in all", sql.SQL(queries.STATEMENTS_TOTAL).format(**parts), [name])
    top = session.rows("queries by time", sql.SQL(queries.STATEMENTS).format(**parts), [name, limit])
    if not total or top is None:
        return None
    calls, total_s, since = total[0]
    return Statements(tuple(_statement(row, total_s) for row in top), calls, total_s, since)


def _statement(row: tuple[Any, ...], all_s: float) -> Statement:
    text, calls, total_s, maximum_s, rows, hit, read = row
    return Statement(
        query=shown(text),
        calls=calls,
        total_s=total_s,
        mean_s=total_s / calls if calls else 0.0,
        maximum_s=maximum_s,
        rows=rows,
        cache_hit_pct=100.0 * hit / (hit + read) if hit + read else None,
        share_pct=100.0 * total_s / all_s if all_s else 0.0,
    )


def shown(query: str | None) -> str:
    """Return a query without its values; `<insufficient privilege>` for one that this role may not see."""
    return query if query == _HIDDEN else without_literals(query or "")
