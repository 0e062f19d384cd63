"""The SQL of the diagnostics, for PostgreSQL 14 and later. None takes a lock that an application could wait for.

Sizes come from pg_class: pg_relation_size would open every table, and so wait for whoever rewrites one.

Source: PostgreSQL manual, "The Cumulative Statistics System", "pg_locks", "pg_stat_statements", "System Catalogs".
"""

from __future__ import annotations

from typing import LiteralString

SETTINGS = """
SELECT set_config('default_transaction_read_only', 'on', false), set_config('statement_timeout', %s, false),
       set_config('lock_timeout', %s, false), set_config('jit', 'off', false), set_config('TimeZone', 'UTC', false)
"""
TIMEOUT = "SELECT set_config('statement_timeout', %s, false)"

SERVER = """
SELECT split_part(current_setting('server_version'), ' ', 1),
       extract(epoch FROM clock_timestamp() - pg_postmaster_start_time())::float8, pg_is_in_recovery(), current_user,
       pg_has_role(current_user, 'pg_read_all_stats', 'USAGE'),
       current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int
       - coalesce(current_setting('reserved_connections', true)::int, 0)
"""

# A role that may not see others gets NULL for their type, and so for that of auxiliary processes with a user.
GROUPS = """
SELECT usename, coalesce(datname, 'none'), coalesce(nullif(application_name, ''), 'no name'),
       coalesce(state, 'unknown'), count(*)
FROM pg_stat_activity
WHERE coalesce(backend_type, 'client backend') = 'client backend' AND usesysid IS NOT NULL
GROUP BY 1, 2, 3, 4
"""
LIMITS = """
SELECT 'database', datname, datconnlimit FROM pg_database WHERE datconnlimit >= 0
UNION ALL SELECT 'role', rolname, rolconnlimit FROM pg_roles WHERE rolconnlimit >= 0 AND rolcanlogin AND NOT rolsuper
"""

_SESSION = """
SELECT pid, coalesce(usename, 'unknown'), coalesce(application_name, ''), coalesce(state, 'unknown'),
       coalesce(wait_event_type || ': ' || wait_event, ''),
       extract(epoch FROM clock_timestamp() - xact_start)::float8,
       CASE WHEN state = 'active' THEN extract(epoch FROM clock_timestamp() - query_start)::float8 END,
       CASE WHEN state LIKE 'idle%%' THEN extract(epoch FROM clock_timestamp() - state_change)::float8 END,
       left(query, 4000)
FROM {source}
"""
OLDEST = (
    _SESSION.format(
        source="""(
    SELECT *, row_number() OVER (ORDER BY xact_start) AS by_transaction,
           row_number() OVER (PARTITION BY state ORDER BY query_start) AS by_query
    FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'
      AND xact_start IS NOT NULL
) AS activity"""
    )
    + "WHERE by_transaction <= %s OR by_query <= %s ORDER BY xact_start"
)
THESE = _SESSION.format(source="pg_stat_activity") + "WHERE pid = ANY (%s)"

# pg_locks shows everybody's waits to every role. Of each of these pg_blocking_pids asks the lock manager once more.
WAITS = """
WITH waiting AS MATERIALIZED (
    SELECT l.pid, l.locktype, l.mode, l.relation, l.waitstart, count(*) OVER () AS waiting
    FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid
    WHERE NOT l.granted AND a.datname = current_database()
    ORDER BY l.waitstart LIMIT %s
)
SELECT pid, concat(mode, ' on ', coalesce(relation::regclass::text, locktype)),
       coalesce(extract(epoch FROM clock_timestamp() - waitstart)::float8, 0), pg_blocking_pids(pid), waiting
FROM waiting
"""
LOCKS = """
SELECT mode, count(*) FILTER (WHERE granted), count(*) FILTER (WHERE NOT granted)
FROM pg_locks WHERE pid IS DISTINCT FROM pg_backend_pid() GROUP BY mode ORDER BY 2 DESC, 1
"""
PREPARED = """
SELECT gid, owner, extract(epoch FROM clock_timestamp() - prepared)::float8
FROM pg_prepared_xacts WHERE database = current_database() ORDER BY prepared LIMIT %s
"""

