"""Stage 2: the application's own test suite, in a clean checkout of the commit, with databases of its own.

Source: runbook, "Stage 2: Test Suite".
"""

from __future__ import annotations

import logging
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from runbook.clients.checkout_command import run_in_checkout
from runbook.clients.test_failures import TestFailures
from runbook.connections import Connections
from runbook.errors import InvalidInputError, ServiceError, StageError
from runbook.rules.test_results import TestCase, TestOutcome, flaky_since, read_junit
from runbook.settings import TestCommand
from runbook.stages.test_database import suite_server

_log = logging.getLogger(__name__)
_LOGGED_LINES = 5000
_TAIL = 40
_LARGEST_RESULTS = 50 * 1024 * 1024


class TestResult(BaseModel):
    """One command that has ended; `duration_s` in seconds, `cases` by the files of results that it left."""

    __test__ = False
    model_config = ConfigDict(frozen=True)

    name: str
    passed: bool = True
    duration_s: float
    last_line: str
    cases: tuple[TestCase, ...] = ()

    @property
    def counts(self) -> str:
        """How its tests ended, in words: `1 failed, 12 passed`; empty where it left no results."""
        found = Counter(case.outcome for case in self.cases)
        return ", ".join(f"{found[outcome]} {outcome}" for outcome in TestOutcome if found[outcome])


class TestReport(BaseModel):
    """The commands that were run for a commit; `flaky` names what failed and passed without a change."""

    __test__ = False
    model_config = ConfigDict(frozen=True)

    git_sha: str
    results: tuple[TestResult, ...]
    flaky: tuple[str, ...] = ()


class TestSuiteFailedError(StageError):
    """A command failed, could not be started or took too long; `report` has what ran until then."""

    __test__ = False

    def __init__(self, message: str, report: TestReport) -> None:
        super().__init__(message)
        self.report = report


def run_test_suite(connections: Connections, git_sha: str) -> TestReport:
    """Run the environment's test commands, in order, in an exported copy of the commit.

    The commands see no secret and no database of the environment; one that asks for a database gets one of its own,
    gone afterwards. Their output is in the log of the run. Stops at the first that fails: by its exit code, or by the
    results that it left.

    Raises:
        TestSuiteFailedError: a command failed, could not be started or took too long; with the end of its output.
        StageError: a command's database could not be made.
    """
    results: list[TestResult] = []
    with (
        tempfile.TemporaryDirectory(prefix="runbook-tests-", ignore_cleanup_errors=True) as folder,
        suite_server(connections, git_sha) as server,
    ):
        checkout = Path(folder) / "source"
        connections.repository.export(git_sha, checkout)
        for number, command in enumerate(connections.settings.tests, 1):
            variables = server.variables(command, number)
            result, problem = _run(command, checkout, variables)
            results.append(result)
            if problem:
                _remember(connections, git_sha, result)
                raise TestSuiteFailedError(problem, TestReport(git_sha=git_sha, results=tuple(results)))
            _log.info("%s passed in %.1f s", result.name, result.duration_s)
    flaky = _flaky(connections, git_sha, results)
    for name in flaky:
        _log.warning("flaky: %s failed and passed with the same commit", name)
    return TestReport(git_sha=git_sha, results=tuple(results), flaky=flaky)


