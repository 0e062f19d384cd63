from __future__ import annotations

import time
from collections.abc import Callable, Generator
from dataclasses import replace
from pathlib import Path

import pytest
from pydantic import SecretStr

from runbook.clients.github import GitHub, GitHubSettings
from runbook.clients.http_api import Patience
from runbook.connections import Connections
from runbook.reports import FinalState
from runbook.stages.github_deployment import GitHubDeployment
from tests.emulators.github import GitHubEmulator, github_emulator
from tests.runbook.surroundings import surrounded

TOKEN = "github_pat_never_to_be_seen_0123456789"
SHA = "a" * 40


@pytest.fixture(scope="module")
def server() -> Generator[GitHubEmulator]:
    with github_emulator(token=TOKEN) as emulator:
        yield emulator


@pytest.fixture
def github(server: GitHubEmulator) -> GitHubEmulator:
    server.reset()
    server.commit(SHA)
    return server


@pytest.fixture
def connections(github: GitHubEmulator, tmp_path: Path) -> Connections:
    return surrounded(tmp_path, github=reaching(github.url), run_url="http://127.0.0.1:4200/runs/flow-run/1")


def reaching(url: str) -> GitHub:
    patience = Patience(answer_s=2, pause_s=0.005, longest_pause_s=2)
    return GitHub(GitHubSettings("mantisnxt", "shop", api_url=url), SecretStr(TOKEN), patience)


def shown(connections: Connections, *, sha: str | None = SHA, wait_s: float = 15) -> GitHubDeployment:
    return GitHubDeployment(connections, "deploy_20250104_120000", sha, "deploy", "v2", wait_s)


def soon(found: Callable[[], object]) -> None:
    deadline = time.monotonic() + 20
    while not found():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def descriptions(github: GitHubEmulator) -> list[str]:
    return [status.description for made in github.deployments for status in made.statuses]


def test_each_step_is_shown_while_it_lasts(github: GitHubEmulator, connections: Connections) -> None:
    run = shown(connections)
    run.begin()
    for step in ("Stage 2: Test Suite", "Stage 5: Promotion"):
        run.step(step)
        soon(lambda: step in descriptions(github))  # noqa: B023
    assert run.end(success=True, state=FinalState.VERIFIED) == ()
    [made] = github.deployments
    assert [(status.state, status.description) for status in made.statuses] == [
        ("queued", "deploy v2"),
        ("in_progress", "Stage 2: Test Suite"),
        ("in_progress", "Stage 5: Promotion"),
        ("success", "deploy v2: done, VERIFIED"),
    ]
    assert {status.log_url for status in made.statuses} == {"http://127.0.0.1:4200/runs/flow-run/1"}
    assert [status.environment_url for status in made.statuses] == ["", "", "", connections.host.public_url]
    assert (made.sha, made.environment, made.payload) == (SHA, "production", {"runbook": "deploy_20250104_120000"})


@pytest.mark.parametrize(
    ("success", "state", "expected"),
    [
        (True, FinalState.UNVERIFIED, "success"),
        (False, FinalState.VERIFIED, "failure"),
        (False, FinalState.UNVERIFIED, "failure"),
        (False, FinalState.DIVERGED, "error"),
    ],
)
def test_the_end_is_told_as_it_is(
    github: GitHubEmulator, connections: Connections, success: bool, state: FinalState, expected: str
) -> None:
    run = shown(connections)
    run.begin()
    assert run.end(success=success, state=state) == ()
    assert github.deployments[0].state == expected


def test_only_a_success_retires_what_was_deployed_before(github: GitHubEmulator, connections: Connections) -> None:
    for number, success in enumerate([True, False, True]):
        run = GitHubDeployment(connections, f"deploy_{number}", SHA, "deploy", f"v{number}")
        run.begin()
        run.end(success=success, state=FinalState.VERIFIED)
        if number == 1:
            assert [made.state for made in github.deployments] == ["success", "failure"]
    assert [made.state for made in github.deployments] == ["inactive", "failure", "success"]


def test_a_slow_github_holds_up_no_step_and_sees_only_the_newest(
    github: GitHubEmulator, connections: Connections
) -> None:
    github.delay("POST", "/deployments$", 1.5)
    run = shown(connections)
    run.begin()
    for number in range(20):
        run.step(f"step {number}")
    run.end(success=True, state=FinalState.VERIFIED)
    assert github.deployments[0].states == ["queued", "success"], "no step waited until the deployment was made"


def test_a_github_that_is_down_is_a_finding_and_no_more(connections: Connections) -> None:
    run = shown(replace(connections, github=reaching("http://127.0.0.1:1")))
    run.begin()
    run.step("Stage 2: Test Suite")
    [finding] = run.end(success=True, state=FinalState.VERIFIED)
    assert finding.startswith("GitHub does not show how this ended: GitHub, ")
    assert "127.0.0.1 cannot be reached" in finding


def test_the_end_is_not_waited_for_longer_than_it_is_worth(connections: Connections) -> None:
    with github_emulator(token=TOKEN) as slow:  # of its own: what is on its way when the run has ended comes to it
        slow.commit(SHA)
        slow.delay("POST", "/deployments$", 0.5)
        run = shown(replace(connections, github=reaching(slow.url)), wait_s=0.05)
        run.begin()
        [finding] = run.end(success=True, state=FinalState.VERIFIED)
    assert finding == "GitHub does not show how this ended: no answer within 0.05 s"


def test_what_github_missed_while_it_was_down_is_made_up_for_at_the_end(
    github: GitHubEmulator, connections: Connections
) -> None:
    github.refuse("POST", "/deployments$", 429, headers={"Retry-After": "60"})
    run = shown(connections)
    run.begin()
    soon(lambda: github.exchanges)
    github.reset()
    github.commit(SHA)
    assert run.end(success=True, state=FinalState.VERIFIED) == ()
    assert github.deployments[0].states == ["success"]


def test_a_deployment_of_which_nobody_knows_whether_it_was_made_is_not_made_again(
    github: GitHubEmulator, connections: Connections
) -> None:
    github.lose("POST", "/deployments$")
    github.hide_new_deployments(reads=100)
    run = shown(connections)
    run.begin()
    [finding] = run.end(success=True, state=FinalState.VERIFIED)
    assert "it is not known whether the deployment was created" in finding
    assert len(github.deployments) == 1


def test_whoever_goes_on_with_a_dead_run_ends_its_deployment(github: GitHubEmulator, connections: Connections) -> None:
    dead = shown(connections)
    dead.begin()
    dead.step("Stage 5: Promotion")
    soon(lambda: github.deployments and github.deployments[0].state == "in_progress")
    assert shown(connections).end(success=False, state=FinalState.VERIFIED) == ()
    [made] = github.deployments
    assert made.states == ["queued", "in_progress", "failure"]


def test_who_has_left_says_nothing_more(github: GitHubEmulator, connections: Connections) -> None:
    github.delay("POST", "/deployments$", 0.4)
    run = shown(connections)
    run.begin()
    soon(lambda: github.exchanges)
    run.step("Stage 5: Promotion")
    run.leave()
    soon(lambda: github.deployments and github.deployments[0].states == ["queued"])
    time.sleep(0.05)
    assert github.deployments[0].states == ["queued"]


def test_what_changes_no_commit_is_no_deployment(github: GitHubEmulator, connections: Connections) -> None:
    run = shown(connections, sha=None)
    run.begin()
    run.step("Database: Swap")
    assert run.end(success=True, state=FinalState.VERIFIED) == ()
    assert github.exchanges == []
