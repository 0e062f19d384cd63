"""What GitHub shows of a run: a deployment of a commit to an environment, and how far it is.

Descriptions can be seen by everybody who sees the repository: they name steps and states, no reasons or errors.

Source: https://docs.github.com/en/rest/deployments.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from runbook.clients.github import GitHub
from runbook.clients.github_answers import Deployment, State
from runbook.clients.http_api import LostError
from runbook.connections import Connections
from runbook.reports import FinalState
from runbook.stages.background import Background


@dataclass
class GitHubDeployment:
    """The deployment of one run at GitHub; without GitHub, or without a commit, nothing happens.

    Args:
        connections: the environment; `run_url` becomes the link to the log.
        run: name of the run, by which its deployment is found again.
        git_sha: the commit that is to have the traffic; None when the run changes nothing about that.
        task: what is done: `deploy`, `rollback`, `undo-rollback`.
        version: how people call the commit.
        wait_s: seconds that the end waits for GitHub.
    """

    connections: Connections
    run: str
    git_sha: str | None
    task: str
    version: str
    wait_s: float = 15.0
    _made: Deployment | None = None
    _may_be_there: bool = True
    _may_create: bool = True
    _background: Background = field(init=False)

    def __post_init__(self) -> None:
        self._background = Background("GitHub", self.wait_s)

    def begin(self) -> None:
        """Create the deployment of a run that begins, queued."""
        self._may_be_there = False
        if (say := self._saying("queued", f"{self.task} {self.version}")) is not None:
            self._background.tell(say)

    def step(self, name: str) -> None:
        """Say which step the run is at."""
        if (say := self._saying("in_progress", name)) is not None:
            self._background.tell_newest(say)

    def end(self, *, success: bool, state: FinalState) -> tuple[str, ...]:
        """Say how the run ended, and retire the deployments before it when it succeeded; return what went wrong.

        A run that died is found by its name.
        """
        final: State = "success" if success else "error" if state is FinalState.DIVERGED else "failure"
        say = self._saying(final, f"{self.task} {self.version}: {'done' if success else 'not done'}, {state}")
        return () if say is None else self._background.finish(self.run, say)

    def leave(self) -> None:
        """Say nothing more: another run goes on with this one."""
        self._background.leave()

    def _saying(self, state: State, description: str) -> Callable[[], None] | None:
        github, git_sha = self.connections.github, self.git_sha
        if github is None or git_sha is None:
            return None
        return lambda: self._tell(github, git_sha, state, description)

    def _tell(self, github: GitHub, git_sha: str, state: State, description: str) -> None:
        made = self._require(github, git_sha)
        host = self.connections.host.public_url if state == "success" else None
        github.set_status(made.id, state, description, log_url=self.connections.run_url, environment_url=host)
        if state == "success":
            github.retire_earlier(made, f"{self.version} has the traffic")

    def _require(self, github: GitHub, git_sha: str) -> Deployment:
        environment = self.connections.settings.name
        if self._made is None and self._may_be_there:
            self._made = github.deployment(self.run, environment, git_sha)
        if self._made is None:
            if not self._may_create:
                raise LostError("it is not known whether the deployment was created")
            self._may_be_there = True
            try:
                self._made = github.begin_deployment(
                    self.run, environment, git_sha, task=self.task, description=f"{self.task} {self.version}"
                )
            except LostError:
                self._may_create = False
                raise
        return self._made
