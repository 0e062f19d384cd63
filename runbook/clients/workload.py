"""What the application asks of its database: how often it reads and writes each table, and with which queries.

Source: PostgreSQL manual, "pg_stat_statements" and "The Cumulative Statistics System".
"""

from __future__ import annotations

import re
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import psycopg

from runbook.clients.postgres import MAINTENANCE_DATABASE, Database
from runbook.errors import InvalidInputError
from runbook.rules.sql import statements

_HAS_STATEMENTS = "SELECT EXISTS (SELECT FROM pg_extension WHERE extname = 'pg_stat_statements')"
# An entry's own age is known from PostgreSQL 17 on, before that the time of the last reset.
_STATEMENTS = """
SELECT s.query, sum(s.calls) / greatest(1, extract(epoch FROM clock_timestamp() - min({since})))::float8 AS rate
FROM pg_stat_statements s JOIN pg_database d ON d.oid = s.dbid, pg_stat_statements_info i
WHERE d.datname = %s AND s.toplevel GROUP BY s.query ORDER BY sum(s.calls) DESC LIMIT 500
"""
_COUNTERS = """
SELECT format('%I.%I', schemaname, relname), coalesce(seq_scan, 0) + coalesce(idx_scan, 0),
       n_tup_ins + n_tup_upd + n_tup_del
FROM pg_stat_user_tables
"""
_AGE = """
SELECT extract(epoch FROM clock_timestamp() - coalesce(stats_reset, pg_postmaster_start_time()))::float8
FROM pg_stat_database WHERE datname = current_database()
"""
_READS, _WRITES = ("SELECT", "WITH", "VALUES", "TABLE"), ("INSERT", "UPDATE", "DELETE", "MERGE")
_HIDDEN = "<insufficient privilege>"
_TRIED_FOR = "5s"


@dataclass(frozen=True)
class Calls:
    """Calls a second."""

    reads_per_s: float
    writes_per_s: float


@dataclass(frozen=True)
class Workload:
    """Calls by table as in a fingerprint (`public.orders`), the queries recorded, and in words where both are from."""

    calls_per_s: Mapping[str, Calls]
    queries: tuple[str, ...] = field(repr=False)
    source: str = ""


def read_workload(database: Database, *, observe_s: float = 1.0) -> Workload:
    """Return what the application asks of its database now.

    From `pg_stat_statements` when it is installed there or in the server's maintenance database and may be read;
    otherwise from the counters of the tables, which count scans and rows, not calls.

    Args:
        database: the application's.
        observe_s: seconds between the two looks at the counters.

    Raises:
        ServiceError: the server does not answer.
    """
    for name in (database.name, MAINTENANCE_DATABASE):
        with database.connect(name) as connection:
            if connection.execute(_HAS_STATEMENTS).fetchone() != (True,):
                continue
            since = "s.stats_since" if connection.info.server_version >= 170000 else "i.stats_reset"
            try:
                rows = connection.execute(_STATEMENTS.format(since=since).encode(), [database.name]).fetchall()
            except psycopg.errors.ObjectNotInPrerequisiteState:  # installed, but not preloaded
                continue
        if rows and not all(query == _HIDDEN for query, _ in rows):
            return _by_statements(database, [(str(query), float(rate)) for query, rate in rows if query != _HIDDEN])
    return _by_counters(database, observe_s)


def failing_queries(database: Database, name: str, queries: Sequence[str]) -> dict[str, str]:
    """Return which queries cannot be planned in a database, with the error; none of them is run.

    A parameter whose type nobody can tell fails, too; compared with an earlier look that is no difference.
    """
    failing: dict[str, str] = {}
    with database.connect(name) as connection:
        generic = connection.info.server_version >= 160000
        connection.execute("SELECT set_config('statement_timeout', %s, false)", [_TRIED_FOR])
        connection.execute("BEGIN READ ONLY")
        for query in queries:
            tried = f"EXPLAIN (GENERIC_PLAN) {query}" if generic else f"PREPARE runbook_tried AS {query}"
            connection.execute("SAVEPOINT tried")
            try:
                _ask(connection, tried)
            except psycopg.Error as error:
                failing[query] = str(error).strip().splitlines()[0]
            connection.execute("ROLLBACK TO tried")
            if not generic:
                connection.execute("DEALLOCATE ALL")
        connection.execute("ROLLBACK")
    return failing


def _ask(connection: psycopg.Connection, statement: str) -> None:
    """Run a statement that holds `$1` for itself and not for us: by the simple protocol, without parameters."""
    result = connection.pgconn.exec_(statement.encode())
    if result.status not in (psycopg.pq.ExecStatus.TUPLES_OK, psycopg.pq.ExecStatus.COMMAND_OK):
        raise psycopg.errors.lookup((result.error_field(psycopg.pq.DiagnosticField.SQLSTATE) or b"XX000").decode())(
            (result.error_message or b"").decode(errors="replace")
        )


def _by_statements(database: Database, rows: Sequence[tuple[str, float]]) -> Workload:
    with database.connect() as connection:
        tables = [str(name) for name, *_ in connection.execute(_COUNTERS).fetchall()]
    by_word: dict[str, list[str]] = {}
    for table in tables:
        by_word.setdefault(table.split(".")[-1].strip('"').upper(), []).append(table)
    reads, writes = defaultdict[str, float](float), defaultdict[str, float](float)
    kept: list[str] = []
    for query, rate in rows:
        words = _words(query)
        if not words or words[0] not in (*_READS, *_WRITES) or any(word.startswith("PG_") for word in words):
            continue
        kept.append(query)
        writing = any(word in _WRITES for word in words)
        for table in {table for word in words for table in by_word.get(word, ())}:
            (writes if writing else reads)[table] += rate
    calls = {table: Calls(reads[table], writes[table]) for table in tables if reads[table] or writes[table]}
    return Workload(calls, tuple(kept), f"pg_stat_statements, {len(kept)} queries")


def _words(query: str) -> list[str]:
    try:
        found = statements(query)
    except InvalidInputError:  # cut off, as long queries are
        return []
    if len(found) != 1:
        return []
    return [word.strip('"') for word in re.split(r"[\s().,;]+", found[0].bare) if word]


def _by_counters(database: Database, observe_s: float) -> Workload:
    with database.connect() as connection:
        before = {str(name): (reads, writes) for name, reads, writes in connection.execute(_COUNTERS).fetchall()}
        began = time.monotonic()
        age = connection.execute(_AGE).fetchone()
        time.sleep(observe_s)
        after = {str(name): (reads, writes) for name, reads, writes in connection.execute(_COUNTERS).fetchall()}
        passed_s = max(0.001, time.monotonic() - began)
    age_s = max(1.0, float(age[0])) if age else 1.0
    calls = {
        table: Calls(
            *(max((now - then) / passed_s, now / age_s) for now, then in zip(counts, before[table], strict=True))
        )
        for table, counts in after.items()
        if table in before and any(counts)
    }
    return Workload(calls, (), "counters of the tables (scans and rows written; pg_stat_statements is not readable)")
