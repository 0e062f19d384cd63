from __future__ import annotations

import json
from dataclasses import replace

import pytest

from runbook.connections import Connections
from runbook.rules.checklist import Check, Outcome
from runbook.settings import CheckoutCommand
from runbook.stages.security_audit import security_audit
from tests.runbook.helpers import commit

CLEAN = json.dumps({"metadata": {"vulnerabilities": {"low": 0, "high": 0}}})
HOLES = json.dumps({"metadata": {"vulnerabilities": {"low": 0, "high": 2}}})


@pytest.fixture
def connections(connections: Connections) -> Connections:
    commit(connections.repository.path, {"report.json": CLEAN})
    return connections


def audited(connections: Connections, *argv: str, timeout_s: float = 20, strict: bool = False) -> list[Check]:
    audits = (CheckoutCommand(name="npm", argv=argv, timeout_s=timeout_s),) if argv else ()
    settings = connections.settings.model_copy(update={"audits": audits})
    sha = connections.repository.resolve("main")
    return security_audit(replace(connections, settings=settings), sha, strict=strict)


def test_without_an_audit_nothing_is_said(connections: Connections) -> None:
    assert audited(connections) == []


def test_what_the_commit_itself_brings_is_audited(connections: Connections) -> None:
    [check] = audited(connections, "cat", "report.json")
    assert (check.outcome, check.detail) == (Outcome.PASSED, "npm: no known vulnerabilities")
    commit(connections.repository.path, {"report.json": HOLES})
    [check] = audited(connections, "cat", "report.json")
    assert (check.outcome, check.detail) == (Outcome.FAILED, "npm: 2 high")


def test_the_exit_code_of_an_audit_says_only_that_there_is_something_and_warnings_go_elsewhere(
    connections: Connections,
) -> None:
    commit(connections.repository.path, {"report.json": HOLES})
    [check] = audited(connections, "sh", "-c", "echo 'npm warn old lockfile' >&2; cat report.json; exit 1")
    assert (check.outcome, check.detail) == (Outcome.FAILED, "npm: 2 high")


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (("no-such-program",), "no-such-program cannot be started"),
        (("sh", "-c", "echo 'npm error network' >&2; exit 1"), "printed no report in JSON (npm error network)"),
        (("sh", "-c", 'echo \'{"message": "405 Method Not Allowed"}\''), "405 Method Not Allowed"),
        (("sleep", "20"), "did not end within 0.2 s"),
    ],
)
@pytest.mark.parametrize("strict", [False, True])
def test_an_audit_that_could_not_be_made_has_not_passed_and_stops_only_what_is_strict(
    connections: Connections, argv: tuple[str, ...], said: str, strict: bool
) -> None:
    [check] = audited(connections, *argv, timeout_s=0.2 if argv[0] == "sleep" else 20, strict=strict)
    assert (check.outcome, check.is_needed) == (Outcome.COULD_NOT_RUN, strict)
    assert said in check.detail
