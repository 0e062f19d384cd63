from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from pydantic import SecretStr

from runbook.clients.github import GitHub, GitHubSettings
from runbook.clients.http_api import Patience
from runbook.connections import Connections
from runbook.rules.checklist import Check, Outcome, refusals
from runbook.stages.github_checks import github_checks, history_check
from tests.emulators.github import GitHubEmulator, github_emulator
from tests.runbook.surroundings import surrounded

TOKEN = "github_pat_never_to_be_seen_0123456789"
SHA, BESIDE = "a" * 40, "b" * 40


@dataclass
class Asking:
    """A commit in order, and the questions that are asked about it."""

    github: GitHubEmulator
    connections: Connections

    def checks(self, *, strict: bool = False) -> dict[str, Check]:
        return {check.name: check for check in github_checks(self.connections, SHA, strict=strict)}

    def outcomes(self) -> dict[str, Outcome]:
        return {name: check.outcome for name, check in self.checks().items()}

    def stops(self, *, strict: bool) -> list[str]:
        return [check.name for check in refusals(list(self.checks(strict=strict).values()), strict=strict)]


@pytest.fixture(scope="module")
def server() -> Generator[GitHubEmulator]:
    with github_emulator(token=TOKEN) as emulator:
        yield emulator


@pytest.fixture
def asking(server: GitHubEmulator, tmp_path: Path) -> Asking:
    server.reset()
    server.commit(SHA)
    server.runs[SHA] = [("build", "completed", "success"), ("runbook", "in_progress", None)]
    server.add_pull(7, head=SHA).reviews = [("ann", "APPROVED", SHA)]
    connections = surrounded(tmp_path, github=reaching(server.url))
    return Asking(server, connections)


def reaching(url: str) -> GitHub:
    return GitHub(GitHubSettings("mantisnxt", "shop", api_url=url), SecretStr(TOKEN), Patience(2, 0.001))


def test_a_commit_in_order_is_green_and_approved(asking: Asking) -> None:
    assert asking.outcomes() == {"CI": Outcome.PASSED, "code review": Outcome.PASSED}
    assert asking.stops(strict=True) == []


def test_the_evidence_is_about_exactly_this_commit(asking: Asking) -> None:
    asking.github.commit(BESIDE)
    asking.github.runs = {BESIDE: [("build", "completed", "success")]}
    asking.github.pulls[0].head = BESIDE
    assert asking.outcomes() == {"CI": Outcome.FAILED, "code review": Outcome.WARNING}


def test_where_the_branch_requires_an_approval_a_missing_one_fails(asking: Asking) -> None:
    asking.github.pulls.clear()
    asking.github.protected_contexts = ["build"]
    assert asking.outcomes() == {"CI": Outcome.PASSED, "code review": Outcome.FAILED}
    assert asking.stops(strict=False) == ["code review"]


def test_without_github_a_person_looks_and_nothing_is_stopped(asking: Asking) -> None:
    asking.connections = replace(asking.connections, github=None)
    assert asking.outcomes() == {"CI": Outcome.COULD_NOT_RUN, "code review": Outcome.COULD_NOT_RUN}
    assert asking.stops(strict=True) == []
    assert history_check(asking.connections, SHA, SHA, strict=True) == []


def test_a_github_that_is_down_stops_a_deploy_only_in_strict_mode(asking: Asking) -> None:
    asking.connections = replace(asking.connections, github=reaching("http://127.0.0.1:1"))
    assert asking.outcomes() == {"CI": Outcome.COULD_NOT_RUN, "code review": Outcome.COULD_NOT_RUN}
    assert asking.stops(strict=False) == []
    assert asking.stops(strict=True) == ["CI", "code review"]


def test_a_token_that_may_not_look_is_a_failure_and_says_so(asking: Asking) -> None:
    asking.github.permissions["checks"] = "none"
    check = asking.checks()["CI"]
    assert (check.outcome, "needs the permission checks=read" in check.detail) == (Outcome.FAILED, True)


def test_a_release_without_what_runs_now_is_a_warning(asking: Asking) -> None:
    asking.github.commit(BESIDE, asking.github.first)
    [passed] = history_check(asking.connections, asking.github.first, SHA, strict=False)
    assert (passed.outcome, passed.detail) == (Outcome.PASSED, "commits since the running release: 1")
    [warned] = history_check(asking.connections, BESIDE, SHA, strict=False)
    assert warned.outcome is Outcome.WARNING
    assert warned.detail == "commits of the running release that are not in this one: 1 (diverged)"
    assert history_check(asking.connections, None, SHA, strict=False) == []
