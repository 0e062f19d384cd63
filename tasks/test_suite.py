"""Stage 2 as a task: the tests of one commit with one set of commands run once, whichever run asks."""

from __future__ import annotations

import hashlib
from typing import Any

from prefect import task
from prefect.artifacts import create_table_artifact
from prefect.cache_policies import CacheKeyFnPolicy
from prefect.context import TaskRunContext

from runbook.connections import Connections
from runbook.rules.test_results import TestOutcome, worst_first
from runbook.stages import test_suite
from runbook.stages.test_suite import TestReport, TestSuiteFailedError

_SHOWN_TESTS = 500


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
    """See `runbook.stages.test_suite.run_test_suite`; leaves its results as artifacts. A passed one is remembered."""
    try:
        report = test_suite.run_test_suite(connections, git_sha)
    except TestSuiteFailedError as error:
        _publish(connections, error.report)
        raise
    _publish(connections, report)
    return report


def _publish(connections: Connections, report: TestReport) -> None:
    name, sha = connections.settings.name, report.git_sha[:12]
    flaky = f" Flaky: {', '.join(report.flaky)}." if report.flaky else ""
    create_table_artifact(
        key=f"test-suite-{name}",
        table=[
            {
                "command": result.name,
                "outcome": TestOutcome.PASSED if result.passed else TestOutcome.FAILED,
                "seconds": result.duration_s,
                "tests": result.counts,
                "last line": result.last_line,
            }
            for result in report.results
        ],
        description=f"Test suite of {sha}.{flaky}",
    )
    if cases := [case for result in report.results for case in result.cases]:
        shown = worst_first(cases, _SHOWN_TESTS)
        left_out = f" The {len(cases) - len(shown)} quickest are left out." if len(cases) > len(shown) else ""
        create_table_artifact(
            key=f"test-results-{name}",
            table=[case.model_dump(mode="json") for case in shown],
            description=f"Tests of {sha}: what failed, is flaky or was skipped first, then the slowest.{left_out}",
        )
