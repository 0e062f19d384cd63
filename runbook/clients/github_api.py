"""The part of GitHub's API that the runbook needs: requests, pages, answers.

Source: https://docs.github.com/en/rest; https://docs.github.com/en/rest/using-the-rest-api/best-practices-for-using-the-rest-api.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from http import HTTPStatus
from typing import TypeVar
from urllib.parse import quote

import httpx
from pydantic import BaseModel, JsonValue, SecretStr, ValidationError

from runbook.clients.github_answers import (
    Branch,
    CheckRun,
    CheckRuns,
    CombinedStatus,
    CommitStatus,
    Comparison,
    Deployment,
    DeploymentEnvironment,
    Deployments,
    DeploymentStatus,
    Pull,
    PullReview,
    Pulls,
    Refusal,
    Reviews,
    Rule,
    Rules,
    Statuses,
)
from runbook.clients.http_api import HttpApi, LostError, Patience, Service
from runbook.errors import RejectedError

# Understood by GitHub until March 2028 at least, and by every Enterprise Server that knows versions; nothing that a
# later version took away (`merge_commit_sha`) is used.
_VERSION = "2022-11-28"
_Model = TypeVar("_Model", bound=BaseModel)


class GitHubApi:
    """One repository of GitHub over HTTP; the token is in no message.

    Every method raises `TransientError` when GitHub is busy or cannot be reached, `LostError` when its answer is lost
    and `RejectedError` when it says no; the message has GitHub's own words, the id of the request and, where GitHub
    says which, the permission that the token lacks.
    """

    def __init__(self, url: str, repository: str, token: SecretStr, patience: Patience, *, block: str) -> None:
        self._url = url.rstrip("/")
        self._repository = repository
        self._http = HttpApi(
            Service(
                name="GitHub",
                url=self._url,
                key=token,
                words=_words,
                hints=_hints(repository, block),
                headers={
                    "Authorization": "Bearer {key}",
                    "Accept": "application/vnd.github+json",
                    "X-GitHub-Api-Version": _VERSION,
                    "User-Agent": "mantis-runbook",
                },
            ),
            patience,
        )

    def branch(self, name: str) -> Branch:
        """Return a branch; `MissingError` when there is none."""
        return self._http.read(self._path("branches", name), f"read branch {name}", Branch)

    def rules(self, branch: str) -> Sequence[Rule]:
        """Return the active rules of a branch by all rulesets; those of branch protection are not among them."""
        pages = self._pages(self._path("rules", "branches", branch), f"read the rules of {branch}", Rules)
        return [rule for page in pages for rule in page.root]

    def statuses(self, git_sha: str) -> Sequence[CommitStatus]:
        """Return the newest commit status of each context.

        The combined `state` is left aside: it is `pending` for a commit without any.
        """
        path = self._path("commits", git_sha, "status")
        found: list[CommitStatus] = []
        for page in self._pages(path, f"read the statuses of {git_sha[:12]}", CombinedStatus):
            self._check_sha(page.sha, git_sha)
            found += page.statuses
        return found

    def check_runs(self, git_sha: str) -> Sequence[CheckRun]:
        """Return the newest check run of each name and app."""
        path, what = self._path("commits", git_sha, "check-runs"), f"read the check runs of {git_sha[:12]}"
        found = [run for page in self._pages(path, what, CheckRuns, filter="latest") for run in page.check_runs]
        for run in found:
            self._check_sha(run.head_sha, git_sha)
        return found

    def pulls(self, git_sha: str) -> Sequence[Pull]:
        """Return the merged pull request that brought a commit, or the open ones that have it."""
        path, what = self._path("commits", git_sha, "pulls"), f"read the pull requests of {git_sha[:12]}"
        return [pull for page in self._pages(path, what, Pulls) for pull in page.root]

    def reviews(self, number: int) -> Sequence[PullReview]:
        """Return the reviews of a pull request, oldest first."""
        path = self._path("pulls", str(number), "reviews")
        return [review for page in self._pages(path, f"read the reviews of #{number}", Reviews) for review in page.root]

    def environment(self, name: str) -> DeploymentEnvironment:
        """Return an environment; `MissingError` when there is none yet: the first deployment makes it."""
        return self._http.read(self._path("environments", name), f"read environment {name}", DeploymentEnvironment)

    def compare(self, base: str, head: str) -> Comparison:
        """Return how `head` stands to `base`."""
        what = f"compare {base[:12]} with {head[:12]}"
        return self._http.read(self._path("compare", f"{base}...{head}"), what, Comparison, query={"per_page": "1"})

    def deployments(self, environment: str, *, git_sha: str | None = None) -> Sequence[Deployment]:
        """Return up to a hundred deployments to an environment, newest first."""
        query = {"environment": environment, "per_page": "100"} | ({"sha": git_sha} if git_sha else {})
        what = f"list the deployments to {environment}"
        found = self._http.read(self._path("deployments"), what, Deployments, query=query).root
        return sorted(found, key=lambda each: each.id, reverse=True)

    def deployment_statuses(self, deployment_id: int) -> Sequence[DeploymentStatus]:
        """Return up to a hundred statuses of a deployment, newest first."""
        path = self._path("deployments", str(deployment_id), "statuses")
        what = f"list the statuses of deployment {deployment_id}"
        found = self._http.read(path, what, Statuses, query={"per_page": "100"}).root
        return sorted(found, key=lambda each: each.id, reverse=True)

    def create_deployment(self, body: Mapping[str, JsonValue]) -> Deployment:
        """Create a deployment; it merges nothing and waits for no check of GitHub's."""
        sent = {**body, "auto_merge": False, "required_contexts": []}
        what = f"create a deployment to {body['environment']}"
        response = self._http.send("POST", self._path("deployments"), what, body=sent)
        if response.status_code == HTTPStatus.ACCEPTED:
            raise RejectedError(f"GitHub, {what}: it merged the base branch instead ({_words(response)}).")
        return self._http.parse(response, what, Deployment)

    def add_status(self, deployment_id: int, body: Mapping[str, JsonValue]) -> DeploymentStatus:
        """Add a status to a deployment."""
        path = self._path("deployments", str(deployment_id), "statuses")
        what = f"set deployment {deployment_id} to {body['state']}"
        return self._http.parse(self._http.send("POST", path, what, body=dict(body)), what, DeploymentStatus)

    def _pages(self, path: str, what: str, model: type[_Model], **query: str) -> Generator[_Model]:
        """Yield one page after the other, as the header `Link` says where the next one is."""
        response = self._http.send("GET", path, what, query={"per_page": "100"} | query)
        seen: set[str] = set()
        while True:
            yield self._http.parse(response, what, model)
            following = response.links.get("next", {}).get("url")
            if following is None:
                return
            if following in seen:
                raise LostError(f"GitHub, {what}: its pages go round in circles.")
            if not following.startswith(f"{self._url}/"):
                place = httpx.URL(following).host or following
                raise RejectedError(f"GitHub, {what}: the next page is at {place}, where the token is not sent to.")
            seen.add(following)
            response = self._http.send("GET", following, what)

    def _path(self, *parts: str) -> str:
        return "/".join([f"/repos/{self._repository}", *(quote(part, safe="") for part in parts)])

    def _check_sha(self, found: str, asked: str) -> None:
        if found != asked:
            raise LostError(f"GitHub answered about commit {found[:12]} when it was asked about {asked[:12]}.")


def _hints(repository: str, block: str) -> dict[int, str]:
    mend = f"Put one that may into the {block}."
    return {
        301: f"{repository} was renamed or moved: mend owner and name in the {block}.",
        401: f"The token is wrong, revoked or expired: put a valid one into the {block}.",
        403: f"The token may not do this. {mend}",
        404: f"There is no such thing in {repository}, or the token does not see it: mend owner and name in the "
        f"{block}, or let the token see the repository.",
        422: f"The commit has to be in {repository}: push it first.",
    }


def _words(response: httpx.Response) -> str:
    """Return what GitHub says, which permission it asks for and the id of the request."""
    try:
        parts = [Refusal.model_validate_json(response.content).words]
    except ValidationError:
        parts = []
    if response.status_code in {403, 404} and (needed := response.headers.get("x-accepted-github-permissions")):
        parts.append(f"needs the permission {needed}")
    if "x-github-sso" in response.headers:
        parts.append("the token has to be authorized for single sign-on")
    if request_id := response.headers.get("x-github-request-id"):
        parts.append(f"request {request_id}")
    return "; ".join(part for part in parts if part)
