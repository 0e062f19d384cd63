"""What GitHub shows of a run: a deployment of a commit to an environment, and how far it is.

GitHub is told in the background, and only the newest: that it is slow or down never stops a run and never holds up a
step. Descriptions can be seen by everybody who sees the repository: they name steps and states, no reasons or errors.

Source: https://docs.github.com/en/rest/deployments.
"""

from __future__ import annotations

import logging
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

from runbook.clients.github import GitHub
from runbook.clients.github_answers import Deployment, State
from runbook.clients.http_api import LostError
from runbook.connections import Connections
from runbook.reports import FinalState

_log = logging.getLogger(__name__)


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
    _newest: int = 0
    _trouble: Exception | None = None
    _worker: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1, thread_name_prefix="github"))

    def begin(self) -> None:
        """Create the deployment of a run that begins, queued."""
        self._may_be_there = False
        self._submit("queued", f"{self.task} {self.version}")

    def step(self, name: str) -> None:
        """Say which step the run is at."""
        if self._trouble is None:  # it is tried again at the end
            self._submit("in_progress", name)

    def end(self, *, success: bool, state: FinalState) -> tuple[str, ...]:
        """Say how the run ended, and retire the deployments before it when it succeeded; return what went wrong.

        A run that died is found by its name.
        """
        final: State = "success" if success else "error" if state is FinalState.DIVERGED else "failure"
        told = self._submit(final, f"{self.task} {self.version}: {'done' if success else 'not done'}, {state}")
        self._worker.shutdown(wait=False)
        if told is None:
            return ()
        try:
            told.result(timeout=self.wait_s)
        except TimeoutError:
            self._trouble = TimeoutError(f"no answer within {self.wait_s:g} s")
        if self._trouble is None:
            return ()
        finding = f"GitHub does not show how this ended: {self._trouble}"
        _log.warning("%s: %s", self.run, finding)
        return (finding,)

    def leave(self) -> None:
        """Say nothing more: another run goes on with this one."""
        self._newest += 1
        self._worker.shutdown(wait=False, cancel_futures=True)

    def _submit(self, state: State, description: str) -> Future[None] | None:
        github, git_sha = self.connections.github, self.git_sha
        if github is None or git_sha is None:
            return None
        self._newest += 1
        return self._worker.submit(self._tell, github, git_sha, state, description, self._newest)

    def _tell(self, github: GitHub, git_sha: str, state: State, description: str, number: int) -> None:
        if state == "in_progress" and number < self._newest:
            return
        try:
            made = self._require(github, git_sha)
            host = self.connections.host.public_url if state == "success" else None
            github.set_status(made.id, state, description, log_url=self.connections.run_url, environment_url=host)
            if state == "success":
                github.retire_earlier(made, f"{self.version} has the traffic")
            self._trouble = None
        except Exception as error:  # noqa: BLE001 - whatever it is, the run goes on
            self._trouble = error

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
