"""A repository at GitHub: what CI and reviewers say of a commit, and the deployments of its environments.

What this project deploys carries the name of its run in the deployment's payload, so that it is found again: by a
run whose answer was lost, and by the recovery of a run that died.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import SecretStr

from runbook.clients.github_answers import Comparison, Deployment, DeploymentStatus, State
from runbook.clients.github_api import GitHubApi
from runbook.clients.http_api import LostError, MissingError, Patience, check_url
from runbook.errors import InvalidInputError
from runbook.rules.ci import CiCheck, of_check_run, of_status
from runbook.rules.review import PullRequest, Review

API_URL = "https://api.github.com"
IGNORED_CHECKS = ("runbook",)
"""The job that starts the runbook in docs/examples/github-actions."""

_LOOKS = 4
_DESCRIPTION_MAX = 140
_KEY = "runbook"
_OPEN = {"queued", "pending", "in_progress", "success"}
_Found = TypeVar("_Found")


@dataclass(frozen=True)
class GitHubSettings:
    """Which repository, and which branch releases come from.

    `ignored_checks` are the names of checks that say nothing of a commit; `block` is what messages call the form with
    the token.
    """

    owner: str
    name: str
    branch: str = "main"
    api_url: str = API_URL
    ignored_checks: tuple[str, ...] = IGNORED_CHECKS
    block: str = "block GitHub Repository"


class GitHub:
    """One repository.

    Every method raises `TransientError` when GitHub is busy or cannot be reached, `LostError` when its answer is lost
    and nothing is to be seen of an effect, and `RejectedError` when it says no.
    """

    def __init__(self, settings: GitHubSettings, token: SecretStr, patience: Patience | None = None) -> None:
        """Raise `InvalidInputError` when a field cannot be right."""
        _check("owner", settings.owner, r"[A-Za-z0-9](?:[A-Za-z0-9_-]{0,99})", "the name of a user or organization")
        _check(
            "name", settings.name, r"(?!\.{1,2}$)[A-Za-z0-9._-]{1,100}", "the name of a repository, without its owner"
        )
        _check("branch", settings.branch, r"[^\s~^:?*\[\\]{1,244}", "the name of a branch")
        check_url("api_url", settings.api_url, API_URL)
        self.repository = f"{settings.owner}/{settings.name}"
        self.ignored_checks = frozenset(settings.ignored_checks)
        self._branch = settings.branch
        self._patience = patience or Patience(answer_s=10, pause_s=1, longest_pause_s=10)
        self._api = GitHubApi(settings.api_url, self.repository, token, self._patience, block=settings.block)

    def check(self, environment: str) -> str:
        """Return what was found, after reading everything that the runbook reads; an error says what is missing."""
        tip = self._api.branch(self._branch).commit.sha
        self._api.rules(self._branch)
        self._api.statuses(tip)
        self._api.check_runs(tip)
        self._api.pulls(tip)
        self._api.deployments(environment)
        return f"{self.repository}, branch {self._branch}; {self._waits(environment)}"

    def ci_checks(self, git_sha: str) -> tuple[CiCheck, ...]:
        """Return the check runs and the commit statuses of exactly this commit."""
        runs = [of_check_run(run.name, run.status, run.conclusion) for run in self._api.check_runs(git_sha)]
        statuses = [of_status(status.context, status.state) for status in self._api.statuses(git_sha)]
        return (*runs, *statuses)

    def required_checks(self) -> frozenset[str]:
        """Return the names of the checks that the branch requires, by its rulesets and by branch protection."""
        by_rules = [
            check.context
            for rule in self._api.rules(self._branch)
            if rule.type == "required_status_checks"
            for check in rule.parameters.required_status_checks
        ]
        return frozenset([*by_rules, *self._api.branch(self._branch).protection.required_status_checks.contexts])

    def required_approvals(self) -> int:
        """Return how many approvals the branch requires; branch protection does not say, and counts as one."""
        rules = self._api.rules(self._branch)
        counts = [rule.parameters.required_approving_review_count for rule in rules if rule.type == "pull_request"]
        return max([*counts, int(self._api.branch(self._branch).protection.enabled)])

    def pull_requests(self, git_sha: str) -> tuple[PullRequest, ...]:
        """Return the pull requests that a commit belongs to, with their reviews."""
        found: list[PullRequest] = []
        for pull in self._api.pulls(git_sha):
            reviews = tuple(
                Review(review.user.login if review.user else "ghost", review.state, review.commit_id)
                for review in self._api.reviews(pull.number)
            )
            author = pull.user.login if pull.user else ""
            found.append(PullRequest(pull.number, pull.head.sha, author, pull.merged_at is not None, reviews))
        return tuple(found)

    def compare(self, base: str, head: str) -> Comparison:
        """Return how commit `head` stands to commit `base`."""
        return self._api.compare(base, head)

    def deployment(self, run: str, environment: str, git_sha: str) -> Deployment | None:
        """Return the deployment that a run of this project has made, or None."""
        made = self._api.deployments(environment, git_sha=git_sha)
        return next((each for each in made if _run_of(each) == run), None)

    def begin_deployment(self, run: str, environment: str, git_sha: str, *, task: str, description: str) -> Deployment:
        """Create the deployment of a run, once: when the answer is lost, look for it instead of asking again."""
        body: dict[str, Any] = {
            "ref": git_sha,
            "environment": environment,
            "task": task,
            "description": _shortened(description),
            "payload": {_KEY: run},
        }
        try:
            return self._api.create_deployment(body)
        except LostError as error:
            return self._seen(lambda: self.deployment(run, environment, git_sha), error)

    def set_status(
        self,
        deployment_id: int,
        state: State,
        description: str,
        *,
        log_url: str | None = None,
        environment_url: str | None = None,
    ) -> None:
        """Add a status to a deployment, once: when the answer is lost, look for it instead of asking again."""
        body: dict[str, Any] = {"state": state, "description": _shortened(description)}
        body |= {"log_url": log_url} if log_url else {}
        body |= {"environment_url": environment_url} if environment_url else {}
        try:
            self._api.add_status(deployment_id, body)
        except LostError as error:
            self._seen(lambda: self._said(deployment_id, body), error)

    def retire_earlier(self, deployment: Deployment, description: str) -> None:
        """Set the deployments of earlier runs to the same environment to inactive, the oldest first.

        GitHub promises to do that by itself only where the environment is no production. Behind the first one that
        is inactive everything is; deployments of others are left alone.
        """
        open_ones: list[Deployment] = []
        for each in self._api.deployments(deployment.environment):
            if each.id >= deployment.id or _run_of(each) is None:
                continue
            statuses = self._api.deployment_statuses(each.id)
            state = statuses[0].state if statuses else "pending"
            if state == "inactive":
                break
            if state in _OPEN:
                open_ones.append(each)
        for each in reversed(open_ones):
            self.set_status(each.id, "inactive", description)

    def _said(self, deployment_id: int, body: dict[str, Any]) -> DeploymentStatus | None:
        newest = next(iter(self._api.deployment_statuses(deployment_id)), None)
        fits = newest and (newest.state, newest.description) == (body["state"], body["description"])
        return newest if fits else None

    def _seen(self, look: Callable[[], _Found | None], error: LostError) -> _Found:
        for _ in range(_LOOKS):
            if (found := look()) is not None:
                return found
            time.sleep(self._patience.pause_s)
        raise LostError(f"{error} No effect is to be seen, but it may come yet.") from error

    def _waits(self, environment: str) -> str:
        try:
            rules = self._api.environment(environment).protection_rules
        except MissingError:
            return f"environment {environment} is made by the first deployment"
        waits = ", ".join(sorted({rule.type for rule in rules})) or "nothing"
        return f"in environment {environment} a job of GitHub Actions waits for {waits}"


def _run_of(deployment: Deployment) -> str | None:
    run = deployment.payload.get(_KEY) if isinstance(deployment.payload, dict) else None
    return run if isinstance(run, str) else None


def _shortened(text: str) -> str:
    """Return a description as GitHub takes it: one line, not too long."""
    line = " ".join(text.split())
    return line if len(line) <= _DESCRIPTION_MAX else f"{line[: _DESCRIPTION_MAX - 1]}…"


def _check(field: str, value: str, pattern: str, allowed: str) -> None:
    if re.fullmatch(pattern, value) is None:
        raise InvalidInputError(field, value, allowed, "Mend the block of the repository.")
