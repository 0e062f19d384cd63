"""What the state of a database means: which numbers are a warning, which are critical, and what to do.

The runbook has thresholds for connections and disks. The others are those that the field uses; each says whose.

Source: runbook, "Key Metrics to Monitor" (Database) and "Alert Thresholds".
"""

from __future__ import annotations

from collections.abc import Callable

from runbook.rules.database_state import PREPARED, DatabaseState, Session, Sessions, Slot, Storage, Totals
from runbook.rules.drills import duration_in_words
from runbook.rules.health_findings import Finding, Health, Limit, actions_where_needed, by_runbook
from runbook.rules.sizes import size_in_words

_MIB, _GIB = 2**20, 2**30
_QUERY_SHOWN = 120

LIMITS = {
    limit.metric: limit
    for limit in (
        # No migration is begun behind one of 300 s; after an hour VACUUM is far behind.
        Limit("transaction_s", "s", 300, 3600, "migrations.maximum_transaction_s; PostgreSQL, Routine Vacuuming"),
        Limit("idle_in_transaction_s", "s", 60, 600, "PostgreSQL, idle_in_transaction_session_timeout"),
        # The runbook's own limits of an answer: who waits for longer has answered too late.
        Limit("wait_s", "s", 2, 5, "runbook, Alert Thresholds (response time)"),
        Limit("replication_lag_s", "s", 30, 300, "migrations.maximum_replication_lag_s"),
        Limit("retained_wal_bytes", "bytes", _GIB, 10 * _GIB, "rollback.maximum_wal_gb"),
        Limit("cache_miss_pct", "%", 10, None, "PostgreSQL wiki, Performance Optimization"),
        # autovacuum begins at 10 % by default; the server warns 40 million numbers before it stops.
        Limit("wraparound_pct", "%", 50, 80, "PostgreSQL, Preventing Transaction ID Wraparound Failures"),
        Limit("bloat_pct", "%", 50, None, "PostgreSQL wiki, Show database bloat"),
    )
}
_ENOUGH_BLOCKS = 100_000
_MUCH_BLOAT_BYTES = 100 * _MIB
_SLOT_OF_THE_RUNBOOK = "It captures what a rollback has to keep; `runbook deploy:confirm` gives it up."
_OURS = ("mantis-runbook", "pg_dump", "pg_restore")
_NOT_NEEDED = frozenset(
    {
        "size of the WAL",
        "size of the database",
        "disk of the server",
        "bloat of tables",
        "queries by time",
        "queries in all",
        "pg_stat_statements",
        "data directory",
        "use of indexes",
        "scans of tables",
        "foreign keys",
        "largest tables",
        "tables",
        "prepared transactions",
    }
)


def database_findings(state: DatabaseState) -> list[Finding]:
    """Return what was found of each thing that was looked at, and one finding for each that could not be.

    Source: runbook, "Key Metrics to Monitor" (Database), "Alert Thresholds"; `LIMITS`.
    """
    found: list[Finding] = [
        Finding(
            missing.what, Health.COULD_NOT_RUN, missing.why, missing.action, is_needed=missing.what not in _NOT_NEEDED
        )
        for missing in state.missing
    ]
    if state.sessions is not None:
        found += _of_sessions(state.sessions, sees_others=state.server.sees_others)
    if state.replication is not None:
        lags = [(one.name, one.lag_s) for one in state.replication.replicas if one.lag_s is not None]
        if state.replication.standby_lag_s is not None:
            lags.append(("this standby", state.replication.standby_lag_s))
        found.append(
            _worst(
                "replication lag",
                "replication_lag_s",
                lags,
                "Look at network and load of the replica; read from the primary meanwhile.",
                nothing=f"{len(state.replication.replicas)} replicas, none with a lag"
                if state.replication.replicas
                else "no replica",
            )
        )
        found += _of_slots(state.replication.slots)
    if state.totals is not None:
        found += _of_totals(state.totals)
    if state.storage is not None:
        found += _of_storage(state.storage)
    return actions_where_needed(found)


