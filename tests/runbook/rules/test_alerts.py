from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runbook.rules.alerts import FAST_BURN, RULES, RUNBOOK_RULES, Counts, alert_level
from runbook.rules.samples import METRICS, sample
from runbook.rules.thresholds import Action, AlertLevel, Signals, decide

ALERTS = [None, AlertLevel.WARNING, AlertLevel.CRITICAL]
NOON = datetime(2025, 1, 4, 12, tzinfo=UTC)

rates = st.floats(0, 100)


@pytest.mark.parametrize(
    ("metric", "value", "expected"),
    [
        ("error_rate_pct", 4.999, None),
        ("error_rate_pct", 5, AlertLevel.WARNING),  # the safer reading
        ("error_rate_pct", 10, AlertLevel.WARNING),
        ("error_rate_pct", 10.001, AlertLevel.CRITICAL),
        ("response_time_p95_s", 2, None),
        ("response_time_p95_s", 2.001, AlertLevel.WARNING),
        ("response_time_p95_s", 5, AlertLevel.WARNING),
        ("response_time_p95_s", 5.001, AlertLevel.CRITICAL),
        ("database_connections_pct", 75, None),
        ("database_connections_pct", 75.001, AlertLevel.WARNING),
        ("database_connections_pct", 90, AlertLevel.WARNING),
        ("database_connections_pct", 90.001, AlertLevel.CRITICAL),
        ("disk_usage_pct", 75, None),
        ("disk_usage_pct", 75.001, AlertLevel.WARNING),
        ("disk_usage_pct", 85, AlertLevel.WARNING),
        ("disk_usage_pct", 85.001, AlertLevel.CRITICAL),
    ],
)
def test_alert_thresholds(metric: str, value: float, expected: AlertLevel | None) -> None:
    assert alert_level(metric, value) is expected


@given(st.sampled_from([rule.metric for rule in RUNBOOK_RULES]), rates, rates)
def test_a_higher_value_never_lowers_the_alert(metric: str, a: float, b: float) -> None:
    assert ALERTS.index(alert_level(metric, max(a, b))) >= ALERTS.index(alert_level(metric, min(a, b)))


@given(rates)
def test_nothing_is_to_be_considered_without_an_alert(rate: float) -> None:
    assert (decide(Signals(rate)) is Action.MONITOR) == (alert_level("error_rate_pct", rate) is None)


@pytest.mark.parametrize(
    ("metric", "value"),
    [
        ("disk_usage_pct", math.nan),
        ("disk_usage_pct", -1),
        ("disk_usage_pct", 100.5),
        ("response_time_p95_s", math.inf),
        ("cpu", 1),
    ],
)
def test_an_impossible_metric_is_refused(metric: str, value: float) -> None:
    with pytest.raises(ValueError, match=metric):
        alert_level(metric, value)


def test_the_table_says_what_the_runbook_says_and_no_more() -> None:
    """Runbook, "Alert Thresholds", line by line."""
    assert [(rule.level, rule.metric, rule.threshold, rule.unit) for rule in RUNBOOK_RULES] == [
        ("critical", "error_rate_pct", 10, "%"),
        ("warning", "error_rate_pct", 5, "%"),
        ("critical", "response_time_p95_s", 5, "s"),
        ("warning", "response_time_p95_s", 2, "s"),
        ("critical", "database_connections_pct", 90, "%"),
        ("warning", "database_connections_pct", 75, "%"),
        ("critical", "disk_usage_pct", 85, "%"),
        ("warning", "disk_usage_pct", 75, "%"),
    ]
    assert {(rule.metric, rule.unit) for rule in RUNBOOK_RULES} <= set(METRICS.items())


def test_every_rule_can_be_resolved_and_names_its_source() -> None:
    names = [rule.name for rule in RULES]
    assert len(set(names)) == len(names)
    for rule in RULES:
        assert rule.clear < rule.threshold, rule.name
        assert rule.source, rule.name
        assert set(rule.inhibited_by) <= set(names) - {rule.name}, rule.name


def test_the_error_budget_burns_as_fast_as_in_both_windows() -> None:
    """1.5 % of requests fail for an hour, of 99.9 % that are to succeed: fifteen times too fast."""
    minutes = [NOON - timedelta(minutes=number) for number in range(60)]
    all_the_time = Counts(one for at in minutes for one in (sample(at, "requests", 1000), sample(at, "errors", 15)))
    assert FAST_BURN.value(all_the_time, NOON, 99.9) == pytest.approx(15)
    over = Counts(
        one
        for number, at in enumerate(minutes)
        for one in (sample(at, "requests", 1000), sample(at, "errors", 0 if number < 5 else 60))
    )
    assert FAST_BURN.value(over, NOON, 99.9) == 0, "it has ended: the short window says so"
    assert FAST_BURN.value(Counts([]), NOON, 99.9) is None
    assert FAST_BURN.value(all_the_time, NOON + timedelta(minutes=6), 99.9) is None, "no requests lately"


@given(st.lists(st.tuples(st.integers(1, 1000), st.integers(0, 1000)), min_size=1, max_size=20), st.integers(0, 19))
def test_more_errors_never_lower_the_burn_rate(counted: list[tuple[int, int]], where: int) -> None:
    def burn(more: int) -> float:
        counts = Counts(
            one
            for number, (requests, errors) in enumerate(counted)
            for at in [NOON - timedelta(minutes=number)]
            for one in (sample(at, "requests", requests), sample(at, "errors", errors + more * (number == where)))
        )
        return FAST_BURN.value(counts, NOON, 99.9) or 0.0

    assert burn(10) >= burn(0)
