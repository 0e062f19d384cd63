"""What GitHub answers, as far as the runbook reads it.

Source: https://docs.github.com/en/rest.
"""

from __future__ import annotations

import json
from typing import Literal

from pydantic import AwareDatetime, JsonValue, RootModel, field_validator

from runbook.clients.http_api import Answer

State = Literal["error", "failure", "inactive", "in_progress", "queued", "pending", "success"]


class _User(Answer):
    login: str


class _Commit(Answer):
    sha: str


class CommitStatus(Answer):
    """The newest status of one context."""

    context: str
    state: str


class CheckRun(Answer):
    """One check run."""

    name: str
    head_sha: str
    status: str
    conclusion: str | None = None


class Pull(Answer):
    """A pull request."""

    number: int
    head: _Commit
    user: _User | None = None
    merged_at: AwareDatetime | None = None


class PullReview(Answer):
    """A review of a pull request."""

    user: _User | None = None
    state: str
    commit_id: str | None = None


class _RequiredCheck(Answer):
    context: str


class _Parameters(Answer):
    required_approving_review_count: int = 0
    required_status_checks: tuple[_RequiredCheck, ...] = ()


class Rule(Answer):
    """An active rule of a branch, by its rulesets."""

    type: str
    parameters: _Parameters = _Parameters()


class _Contexts(Answer):
    contexts: tuple[str, ...] = ()


class _Protection(Answer):
    enabled: bool = False
    required_status_checks: _Contexts = _Contexts()


class Branch(Answer):
    """A branch, and its branch protection, which its rules do not show."""

    name: str
    commit: _Commit
    protection: _Protection = _Protection()


class _ProtectionRule(Answer):
    type: str


class DeploymentEnvironment(Answer):
    """An environment of the repository, and what a job of GitHub Actions has to wait for there."""

    name: str
    protection_rules: tuple[_ProtectionRule, ...] = ()


class Comparison(Answer):
    """How one commit stands to another: `ahead`, `behind`, `diverged` or `identical`."""

    status: Literal["ahead", "behind", "diverged", "identical"]
    ahead_by: int
    behind_by: int


class Deployment(Answer):
    """A deployment; `payload` is what its maker wrote into it."""

    id: int
    sha: str
    environment: str
    payload: JsonValue = None

    @field_validator("payload", mode="after")
    @classmethod
    def _read(cls, value: JsonValue) -> JsonValue:
        """GitHub answers with the object that was sent, or with its text."""
        try:
            return json.loads(value) if isinstance(value, str) and value else value
        except ValueError:
            return value


class DeploymentStatus(Answer):
    """A status of a deployment."""

    id: int
    state: str
    description: str = ""
    log_url: str = ""
    environment_url: str = ""


class CombinedStatus(Answer):
    """A page of the commit statuses of one commit."""

    sha: str
    statuses: tuple[CommitStatus, ...]


class CheckRuns(Answer):
    """A page of check runs."""

    check_runs: tuple[CheckRun, ...]


class Pulls(RootModel[tuple[Pull, ...]]):
    """A page of pull requests."""


class Reviews(RootModel[tuple[PullReview, ...]]):
    """A page of reviews."""


class Rules(RootModel[tuple[Rule, ...]]):
    """A page of rules."""


class Deployments(RootModel[tuple[Deployment, ...]]):
    """A page of deployments."""


class Statuses(RootModel[tuple[DeploymentStatus, ...]]):
    """A page of statuses of a deployment."""


class Refusal(Answer):
    """What an answer that refuses says."""

    message: str = ""
    errors: tuple[JsonValue, ...] = ()

    @property
    def words(self) -> str:
        """The message and what it is about; a reason is a text, or an object with one."""
        reasons = [each.get("message") or each.get("code") if isinstance(each, dict) else each for each in self.errors]
        return "; ".join(str(said) for said in (self.message.rstrip("."), *reasons) if said)
