"""What monitoring has found, as lines of text for a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from runbook.rules.application_health import advice, signals
from runbook.rules.checklist import Check, Outcome
from runbook.rules.database_state import DatabaseState, Sessions, Statements, Storage
from runbook.rules.drills import duration_in_words
from runbook.rules.error_signatures import ErrorGroup
from runbook.rules.samples import TOTAL, Sample
from runbook.rules.sizes import size_in_words
from runbook.rules.spans import Piece
from runbook.stages.monitoring import Measurement

_QUERY = 100


def columns(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return a table as lines; a column is as wide as its widest cell."""
    cells = [tuple(header), *(tuple(row) for row in rows)]
    widths = [max(len(row[number]) for row in cells) for number in range(len(header))]
    return ["  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells]


def check_lines(checks: Sequence[Check]) -> list[str]:
    """Return checks as lines of a table, each that did not pass followed by what to do about it."""
    rows: list[tuple[str, str, str]] = []
    for check in checks:
        rows.append((check.outcome.replace("_", " "), check.name, " ".join(check.detail.split())))
        if check.action and check.outcome is not Outcome.PASSED:
            rows.append(("", "", f"> {' '.join(check.action.split())}"))
    return columns(("outcome", "check", "what was seen"), rows)


def database_lines(state: DatabaseState) -> list[str]:
    """Return the state of a database, part by part."""
    server = state.server
    role = f"{server.role}{'' if server.sees_others else ' (sees its own sessions only)'}"
    lines = [
        f"{state.database}: PostgreSQL {server.version}, up for {duration_in_words(server.uptime_s)}, "
        f"{'standby' if server.is_standby else 'primary'}, asked as {role}, looked at in {state.took_s:.2f} s"
    ]
    if state.sessions is not None:
        lines += ["", *sessions_lines(state.sessions)]
    if state.replication is not None and (state.replication.replicas or state.replication.slots):
        lines += ["", "Replication", *_replication_lines(state)]
    if state.totals is not None:
        totals = state.totals
        hit = "nothing read yet" if totals.cache_hit_pct is None else f"{totals.cache_hit_pct:.1f} %"
        since = f"since {totals.since:%Y-%m-%d %H:%M} UTC" if totals.since else "since the statistics began"
        lines += [
            "",
            f"Counted {since}: {totals.transactions:,} transactions, {totals.rollbacks:,} rolled back, "
            f"{totals.deadlocks:,} deadlocks, {size_in_words(totals.temp_bytes)} of temporary files, cache hits {hit}",
        ]
    if state.storage is not None:
        lines += ["", *_storage_lines(state.storage)]
    if state.statements is not None:
        lines += ["", *statements_lines(state.statements)]
    return lines


def sessions_lines(sessions: Sessions) -> list[str]:
    """Return who is connected, what the oldest do, who waits for whom, and which locks there are."""
    pools = [(pool.name, f"{pool.used}", f"{pool.limit}", f"{pool.used_pct:.0f} %") for pool in sessions.pools]
    lines = ["Connections", *columns(("of", "in use", "allowed", ""), pools)]
    for name in ("state", "application", "user"):
        counts = sessions.by(name)
        shown = ", ".join(f"{value} {count}" for value, count in counts[:8])
        more = f", {len(counts) - 8} more" if len(counts) > 8 else ""
        lines.append(f"by {name}: {shown or 'none'}{more}")
    lines += ["", "Oldest transactions", *_oldest_lines(sessions)]
    lines += ["", f"Waiting for locks: {sessions.waiting}", *_wait_lines(sessions)]
    if sessions.locks:
        held = ", ".join(
            f"{one.mode} {one.held}" + (f" (+{one.waiting})" * bool(one.waiting)) for one in sessions.locks
        )
        lines += ["", f"Locks held (waited for): {held}"]
    return lines + [
        f"prepared transaction {one.name} of {one.owner}, {duration_in_words(one.age_s)} old"
        for one in sessions.prepared
    ]


def statements_lines(statements: Statements) -> list[str]:
    """Return the queries that take most, each on a line below its numbers."""
    since = f" since {statements.since:%Y-%m-%d %H:%M} UTC" if statements.since else ""
    lines = [f"Queries by time: {statements.calls:,} calls, {duration_in_words(statements.total_s)} in all{since}"]
    for one in statements.top:
        hit = "" if one.cache_hit_pct is None else f", {one.cache_hit_pct:.0f} % from the cache"
        lines.append(
            f"{one.share_pct:5.1f} %  {duration_in_words(one.total_s)} in {one.calls:,} calls, mean "
            f"{duration_in_words(one.mean_s)}, at most {duration_in_words(one.maximum_s)}, {one.rows:,} rows{hit}"
        )
        lines.append(f"         {one.query}")
    return lines


def metrics_lines(measurement: Measurement) -> list[str]:
    """Return every metric with what is normal for it, and what could not be measured."""
    rows: list[tuple[str, str, str, str]] = []
    for metric, found in measurement.samples.items():
        if found.unit == TOTAL or metric == "window_s":
            continue
        known = measurement.normals.get(metric)
        median = known.median if known is not None else None
        usual = "" if median is None else value_in_words(replace(found, value=median))
        times = known.times(found.value) if known is not None else None
        rows.append((metric, value_in_words(found), usual, "" if times is None else f"{times:.1f}x"))
    lines = columns(("metric", "now", "normal", "times"), rows)
    known = next((one for one in measurement.normals.values()), None)
    if known is not None and not any(one.median is not None for one in measurement.normals.values()):
        lines.append(known.render())
    return lines + [f"not measured: {one.what}: {one.why} {one.action}".rstrip() for one in measurement.missing]


def errors_lines(groups: Sequence[ErrorGroup]) -> list[str]:
    """Return the errors of a log by what they have in common, most frequent first."""
    if not groups:
        return ["no error in the log"]
    rows = [(str(one.count), f"{one.first_at:%H:%M:%S}", f"{one.last_at:%H:%M:%S}", one.signature) for one in groups]
    return columns(("errors", "first", "last (UTC)", "in the log"), rows)


def pieces_lines(found: Sequence[Piece]) -> list[str]:
    """Return what was measured over a span, piece by piece; nothing when nothing was."""
    if not any(piece.samplings for piece in found):
        return ["no samples in the history; they come from the deployment `monitoring` on its schedule"]
    rows = [
        (
            f"{piece.since:%m-%d %H:%M}",
            str(piece.samplings),
            "" if piece.requests is None else str(piece.requests),
            "" if piece.error_rate_pct is None else f"{piece.error_rate_pct:.2f} %",
            "" if piece.worst_p95_s is None else duration_in_words(piece.worst_p95_s),
        )
        for piece in found
    ]
    return columns(("since (UTC)", "samples", "requests", "errors", "worst p95"), rows)


def advice_line(measurement: Measurement) -> str:
    """Return severity and advice of the runbook for what was measured, in one line."""
    found = signals(measurement.samples, measurement.normals)
    return advice(found) if found else "no requests, so nobody can say how severe it is"


def value_in_words(found: Sample) -> str:
    """Return a value with its unit."""
    if found.unit == "s":
        return duration_in_words(found.value)
    if found.unit in ("bytes", "bytes/s"):
        return size_in_words(found.value) + found.unit.removeprefix("bytes")
    number = f"{found.value:,.0f}" if found.value == round(found.value) else f"{found.value:,.2f}"
    return f"{number} {found.unit}"


def _oldest_lines(sessions: Sessions) -> list[str]:
    aged = [one for one in sessions.sessions if one.transaction_s is not None][:20]
    rows = [
        (
            str(one.pid),
            duration_in_words(one.transaction_s or 0),
            one.state,
            one.user,
            one.application,
            one.wait,
            one.query[:_QUERY],
        )
        for one in sorted(aged, key=lambda one: -(one.transaction_s or 0))
    ]
    return columns(("pid", "age", "state", "user", "application", "waits for", "query"), rows) if rows else ["none"]


def _wait_lines(sessions: Sessions) -> list[str]:
    rows: list[tuple[str, str, str, str, str]] = []
    for wait in sorted(sessions.waits, key=lambda wait: -wait.waits_s):
        waiting = sessions.of(wait.pid)
        ahead = ", ".join(str(pid) if pid else "a prepared transaction" for pid in wait.blocked_by)
        query = waiting.query[:_QUERY] if waiting else ""
        rows.append((str(wait.pid), duration_in_words(wait.waits_s), wait.lock, ahead, query))
    lines = columns(("pid", "waits", "for", "blocked by", "query"), rows) if rows else []
    for pid, behind in sessions.roots():
        root = sessions.of(pid)
        who = root.render() if root else f"session {pid}" if pid else "a prepared transaction"
        query = f": {root.query[:_QUERY]}" if root and root.query else ""
        lines.append(f"at the front: {who} blocks {behind}{query}")
    return lines


def _replication_lines(state: DatabaseState) -> list[str]:
    assert state.replication is not None  # noqa: S101 - its only caller has asked
    lines = [
        f"replica {one.name}: {one.state}, "
        + ("lag not known" if one.lag_s is None else f"{duration_in_words(one.lag_s)} behind")
        for one in state.replication.replicas
    ]
    for one in state.replication.slots:
        kept = f"keeps {size_in_words(one.retained_bytes)} of WAL"
        lines.append(f"slot {one.name}: {'active' if one.is_active else 'nobody reads it'}, {kept}")
    return lines


def _storage_lines(storage: Storage) -> list[str]:
    size = "not known" if storage.size_bytes is None else size_in_words(storage.size_bytes)
    wal = "not known" if storage.wal_bytes is None else size_in_words(storage.wal_bytes)
    disk = "not known" if storage.disk is None else f"{storage.disk.used_pct:.0f} % in use"
    lines = [f"Storage: database {size}, WAL {wal}, disk {disk}"]
    rows = [
        (
            one.name,
            size_in_words(one.size_bytes),
            f"{one.live_rows:,}",
            f"{one.dead_pct:.0f} %",
            "not known" if one.bloat_pct is None else f"{one.bloat_pct:.0f} %",
            f"{one.sequential_scans:,}",
            f"{one.index_scans:,}",
            f"{one.vacuumed_at:%Y-%m-%d %H:%M}" if one.vacuumed_at else "never",
        )
        for one in storage.tables
    ]
    header = ("largest tables", "size", "rows", "dead", "bloat", "read whole", "by index", "vacuumed (UTC)")
    lines += columns(header, rows) if rows else ["no tables"]
    if storage.never_analyzed:
        lines.append(f"{storage.never_analyzed} tables were never analysed: their sizes are not in these estimates")
    for index in storage.indexes:
        what = "nobody has read it" if index.is_valid else "INVALID: its build failed"
        lines.append(f"index {index.name} of {index.table}, {size_in_words(index.size_bytes)}: {what}")
    return lines + [f"index wanted on {one.table}: {one.why}" for one in storage.missing_indexes]
