"""Results of the application's tests: read from JUnit's XML, and which of them are flaky.

Source: runbook, "Stage 2: Test Suite"; the format: https://github.com/testmoapp/junitxml; `flakyFailure` and
`rerunFailure`: Maven Surefire, "Rerun Failing Tests".
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from enum import StrEnum
from xml.etree import ElementTree

from pydantic import BaseModel, ConfigDict

from runbook.errors import InvalidInputError

_LONGEST = 300
_OUTCOMES = {"failure": "failed", "error": "failed", "skipped": "skipped"}
_FLAKY = {"flakyFailure", "flakyError"}


class TestOutcome(StrEnum):
    """How a test ended. FLAKY: it failed and passed with the same code."""

    __test__ = False

    FAILED = "failed"
    FLAKY = "flaky"
    SKIPPED = "skipped"
    PASSED = "passed"


class TestCase(BaseModel):
    """One test; `duration_s` in seconds, None where the file does not say, `detail` why it did not pass."""

    __test__ = False
    model_config = ConfigDict(frozen=True)

    name: str
    outcome: TestOutcome
    duration_s: float | None = None
    detail: str = ""


def read_junit(text: bytes, name: str, *, passed: bool) -> tuple[TestCase, ...]:
    """Read a file of results. A test that is in it several times comes once.

    Args:
        text: the file.
        name: of the file, for errors.
        passed: whether the command that wrote it passed. If so, one that is there as failed and, later, as passed was
            tried again, and is flaky; otherwise it may be two tests of one name, and counts as failed.

    Raises:
        InvalidInputError: it is not XML, or declares entities.
    """
    if b"<!DOCTYPE" in text or b"<!ENTITY" in text:
        raise InvalidInputError("junit", name, "XML without a document type", "Let the test runner write plain JUnit.")
    try:
        root = ElementTree.fromstring(text)  # noqa: S314 - no entities in it, see above
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        raise InvalidInputError("junit", name, "XML as JUnit writes it", f"Look at the file: {error}") from error
    attempts: dict[str, list[TestCase]] = {}
    for element in root.iter("testcase"):
        case = _case(element)
        attempts.setdefault(case.name, []).append(case)
    return tuple(_together(cases, passed=passed) for cases in attempts.values())


def flaky_since(earlier: Iterable[str], passed: Sequence[str]) -> tuple[str, ...]:
    """Return what failed in an earlier run of the same commit and has passed now."""
    now = set(passed)
    return tuple(sorted(name for name in set(earlier) if name in now))


def worst_first(cases: Iterable[TestCase], limit: int) -> list[TestCase]:
    """Return failed tests, flaky and skipped ones, then the slowest; at most `limit`."""
    order = list(TestOutcome)
    return sorted(cases, key=lambda case: (order.index(case.outcome), -(case.duration_s or 0), case.name))[:limit]


def _case(element: ElementTree.Element) -> TestCase:
    children = {child.tag: child for child in element}
    parts = (element.get("classname", ""), element.get("name", ""))
    name = " / ".join(part for part in parts if part) or "(without a name)"
    outcome, why = TestOutcome.PASSED, None
    for tag, meaning in _OUTCOMES.items():
        if tag in children:
            outcome, why = TestOutcome(meaning), children[tag]
            break
    else:
        if tried := _FLAKY & children.keys():
            outcome, why = TestOutcome.FLAKY, children[min(tried)]
    return TestCase(name=name[:_LONGEST], outcome=outcome, duration_s=_seconds(element.get("time")), detail=_why(why))


def _together(cases: Sequence[TestCase], *, passed: bool) -> TestCase:
    worst = worst_first(cases, 1)[0]
    if passed and worst.outcome is TestOutcome.FAILED and cases[-1].outcome is TestOutcome.PASSED:
        return cases[-1].model_copy(update={"outcome": TestOutcome.FLAKY, "detail": worst.detail})
    return worst


def _why(element: ElementTree.Element | None) -> str:
    if element is None:
        return ""
    lines = (element.get("message") or element.text or "").strip().splitlines()
    return lines[0].strip()[:_LONGEST] if lines else ""


def _seconds(text: str | None) -> float | None:
    try:
        seconds = float((text or "").replace(",", ""))
    except ValueError:
        return None
    return seconds if math.isfinite(seconds) and seconds >= 0 else None
