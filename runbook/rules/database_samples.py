"""The state of a database as numbers over time. Source: runbook, "Key Metrics to Monitor" (Database)."""

from __future__ import annotations

from runbook.rules.database_state import DatabaseState, Replication, Sessions
from runbook.rules.samples import Sample, sample


def database_samples(state: DatabaseState) -> list[Sample]:
    """Return what was seen as samples; nothing for what was not seen."""
    values: dict[str, float | None] = {}
    if state.sessions is not None:
        values |= _of_sessions(state.sessions, state.database, sees_others=state.server.sees_others)
    if state.replication is not None:
        values["database_replication_lag_s"] = _lag(state.replication)
    if state.totals is not None:
        values |= {
            "database_transactions_total": state.totals.transactions,
            "database_blocks_hit_total": state.totals.blocks_hit,
            "database_blocks_read_total": state.totals.blocks_read,
        }
    if state.statements is not None:
        values |= {
            "database_queries_total": state.statements.calls,
            "database_query_time_total": state.statements.total_s,
        }
    if state.storage is not None:
        values["database_size_bytes"] = state.storage.size_bytes
        values["disk_usage_pct"] = state.storage.disk.used_pct if state.storage.disk else None
    return [sample(state.at, metric, value) for metric, value in values.items() if value is not None]


def _of_sessions(sessions: Sessions, database: str, *, sees_others: bool) -> dict[str, float | None]:
    values: dict[str, float | None] = {
        "database_connections": sessions.pools[0].used,
        "database_connections_pct": max(pool.used_pct for pool in sessions.pools),
        "database_blocked": sessions.waiting,
        "database_longest_wait_s": max((wait.waits_s for wait in sessions.waits), default=0),
        "database_locks": sum(count.held for count in sessions.locks),
    }
    if not sees_others:
        return values
    idle = ("idle in transaction", "idle in transaction (aborted)")
    return values | {
        "database_active": sessions.count("active", database),
        "database_idle_in_transaction": sum(sessions.count(state, database) for state in idle),
        "database_longest_query_s": max((one.query_s or 0 for one in sessions.sessions), default=0),
        "database_longest_transaction_s": max((one.transaction_s or 0 for one in sessions.sessions), default=0),
    }


def _lag(replication: Replication) -> float | None:
    lags = [one.lag_s for one in replication.replicas if one.lag_s is not None]
    if replication.standby_lag_s is not None:
        lags.append(replication.standby_lag_s)
    return max(lags, default=None)
