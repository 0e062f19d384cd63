"""Octokit and githubkit, pointed at the emulator of GitHub."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from tests.conformance.deviations import unexpected
from tests.conformance.installed import Calls, call_githubkit, call_npm
from tests.emulators.github import REPOSITORY, GitHubEmulator, github_emulator
from tests.emulators.recording import record_of

pytestmark = pytest.mark.conformance

TOKEN = "github_pat_never_to_be_seen_0123456789"
OWNER, _, REPO = REPOSITORY.partition("/")
HERE = {"owner": OWNER, "repo": REPO}
SHA = "a" * 40
DEPLOYMENT: dict[str, Any] = {"ref": SHA, "environment": "production", "auto_merge": False, "required_contexts": []}


@pytest.fixture
def github() -> Generator[GitHubEmulator]:
    """Serve a repository with one commit; what was said has to be as GitHub's document says."""
    with github_emulator(token=TOKEN) as emulator:
        first = emulator.first
        emulator.commit(SHA)
        emulator.statuses[SHA] = [("ci", "success")]
        emulator.runs[SHA] = [("build", "completed", "success"), ("lint", "in_progress", None)]
        emulator.add_pull(7, head=SHA).reviews.append(("ann", "APPROVED", SHA))
        emulator.protection_rules["production"] = ["required_reviewers"]
        emulator.rules.append({"type": "required_linear_history"})
        assert first != SHA
        yield emulator
        said = [record_of(emulator, exchange) for exchange in emulator.exchanges]
    assert said
    assert [(each.method, each.path, line) for each in said for line in unexpected(each)] == []


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "shop"
    made.mkdir()
    return made


def test_octokit_reads_what_is_said_of_a_commit(github: GitHubEmulator, folder: Path) -> None:
    said, runs, pulls, reviews, rules, environment, compared = (
        each["value"]["data"]
        for each in call_npm(
            "octokit",
            github.url,
            TOKEN,
            [
                ("repos.getCombinedStatusForRef", {**HERE, "ref": SHA}),
                ("checks.listForRef", {**HERE, "ref": SHA, "filter": "latest"}),
                ("repos.listPullRequestsAssociatedWithCommit", {**HERE, "commit_sha": SHA}),
                ("pulls.listReviews", {**HERE, "pull_number": 7}),
                ("repos.getBranchRules", {**HERE, "branch": "main"}),
                ("repos.getEnvironment", {**HERE, "environment_name": "production"}),
                ("repos.compareCommitsWithBasehead", {**HERE, "basehead": f"{github.first}...{SHA}"}),
            ],
            cwd=folder,
        )
    )
    assert (said["state"], said["total_count"]) == ("success", 1)
    assert [run["conclusion"] for run in runs["check_runs"]] == ["success", None]
    assert [pull["number"] for pull in pulls] == [7]
    assert [(review["state"], review["commit_id"]) for review in reviews] == [("APPROVED", SHA)]
    assert [rule["type"] for rule in rules] == ["required_linear_history"]
    assert [rule["type"] for rule in environment["protection_rules"]] == ["required_reviewers"]
    assert (compared["status"], compared["ahead_by"]) == ("ahead", 1)


def test_octokit_deploys_and_follows_the_pages_of_the_list(github: GitHubEmulator, folder: Path) -> None:
    status = {"state": "success", "environment_url": "https://shop.example", "auto_inactive": True}
    for _ in range(3):
        github.deploy_elsewise(github.first, "production", "success")
    github.page_size = 2
    created, set_status, listed = call_npm(
        "octokit",
        github.url,
        TOKEN,
        [
            ("repos.createDeployment", {**HERE, **DEPLOYMENT}),
            ("repos.createDeploymentStatus", {**HERE, "deployment_id": 7, **status}),
            ("paginate", "repos.listDeployments", {**HERE, "environment": "production"}),
        ],
        cwd=folder,
    )
    made = github.deployments[-1]
    assert (created["value"]["status"], created["value"]["data"]["id"], made.sha) == (201, made.id, SHA)
    assert (set_status["value"]["status"], made.states) == (201, ["success"])
    assert [each["id"] for each in listed["value"]] == [each.id for each in reversed(github.deployments)]


def test_octokit_is_told_of_a_conflict_a_merge_and_a_wrong_token(github: GitHubEmulator, folder: Path) -> None:
    github.statuses[SHA] = [("ci", "failure")]
    with_defaults = {**HERE, "ref": SHA}
    behind: dict[str, Any] = {**HERE, "ref": github.first, "required_contexts": []}
    calls: Calls = [("repos.createDeployment", with_defaults), ("repos.createDeployment", behind)]
    conflict, merged = call_npm("octokit", github.url, TOKEN, calls, cwd=folder)
    assert conflict["error"]["status"] == 409
    assert "Commit status checks failed" in conflict["error"]["message"]
    assert merged["value"]["status"] == 202
    assert github.deployments == []
    (refused,) = call_npm("octokit", github.url, "ghp_wrong", calls[:1], cwd=folder)
    assert refused["error"]["status"] == 401


def test_githubkit_finds_in_every_answer_what_github_promises(github: GitHubEmulator, folder: Path) -> None:
    calls: Calls = [
        ("repos.get_branch", {**HERE, "branch": "main"}),
        ("repos.get_branch_rules", {**HERE, "branch": "main"}),
        ("repos.get_combined_status_for_ref", {**HERE, "ref": SHA}),
        ("checks.list_for_ref", {**HERE, "ref": SHA}),
        ("repos.list_pull_requests_associated_with_commit", {**HERE, "commit_sha": SHA}),
        ("pulls.list_reviews", {**HERE, "pull_number": 7}),
        ("repos.get_environment", {**HERE, "environment_name": "production"}),
        ("repos.compare_commits", {**HERE, "basehead": f"{github.first}...{SHA}"}),
        ("repos.create_deployment", {**HERE, **DEPLOYMENT}),
        ("repos.create_deployment_status", {**HERE, "deployment_id": 1, "state": "in_progress"}),
        ("repos.list_deployments", HERE),
        ("repos.list_deployment_statuses", {**HERE, "deployment_id": 1}),
    ]
    answers = call_githubkit(github.url, TOKEN, calls, cwd=folder)
    assert [(name, answer) for (name, _), answer in zip(calls, answers, strict=True) if "error" in answer] == []
    assert [each.states for each in github.deployments] == [["in_progress"]]
    assert answers[-1]["value"][0]["state"] == "in_progress"


def test_githubkit_is_told_of_a_wrong_token(github: GitHubEmulator, folder: Path) -> None:
    calls: Calls = [("repos.list_deployments", HERE)]
    assert call_githubkit(github.url, "ghp_wrong", calls, cwd=folder) == [{"error": {"status": 401}}]