REPLICAS = """
SELECT coalesce(nullif(application_name, ''), client_addr::text, 'no name'), coalesce(state, 'unknown'),
       extract(epoch FROM replay_lag)::float8,
       CASE WHEN NOT pg_is_in_recovery() THEN pg_wal_lsn_diff(pg_current_wal_lsn(), replay_lsn)::float8 END
FROM pg_stat_replication ORDER BY replay_lag DESC NULLS LAST LIMIT %s
"""
SLOTS = """
SELECT slot_name, active, coalesce(wal_status, 'unknown'), coalesce(pg_wal_lsn_diff(
           CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END, restart_lsn
       ), 0)::float8
FROM pg_replication_slots ORDER BY 4 DESC LIMIT %s
"""
STANDBY_LAG = """
SELECT CASE WHEN pg_last_wal_receive_lsn() = pg_last_wal_replay_lsn() THEN 0
       ELSE extract(epoch FROM clock_timestamp() - pg_last_xact_replay_timestamp()) END::float8
WHERE pg_is_in_recovery()
"""

# 2^31 transaction numbers are all there are; the server stops before the oldest of any database is that old.
TOTALS = """
SELECT xact_commit + xact_rollback, xact_rollback, blks_hit, blks_read, deadlocks, temp_bytes,
       coalesce(checksum_failures, 0),
       (SELECT greatest(max(age(datfrozenxid)), max(mxid_age(datminmxid))) FROM pg_database)
       * 100 / 2147483648.0::float8, stats_reset
FROM pg_stat_database WHERE datname = current_database()
"""

