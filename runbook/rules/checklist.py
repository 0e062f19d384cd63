"""The Pre-Deployment Checklist: its outcomes, its manual items, and what stops a deployment."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

MANUAL_ITEMS = (
    "All tests passing in CI/CD",
    "Code review approved",
    "Security audit passed",
    "Performance benchmarks met",
    "Database migrations reviewed",
    "Rollback plan prepared",
    "Stakeholders notified",
    "Maintenance window scheduled (if needed)",
)
"""What a person confirms, word for word. Source: runbook, "Manual Verification" of the checklist."""


class Outcome(StrEnum):
    """How a check ended. One that could not run has not passed, and has not failed either."""

    PASSED = "passed"
    WARNING = "warning"
    FAILED = "failed"
    COULD_NOT_RUN = "could_not_run"


@dataclass(frozen=True)
class Check:
    """One line of the checklist; `detail` says what was seen, `action` what to do. Neither holds a secret.

    `is_needed` is False when it stops nothing that it could not run.
    """

    name: str
    outcome: Outcome
    detail: str
    action: str = ""
    is_needed: bool = True


def refusals(checks: Sequence[Check], strict: bool) -> list[Check]:
    """Return the checks that stop the deployment, in order.

    What failed and what could not run, but is needed, always do; in strict mode a warning does too.

    Source: runbook, "Automated Checks" ("For production (strict mode)").
    """
    accepted = {Outcome.PASSED} if strict else {Outcome.PASSED, Outcome.WARNING}
    return [check for check in checks if check.outcome not in accepted and not _may_be_left_out(check)]


def _may_be_left_out(check: Check) -> bool:
    return check.outcome is Outcome.COULD_NOT_RUN and not check.is_needed
