from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runbook.rules.normal import NEEDED, normal, rates
from runbook.rules.samples import Sample, sample

NOW = datetime(2025, 1, 14, 0, 30, tzinfo=UTC)
P95 = "response_time_p95_s"


def every_minute(since: datetime, minutes: int, value: float) -> list[Sample]:
    return [sample(since + timedelta(minutes=minute), P95, value) for minute in range(minutes)]


def test_the_normal_is_that_of_the_same_hours_across_midnight() -> None:
    night = every_minute(NOW - timedelta(days=1, minutes=60), 120, 0.2)
    day = every_minute(NOW - timedelta(hours=12), 600, 5.0)
    found = normal(P95, [*day, *night], at=NOW)
    assert (found.median, found.p95, found.samples, found.days) == (0.2, 0.2, 120, 2)
    assert found.times(0.5) == pytest.approx(2.5)
    assert found.render() == "median of 120 samples of 2 days, at the same hours"


def test_without_enough_of_the_same_hours_all_hours_count() -> None:
    found = normal(P95, every_minute(NOW - timedelta(hours=12), NEEDED, 5.0), at=NOW)
    assert (found.median, found.basis) == (5.0, "at all hours")


@pytest.mark.parametrize(("count", "median"), [(NEEDED - 1, None), (NEEDED, 1.0)])
def test_a_few_samples_are_no_normal(count: int, median: float | None) -> None:
    found = normal(P95, every_minute(NOW - timedelta(days=1), count, 1.0), at=NOW)
    assert (found.median, found.samples) == (median, count)
    assert (found.times(2.0) is None) == (median is None)


def test_the_last_hour_is_no_normal_for_itself() -> None:
    recent = every_minute(NOW - timedelta(minutes=59), 60, 9.0)
    assert normal(P95, recent, at=NOW).samples == 0
    assert normal(P95, every_minute(NOW - timedelta(hours=1), 1, 9.0), at=NOW).samples == 1
    assert normal(P95, every_minute(NOW + timedelta(hours=1), 60, 9.0), at=NOW).samples == 0


def test_other_metrics_do_not_count() -> None:
    others = [sample(one.at, "requests", 7) for one in every_minute(NOW - timedelta(days=1), 60, 0)]
    assert normal(P95, others, at=NOW).samples == 0
    with pytest.raises(ValueError, match="no metric"):
        normal("p95", others, at=NOW)


def test_nothing_times_normal_is_known_to_be_normal_or_not() -> None:
    found = normal(P95, every_minute(NOW - timedelta(days=1), 60, 0), at=NOW)
    assert (found.times(0), found.times(0.1)) == (1.0, math.inf)


@given(st.lists(st.floats(0, 1e6), min_size=NEEDED, max_size=80), st.floats(0, 1e6), st.floats(0, 1e6))
def test_more_is_never_less_times_normal(values: list[float], one: float, other: float) -> None:
    samples = [sample(NOW - timedelta(days=1, seconds=number), P95, value) for number, value in enumerate(values)]
    found = normal(P95, samples, at=NOW)
    assert found.median is not None
    assert found.p95 is not None
    assert min(values) <= found.median <= max(values)
    low, high = found.times(min(one, other)), found.times(max(one, other))
    assert low is not None
    assert high is not None
    assert low <= high


def counters(at: datetime, **values: float) -> dict[str, Sample]:
    return {f"database_{name}_total": sample(at, f"database_{name}_total", value) for name, value in values.items()}


def test_two_looks_at_the_counters_make_rates() -> None:
    before = counters(NOW, queries=100, query_time=10, transactions=50, blocks_hit=0, blocks_read=0)
    later = NOW + timedelta(seconds=10)
    now = counters(later, queries=120, query_time=14, transactions=60, blocks_hit=90, blocks_read=10)
    assert {one.metric: one.value for one in rates(before, now)} == {
        "database_queries_per_s": 2.0,
        "database_transactions_per_s": 1.0,
        "database_query_time_s": 0.2,
        "database_cache_hit_pct": 90.0,
    }


@pytest.mark.parametrize(
    ("passed_s", "queries"),
    [
        pytest.param(10, 99, id="the server began anew"),
        pytest.param(0, 100, id="no time has passed"),
        pytest.param(3601, 200, id="too long ago"),
    ],
)
def test_no_rate_where_two_looks_do_not_belong_together(passed_s: int, queries: float) -> None:
    now = counters(NOW + timedelta(seconds=passed_s), queries=queries, query_time=queries)
    assert rates(counters(NOW, queries=100, query_time=100), now) == []
    assert rates({}, now) == []


def test_nothing_was_asked_so_nothing_took_a_time() -> None:
    before = counters(NOW, queries=5, query_time=1, blocks_hit=5, blocks_read=5)
    now = counters(NOW + timedelta(seconds=5), queries=5, query_time=1, blocks_hit=5, blocks_read=5)
    assert [one.metric for one in rates(before, now)] == ["database_queries_per_s"]
