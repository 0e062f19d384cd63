from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runbook.rules.database_health import LIMITS, database_findings, unreachable
from runbook.rules.database_state import (
    PREPARED,
    DatabaseState,
    Disk,
    Group,
    Index,
    Missing,
    Pool,
    PreparedTransaction,
    Replica,
    Replication,
    Server,
    Session,
    Sessions,
    Slot,
    Storage,
    Table,
    Totals,
    Wait,
    bloat_bytes,
    blocking_roots,
)
from runbook.rules.health_findings import Finding, Health, by_runbook, most_urgent_first, overall, render_findings

SERVER = Server("18.6", 1000, False, "watcher", True, 100)
NOTHING = DatabaseState("shop", datetime(2025, 1, 4, tzinfo=UTC), SERVER)
CALM = Sessions((Group("app", "shop", "web", "active", 10),), (Pool("server", 10, 100),))
COUNTED = Totals(1000, 1, 990_000, 10_000, 0, 0, 0, 10, None)
GIB = 2**30


def session(
    pid: int = 1,
    *,
    state: str = "active",
    transaction_s: float = 0,
    idle_s: float | None = None,
    application: str = "web",
) -> Session:
    return Session(pid, "app", application, state, "", transaction_s, None, idle_s, "SELECT ?")


def table(heap_bytes: int, empty: int) -> Table:
    return Table("public.orders", heap_bytes, heap_bytes, empty, 100, 0, 0, 0, None, None)


def state_with(name: str, value: float) -> DatabaseState:
    """The state of a database in which everything is calm but one number."""
    sessions: Mapping[str, Sessions] = {
        "connections": replace(CALM, pools=(Pool("server", round(value * 10), 1000),)),
        "long transactions": replace(CALM, sessions=(session(transaction_s=value),)),
        "idle in transaction": replace(CALM, sessions=(session(state="idle in transaction", idle_s=value),)),
        "blocked sessions": replace(CALM, waits=(Wait(2, "a lock", value, (1,)),), waiting=1),
        "prepared transactions": replace(CALM, prepared=(PreparedTransaction("p", "app", value),)),
    }
    others: Mapping[str, DatabaseState] = {
        "replication lag": replace(NOTHING, replication=Replication((Replica("r", "streaming", value, 0),), ())),
        "replication slots": replace(NOTHING, replication=Replication((), (Slot("s", False, "reserved", value),))),
        "transaction numbers": replace(NOTHING, totals=replace(COUNTED, wraparound_pct=value)),
        "cache hit ratio": replace(
            NOTHING, totals=replace(COUNTED, blocks_read=round(value * 10_000), blocks_hit=round(1e6 - value * 10_000))
        ),
        "disk": replace(NOTHING, storage=Storage(None, None, disk=Disk("/data", value, 1))),
        "bloat": replace(NOTHING, storage=Storage(None, None, tables=(table(GIB, round(value / 100 * GIB)),))),
    }
    return replace(NOTHING, sessions=sessions[name]) if name in sessions else others[name]


def health_of(name: str, value: float) -> Health:
    return next(finding for finding in database_findings(state_with(name, value)) if finding.name == name).health


@pytest.mark.parametrize(
    ("name", "warning", "critical", "step"),
    [
        pytest.param("connections", 75, 90, 0.1, id="Database connections > 75%, > 90%"),
        pytest.param("disk", 75, 85, 0.1, id="Disk usage > 75%, > 85%"),
        pytest.param("long transactions", 300, 3600, 0.1, id="transactions"),
        pytest.param("idle in transaction", 60, 600, 0.1, id="idle in transaction"),
        pytest.param("blocked sessions", 2, 5, 0.1, id="waits"),
        pytest.param("prepared transactions", 300, 3600, 0.1, id="prepared"),
        pytest.param("replication lag", 30, 300, 0.1, id="lag"),
        pytest.param("replication slots", GIB, 10 * GIB, 1, id="slots"),
        pytest.param("transaction numbers", 50, 80, 0.1, id="wraparound"),
        pytest.param("cache hit ratio", 10, None, 0.1, id="cache misses"),
        pytest.param("bloat", 50, None, 0.1, id="bloat"),
    ],
)
def test_a_limit_is_exceeded_by_more_than_it(name: str, warning: float, critical: float | None, step: float) -> None:
    assert health_of(name, warning - step) is Health.FINE
    assert health_of(name, warning) is Health.FINE
    assert health_of(name, warning + step) is Health.WARNING
    if critical is not None:
        assert health_of(name, critical) is Health.WARNING
        assert health_of(name, critical + step) is Health.CRITICAL


