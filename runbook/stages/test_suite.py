"""Stage 2: the application's own test suite, in a clean checkout of the commit.

Source: runbook, "Stage 2: Test Suite".
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from pydantic import BaseModel, ConfigDict

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
    argv = [sys.executable if argument == "{python}" else argument for argument in command.argv]
    # Into a file: what a command leaves running in the background would keep a pipe open.
    output = checkout.parent / "output"
    code = _exit_code(argv, command, checkout, output)
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


def _exit_code(argv: list[str], command: TestCommand, checkout: Path, output: Path) -> int | None:
    """Run a command to its end, or to its time-out (None); whatever it started is gone afterwards."""
    environment = {"PATH": os.environ.get("PATH", ""), "HOME": str(checkout.parent), "LANG": "C.UTF-8", "CI": "true"}
    environment["PYTHONUNBUFFERED"] = "1"  # output in its order, and what was said before a time-out is not lost
    try:
        with output.open("wb") as stream:
            process = subprocess.Popen(
                argv,
                cwd=checkout,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
    except OSError as error:
        raise StageError(f"{command.name}: {argv[0]} cannot be started: {error}") from error
    try:
        return process.wait(timeout=command.timeout_s)
    except subprocess.TimeoutExpired:
        return None
    finally:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
