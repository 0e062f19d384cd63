"""Whether CI has passed for a commit, by what a code host knows of it.

Source: runbook, "Manual Verification" ("All tests passing in CI/CD"); GitHub, "Creating status checks" and
https://docs.github.com/en/rest/checks/runs.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from enum import StrEnum

from runbook.rules.checklist import Check, Outcome

NAME = "CI"
_SHOWN = 5


class CiResult(StrEnum):
    """How one check of a commit ended. SKIPPED is no objection, and no evidence either."""

    PASSED = "passed"
    SKIPPED = "skipped"
    RUNNING = "running"
    FAILED = "failed"


@dataclass(frozen=True)
class CiCheck:
    """One check of a commit: a check run or a commit status; `said` is the code host's own word for its result."""

    name: str
    result: CiResult
    said: str


def of_check_run(name: str, status: str, conclusion: str | None) -> CiCheck:
    """Return a check run as a check: it is over only when `completed`; a conclusion that is not known fails."""
    if status != "completed":
        return CiCheck(name, CiResult.RUNNING, status)
    results = {"success": CiResult.PASSED, "neutral": CiResult.SKIPPED, "skipped": CiResult.SKIPPED}
    return CiCheck(name, results.get(conclusion or "", CiResult.FAILED), conclusion or "no conclusion")


def of_status(context: str, state: str) -> CiCheck:
    """Return a commit status as a check: `success`, `pending`; anything else (`failure`, `error`) fails."""
    results = {"success": CiResult.PASSED, "pending": CiResult.RUNNING}
    return CiCheck(context, results.get(state, CiResult.FAILED), state)


def judge_ci(found: Sequence[CiCheck], required: Collection[str], ignored: Collection[str] = ()) -> Check:
    """Return whether a commit is green.

    Checks of which the name is `ignored` do not count unless they are required: the job that has started the deploy
    runs for the same commit, and cannot end before it.
    Without any check it is not. Where the branch requires checks, each of those has to be there and to be green, and
    one of the others that is not only warns; where it requires none, all have to be green. When everything was
    skipped nothing was tested, which warns.
    """
    checks = [check for check in found if check.name in required or check.name not in ignored]
    if not checks:
        return Check(NAME, Outcome.FAILED, "no check has run for this commit", "Push the commit and wait for its CI.")
    names = {check.name for check in checks}
    if missing := sorted(set(required) - names):
        detail = f"required and not there: {', '.join(missing)}"
        return Check(NAME, Outcome.FAILED, detail, "Wait until it has run for this commit, or start it.")
    deciding = [check for check in checks if not required or check.name in required]
    if failed := _said(deciding, CiResult.FAILED):
        return Check(NAME, Outcome.FAILED, f"failed: {failed}", "Mend it, or run it again if the test is at fault.")
    if running := _said(deciding, CiResult.RUNNING):
        return Check(NAME, Outcome.FAILED, f"not ended: {running}", "Wait for it, then start again.")
    others = [check for check in checks if check not in deciding]
    if unwell := _said(others, CiResult.FAILED, CiResult.RUNNING):
        return Check(NAME, Outcome.WARNING, f"not required, and not green: {unwell}", "Look at it before you go on.")
    passed = sum(check.result is CiResult.PASSED for check in checks)
    if not passed:
        return Check(
            NAME, Outcome.WARNING, f"all {len(checks)} checks were skipped", "Find out why nothing was tested."
        )
    return Check(NAME, Outcome.PASSED, f"{passed} checks passed, {len(checks) - passed} skipped")


def _said(checks: Sequence[CiCheck], *results: CiResult) -> str:
    found = sorted({f"{check.name} ({check.said})" for check in checks if check.result in results})
    more = [f"{len(found) - _SHOWN} more"] if len(found) > _SHOWN else []
    return ", ".join(found[:_SHOWN] + more)
