"""How well the team delivers: the four figures of DORA, times of incidents and drills, durations of deploys by stage.

- deployment frequency: deploys that gave a release the traffic, per week
- change lead time: from a commit until it has the traffic, median of all commits
- change fail rate: of the releases that had the traffic, those that were taken back, in percent
- failed deployment recovery time: from the moment a bad release had the traffic until it was taken back, median

Source: https://dora.dev/guides/dora-metrics-four-keys/; MTTA and MTTR: Google, "Site Reliability Engineering", ch. 14.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from statistics import fmean, median

from pydantic import AwareDatetime, BaseModel, ConfigDict

from runbook.reports import DeployReport, DrillReport, RollbackReport
from runbook.rules.drills import duration_in_words
from runbook.rules.incidents import Incident

_WEEK_S = 7 * 86_400


class StageDuration(BaseModel):
    """How long one stage of a deploy takes, in seconds, over `runs` deploys."""

    model_config = ConfigDict(frozen=True)

    stage: str
    runs: int
    p50_s: float
    p95_s: float


class DeliveryReport(BaseModel):
    """The figures of an environment in a span; times in seconds, None where nothing happened to measure."""

    model_config = ConfigDict(frozen=True)

    environment: str
    since: AwareDatetime
    until: AwareDatetime
    deploys: int
    failed_deploys: int
    deploys_per_week: float
    lead_time_s: float | None
    change_fail_pct: float | None
    recovery_s: float | None
    incidents: int
    mtta_s: float | None
    mttr_s: float | None
    drills: int
    drill_rto_s: float | None
    stages: tuple[StageDuration, ...]

    def lines(self) -> list[str]:
        """Return it in words, line by line."""
        failing = "nothing was deployed" if self.change_fail_pct is None else f"{self.change_fail_pct:.1f} %"
        rows = [
            ("Deployment frequency", f"{self.deploys_per_week:.2f} per week ({self.deploys} deploys)"),
            ("Change lead time", _time(self.lead_time_s)),
            ("Change fail rate", failing),
            ("Failed deployment recovery time", _time(self.recovery_s)),
            ("Deploys that did not release", f"{self.failed_deploys}"),
            ("Incidents", f"{self.incidents}"),
            ("Time to acknowledge (MTTA)", _time(self.mtta_s)),
            ("Time to restore service (MTTR)", _time(self.mttr_s)),
            ("Restore drills", f"{self.drills}, last time to restore (RTO) {_time(self.drill_rto_s)}"),
        ]
        head = f"{self.environment}, {self.since:%Y-%m-%d} to {self.until:%Y-%m-%d} UTC"
        stages = [
            f"  {one.stage:<42} p50 {duration_in_words(one.p50_s)}, p95 {duration_in_words(one.p95_s)} ({one.runs})"
            for one in self.stages
        ]
        return [
            head,
            "",
            *(f"{name:<32} {value}" for name, value in rows),
            "",
            "Deploys by stage",
            *(stages or ["  none"]),
        ]


def delivery_report(
    environment: str,
    since: datetime,
    until: datetime,
    *,
    history: Sequence[DeployReport | RollbackReport],
    commits: Mapping[str, Sequence[datetime]],
    incidents: Sequence[Incident],
    drills: Sequence[DrillReport],
) -> DeliveryReport:
    """Return the figures of a span.

    Args:
        environment: its name; what is about another one does not count.
        since: aware; what happened then belongs to the span.
        until: aware; what happened then does not.
        history: deploys and rollbacks, oldest first, also before and after the span.
        commits: when the commits that each deploy brought were made, by the deploy's commit.
        incidents: all of the environment.
        drills: restore drills.
    """

    def is_in(at: datetime) -> bool:
        return since <= at < until

    own = [one for one in history if one.environment == environment]
    begun = [one for one in own if isinstance(one, DeployReport) and is_in(one.timestamp)]
    released = [one for one in begun if one.success]
    had_traffic = [one for one in begun if one.success or _was_given_back(one)]
    rollbacks = [one for one in own if isinstance(one, RollbackReport) and one.success and one.undoes is None]
    recoveries = [_recovery_s(one, rollbacks) for one in had_traffic]
    failed = [seconds for seconds in recoveries if seconds is not None]
    opened = [one for one in incidents if is_in(one.detected_at)]
    practised = [one for one in drills if one.environment == environment and is_in(one.timestamp)]
    return DeliveryReport(
        environment=environment,
        since=since,
        until=until,
        deploys=len(released),
        failed_deploys=len(begun) - len(released),
        deploys_per_week=len(released) * _WEEK_S / (until - since).total_seconds(),
        lead_time_s=_median(
            [(_ended(one) - made).total_seconds() for one in released for made in commits.get(one.git_sha, ())]
        ),
        change_fail_pct=100 * len(failed) / len(had_traffic) if had_traffic else None,
        recovery_s=_median(failed),
        incidents=len(opened),
        mtta_s=_mean([(one.acknowledged_at, one.detected_at) for one in opened]),
        mttr_s=_mean([(one.resolved_at, one.began_at) for one in opened]),
        drills=len(practised),
        drill_rto_s=next((one.rto_s for one in reversed(practised) if one.rto_s is not None), None),
        stages=_stages(begun),
    )


def _ended(report: DeployReport | RollbackReport) -> datetime:
    return report.timestamp + timedelta(seconds=report.duration)


def _was_given_back(report: DeployReport) -> bool:
    """Return whether a deploy that failed had given its release the traffic, and took it back by itself."""
    return any("the traffic went back" in step for step in report.undone)


def _recovery_s(report: DeployReport, rollbacks: Sequence[RollbackReport]) -> float | None:
    """Return how long a bad release had the traffic until it was taken back; None when it was not."""
    if not report.success:
        promoted = next((step for step in report.steps if "Promotion" in step.step), None)
        before = sum(step.duration for step in report.steps[: report.steps.index(promoted)]) if promoted else 0.0
        return report.duration - before
    back = next(
        (one for one in rollbacks if one.from_git_sha == report.git_sha and one.timestamp >= _ended(report)), None
    )
    return (_ended(back) - _ended(report)).total_seconds() if back else None


def _stages(deploys: Sequence[DeployReport]) -> tuple[StageDuration, ...]:
    """Return p50 and p95 of each stage that ended well, in the order in which they are run."""
    durations: dict[str, list[float]] = {}
    for report in deploys:
        for step in report.steps:
            if step.error is None:
                durations.setdefault(step.step, []).append(step.duration)
    return tuple(
        StageDuration(stage=stage, runs=len(found), p50_s=median(found), p95_s=_p95(found))
        for stage, found in durations.items()
    )


def _p95(values: Sequence[float]) -> float:
    return sorted(values)[math.ceil(0.95 * len(values)) - 1]


def _median(values: Sequence[float]) -> float | None:
    return median(values) if values else None


def _mean(spans: Sequence[tuple[datetime | None, datetime]]) -> float | None:
    known = [(end - start).total_seconds() for end, start in spans if end is not None]
    return fmean(known) if known else None


def _time(seconds: float | None) -> str:
    return "nothing to measure" if seconds is None else duration_in_words(seconds)
