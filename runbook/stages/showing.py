"""Where people see a run that releases something: a deployment at GitHub, a message in the channels."""

from __future__ import annotations

from dataclasses import dataclass

from runbook.connections import Connections
from runbook.reports import FinalState
from runbook.stages.github_deployment import GitHubDeployment
from runbook.stages.run_message import RunMessage


@dataclass(frozen=True)
class Showing:
    """One run in all the places that show it. None of them holds it up, and none of them stops it."""

    deployment: GitHubDeployment
    message: RunMessage

    def begin(self) -> None:
        """Show a run that begins."""
        self.deployment.begin()
        self.message.begin()

    def step(self, name: str) -> None:
        """Say which step the run is at."""
        self.deployment.step(name)
        self.message.step(name)

    def end(self, *, success: bool, state: FinalState) -> tuple[str, ...]:
        """Say how the run ended; return what went wrong with saying so. A run that died is found by its name."""
        return self.deployment.end(success=success, state=state) + self.message.end(success=success, state=state)

    def leave(self) -> None:
        """Say nothing more: another run goes on with this one."""
        self.deployment.leave()
        self.message.leave()


def showing(connections: Connections, run: str, git_sha: str | None, task: str, version: str) -> Showing:
    """Return the places that show a run.

    Args:
        connections: the environment.
        run: name of the run, by which it is found again.
        git_sha: the commit that is to have the traffic; None when the run changes nothing about that.
        task: what is done: `deploy`, `rollback`, `undo-rollback`.
        version: how people call what it is done to.
    """
    return Showing(
        GitHubDeployment(connections, run, git_sha, task, version), RunMessage(connections, run, task, version)
    )
