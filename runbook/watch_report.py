"""What a watch of a release leaves behind, kept as `logs/watch_*.json`.

Source: runbook, "What to Monitor (First 30 Minutes)" and "Deployment Logs".
"""

from __future__ import annotations

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from runbook.rules.release_watch import Verdict
from runbook.rules.thresholds import Action, Severity
from runbook.rules.watch_log import ErrorKind


class _Kept(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", alias_generator=to_camel, populate_by_name=True)


class WatchedBaseline(_Kept):
    """What a release was compared with; `p95_s` in seconds, None where nobody timed."""

    source: str
    requests: int
    errors: int
    p95_s: float | None


class WatchLook(_Kept):
    """One look: totals since the release got the traffic, what they amount to, and what was measured, by metric."""

    at: AwareDatetime
    requests: int
    errors: int
    verdict: Verdict
    action: Action
    detail: str
    values: dict[str, float]


class LoggedError(_Kept):
    """Errors of one signature in the release's log; `is_new` is None where the log of before is not known."""

    kind: ErrorKind
    signature: str
    count: int
    is_new: bool | None
    first_at: AwareDatetime
    last_at: AwareDatetime


class WatchReport(_Kept):
    """One watch of a release. `verdict`, `action` and `severity` are those of its last look.

    `acted` says what was done about it, in order; `ended` why it ended.
    """

    environment: str
    timestamp: AwareDatetime
    version: str
    git_sha: str
    release_id: str
    since: AwareDatetime = Field(description="When the release got the traffic, or when the watch began.")
    until: AwareDatetime
    baseline: WatchedBaseline | None
    reference_pct: float = Field(description="More errors than this are more than before.")
    verdict: Verdict
    action: Action
    severity: Severity
    detail: str
    acted: tuple[str, ...] = ()
    findings: tuple[str, ...] = ()
    errors: tuple[LoggedError, ...] = ()
    looks: tuple[WatchLook, ...] = ()
    ended: str
    reason: str
    triggered_by: str
    duration: float

    def render(self) -> list[str]:
        """Return it in words, line by line."""
        compared = "nothing to compare with"
        if (before := self.baseline) is not None:
            p95 = f", p95 {before.p95_s:.3f} s" if before.p95_s else ""
            compared = f"compared with {before.source}: {before.errors} of {before.requests} requests failed{p95}"
        return [
            f"{self.version} on {self.environment}: {self.verdict.replace('_', ' ').upper()}, {self.severity}",
            f"- {self.detail}",
            f"- {compared}",
            f"- {len(self.looks)} looks in {self.duration / 60:.0f} min; {self.ended}",
            *(f"- done: {acted}" for acted in self.acted),
            *(f"- finding: {finding}" for finding in self.findings),
            *(
                f"- {'NEW ' if error.is_new else ''}{error.kind} error, {error.count}x: {error.signature}"
                for error in self.errors
            ),
        ]
