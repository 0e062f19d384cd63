"""What else goes on at the database: transactions that are open for long, replicas that are behind.

Source: PostgreSQL manual, "The Cumulative Statistics System" (pg_stat_activity, pg_stat_replication).
"""

from __future__ import annotations

import time

from runbook.clients.postgres import Database
from runbook.errors import TransientError
from runbook.rules.sql import without_literals
from runbook.settings import MigrationSettings

_LONG = """
SELECT pid, usename, application_name, state, extract(epoch FROM clock_timestamp() - xact_start), query
FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'
  AND xact_start < clock_timestamp() - make_interval(secs => %s)
ORDER BY xact_start
"""
_LATE = """
SELECT application_name, client_addr::text, extract(epoch FROM replay_lag) FROM pg_stat_replication
WHERE replay_lag > make_interval(secs => %s) ORDER BY replay_lag DESC
"""
_SHOWN = 3
_OTHERS = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
_WRITTEN = "SELECT format('%I.%I', schemaname, relname), n_tup_ins + n_tup_upd + n_tup_del FROM pg_stat_user_tables"
_SESSIONS_END_WITHIN_S = 5


def require_calm(database: Database, limits: MigrationSettings) -> None:
    """Refuse to begin while a transaction is open for too long, or a replica is too far behind.

    Behind a long transaction a migration would wait for its lock, and the application behind the migration. Queries
    of others are only seen by a role that may: a superuser or a member of pg_monitor.

    Raises:
        TransientError: so it is; the message names session, user, query and age, or the replica and its lag.
    """
    with database.connect() as connection:
        long = connection.execute(_LONG, [limits.maximum_transaction_s]).fetchall()
        late = connection.execute(_LATE, [limits.maximum_replication_lag_s]).fetchall()
    problems = [
        f"session {pid} of {user} ({name or 'no application name'}, {state}) has a transaction open for {age:.0f} s, "
        f"{limits.maximum_transaction_s:g} s are allowed: {without_literals(query or '')[:200]}"
        for pid, user, name, state, age, query in long[:_SHOWN]
    ]
    problems += [
        f"replica {name or address or 'without a name'} is {lag:.0f} s behind, "
        f"{limits.maximum_replication_lag_s:g} s are allowed"
        for name, address, lag in late[:_SHOWN]
    ]
    if problems:
        raise TransientError(f"{database.name} is too busy for a migration: {'; '.join(problems)}")


def rows_written(database: Database) -> dict[str, int]:
    """Return how many rows were inserted, updated and deleted so far, by table, in a database that nobody else uses.

    A session counts what it did when it ends; those that end now are waited for.
    """
    with database.connect() as connection:
        deadline = time.monotonic() + _SESSIONS_END_WITHIN_S
        while connection.execute(_OTHERS).fetchone() != (1,) and time.monotonic() < deadline:
            time.sleep(0.05)  # one other session holds the migration lock
        return {str(name): int(rows) for name, rows in connection.execute(_WRITTEN).fetchall()}
