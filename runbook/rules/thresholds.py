"""The runbook's numbers: when to roll back, and how severe it is. Those of alerts are in `runbook.rules.alerts`.

Where the runbook says two things, the safer one is taken and the lines are quoted at the rule.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum


class Action(StrEnum):
    """What to do about a release. Source: runbook, "When to Rollback"."""

    MONITOR = "monitor"
    CONSIDER = "consider"
    ROLL_BACK = "roll_back"


class Severity(StrEnum):
    """How bad an incident is. Source: runbook, "Severity Levels"."""

    SEV1 = "SEV1"
    SEV2 = "SEV2"
    SEV3 = "SEV3"
    SEV4 = "SEV4"

    @property
    def respond_within(self) -> timedelta:
        """Return the time to act in; zero means at once.

        Source: runbook, "Severity Levels": "Immediate Action", "Action within 1 hour", "Action within 4 hours",
        "Action within 24 hours".
        """
        return {
            Severity.SEV1: timedelta(0),
            Severity.SEV2: timedelta(hours=1),
            Severity.SEV3: timedelta(hours=4),
            Severity.SEV4: timedelta(hours=24),
        }[self]


class AlertLevel(StrEnum):
    """How loud an alert is. Source: runbook, "Alert Thresholds"."""

    WARNING = "warning"
    CRITICAL = "critical"


@dataclass(frozen=True)
class Signals:
    """What was seen of a release.

    `error_rate_pct` is percent of requests (0-100); `slowdown` is p95 over the normal p95 (1.0 = normal, 0 or more).

    Raises:
        ValueError: a value that is not a finite number within its bounds.
    """

    error_rate_pct: float
    slowdown: float = 1.0
    outage: bool = False
    validation_failed: bool = False

    def __post_init__(self) -> None:
        _check_number("error_rate_pct", self.error_rate_pct, 100)
        _check_number("slowdown", self.slowdown, math.inf)


def decide(signals: Signals) -> Action:
    """Return what the runbook says to do about `signals`.

    Above 10 % errors or an outage: roll back. From 5 % on, from 2x on, or after a failed validation: consider.

    The runbook disagrees with itself above 10 %: "Consider immediate rollback" (SEV2) and "Immediate Rollback
    Required: Error rate > 10%"; the second is safer. Exactly 2x is in neither "Performance degradation > 2x" nor
    "Performance degradation < 2x"; considering is safer. 5 % is inclusive ("Error rate 5-10%"), 10 % exclusive.

    Source: runbook, "When to Rollback".
    """
    if signals.outage or signals.error_rate_pct > 10:
        return Action.ROLL_BACK
    if signals.error_rate_pct >= 5 or signals.slowdown >= 2 or signals.validation_failed:
        return Action.CONSIDER
    return Action.MONITOR


def severity(signals: Signals) -> Severity:
    """Return how severe `signals` are.

    An outage is SEV1; from 5 % errors on, from 2x on, or after a failed validation SEV2; from 1 % errors on or
    slower than normal SEV3; else SEV4.

    The runbook disagrees with itself at exactly 5 %: SEV2 is "High error rates (>5%)", SEV3 "Elevated error rates
    (1-5%)", and "Consider Rollback" begins at 5 %; SEV2 is safer. Exactly 2x is in neither "Performance degradation
    (>2x normal)" nor "Performance slowdown (<2x normal)"; SEV2 is safer. A failed validation has no level; the
    decision tree puts what makes one consider a rollback at SEV2 ("SEV2: Investigate, consider rollback").

    Source: runbook, "Severity Levels" and "Decision Tree".
    """
    if signals.outage:
        return Severity.SEV1
    if signals.error_rate_pct >= 5 or signals.slowdown >= 2 or signals.validation_failed:
        return Severity.SEV2
    if signals.error_rate_pct >= 1 or signals.slowdown > 1:
        return Severity.SEV3
    return Severity.SEV4


def _check_number(name: str, value: float, highest: float) -> None:
    if not math.isfinite(value) or not 0 <= value <= highest:
        raise ValueError(f"{name} must be a number from 0 to {highest:g}, got {value!r}")
