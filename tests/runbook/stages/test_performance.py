from __future__ import annotations

from dataclasses import replace

import pytest

from runbook.connections import Connections
from runbook.rules.checklist import Check, Outcome
from runbook.settings import BenchmarkCommand
from runbook.stages.performance import performance_budgets
from tests.runbook.helpers import commit


def measured(connections: Connections, *argv: str, strict: bool = False) -> list[Check]:
    benchmarks = (BenchmarkCommand(name="size", argv=argv, timeout_s=0.5, budgets={"kb": 300}),) if argv else ()
    settings = connections.settings.model_copy(update={"benchmarks": benchmarks})
    sha = connections.repository.resolve("main")
    return performance_budgets(replace(connections, settings=settings), sha, strict=strict)


def test_without_a_benchmark_nothing_is_said(connections: Connections) -> None:
    assert measured(connections) == []


def test_what_the_commit_itself_brings_is_measured(connections: Connections) -> None:
    commit(connections.repository.path, {"size.json": '{"kb": 299}'})
    [check] = measured(connections, "cat", "size.json")
    assert (check.outcome, check.detail) == (Outcome.PASSED, "kb 299 of 300")
    commit(connections.repository.path, {"size.json": '{"kb": 301}'})
    [check] = measured(connections, "cat", "size.json")
    assert (check.outcome, check.detail) == (Outcome.WARNING, "over budget: kb 301 of 300")


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (("no-such-program",), "size: no-such-program cannot be started"),
        (("sh", "-c", "echo '{\"kb\": 1}'; echo no chrome >&2; exit 4"), "size failed with exit code 4 (no chrome)"),
        (("sh", "-c", "echo '{}'; echo no page >&2"), "size: it printed no kb (no page)"),
        (("sleep", "20"), "size did not end within 0.5 s"),
    ],
)
@pytest.mark.parametrize("strict", [False, True])
def test_a_measurement_that_could_not_be_made_has_not_passed_and_stops_what_is_strict(
    connections: Connections, argv: tuple[str, ...], said: str, strict: bool
) -> None:
    [check] = measured(connections, *argv, strict=strict)
    assert (check.outcome, check.is_needed) == (Outcome.COULD_NOT_RUN, strict)
    assert said in check.detail
