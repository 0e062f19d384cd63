"""Which release has the public traffic: what the host says, what is really served, and what the records say.

Source: runbook, "Rollback Verification", "SEV1: Complete Outage" ("Check recent deployments").
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from runbook.reports import DeployReport, FinalState, RollbackReport


@dataclass(frozen=True)
class Recorded:
    """The release that should have the traffic by the last run that changed it; `by` names that run.

    `git_sha` is None when no run is recorded, or the last one does not know how it ended.
    """

    git_sha: str | None
    version: str
    by: str

    def render(self) -> str:
        """Return it in words."""
        if self.git_sha is None:
            return f"the records do not say ({self.by})"
        return f"the records say {self.version} ({self.git_sha[:12]}), since the {self.by}"


@dataclass(frozen=True)
class Traffic:
    """What three that should agree say about the traffic, as commits.

    Attributes:
        active: the commit that the host says is active; None when it says that none is.
        version: the version of that commit.
        url: the public URL that was asked.
        served: the commit that its answer names; None when it names none.
        is_down: it did not answer, or with an error that no release has signed: an outage.
        answer: what came back, in words.
        recorded: what the records say.
        pinned: why the host leaves the traffic where it is until a promote, if it does.
    """

    active: str | None
    version: str
    url: str
    served: str | None
    is_down: bool
    answer: str
    recorded: Recorded
    pinned: str | None = None

    @property
    def is_unknown(self) -> bool:
        """Whether something else answers than what the host says, so that nobody knows what runs.

        No answer at all is an outage, the very reason to roll back.
        """
        return not self.is_down and self.served != self.active

    @property
    def has_drifted(self) -> bool:
        """Whether the host has another release active than the records say: somebody changed it by hand."""
        return self.recorded.git_sha is not None and self.active != self.recorded.git_sha

    @property
    def findings(self) -> tuple[str, ...]:
        """What is not as it should be, though it is known, in words."""
        found = [f"PINNED: {self.pinned}"] if self.pinned is not None else []
        if self.is_down:
            found.append(f"OUTAGE: {self.url} {self.answer}")
        if self.has_drifted:
            found.append(f"DRIFT: somebody changed the traffic by hand; the host says {self._host}, {self._records}")
        return tuple(found)

    def render(self) -> str:
        """Return what the three say, in one line."""
        return f"the host says {self._host}, {self.url} {self.answer}, {self._records}"

    @property
    def _host(self) -> str:
        return "that no release is active" if self.active is None else f"{self.version} ({self.active[:12]})"

    @property
    def _records(self) -> str:
        return self.recorded.render()


def recorded_traffic(history: Sequence[DeployReport | RollbackReport], environment: str) -> Recorded:
    """Return which release should have the traffic by the reports of past runs, oldest first.

    A run that failed put the traffic back, unless it ended DIVERGED: then nobody knows, until the next one succeeds.
    """
    for report in reversed(history):
        if report.environment != environment:
            continue
        sha, version = (
            (report.git_sha, report.version)
            if isinstance(report, DeployReport)
            else (report.to_git_sha, report.to_version or "a release")
        )
        kind = "deploy" if isinstance(report, DeployReport) else "rollback"
        by = f"{kind} of {report.timestamp:%Y-%m-%d %H:%M:%S} UTC"
        if report.state is FinalState.DIVERGED and sha is not None:
            return Recorded(None, "", f"the {by} ended DIVERGED")
        if report.success and sha is not None:
            return Recorded(sha, version, by)
    return Recorded(None, "", "no run is recorded")
