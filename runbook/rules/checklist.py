"""The Pre-Deployment Checklist: outcomes, required variables, and what stops a deployment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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

_CRITICAL = (
    ("DATABASE_URL", "Production database connection string", 1),
    ("NEXTAUTH_SECRET", "Authentication secret (min 32 chars)", 32),
    ("NEXTAUTH_URL", "Production URL", 1),
    ("JWT_SECRET", "JWT signing key", 1),
)
_OPTIONAL = (
    ("ANTHROPIC_API_KEY", "AI features"),
    ("OPENAI_API_KEY", "AI features"),
    ("SLACK_WEBHOOK_URL", "Notifications"),
)


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


def required_variables(lengths: Mapping[str, int | None]) -> list[Check]:
    """Return one check for each variable of the runbook, critical ones first, in its order.

    `lengths` maps the names that are set to the length of their value in characters, None where the host does not
    tell; values are never known here. A critical variable that is missing, empty or too short fails; one of unknown
    length could not be checked, which stops nothing; an optional one that is missing or empty warns.

    Source: runbook, "Required Environment Variables".
    """
    return [_critical(name, meaning, least, lengths) for name, meaning, least in _CRITICAL] + [
        _optional(name, meaning, lengths) for name, meaning in _OPTIONAL
    ]


def refusals(checks: Sequence[Check], strict: bool) -> list[Check]:
    """Return the checks that stop the deployment, in order.

    What failed and what could not run, but is needed, always do; in strict mode a warning does too.

    Source: runbook, "Automated Checks" ("For production (strict mode)").
    """
    accepted = {Outcome.PASSED} if strict else {Outcome.PASSED, Outcome.WARNING}
    return [check for check in checks if check.outcome not in accepted and not _may_be_left_out(check)]


def _may_be_left_out(check: Check) -> bool:
    return check.outcome is Outcome.COULD_NOT_RUN and not check.is_needed


def _critical(name: str, meaning: str, least: int, lengths: Mapping[str, int | None]) -> Check:
    length = lengths.get(name, 0)
    if length is None:
        detail = f"{meaning}: set; the host does not tell whether it has the {least} characters that are needed"
        return Check(name, Outcome.COULD_NOT_RUN, detail, is_needed=False)
    if length >= least:
        return Check(name, Outcome.PASSED, f"{meaning}: set")
    if not length:
        detail = f"{meaning}: {'empty' if name in lengths else 'not set'}"
        return Check(name, Outcome.FAILED, detail, f"Set {name}.")
    detail = f"{meaning}: {length} characters, at least {least} are needed"
    return Check(name, Outcome.FAILED, detail, f"Set {name} to at least {least} characters.")


def _optional(name: str, meaning: str, lengths: Mapping[str, int | None]) -> Check:
    if lengths.get(name, 0) != 0:
        return Check(name, Outcome.PASSED, f"{meaning}: set")
    detail = f"{meaning}: {'empty' if name in lengths else 'not set'}"
    return Check(name, Outcome.WARNING, detail, f"Set {name}, or accept to go without: {meaning}.")
