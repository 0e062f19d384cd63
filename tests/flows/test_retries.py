"""What Prefect makes of a stage's errors, on the real server."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from conftest import Platform

SCRIPT = """
import json, sys
from prefect import flow
from runbook import errors
from tasks.retries import stage_task

name, failures, retries = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
calls = []

def stage():
    calls.append(None)
    if len(calls) <= failures:
        raise getattr(errors, name)("on purpose")
    return "done"

task = stage_task("A Stage", retries=retries)(stage)

@flow
def once():
    return task()

state = once(return_state=True)
print(json.dumps([state.type.value, len(calls)]))
"""


@pytest.mark.parametrize(
    ("error", "failures", "retries", "expected"),
    [
        pytest.param("TransientError", 1, 1, ["COMPLETED", 2], id="a time-out is tried again"),
        pytest.param("TransientError", 1, 0, ["FAILED", 1], id="what is not safe to repeat is not"),
        pytest.param("RejectedError", 1, 1, ["FAILED", 1], id="a refusal by a service is final"),
        pytest.param("StageError", 1, 1, ["FAILED", 1], id="a bad result is final"),
    ],
)
def test_a_stage_is_tried_again_only_when_its_error_says_that_it_can_help(
    platform: Platform, error: str, failures: int, retries: int, expected: list[object]
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, error, str(failures), str(retries)],
        env=platform.local.prefect_environment() | {"PREFECT_LOGGING_LEVEL": "CRITICAL"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == expected
