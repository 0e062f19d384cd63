"""What the report of a security audit amounts to: known holes in what the application is built on, by severity.

Source: runbook, "Manual Verification" ("Security audit passed"); https://docs.npmjs.com/cli/v11/commands/npm-audit;
https://pypi.org/project/pip-audit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from runbook.rules.checklist import Check, Outcome

NAME = "security audit"


@dataclass(frozen=True)
class Vulnerabilities:
    """How many were found, by severity; `unrated` are those of which the report does not say how bad they are."""

    critical: int = 0
    high: int = 0
    moderate: int = 0
    low: int = 0
    unrated: int = 0

    @property
    def words(self) -> str:
        """The numbers that are not 0, the worst first."""
        parts = [f"{number} {name}" for name, number in vars(self).items() if number]
        return ", ".join(parts) or "no known vulnerabilities"


class UnreadableAuditError(ValueError):
    """It is no report: the audit could not be made. The message says why, where the output does."""


class _Report(BaseModel):
    model_config = ConfigDict(extra="ignore")


class _Counts(_Report):
    critical: int = 0
    high: int = 0
    moderate: int = 0
    low: int = 0
    info: int = 0


class _Metadata(_Report):
    vulnerabilities: _Counts


class _NpmError(_Report):
    code: str = ""
    summary: str = ""


class _Npm(_Report):
    metadata: _Metadata | None = None
    error: _NpmError | None = None
    message: str = ""


class _Dependency(_Report):
    name: str
    vulns: list[dict[str, object]] = Field(default_factory=list[dict[str, object]])


class _Pip(_Report):
    dependencies: list[_Dependency]


def read_audit(text: str) -> Vulnerabilities:
    """Return what the JSON of `npm audit --json` or `pip-audit --format=json` says.

    Raises:
        UnreadableAuditError: it is neither, or npm says in it that the audit could not be made.
    """
    try:
        found = _Pip.model_validate_json(text)
    except ValidationError:
        return _of_npm(text)
    return Vulnerabilities(unrated=sum(len(dependency.vulns) for dependency in found.dependencies))


def _of_npm(text: str) -> Vulnerabilities:
    try:
        found = _Npm.model_validate_json(text)
    except ValidationError:
        raise UnreadableAuditError("it printed no report in JSON") from None
    if found.metadata is None:
        parts = (found.error.code, found.error.summary) if found.error else ()
        raise UnreadableAuditError(
            ": ".join(part for part in (*parts, found.message) if part) or "it printed no report"
        )
    counts = found.metadata.vulnerabilities
    return Vulnerabilities(counts.critical, counts.high, counts.moderate, counts.low + counts.info)


def judge_audits(found: Sequence[tuple[str, Vulnerabilities]]) -> Check:
    """Return what the audits, by name, amount to: what is high, critical or not rated fails, all else is a warning."""
    said = "; ".join(f"{name}: {one.words}" for name, one in found)
    if any(one.critical or one.high or one.unrated for _, one in found):
        return Check(NAME, Outcome.FAILED, said, "Update what is affected, or leave it out of the audit and say why.")
    if any(one.moderate or one.low for _, one in found):
        return Check(NAME, Outcome.WARNING, said, "Update what is affected when you can.")
    return Check(NAME, Outcome.PASSED, said)