_OURS = "n.nspname NOT IN ('pg_catalog', 'information_schema') AND n.nspname NOT LIKE 'pg\\_%%'"
SIZE = "SELECT pg_database_size(current_database())"
WAL_SIZE = "SELECT sum(size)::bigint FROM pg_ls_waldir()"
DATA_DIRECTORY = "SELECT setting FROM pg_settings WHERE name = 'data_directory'"
LARGEST = f"""
WITH largest AS MATERIALIZED (
    SELECT c.oid, n.nspname, c.relname, c.relpages, c.reltuples, c.reltoastrelid, c.relnatts, c.reloptions
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relkind IN ('r', 'm') AND {_OURS}
    ORDER BY c.relpages DESC, c.oid LIMIT %s
)
SELECT format('%%I.%%I', t.nspname, t.relname), t.relpages, current_setting('block_size')::int,
       t.relpages + coalesce(toast.pages, 0) + coalesce(own.pages, 0),
       t.reltuples::float8, widths.bytes, t.relnatts,
       coalesce((SELECT option_value::int FROM pg_options_to_table(t.reloptions)
                 WHERE option_name = 'fillfactor'), 100),
       pg_stat_get_live_tuples(t.oid), pg_stat_get_dead_tuples(t.oid), pg_stat_get_numscans(t.oid),
       coalesce(own.scans, 0)::bigint,
       greatest(pg_stat_get_last_vacuum_time(t.oid), pg_stat_get_last_autovacuum_time(t.oid)),
       greatest(pg_stat_get_last_analyze_time(t.oid), pg_stat_get_last_autoanalyze_time(t.oid))
FROM largest t
LEFT JOIN LATERAL (
    SELECT sum(i.relpages) AS pages, sum(pg_stat_get_numscans(i.oid)) AS scans
    FROM pg_index x JOIN pg_class i ON i.oid = x.indexrelid WHERE x.indrelid = t.oid
) own ON true
LEFT JOIN LATERAL (
    SELECT sum(c.relpages) AS pages FROM pg_class c
    WHERE c.oid = t.reltoastrelid OR c.oid IN (SELECT indexrelid FROM pg_index WHERE indrelid = t.reltoastrelid)
) toast ON t.reltoastrelid <> 0
LEFT JOIN LATERAL (
    SELECT sum((1 - s.null_frac) * s.avg_width)::float8 AS bytes
    FROM pg_stats s WHERE s.schemaname = t.nspname AND s.tablename = t.relname AND NOT s.inherited
) widths ON true
ORDER BY 4 DESC
"""
NEVER_ANALYZED = f"""
SELECT count(*) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'm') AND {_OURS} AND c.reltuples < 0
"""
# What keeps rows unique or identifies them for replicas is of use even if nobody reads it.
USELESS_INDEXES = f"""
SELECT format('%%I.%%I', n.nspname, i.relname), format('%%I.%%I', n.nspname, t.relname),
       i.relpages::bigint * current_setting('block_size')::int, x.indisvalid
FROM pg_index x JOIN pg_class i ON i.oid = x.indexrelid JOIN pg_class t ON t.oid = x.indrelid
JOIN pg_namespace n ON n.oid = i.relnamespace
WHERE i.relkind = 'i' AND {_OURS} AND (
    NOT x.indisvalid AND NOT EXISTS (SELECT FROM pg_stat_progress_create_index p WHERE p.index_relid = i.oid)
    OR x.indisvalid AND i.relpages >= %s AND pg_stat_get_numscans(i.oid) = 0
       AND NOT (x.indisunique OR x.indisexclusion OR x.indisreplident)
)
ORDER BY x.indisvalid, i.relpages DESC LIMIT %s
"""
SCANNED_TABLES = """
SELECT format('%%I.%%I', schemaname, relname), seq_scan, seq_tup_read / seq_scan, coalesce(idx_scan, 0)
FROM pg_stat_user_tables
WHERE seq_scan >= 50 AND seq_tup_read / seq_scan >= %s AND seq_scan > coalesce(idx_scan, 0)
ORDER BY seq_tup_read DESC LIMIT %s
"""
UNINDEXED_KEYS = f"""
SELECT format('%%I.%%I', n.nspname, t.relname), c.conname, c.confrelid::regclass::text
FROM pg_constraint c JOIN pg_class t ON t.oid = c.conrelid JOIN pg_namespace n ON n.oid = t.relnamespace
WHERE c.contype = 'f' AND c.conparentid = 0 AND {_OURS} AND t.reltuples >= %s AND NOT EXISTS (
    SELECT FROM pg_index x
    WHERE x.indrelid = c.conrelid AND x.indisvalid AND x.indpred IS NULL
      AND (x.indkey::int2[])[0:cardinality(c.conkey) - 1] @> c.conkey
)
ORDER BY t.reltuples DESC LIMIT %s
"""

STATEMENTS_SCHEMA = """
SELECT n.nspname FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace
WHERE e.extname = 'pg_stat_statements'
"""
STATEMENTS = """
SELECT min(s.query), sum(s.calls)::bigint, sum(s.total_exec_time)::float8 / 1000, max(s.max_exec_time)::float8 / 1000,
       sum(s.rows)::bigint, sum(s.shared_blks_hit)::bigint, sum(s.shared_blks_read)::bigint
FROM {schema}.pg_stat_statements s JOIN pg_database d ON d.oid = s.dbid
WHERE d.datname = %s AND s.toplevel GROUP BY s.queryid ORDER BY {order} DESC LIMIT %s
"""
STATEMENTS_ORDER: dict[str, LiteralString] = {
    "total": "sum(s.total_exec_time)",
    "mean": "sum(s.total_exec_time) / greatest(sum(s.calls), 1)",
    "calls": "sum(s.calls)",
}
STATEMENTS_TOTAL = """
SELECT coalesce(sum(s.calls), 0)::bigint, coalesce(sum(s.total_exec_time), 0)::float8 / 1000,
       (SELECT stats_reset FROM {schema}.pg_stat_statements_info)
FROM {schema}.pg_stat_statements(false) s JOIN pg_database d ON d.oid = s.dbid WHERE d.datname = %s AND s.toplevel
"""
