"""When somebody has to be told, by one table of rules.

A rule fires once its value has been over the threshold for a time, and is resolved once it has been well below for a
time (hysteresis), so that a value that wavers tells nobody twice. What is worse keeps quiet what follows from it.

Source: runbook, "Alert Thresholds"; burn rates: Google, "The Site Reliability Workbook", chapter 5, "Alerting on SLOs",
https://sre.google/workbook/alerting-on-slos.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from itertools import accumulate

from runbook.rules.samples import Sample
from runbook.rules.thresholds import AlertLevel


class AlertGroup(StrEnum):
    """What alerts of one group are about; those that come together are told together."""

    APPLICATION = "application"
    DATABASE = "database"
    INFRASTRUCTURE = "infrastructure"


@dataclass(frozen=True)
class AlertRule:
    """One threshold of one metric, in `unit`.

    The threshold is exclusive, as printed, unless `inclusive`. Over it for `for_s` seconds the rule fires; at or below
    `clear` for `clear_for_s` seconds it is resolved. While one of `inhibited_by` fires nobody is told of it. `source`
    is the line that the numbers are from.
    """

    name: str
    level: AlertLevel
    metric: str
    unit: str
    threshold: float
    clear: float
    for_s: float
    group: AlertGroup
    source: str
    inclusive: bool = False
    clear_for_s: float = 300
    inhibited_by: tuple[str, ...] = ()

    @property
    def condition(self) -> str:
        """The threshold as it is printed: `> 10 %`."""
        return f"{'>=' if self.inclusive else '>'} {self.threshold:g} {self.unit}"

    @property
    def repeat_after(self) -> timedelta:
        """How long it keeps quiet about what it has told.

        Source: runbook, "Severity Levels" ("Action within 1 hour", "Action within 4 hours").
        """
        return timedelta(hours=1) if self.level is AlertLevel.CRITICAL else timedelta(hours=4)

    def is_over(self, value: float) -> bool:
        """Return whether a value is over the threshold."""
        return value > self.threshold or (self.inclusive and value == self.threshold)


class Counts:
    """Requests and errors over time: those of any span are found by two looks.

    Args:
        samples: of `requests` and `errors`; others are left out.
    """

    def __init__(self, samples: Iterable[Sample]) -> None:
        counted = sorted((one for one in samples if one.metric in ("requests", "errors")), key=lambda one: one.at)
        self._times = [one.at for one in counted]
        requests = (one.value if one.metric == "requests" else 0.0 for one in counted)
        errors = (one.value if one.metric == "errors" else 0.0 for one in counted)
        self._requests, self._errors = list(accumulate(requests, initial=0.0)), list(accumulate(errors, initial=0.0))

    def error_rate(self, window: timedelta, at: datetime) -> float | None:
        """Return the share of requests that failed in a window before a time; None without requests."""
        first, last = bisect_right(self._times, at - window), bisect_right(self._times, at)
        requests = self._requests[last] - self._requests[first]
        return (self._errors[last] - self._errors[first]) / requests if requests else None


@dataclass(frozen=True)
class BurnRate:
    """How many times too fast the error budget is spent, in a long window and, so that it ends in time, a short one."""

    metric: str
    long: timedelta
    short: timedelta

    def value(self, counts: Counts, at: datetime, objective_pct: float) -> float | None:
        """Return the lower one of both windows; None when one of them has no requests.

        Args:
            counts: requests and errors.
            at: until when.
            objective_pct: percent of requests that are to be answered well.
        """
        long, short = counts.error_rate(self.long, at), counts.error_rate(self.short, at)
        return None if long is None or short is None else min(long, short) / (1 - objective_pct / 100)


_ERRORS, _P95, _POOL, _DISK = (
    ("error_rate_pct", "%"),
    ("response_time_p95_s", "s"),
    ("database_connections_pct", "%"),
    ("disk_usage_pct", "%"),
)
_CRITICAL, _WARNING = AlertLevel.CRITICAL, AlertLevel.WARNING
_APPLICATION, _DATABASE, _MACHINE = AlertGroup.APPLICATION, AlertGroup.DATABASE, AlertGroup.INFRASTRUCTURE

# Exactly 5 % errors: "Warning Alerts: Error rate > 5%" is silent where "Consider Rollback: Error rate 5-10%" acts.
# Nobody considers what nobody was told, so the warning begins at 5 %.
RUNBOOK_RULES = (
    AlertRule("error-rate-critical", _CRITICAL, *_ERRORS, 10, 8, 60, _APPLICATION, "Critical Alerts: Error rate > 10%"),
    AlertRule(
        "error-rate-warning", _WARNING, *_ERRORS, 5, 4, 120, _APPLICATION, "Warning Alerts: Error rate > 5%",
        inclusive=True, inhibited_by=("error-rate-critical",),
    ),
    AlertRule("p95-critical", _CRITICAL, *_P95, 5, 4, 120, _APPLICATION, "Critical Alerts: Response time p95 > 5s"),
    AlertRule(
        "p95-warning", _WARNING, *_P95, 2, 1.6, 300, _APPLICATION, "Warning Alerts: Response time p95 > 2s",
        inhibited_by=("p95-critical",),
    ),
    AlertRule(
        "connections-critical", _CRITICAL, *_POOL, 90, 85, 60, _DATABASE, "Critical Alerts: Database connections > 90%"
    ),
    AlertRule(
        "connections-warning", _WARNING, *_POOL, 75, 70, 300, _DATABASE, "Warning Alerts: Database connections > 75%",
        inhibited_by=("connections-critical",),
    ),
    AlertRule("disk-critical", _CRITICAL, *_DISK, 85, 83, 120, _MACHINE, "Critical Alerts: Disk usage > 85%"),
    AlertRule(
        "disk-warning", _WARNING, *_DISK, 75, 73, 900, _MACHINE, "Warning Alerts: Disk usage > 75%",
        inhibited_by=("disk-critical",),
    ),
)  # fmt: skip
"""The runbook's own thresholds; how long, and what resolves them, is this project's choice."""

FAST_BURN = BurnRate("error_budget_burn_1h", timedelta(hours=1), timedelta(minutes=5))
SLOW_BURN = BurnRate("error_budget_burn_6h", timedelta(hours=6), timedelta(minutes=30))
BURN_RATES = (FAST_BURN, SLOW_BURN)

# Fewer errors than the runbook alerts on, for so long that they matter. No more than warnings: 1 to 5 % are SEV3.
_BURN_RULES = (
    AlertRule(
        "error-budget-fast-burn", _WARNING, FAST_BURN.metric, "x", 14.4, 10, 0, _APPLICATION,
        "Site Reliability Workbook, ch. 5: 2 % of a month's budget in 1 h, and in its last 5 min",
        inhibited_by=("error-rate-critical", "error-rate-warning"),
    ),
    AlertRule(
        "error-budget-slow-burn", _WARNING, SLOW_BURN.metric, "x", 6, 4, 0, _APPLICATION,
        "Site Reliability Workbook, ch. 5: 5 % of a month's budget in 6 h, and in its last 30 min",
        inhibited_by=("error-rate-critical", "error-rate-warning", "error-budget-fast-burn"),
    ),
)  # fmt: skip

ANCHORS: Mapping[str, str] = {"application_unmeasured_s": "requests", "database_unmeasured_s": "database_connections"}
"""What is not measured is not fine: seconds since the metric that every sampling of that kind holds was last seen."""

_UNMEASURED_RULES = tuple(
    AlertRule(f"no-data-{group}", _WARNING, metric, "s", 600, 60, 0, group, "no data is its own verdict", clear_for_s=0)
    for metric, group in zip(ANCHORS, (_APPLICATION, _DATABASE), strict=True)
)

RULES = (*RUNBOOK_RULES, *_BURN_RULES, *_UNMEASURED_RULES)
"""All rules, those of a metric from the most to the least urgent."""


def alert_level(metric: str, value: float) -> AlertLevel | None:
    """Return the alert that `value` of `metric` raises by the runbook, or None. The metric's name ends in its unit.

    Raises:
        ValueError: no such metric, or a value that is negative, not finite, or over 100 %.

    Source: runbook, "Alert Thresholds".
    """
    rules = [rule for rule in RUNBOOK_RULES if rule.metric == metric]
    if not rules:
        known = ", ".join(dict.fromkeys(rule.metric for rule in RUNBOOK_RULES))
        raise ValueError(f"no alert rule for {metric!r}; there are {known}")
    highest = 100 if rules[0].unit == "%" else math.inf
    if not math.isfinite(value) or not 0 <= value <= highest:
        raise ValueError(f"{metric} must be a number from 0 to {highest:g}, got {value!r}")
    return next((rule.level for rule in rules if rule.is_over(value)), None)