_BOUNDS = {"connections": 100, "disk": 100, "cache hit ratio": 100, "bloat": 100}


@given(
    name=st.sampled_from(
        [
            "connections",
            "disk",
            "long transactions",
            "idle in transaction",
            "blocked sessions",
            "replication lag",
            "replication slots",
            "transaction numbers",
            "cache hit ratio",
            "bloat",
        ]
    ),
    shares=st.tuples(st.floats(0, 1), st.floats(0, 1)),
)
def test_worse_never_lowers_the_urgency(name: str, shares: tuple[float, float]) -> None:
    top = _BOUNDS.get(name, 20 * GIB if name == "replication slots" else 10_000)
    better, worse = (overall(database_findings(state_with(name, share * top))) for share in sorted(shares))
    assert worse.urgency >= better.urgency


@given(st.lists(st.sampled_from(list(Health)), min_size=1), st.sampled_from(list(Health)))
def test_one_more_finding_never_lowers_the_urgency(healths: list[Health], more: Health) -> None:
    findings = [Finding(str(number), health, "") for number, health in enumerate(healths)]
    assert overall([*findings, Finding("more", more, "")]).urgency >= overall(findings).urgency
    assert most_urgent_first(findings)[0].health is overall(findings)


def test_each_health_has_an_exit_code_of_its_own_that_no_error_has() -> None:
    codes = [health.exit_code for health in Health]
    assert codes == [0, 5, 6, 7]
    assert overall([]) is Health.COULD_NOT_RUN


def test_what_nobody_needs_may_be_missing() -> None:
    missing = (Missing("bloat of tables", "no rights", "GRANT"), Missing("sessions", "no answer", ""))
    state = replace(NOTHING, sessions=CALM, missing=missing[:1])
    assert overall(database_findings(state)) is Health.FINE
    assert overall(database_findings(replace(state, missing=missing))) is Health.COULD_NOT_RUN


def test_what_a_role_cannot_see_is_not_fine() -> None:
    blind = replace(NOTHING, server=replace(SERVER, sees_others=False), sessions=CALM)
    names = {finding.name for finding in database_findings(blind)}
    assert "long transactions" not in names
    assert "idle in transaction" not in names


def test_the_runbooks_own_sessions_and_dumps_may_take_their_time() -> None:
    ours = tuple(
        session(n, transaction_s=9000, application=name) for n, name in enumerate(("mantis-runbook", "pg_dump"))
    )
    found = database_findings(replace(NOTHING, sessions=replace(CALM, sessions=ours)))
    assert overall(found) is Health.FINE


def test_a_block_names_its_root_and_how_to_end_it() -> None:
    waits = (Wait(2, "AccessExclusiveLock on orders", 6, (1,)), Wait(3, "AccessShareLock on orders", 1, (2,)))
    sessions = replace(CALM, waits=waits, waiting=2, sessions=(session(1, state="idle in transaction", idle_s=1),))
    found = next(
        one for one in database_findings(replace(NOTHING, sessions=sessions)) if one.name == "blocked sessions"
    )
    assert found.detail == (
        "2 wait, the longest for 6 s (AccessExclusiveLock on orders); session 1 of app (web, idle in transaction) "
        "blocks 2: SELECT ?"
    )
    assert "pg_terminate_backend(1)" in found.action


def test_a_prepared_transaction_that_blocks_is_not_a_session() -> None:
    sessions = replace(CALM, waits=(Wait(2, "a lock", 6, (PREPARED,)),), waiting=1)
    found = next(
        one for one in database_findings(replace(NOTHING, sessions=sessions)) if one.name == "blocked sessions"
    )
    assert "a prepared transaction blocks 1" in found.detail
    assert "pg_terminate_backend" not in found.action


