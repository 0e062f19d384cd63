"""Stage 2 as a task: the tests of one commit with one set of commands run once, whichever run asks."""

from __future__ import annotations

import hashlib
from typing import Any

from prefect import task
from prefect.artifacts import create_table_artifact
from prefect.cache_policies import CacheKeyFnPolicy
from prefect.context import TaskRunContext

from runbook.connections import Connections
from runbook.stages import test_suite
from runbook.stages.test_suite import TestReport


def _cache_key(_context: TaskRunContext, parameters: dict[str, Any]) -> str:
    connections: Connections = parameters["connections"]
    commands = "\n".join(command.model_dump_json() for command in connections.settings.tests)
    return f"test-suite/{parameters['git_sha']}/{hashlib.sha256(commands.encode()).hexdigest()[:16]}"


@task(
    name="Stage 2: Test Suite",
    task_run_name="Stage 2: Test Suite",
    cache_policy=CacheKeyFnPolicy(cache_key_fn=_cache_key),
    persist_result=True,
    result_serializer="json",
)
def run_test_suite(connections: Connections, git_sha: str) -> TestReport:
    """See `runbook.stages.test_suite.run_test_suite`; only a passed suite is remembered."""
    report = test_suite.run_test_suite(connections, git_sha)
    create_table_artifact(
        key=f"test-suite-{connections.settings.name}",
        table=[result.model_dump() for result in report.results],
        description=f"Test suite of {git_sha[:12]}.",
    )
    return report
