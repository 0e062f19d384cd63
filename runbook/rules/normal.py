"""What is normal, by what was measured before at the same hours; and rates, by two looks at a counter.

Source: runbook, "Severity Levels" ("Performance degradation (>2x normal)") and "When to Rollback".
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from statistics import median

from runbook.rules.samples import METRICS, TOTAL, Sample, sample

NEEDED = 30
"""Samples without which nobody can say what is normal: half an hour of them, taken every minute."""

RECENT = timedelta(hours=1)
"""What was measured so lately may be the trouble itself, and is no normal."""

SAME_HOURS = timedelta(hours=1)
"""How far another day's time of day may be away to count as the same hours."""

_DAY = timedelta(days=1)
_RATES_WITHIN = timedelta(hours=1)


@dataclass(frozen=True)
class Normal:
    """What is normal for a metric: the median and the 95th percentile of `samples` numbers of `days` days.

    None where there are fewer than `NEEDED`: no data is no normal. `basis` says in words which samples were taken.
    """

    metric: str
    unit: str
    median: float | None
    p95: float | None
    samples: int
    days: int
    basis: str

    def times(self, value: float) -> float | None:
        """Return how many times normal (the median) a value is; None without a normal, infinite if that is 0."""
        if self.median is None:
            return None
        if self.median == 0:
            return 1.0 if value == 0 else math.inf
        return value / self.median

    def render(self) -> str:
        """Return on what it rests, in words."""
        if self.median is None:
            return f"no normal yet: {self.samples} samples, {NEEDED} are needed"
        return f"median of {self.samples} samples of {self.days} days, {self.basis}"


def normal(metric: str, samples: Sequence[Sample], *, at: datetime) -> Normal:
    """Return what is normal for a metric at a time, by the samples of the same hours of the day before that.

    Those of the last hour are left out. When there are too few of the same hours, all hours count.

    Args:
        metric: one of `METRICS`.
        samples: of any metrics, in any order.
        at: aware time that is asked about.

    Raises:
        ValueError: there is no such metric.
    """
    if metric not in METRICS:
        raise ValueError(f"{metric} is no metric; there are {', '.join(METRICS)}")
    before = [one for one in samples if one.metric == metric and one.at <= at - RECENT]
    same = [one for one in before if _hours_apart(one.at, at) <= SAME_HOURS]
    chosen, basis = (same, "at the same hours") if len(same) >= NEEDED else (before, "at all hours")
    days = len({one.at.astimezone(UTC).date() for one in chosen})
    if len(chosen) < NEEDED:
        return Normal(metric, METRICS[metric], None, None, len(chosen), days, basis)
    values = sorted(one.value for one in chosen)
    p95 = values[min(len(values) - 1, int(0.95 * len(values)))]
    return Normal(metric, METRICS[metric], median(values), p95, len(values), days, basis)


_RATES = {
    "database_queries_per_s": "database_queries_total",
    "database_transactions_per_s": "database_transactions_total",
}


def rates(before: Mapping[str, Sample], now: Mapping[str, Sample]) -> list[Sample]:
    """Return what two looks at the counters say about the time between them.

    Nothing for a counter that has fallen (its server began anew), or when more than an hour lies between.

    Args:
        before: the earlier samples by metric.
        now: the later ones.
    """
    found: list[Sample] = []
    for rate, counter in _RATES.items():
        if (grown := _growth(counter, before, now)) is not None:
            count, passed_s = grown
            found.append(sample(now[counter].at, rate, count / passed_s))
    queries, seconds = (_growth(f"database_{name}_total", before, now) for name in ("queries", "query_time"))
    if queries and seconds and queries[0]:
        found.append(sample(now["database_queries_total"].at, "database_query_time_s", seconds[0] / queries[0]))
    hit, read = (_growth(f"database_blocks_{name}_total", before, now) for name in ("hit", "read"))
    if hit and read and hit[0] + read[0]:
        share_pct = 100 * hit[0] / (hit[0] + read[0])
        found.append(sample(now["database_blocks_hit_total"].at, "database_cache_hit_pct", share_pct))
    return found


def _growth(counter: str, before: Mapping[str, Sample], now: Mapping[str, Sample]) -> tuple[float, float] | None:
    """Return by how much a counter has grown, and in how many seconds."""
    assert METRICS[counter] == TOTAL  # noqa: S101 - a name in this file
    if counter not in before or counter not in now:
        return None
    grown, passed = now[counter].value - before[counter].value, now[counter].at - before[counter].at
    if grown < 0 or not timedelta(0) < passed <= _RATES_WITHIN:
        return None
    return grown, passed.total_seconds()


def _hours_apart(one: datetime, other: datetime) -> timedelta:
    """Return how far apart two times of day are, across midnight too."""
    apart = (one - other) % _DAY
    return min(apart, _DAY - apart)