@pytest.mark.parametrize(
    ("blocked_by", "roots"),
    [
        pytest.param({}, [], id="nobody waits"),
        pytest.param({2: (1,), 3: (2,), 4: (2, 1)}, [(1, 3)], id="a queue has one root"),
        pytest.param({2: (1,), 4: (3,), 5: (3,)}, [(3, 2), (1, 1)], id="the one that blocks most comes first"),
        pytest.param({1: (2,), 2: (1,)}, [], id="a circle has none"),
        pytest.param({1: (2,), 2: (1,), 3: (1, 9)}, [(9, 1)], id="beside a circle"),
    ],
)
def test_roots_block_others_and_wait_for_nobody(
    blocked_by: dict[int, tuple[int, ...]], roots: list[tuple[int, int]]
) -> None:
    assert blocking_roots(blocked_by) == roots


@given(st.dictionaries(st.integers(0, 8), st.lists(st.integers(0, 8), max_size=3), max_size=8))
def test_roots_never_wait(blocked_by: dict[int, list[int]]) -> None:
    roots = blocking_roots(blocked_by)
    assert not {pid for pid, _ in roots} & blocked_by.keys()
    assert all(1 <= behind <= len(blocked_by) for _, behind in roots)


def test_a_slot_that_lost_its_wal_is_critical_whatever_it_keeps() -> None:
    slots = (Slot("good", True, "reserved", 0), Slot("bad", False, "lost", 0))
    found = database_findings(replace(NOTHING, replication=Replication((), slots)))
    assert overall(found) is Health.CRITICAL


def test_a_slot_of_the_runbook_is_not_to_be_dropped_by_hand() -> None:
    slots = (Slot("runbook_backup_20250104_120000", False, "reserved", 2 * GIB),)
    found = next(
        one for one in database_findings(replace(NOTHING, replication=Replication((), slots))) if "slot" in one.name
    )
    assert found.health is Health.WARNING
    assert "deploy:confirm" in found.action
    assert "pg_drop_replication_slot" not in found.action


def test_pages_with_wrong_checksums_are_critical() -> None:
    found = database_findings(replace(NOTHING, totals=replace(COUNTED, checksum_failures=1)))
    assert overall(found) is Health.CRITICAL


def test_an_index_whose_build_failed_is_a_warning() -> None:
    storage = Storage(None, None, indexes=(Index("i", "orders", 1, False), Index("unread", "orders", 1, True)))
    found = database_findings(replace(NOTHING, storage=storage))
    assert [(one.name, one.health) for one in found] == [
        ("invalid indexes", Health.WARNING),
        ("bloat", Health.FINE),
    ]


def test_a_few_reads_say_nothing_about_the_cache() -> None:
    found = database_findings(replace(NOTHING, totals=replace(COUNTED, blocks_hit=1, blocks_read=9)))
    assert "cache hit ratio" not in {one.name for one in found}


def test_a_database_that_does_not_answer_is_critical() -> None:
    assert overall(unreachable(OSError("does not answer"))) is Health.CRITICAL


@pytest.mark.parametrize("rows", [-1.0, 100.0])
def test_no_estimate_without_statistics(rows: float) -> None:
    assert bloat_bytes(pages=10, page_bytes=8192, rows=rows, row_bytes=None, columns=2) is None


@given(
    pages=st.integers(0, 10_000),
    rows=st.integers(0, 10**6),
    width=st.floats(0, 5000),
    columns=st.integers(1, 100),
    fillfactor=st.integers(10, 100),
)
def test_the_empty_part_of_a_table_is_never_more_than_all(
    pages: int, rows: int, width: float, columns: int, fillfactor: int
) -> None:
    found = bloat_bytes(
        pages=pages, page_bytes=8192, rows=rows, row_bytes=width, columns=columns, fillfactor=fillfactor
    )
    assert found is not None
    assert 0 <= found <= pages * 8192


def test_a_limit_takes_no_value_that_is_no_number() -> None:
    with pytest.raises(ValueError, match="not a number"):
        LIMITS["wait_s"].health(float("nan"))


def test_exactly_five_percent_of_errors_is_a_warning() -> None:
    assert by_runbook("error_rate_pct", 5) is Health.WARNING


def test_findings_are_read_with_the_most_urgent_first() -> None:
    lines = render_findings(
        [Finding("disk", Health.FINE, "3 %", "not shown"), Finding("connections", Health.CRITICAL, "all", "Do it.")]
    )
    assert lines == [
        "CRITICAL       connections  all",
        "                            > Do it.",
        "fine           disk         3 %",
    ]
