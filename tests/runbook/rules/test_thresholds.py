from __future__ import annotations

import math
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runbook.rules.thresholds import Action, Severity, Signals, decide, severity

URGENCY = list(Action)  # least first

rates = st.floats(0, 100)
slowdowns = st.floats(0, 100)


@pytest.mark.parametrize(
    ("signals", "expected"),
    [
        pytest.param(Signals(0), Action.MONITOR, id="all is well"),
        pytest.param(Signals(4.999), Action.MONITOR, id="error rate < 5%"),
        pytest.param(Signals(5), Action.CONSIDER, id="error rate 5-10%: 5 is in"),
        pytest.param(Signals(10), Action.CONSIDER, id="error rate 5-10%: 10 is in"),
        pytest.param(Signals(10.001), Action.ROLL_BACK, id="error rate > 10%"),
        pytest.param(Signals(100), Action.ROLL_BACK, id="every request fails"),
        pytest.param(Signals(0, slowdown=1.999), Action.MONITOR, id="degradation < 2x"),
        pytest.param(Signals(0, slowdown=2), Action.CONSIDER, id="exactly 2x: the safer reading"),
        pytest.param(Signals(0, slowdown=2.001), Action.CONSIDER, id="degradation > 2x"),
        pytest.param(Signals(0, outage=True), Action.ROLL_BACK, id="complete outage"),
        pytest.param(Signals(0, validation_failed=True), Action.CONSIDER, id="failed validation"),
        pytest.param(Signals(11, validation_failed=True), Action.ROLL_BACK, id="the more urgent one wins"),
    ],
)
def test_when_to_roll_back(signals: Signals, expected: Action) -> None:
    assert decide(signals) is expected


@pytest.mark.parametrize(
    ("signals", "expected"),
    [
        pytest.param(Signals(0, outage=True), Severity.SEV1, id="complete outage"),
        pytest.param(Signals(5.001), Severity.SEV2, id="error rate > 5%"),
        pytest.param(Signals(5), Severity.SEV2, id="exactly 5%: the safer reading"),
        pytest.param(Signals(4.999), Severity.SEV3, id="error rate 1-5%"),
        pytest.param(Signals(1), Severity.SEV3, id="error rate 1-5%: 1 is in"),
        pytest.param(Signals(0.999), Severity.SEV4, id="error rate < 1%"),
        pytest.param(Signals(0, slowdown=2.001), Severity.SEV2, id="degradation > 2x"),
        pytest.param(Signals(0, slowdown=2), Severity.SEV2, id="exactly 2x: the safer reading"),
        pytest.param(Signals(0, slowdown=1.999), Severity.SEV3, id="slowdown < 2x"),
        pytest.param(Signals(0, slowdown=1), Severity.SEV4, id="normal speed"),
        pytest.param(Signals(0, validation_failed=True), Severity.SEV2, id="failed validation"),
    ],
)
def test_severity_levels(signals: Signals, expected: Severity) -> None:
    assert severity(signals) is expected


def test_response_times() -> None:
    assert [level.respond_within for level in Severity] == [timedelta(hours=hours) for hours in (0, 1, 4, 24)]


@given(rates, rates, slowdowns, slowdowns, st.booleans(), st.booleans())
def test_worse_signals_never_lower_the_urgency(
    rate_a: float, rate_b: float, slow_a: float, slow_b: float, outage: bool, failed: bool
) -> None:
    better = Signals(min(rate_a, rate_b), min(slow_a, slow_b), outage, failed)
    worse = Signals(max(rate_a, rate_b), max(slow_a, slow_b), outage, failed)
    assert URGENCY.index(decide(worse)) >= URGENCY.index(decide(better))
    assert severity(worse).respond_within <= severity(better).respond_within


@given(rates, slowdowns, st.booleans(), st.booleans())
def test_what_is_more_than_monitored_is_at_least_sev2(rate: float, slow: float, outage: bool, failed: bool) -> None:
    signals = Signals(rate, slow, outage, failed)
    assert (decide(signals) is not Action.MONITOR) == (severity(signals) in {Severity.SEV1, Severity.SEV2})


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, -0.001, 100.001])
def test_an_impossible_error_rate_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match="error_rate_pct"):
        Signals(value)


@pytest.mark.parametrize("value", [math.nan, math.inf, -0.001])
def test_an_impossible_slowdown_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match="slowdown"):
        Signals(0, slowdown=value)
