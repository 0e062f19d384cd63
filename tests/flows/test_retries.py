"""What Prefect makes of a stage's errors, on the real server."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.flows.conftest import Platform

SCRIPT = """
import json, sys
from prefect import flow
from runbook import errors
from tasks.retries import stage_task

@flow
def once(name, failures, retries):
    calls = []

    def stage():
        calls.append(None)
        if len(calls) <= failures:
            raise getattr(errors, name)("on purpose")

    state = stage_task("A Stage", retries=retries)(stage)(return_state=True)
    return [state.type.value, len(calls)]

print(json.dumps([once(*case, return_state=True).result() for case in json.loads(sys.argv[1])]))
"""
CASES = {
    "a time-out is tried again": (("TransientError", 1, 1), ["COMPLETED", 2]),
    "what is not safe to repeat is not": (("TransientError", 1, 0), ["FAILED", 1]),
    "a refusal by a service is final": (("RejectedError", 1, 1), ["FAILED", 1]),
    "a bad result is final": (("StageError", 1, 1), ["FAILED", 1]),
}


@pytest.fixture(scope="module")
def ended(platform: Platform) -> list[list[object]]:
    """How the stages of all cases ended, and after how many calls; Prefect is imported once for all of them."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, json.dumps([case for case, _ in CASES.values()])],
        env=platform.local.prefect_environment() | {"PREFECT_LOGGING_LEVEL": "CRITICAL"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("case", CASES)
def test_a_stage_is_tried_again_only_when_its_error_says_that_it_can_help(ended: list[list[object]], case: str) -> None:
    assert ended[list(CASES).index(case)] == CASES[case][1]