def unreachable(error: Exception) -> list[Finding]:
    """Return the finding of a database that does not answer. Source: runbook, "SEV1: Complete Outage", step 3."""
    action = "Check the provider's status page, the network and the URL in the environment's database block."
    return [Finding("connectivity", Health.CRITICAL, str(error), action)]


def _of_sessions(sessions: Sessions, *, sees_others: bool) -> list[Finding]:
    pool = max(sessions.pools, key=lambda pool: pool.used_pct)
    idle = sum(count for state, count in sessions.by("state") if state.startswith("idle"))
    found = [
        Finding(
            "connections",
            by_runbook("database_connections_pct", pool.used_pct),
            f"{pool.name}: {pool.used} of {pool.limit} in use ({pool.used_pct:.0f} %); {idle} of all are idle",
            "See who holds them (`runbook db:connections`); scale database connections, or lower the pool of a client.",
        )
    ]
    others = [one for one in sessions.sessions if not one.application.startswith(_OURS)]
    if sees_others:
        found += [
            _oldest(
                "long transactions", "transaction_s", others, lambda one: one.transaction_s, "no transaction is open"
            ),
            _oldest("idle in transaction", "idle_in_transaction_s", others, _idle_within, "no session is"),
        ]
    found.append(_of_waits(sessions))
    if sessions.prepared:
        ages = [(f"{one.name} of {one.owner}", one.age_s) for one in sessions.prepared]
        found.append(
            _worst("prepared transactions", "transaction_s", ages, "COMMIT PREPARED or ROLLBACK PREPARED it by name.")
        )
    return found


def _of_waits(sessions: Sessions) -> Finding:
    name = "blocked sessions"
    if not sessions.waits:
        return Finding(name, Health.FINE, "nobody waits for a lock")
    longest = max(sessions.waits, key=lambda wait: wait.waits_s)
    health = LIMITS["wait_s"].health(longest.waits_s)
    detail = f"{sessions.waiting} wait, the longest for {duration_in_words(longest.waits_s)} ({longest.lock})"
    roots = sessions.roots()
    if not roots:
        return Finding(name, health, detail, "They wait for one another; PostgreSQL ends a deadlock itself.")
    pid, behind = roots[0]
    if pid == PREPARED:
        return Finding(name, health, f"{detail}; a prepared transaction blocks {behind}", "End it by its name.")
    root = sessions.of(pid)
    who = root.render() if root else f"session {pid}"
    query = f": {root.query[:_QUERY_SHOWN]}" if root and root.query else ""
    return Finding(name, health, f"{detail}; {who} blocks {behind}{query}", _end(pid))


def _of_slots(slots: tuple[Slot, ...]) -> list[Finding]:
    if not slots:
        return []
    lost = [slot for slot in slots if slot.wal_status in ("lost", "unreserved")]
    if lost:
        detail = f"{lost[0].name} is {lost[0].wal_status}: its reader cannot go on from where it was"
        return [Finding("replication slots", Health.CRITICAL, detail, "Make its reader anew, then drop the slot.")]
    kept = [(f"{slot.name} ({'active' if slot.is_active else 'nobody reads it'})", slot) for slot in slots]
    name, slot = max(kept, key=lambda one: one[1].retained_bytes)
    return [
        Finding(
            "replication slots",
            LIMITS["retained_wal_bytes"].health(slot.retained_bytes),
            f"{name} keeps {size_in_words(slot.retained_bytes)} of WAL",
            _SLOT_OF_THE_RUNBOOK
            if slot.name.startswith("runbook_")
            else f"Let its reader catch up; if there is none any more: SELECT pg_drop_replication_slot('{slot.name}')",
        )
    ]


