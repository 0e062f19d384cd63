from __future__ import annotations

import math
from datetime import UTC, datetime

import pytest

from runbook.rules.samples import Sample, sample

NOON = datetime(2025, 1, 4, 12, tzinfo=UTC)


def test_a_sample_has_the_unit_of_its_metric() -> None:
    assert sample(NOON, "error_rate_pct", 5) == Sample(NOON, "error_rate_pct", 5.0, "%")


@pytest.mark.parametrize(
    ("at", "metric", "value", "unit", "why"),
    [
        pytest.param(NOON, "error_rate", 5, "%", "is no metric", id="unknown metric"),
        pytest.param(NOON, "response_time_p95_s", 5, "ms", "is no metric", id="milliseconds for seconds"),
        pytest.param(NOON.replace(tzinfo=None), "requests", 5, "requests", "no time zone", id="naive time"),
        pytest.param(NOON, "requests", math.nan, "requests", "not a finite number", id="no number"),
    ],
)
def test_what_is_no_measurement_is_no_sample(at: datetime, metric: str, value: float, unit: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        Sample(at, metric, value, unit)
