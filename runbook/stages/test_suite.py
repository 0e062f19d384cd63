"""Stage 2: the application's own test suite, in a clean checkout of the commit.

Source: runbook, "Stage 2: Test Suite".
"""

from __future__ import annotations

import logging
import tempfile
import time
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from runbook.clients.checkout_command import run_in_checkout
from runbook.connections import Connections
from runbook.errors import StageError
from runbook.settings import TestCommand

_log = logging.getLogger(__name__)


class TestResult(BaseModel):
    """One command that passed; `duration_s` in seconds."""

    __test__ = False
    model_config = ConfigDict(frozen=True)

    name: str
    duration_s: float
    last_line: str


class TestReport(BaseModel):
    """The commands that passed for a commit."""

    __test__ = False
    model_config = ConfigDict(frozen=True)

    git_sha: str
    results: tuple[TestResult, ...]


def run_test_suite(connections: Connections, git_sha: str) -> TestReport:
    """Run the environment's test commands, in order, in an exported copy of the commit.

    The commands see no secret and no database of the environment. Stops at the first that fails.

    Raises:
        StageError: a command failed, could not be started or took too long; with the end of its output.
    """
    with tempfile.TemporaryDirectory(prefix="runbook-tests-", ignore_cleanup_errors=True) as folder:
        checkout = Path(folder) / "source"
        connections.repository.export(git_sha, checkout)
        results = [_run(command, checkout) for command in connections.settings.tests]
    return TestReport(git_sha=git_sha, results=tuple(results))


def _run(command: TestCommand, checkout: Path) -> TestResult:
    begun = time.monotonic()
    output = checkout.parent / "output"
    try:
        code = run_in_checkout(command.argv, checkout, command.timeout_s, output=output)
    except OSError as error:
        raise StageError(f"{command.name}: {command.argv[0]} cannot be started: {error}") from error
    lines = output.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    tail = "\n".join(lines[-40:])
    if code is None:
        raise StageError(f"{command.name} did not end within {command.timeout_s:g} s and was stopped:\n{tail}")
    if code:
        raise StageError(f"{command.name} failed with exit code {code}:\n{tail}")
    result = TestResult(
        name=command.name, duration_s=round(time.monotonic() - begun, 3), last_line=lines[-1] if lines else ""
    )
    _log.info("%s passed in %.1f s", result.name, result.duration_s)
    return result
