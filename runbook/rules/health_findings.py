"""What a look at something that runs has found: how urgent each finding is, and the most urgent of them.

Source: runbook, "Alert Thresholds".
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from runbook.rules.alerts import alert_level
from runbook.rules.thresholds import AlertLevel


class Health(StrEnum):
    """How something is. What could not be looked at is not fine, and not bad either."""

    FINE = "fine"
    WARNING = "warning"
    COULD_NOT_RUN = "could_not_run"
    CRITICAL = "critical"

    @property
    def urgency(self) -> int:
        """Rank by urgency: what could not be looked at may hide something critical, and so comes before a warning."""
        return list(Health).index(self)

    @property
    def exit_code(self) -> int:
        """The exit code of a command that ends so: 0, 5, 6 (could not run), 7 (critical)."""
        return (0, 5, 6, 7)[self.urgency]


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at: `detail` says what was seen, `action` what to do. Neither holds a secret.

    `is_needed` is False when nobody has to be troubled that it could not be looked at.
    """

    name: str
    health: Health
    detail: str
    action: str = ""
    is_needed: bool = True


def overall(findings: Iterable[Finding]) -> Health:
    """Return the most urgent health of the findings; that nothing was looked at is COULD_NOT_RUN."""
    counted = [
        finding.health for finding in findings if finding.is_needed or finding.health is not Health.COULD_NOT_RUN
    ]
    return max(counted, key=lambda health: health.urgency, default=Health.COULD_NOT_RUN)


def actions_where_needed(findings: Iterable[Finding]) -> list[Finding]:
    """Return the findings with what to do only where something is to be done."""
    return [replace(one, action="") if one.health is Health.FINE else one for one in findings]


def most_urgent_first(findings: Iterable[Finding]) -> list[Finding]:
    """Return the findings in the order in which a person should read them."""
    return sorted(findings, key=lambda finding: -finding.health.urgency)


@dataclass(frozen=True)
class Limit:
    """Two limits of a number, both exclusive as the runbook prints its own; `critical` is None where none is that bad.

    `source` says where the numbers are from.
    """

    metric: str
    unit: str
    warning: float
    critical: float | None
    source: str

    def health(self, value: float) -> Health:
        """Return how bad a value is; more is never better.

        Raises:
            ValueError: the value is not a number.
        """
        if math.isnan(value):
            raise ValueError(f"{self.metric} is not a number")
        if self.critical is not None and value > self.critical:
            return Health.CRITICAL
        return Health.WARNING if value > self.warning else Health.FINE


def by_runbook(metric: str, value: float) -> Health:
    """Return how bad a value of one of the runbook's own alerts is.

    Raises:
        ValueError: no such alert, or a value out of its bounds.

    Source: runbook, "Alert Thresholds".
    """
    level = alert_level(metric, value)
    if level is None:
        return Health.FINE
    return Health.CRITICAL if level is AlertLevel.CRITICAL else Health.WARNING


def render_findings(findings: Sequence[Finding]) -> list[str]:
    """Return the findings as lines of a table, the most urgent first, each followed by what to do about it."""
    width = max((len(finding.name) for finding in findings), default=0)
    lines: list[str] = []
    for finding in most_urgent_first(findings):
        word = str(finding.health).replace("_", " ").upper() if finding.health is not Health.FINE else "fine"
        lines.append(f"{word:<13}  {finding.name:<{width}}  {finding.detail}")
        if finding.action and finding.health is not Health.FINE:
            lines.append(f"{'':<13}  {'':<{width}}  > {finding.action}")
    return lines