def _run(command: TestCommand, checkout: Path, variables: Mapping[str, str]) -> tuple[TestResult, str | None]:
    """Run a command; return how it ended, and what is wrong with that."""
    begun, output, code = time.monotonic(), checkout.parent / "output", None
    for stale in checkout.glob(command.junit) if command.junit else ():
        stale.unlink()  # of an earlier command, or committed by mistake
    try:
        code = run_in_checkout(
            command.argv, checkout, command.timeout_s, output=output, variables=variables, on_line=_logged(command.name)
        )
        problem = f"{command.name} failed with exit code {code}" if code else None
        if code is None:
            problem = f"{command.name} did not end within {command.timeout_s:g} s and was stopped"
    except OSError as error:
        problem = f"{command.name}: {command.argv[0]} cannot be started: {error}"
    text = output.read_text(encoding="utf-8", errors="replace") if output.exists() else ""
    lines = text.strip().splitlines()
    try:
        cases = _cases(command, checkout, passed=problem is None)
    except InvalidInputError as error:
        cases, problem = (), problem or f"{command.name} left results that cannot be read: {error}"
    problem = problem or _contradiction(command, cases)
    result = TestResult(
        name=command.name,
        passed=problem is None,
        duration_s=round(time.monotonic() - begun, 3),
        last_line=lines[-1] if lines else "",
        cases=cases,
    )
    return result, _in_words(problem, cases, lines) if problem else None


def _logged(name: str) -> Callable[[str], None]:
    """Return what puts the lines of a command into the log, up to a number that a server can take."""
    lines = 0

    def log(line: str) -> None:
        nonlocal lines
        lines += 1
        if lines <= _LOGGED_LINES:
            _log.info("%s | %s", name, line)
        elif lines == _LOGGED_LINES + 1:
            _log.warning("%s | more than %d lines; the rest is not logged", name, _LOGGED_LINES)

    return log


def _cases(command: TestCommand, checkout: Path, *, passed: bool) -> tuple[TestCase, ...]:
    cases: list[TestCase] = []
    for path in sorted(checkout.glob(command.junit)) if command.junit else ():
        name = str(path.relative_to(checkout))
        if not path.resolve().is_relative_to(checkout.resolve()) or not path.is_file():
            raise InvalidInputError("junit", name, "a file in the checkout", "Let the command write it there.")
        if path.stat().st_size > _LARGEST_RESULTS:
            raise InvalidInputError("junit", name, f"at most {_LARGEST_RESULTS // 1024**2} MB", "Leave out the output.")
        cases += read_junit(path.read_bytes(), name, passed=passed)
    return tuple(cases)


def _contradiction(command: TestCommand, cases: tuple[TestCase, ...]) -> str | None:
    """Say why a command that has ended well has not passed all the same."""
    if command.junit and not cases:
        return f"{command.name} ended well, but left no result of a test that matches {command.junit}"
    failed = [case.name for case in cases if case.outcome is TestOutcome.FAILED]
    return f"{command.name} ended well, but its results say that {len(failed)} tests failed" if failed else None


def _in_words(problem: str, cases: tuple[TestCase, ...], lines: list[str]) -> str:
    failed = [f"- {case.name}: {case.detail}" for case in cases if case.outcome is TestOutcome.FAILED]
    more = [f"- and {len(failed) - _TAIL} more"] if len(failed) > _TAIL else []
    said = [*failed[:_TAIL], *more, *lines[-_TAIL:]]
    return "\n".join([f"{problem}:" if said else problem, *said])


def _remember(connections: Connections, git_sha: str, result: TestResult) -> None:
    failed = [case.name for case in result.cases if case.outcome is TestOutcome.FAILED]
    try:
        _failures(connections).add(git_sha, failed or [result.name])
    except ServiceError as error:
        _log.warning("that %s failed is not remembered, to find flaky tests: %s", result.name, error)


def _flaky(connections: Connections, git_sha: str, results: list[TestResult]) -> tuple[str, ...]:
    cases = [case for result in results for case in result.cases]
    passed = [case.name for case in cases if case.outcome is TestOutcome.PASSED] + [result.name for result in results]
    found = {case.name for case in cases if case.outcome is TestOutcome.FLAKY}
    try:
        earlier = _failures(connections).of(git_sha)
    except ServiceError as error:
        _log.warning("whether a test is flaky is not known: %s", error)
        earlier = ()
    return tuple(sorted({*found, *flaky_since(earlier, passed)}))


def _failures(connections: Connections) -> TestFailures:
    return TestFailures(connections.store.objects, connections.settings.name)
