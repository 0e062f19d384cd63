"""How often a watch is wrong, and how soon it is right, beside fixed thresholds; simulated, looked at every minute.

Requests come at random (Poisson); each fails by itself. Latencies are log-normal, the p95 five times the median.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from runbook.rules.release_watch import Baseline, Look, ReleaseJudge, Verdict

MINUTES = 30
RATES = (0.05, 0.5, 5.0, 50.0)  # requests per second
USUAL = 0.01  # of the requests fail, before and after
BAD = 0.10
SLOWER = 3.0
_MEDIAN_S, _SIGMA = 0.1, 1.0
_P95_S = _MEDIAN_S * math.exp(1.6449 * _SIGMA)


@dataclass(frozen=True)
class Counts:
    """What was counted up to each minute: requests, errors, slow ones; and the p95 of each minute."""

    requests: Sequence[int]
    errors: Sequence[int]
    slow: Sequence[int]
    p95_s: Sequence[float]


@dataclass(frozen=True)
class Outcome:
    """At which minute a rule raised the alarm, None when it did not; and whether it called the release healthy."""

    alarm: int | None
    is_healthy: bool


@dataclass(frozen=True)
class Row:
    """One rule: percent of watches; false alarms and bad releases called healthy by traffic, what was found in time."""

    rule: str
    false_alarms_pct: tuple[float, ...]
    called_healthy_pct: tuple[float, ...]
    errors_in_90_s_pct: float
    slow_in_180_s_pct: float | None


Rule = Callable[[Baseline, Counts], Outcome]


def sequential(baseline: Baseline, counts: Counts) -> Outcome:
    """The watch of this project; any degraded verdict counts as an alarm, also one that rolls nothing back."""
    judge = ReleaseJudge(baseline, MINUTES * 60)
    verdict = Verdict.NO_DATA
    for minute in range(MINUTES):
        look = Look(
            elapsed_s=60.0 * (minute + 1),
            requests=counts.requests[minute],
            errors=counts.errors[minute],
            p95_s=counts.p95_s[minute] or None,
            timed=counts.requests[minute],
            slow=counts.slow[minute],
        )
        verdict = judge.see(look).verdict
        if verdict is Verdict.DEGRADED:
            return Outcome(minute + 1, is_healthy=False)
    return Outcome(None, verdict is Verdict.HEALTHY)


def last_minute(_: Baseline, counts: Counts) -> Outcome:
    """More than 10 % of the last minute's requests, or its p95 more than twice the one before."""
    before = (0, 0)
    for minute in range(MINUTES):
        requests, errors = counts.requests[minute] - before[0], counts.errors[minute] - before[1]
        before = (counts.requests[minute], counts.errors[minute])
        if (requests and errors / requests > BAD) or counts.p95_s[minute] > 2 * _P95_S:
            return Outcome(minute + 1, is_healthy=False)
    return Outcome(None, is_healthy=True)


def all_since(minimum: int) -> Rule:
    """Return the rule: 10 % or more of all requests since the deploy, once there were so many."""

    def rule(_: Baseline, counts: Counts) -> Outcome:
        for minute in range(MINUTES):
            requests, errors = counts.requests[minute], counts.errors[minute]
            if requests >= max(1, minimum) and errors / requests >= BAD:
                return Outcome(minute + 1, is_healthy=False)
        return Outcome(None, counts.requests[-1] >= minimum)

    return rule


RULES: dict[str, tuple[Rule, bool]] = {
    "sequential test (this project)": (sequential, True),
    "> 10 %, or p95 > 2x, in the last minute": (last_minute, True),
    ">= 10 % of all since the deploy": (all_since(0), False),
    ">= 10 % of all, from 20 requests on": (all_since(20), False),
}


def measure(runs: int, seed: int = 1) -> list[Row]:
    """Simulate so many watches of each kind, the same ones for every rule."""
    generator = np.random.default_rng(seed)
    usual = {rate: [_watch(generator, rate, USUAL, 1.0) for _ in range(runs)] for rate in RATES}
    bad = {rate: [_watch(generator, rate, BAD, 1.0) for _ in range(runs // 4)] for rate in RATES}
    slow = [_watch(generator, 5.0, USUAL, SLOWER) for _ in range(runs // 4)]
    rows: list[Row] = []
    for name, (rule, sees_slow) in RULES.items():
        false = tuple(_pct(usual[rate], rule, lambda one: one.alarm is not None) for rate in RATES)
        hidden = tuple(_pct(bad[rate], rule, lambda one: one.is_healthy) for rate in RATES)
        in_time = _pct(bad[5.0], rule, lambda one: one.alarm is not None and one.alarm * 60 <= 90)
        slow_pct = _pct(slow, rule, lambda one: one.alarm is not None and one.alarm * 60 <= 180) if sees_slow else None
        rows.append(Row(name, false, hidden, in_time, slow_pct))
    return rows


def _watch(generator: np.random.Generator, rate: float, errors: float, times: float) -> tuple[Baseline, Counts]:
    """Return what was counted in the hour before, and minute by minute afterwards."""
    before = int(generator.poisson(rate * 3600))
    baseline = Baseline(before, int(generator.binomial(before, USUAL)), _P95_S, "simulated")
    requests = generator.poisson(rate * 60, MINUTES)
    failed = generator.binomial(requests, errors)
    slow: list[int] = []
    p95_s: list[float] = []
    for number in requests:
        taken_s = times * _MEDIAN_S * np.exp(_SIGMA * generator.standard_normal(int(number)))
        slow.append(int(np.count_nonzero(taken_s > 2 * _P95_S)))
        p95_s.append(float(np.quantile(taken_s, 0.95)) if number else 0.0)
    all_requests, all_failed, all_slow = ([int(one) for one in np.cumsum(of)] for of in (requests, failed, slow))
    return baseline, Counts(all_requests, all_failed, all_slow, p95_s)


def _pct(watches: Sequence[tuple[Baseline, Counts]], rule: Rule, is_so: Callable[[Outcome], bool]) -> float:
    return 100 * sum(is_so(rule(*watched)) for watched in watches) / len(watches)
