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
from psycopg import sql

from runbook.clients.postgres import MAINTENANCE_DATABASE, Database
from runbook.errors import InvalidInputError
from runbook.rules.sql import statements

_EXTENSION = """
SELECT n.nspname, string_to_array(e.extversion, '.')::int[]
FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace WHERE e.extname = 'pg_stat_statements'
"""
# The extension keeps its version when its server is upgraded. An entry's own age is known from 1.11 on, the time of
# the last reset from 1.9 on.
_KNOWS_RESET, _KNOWS_AGE = [1, 9], [1, 11]
_STATEMENTS = """
SELECT s.query, sum(s.calls)::bigint,
       sum(s.calls) / greatest(1, extract(epoch FROM clock_timestamp() - min({since})))::float8
FROM {schema}.pg_stat_statements s JOIN pg_database d ON d.oid = s.dbid, {schema}.pg_stat_statements_info i
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
_OTHERS = ("PG_", "HASH_RECORD_EXTENDED", "SCHEMA_MIGRATIONS")  # of tools, and of the runbook's fingerprints
_HIDDEN = "<insufficient privilege>"
_ONE_OFF = 2  # what was asked once or twice is a person's, or an earlier migration's
_TRIED_FOR = "5s"
_AVERAGED_S = 3600.0


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

    From `pg_stat_statements` when it is installed there or in the server's maintenance database and shows most calls;
    otherwise from the counters of the tables, which count scans and rows, not calls.

    Args:
        database: the application's.
        observe_s: seconds between the two looks at the counters.

    Raises:
        ServiceError: the server does not answer.
    """
    for name in (database.name, MAINTENANCE_DATABASE):
        with database.connect(name) as connection:
            schema, version = connection.execute(_EXTENSION).fetchone() or ("", [0])
            if version < _KNOWS_RESET:
                continue
            since = sql.SQL("s.stats_since" if version >= _KNOWS_AGE else "i.stats_reset")
            query = sql.SQL(_STATEMENTS).format(since=since, schema=sql.Identifier(schema))
            try:
                rows = connection.execute(query, [database.name]).fetchall()
            except (psycopg.errors.ObjectNotInPrerequisiteState, psycopg.errors.InsufficientPrivilege):
                continue  # installed, but not preloaded, or for others only
        seen = [(str(text), int(calls), float(rate)) for text, calls, rate in rows if text != _HIDDEN]
        hidden_per_s = sum(float(rate) for text, _, rate in rows if text == _HIDDEN)  # of other roles
        if sum(rate for _, _, rate in seen) > hidden_per_s:  # a few of an administrator's do not matter
            return _by_statements(database, seen)
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
            (result.error_field(psycopg.pq.DiagnosticField.MESSAGE_PRIMARY) or b"").decode(errors="replace")
        )


def _by_statements(database: Database, rows: Sequence[tuple[str, int, float]]) -> Workload:
    with database.connect() as connection:
        tables = [str(name) for name, *_ in connection.execute(_COUNTERS).fetchall()]
    by_word: dict[str, list[str]] = {}
    for table in tables:
        by_word.setdefault(table.split(".")[-1].strip('"').upper(), []).append(table)
    reads, writes = defaultdict[str, float](float), defaultdict[str, float](float)
    kept: list[str] = []
    for query, calls, rate in rows:
        words = _words(query)
        if not words or words[0] not in (*_READS, *_WRITES) or any(word.startswith(_OTHERS) for word in words):
            continue
        if calls > _ONE_OFF:
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
    age_s = max(_AVERAGED_S, float(age[0])) if age else _AVERAGED_S  # a load just before is no rate
    calls = {
        table: Calls(
            *(max((now - then) / passed_s, now / age_s) for now, then in zip(counts, before[table], strict=True))
        )
        for table, counts in after.items()
        if table in before and any(counts)
    }
    return Workload(calls, (), "counters of the tables (scans and rows written; pg_stat_statements is not readable)")