def _of_totals(totals: Totals) -> list[Finding]:
    found = [
        Finding(
            "transaction numbers",
            LIMITS["wraparound_pct"].health(totals.wraparound_pct),
            f"{totals.wraparound_pct:.1f} % of them are used up before the oldest row is frozen",
            "End old transactions and slots, then VACUUM (FREEZE) the oldest tables; at 100 % writing stops.",
        )
    ]
    hit = totals.cache_hit_pct
    if hit is not None and totals.blocks_hit + totals.blocks_read >= _ENOUGH_BLOCKS:
        found.append(
            Finding(
                "cache hit ratio",
                LIMITS["cache_miss_pct"].health(100 - hit),
                f"{hit:.1f} % of the blocks came from the cache",
                "See `runbook db:slow-queries` for what reads so much; a larger shared_buffers may help.",
            )
        )
    if totals.checksum_failures:
        action = "Take no backup over the last good one. Restore from it, and have the disk looked at."
        detail = f"{totals.checksum_failures} pages were not as they had been written"
        found.append(Finding("page checksums", Health.CRITICAL, detail, action))
    return found


def _of_storage(storage: Storage) -> list[Finding]:
    found: list[Finding] = []
    if storage.disk is not None:
        found.append(
            Finding(
                "disk",
                by_runbook("disk_usage_pct", storage.disk.used_pct),
                f"{storage.disk.used_pct:.0f} % in use, {size_in_words(storage.disk.free_bytes)} free",
                "Make room: kept databases (`runbook db:kept`), WAL of slots, bloat; or enlarge the disk.",
            )
        )
    broken = [index for index in storage.indexes if not index.is_valid]
    if broken:
        detail = f"{broken[0].name} of {broken[0].table}" + (f" and {len(broken) - 1} more" if len(broken) > 1 else "")
        action = f"Its build has failed: nobody reads it and every write pays for it. DROP INDEX {broken[0].name}."
        found.append(Finding("invalid indexes", Health.WARNING, detail, action))
    estimated = [
        (table, table.bloat_pct)
        for table in storage.tables
        if table.bloat_pct is not None and (table.bloat_bytes or 0) > _MUCH_BLOAT_BYTES
    ]
    if not estimated:
        detail = f"none of the {len(storage.tables)} largest tables has {size_in_words(_MUCH_BLOAT_BYTES)} of it"
        found.append(Finding("bloat", Health.FINE, detail))
    else:
        table, pct = max(estimated, key=lambda one: one[1])
        detail = f"about {size_in_words(table.bloat_bytes or 0)} of {table.name} ({pct:.0f} %) is empty"
        action = "Let autovacuum run more often there; pg_repack or VACUUM FULL (closes the table) gives it back."
        found.append(Finding("bloat", LIMITS["bloat_pct"].health(pct), detail, action))
    return found


def _oldest(
    name: str, metric: str, sessions: list[Session], age: Callable[[Session], float | None], nothing: str
) -> Finding:
    """Return the finding of the session with the greatest age."""
    aged = [(one, age_s) for one in sessions if (age_s := age(one)) is not None]
    if not aged:
        return Finding(name, Health.FINE, nothing)
    session, age_s = max(aged, key=lambda one: one[1])
    query = f": {session.query[:_QUERY_SHOWN]}" if session.query else ""
    detail = f"{session.render()}, {duration_in_words(age_s)}{query}"
    return Finding(name, LIMITS[metric].health(age_s), detail, _end(session.pid))


def _worst(name: str, metric: str, values: list[tuple[str, float]], action: str, nothing: str = "none") -> Finding:
    if not values:
        return Finding(name, Health.FINE, nothing)
    who, value = max(values, key=lambda one: one[1])
    return Finding(name, LIMITS[metric].health(value), f"{who}: {duration_in_words(value)}", action)


def _idle_within(session: Session) -> float | None:
    return session.idle_s if session.state.startswith("idle in transaction") else None


def _end(pid: int) -> str:
    return f"If nobody needs it: SELECT pg_terminate_backend({pid}); what it has not committed is rolled back."
