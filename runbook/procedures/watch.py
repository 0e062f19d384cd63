"""The first thirty minutes of a release: looked at again and again, and acted on as the runbook says.

Plain Python: the flow `watch` hands in the same stages as Prefect tasks. No lock is held: whoever has to act meanwhile
can, and this watch ends when another release gets the traffic.

Source: runbook, "What to Monitor (First 30 Minutes)", "When to Rollback", "Decision Tree".
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from runbook.clients.application_host import Release
from runbook.connections import Connections
from runbook.errors import RefusedError, RunbookError, ServiceError
from runbook.procedures.rollback import rollback
from runbook.reports import RollbackReport, RollbackScope
from runbook.rules.release_watch import Baseline, Judgement, Verdict
from runbook.rules.thresholds import Action
from runbook.stages import notification, record
from runbook.stages.checklist import smoke_tests
from runbook.stages.database_probe import unnoticed_loss
from runbook.stages.release_log import logged_errors, release_before
from runbook.stages.rollback import RollbackPlan, RollbackRequest, plan_rollback
from runbook.stages.unattended import objection_to_acting
from runbook.stages.watch import Observation, ReleaseWatch, baseline_of
from runbook.watch_report import LoggedError, WatchedBaseline, WatchLook, WatchReport

_log = logging.getLogger(__name__)
_SHOW_EVERY = timedelta(minutes=5)
_TRIES = 3


@dataclass(frozen=True)
class WatchRequest:
    """What a person or a deploy asked for. `act` is False for a watch that only looks and tells."""

    reason: str
    triggered_by: str
    duration: timedelta | None = None
    act: bool = True


def _ask(_connections: Connections, _request: RollbackRequest) -> str:
    """Return how a person is asked: where nobody is led through a consent, by the message alone."""
    return "nobody was asked in the UI"


def _show(_report: WatchReport) -> None:
    """Show how it goes on; on a terminal the log does."""


@dataclass(frozen=True)
class WatchStages:
    """The stages that a watch calls; by default the plain functions.

    `ask` begins a rollback that waits for somebody's consent, and says where; `show` is given the report every few
    minutes and at the end.
    """

    look: Callable[[ReleaseWatch], Observation] = ReleaseWatch.look_at_all
    unnoticed_loss: Callable[..., str | None] = unnoticed_loss
    plan_rollback: Callable[[Connections, RollbackRequest], RollbackPlan] = plan_rollback
    roll_back: Callable[[Connections, RollbackRequest], RollbackReport] = rollback
    ask: Callable[[Connections, RollbackRequest], str] = _ask
    notify: Callable[[Connections, str, str, str], tuple[str, ...]] = notification.notify
    show: Callable[[WatchReport], None] = _show
    record_watch: Callable[[Connections, WatchReport], str] = record.record_watch
    sleep: Callable[[float], None] = time.sleep


@dataclass
class _Progress:
    """How far a watch got."""

    watch: ReleaseWatch
    before: Release | None
    request: WatchRequest
    until: datetime
    started: datetime = field(default_factory=lambda: datetime.now(UTC))
    seen: list[Observation] = field(default_factory=list[Observation])
    acted: list[str] = field(default_factory=list[str])
    findings: list[str] = field(default_factory=list[str])
    blind: str | None = None
    asked: bool = False
    tries: int = 0
    ended: str = "it is still going on"

    @property
    def last(self) -> Judgement:
        """What the last look amounts to; a watch that would not notice a lost database calls nothing healthy."""
        judged = self.seen[-1].judgement
        if self.blind is None or judged.verdict is not Verdict.HEALTHY:
            return judged
        why = f"{judged.detail}; but {self.blind}"
        return Judgement(
            Verdict.INCONCLUSIVE, judged.action, judged.severity, why, judged.error_rate_pct, judged.reference_pct
        )


def watch(connections: Connections, request: WatchRequest, stages: WatchStages | None = None) -> WatchReport:
    """Watch the release that has the traffic, act on what is found, and return the report.

    Above 10 % errors that are evidently more than before, or when nobody can log in, the application goes back alone,
    where the deploy has shown that this works and the settings allow it; else a person is asked. From 5 % on, or twice
    as slow as before, a person is asked. The database is left alone in any case.

    Raises:
        RefusedError: no release has the traffic.
        ServiceError: the application host does not say what has.
    """
    stages = stages or WatchStages()
    progress = _begin(connections, request, stages)
    shown = progress.started
    while True:
        progress.seen.append(stages.look(progress.watch))
        now = progress.seen[-1].at
        _log_change(progress)
        if _is_superseded(connections, progress) or _act(connections, stages, progress):
            break
        if now >= progress.until:
            progress.ended = "the time is over"
            break
        if now - shown >= _SHOW_EVERY:
            shown = now
            _shown(stages, _report(connections, progress))
        left_s = (progress.until - datetime.now(UTC)).total_seconds()
        stages.sleep(max(0.0, min(connections.settings.watch.first_interval_s, left_s)))
    _read_log(progress)
    return _publish(connections, stages, _report(connections, progress))


def _begin(connections: Connections, request: WatchRequest, stages: WatchStages) -> _Progress:
    """Find what to watch, and what to compare it with: what ran before it, or itself when it has run for long."""
    release, now = connections.host.active(), datetime.now(UTC)
    if release is None:
        raise RefusedError("no release has the traffic; there is nothing to watch")
    duration = request.duration or timedelta(seconds=connections.settings.watch.first_s)
    promoted_at = release.promoted_at or now
    before = release_before(connections, release, promoted_at)
    since, compared = (promoted_at, before) if now - promoted_at < duration else (now, release)
    baseline = baseline_of(connections, compared, since)
    findings: list[str] = []
    try:
        tests = smoke_tests(connections, release.git_sha)
    except RunbookError as error:
        tests = ()
        findings.append(f"without smoke tests: {error}")
    watched = ReleaseWatch(connections, release, since, tests, baseline, duration.total_seconds())
    progress = _Progress(watched, before, request, since + duration, findings=findings)
    progress.blind = stages.unnoticed_loss(connections, release, tests)
    if progress.blind:
        progress.findings.append(progress.blind)
    return progress


def _log_change(progress: _Progress) -> None:
    """Log a look that amounts to something else than the one before."""
    judged = progress.last
    if len(progress.seen) < 2 or progress.seen[-2].judgement.verdict is not progress.seen[-1].judgement.verdict:
        _log.info("%s, %s: %s", judged.verdict, judged.action, judged.detail)


def _is_superseded(connections: Connections, progress: _Progress) -> bool:
    try:
        active = connections.host.active()
    except ServiceError:
        return False
    if active is not None and active.release_id == progress.watch.release.release_id:
        return False
    progress.ended = f"{active.version if active else 'nothing'} has the traffic now"
    return True


def _act(connections: Connections, stages: WatchStages, progress: _Progress) -> bool:
    """Do what the runbook says about the last look; return whether that ends the watch."""
    judged, release = progress.last, progress.watch.release
    if judged.action is Action.MONITOR or not progress.request.act:
        return False
    reason = f"{release.version}, watched after its deploy: {judged.detail}"
    request = RollbackRequest(
        RollbackScope.APP_ONLY, None, False, reason, True, progress.request.triggered_by, severity=judged.severity
    )
    objection: str | None = "the runbook says to consider it"
    if judged.action is Action.ROLL_BACK:
        objection = _objection(connections, stages, request)
    if objection is None and progress.tries < _TRIES:
        return _roll_back(connections, stages, progress, request)
    if not progress.asked:
        progress.asked = True
        _ask_a_person(connections, stages, progress, request, objection or "it was refused again and again")
    return False


def _roll_back(connections: Connections, stages: WatchStages, progress: _Progress, request: RollbackRequest) -> bool:
    """Take the application back; one that was refused before it began is tried again at the next look."""
    progress.tries += 1
    version = progress.watch.release.version
    try:
        done = stages.roll_back(connections, request)
    except RefusedError as error:
        progress.findings.append(f"the rollback was refused: {error}")
        return False
    except RunbookError as error:
        progress.findings.append(f"the rollback failed: {error}")
        progress.ended = "the rollback failed; a person has to look"
        return True
    progress.acted.append(f"{version} was taken back to {done.to_version}: {done.state}")
    progress.ended = f"{version} was taken back"
    return True


def _ask_a_person(
    connections: Connections, stages: WatchStages, progress: _Progress, request: RollbackRequest, objection: str
) -> None:
    name, judged, version = connections.settings.name, progress.last, progress.watch.release.version
    try:
        where = stages.ask(connections, request)
    except Exception as error:  # noqa: BLE001 - nobody hears of it unless the message below is sent
        where = f"nobody could be asked in the UI: {error}"
    command = f'runbook deploy:rollback --app-only --environment={name} --severity={judged.severity} --reason="..."'
    lines = [judged.detail, f"Not taken back by itself: {objection}.", f"To take it back: {command}", where]
    stages.notify(connections, "error", f"{version} on {name} is degraded, {judged.severity}", "\n".join(lines))
    progress.acted.append(f"a person was asked ({objection}); {where}")


def _objection(connections: Connections, stages: WatchStages, request: RollbackRequest) -> str | None:
    """Return why the application is not taken back without a person; None when it is."""
    if not connections.settings.watch.roll_back:
        return "the settings leave that to a person (`watch.roll_back`)"
    return objection_to_acting(connections, request, stages.plan_rollback)


def _read_log(progress: _Progress) -> None:
    try:
        watched = progress.watch
        watched.logged = logged_errors(watched.connections, watched.release, watched.since, before=progress.before)
    except ServiceError as error:
        progress.findings.append(f"the log could not be read: {error}")


def _shown(stages: WatchStages, report: WatchReport) -> None:
    try:
        stages.show(report)
    except Exception as error:  # noqa: BLE001 - what cannot be shown must not end a watch
        _log.warning("it could not be shown how the watch goes on: %s", error)


def _publish(connections: Connections, stages: WatchStages, report: WatchReport) -> WatchReport:
    """Keep the report, show it, and tell people; nothing that goes wrong in here hides what was found."""
    try:
        where = stages.record_watch(connections, report)
    except Exception as error:  # noqa: BLE001 - see above
        where = f"the report could not be kept: {error}"
        _log.error(where)
        report = report.model_copy(update={"findings": (*report.findings, where)})
    _shown(stages, report)
    level = {Verdict.HEALTHY: "info", Verdict.DEGRADED: "error"}.get(report.verdict, "warning")
    title = f"{report.version} on {report.environment}, watched: {report.verdict.replace('_', ' ')}"
    stages.notify(connections, level, title, "\n".join([*report.render(), f"({where})"]))
    return report


def _report(connections: Connections, progress: _Progress) -> WatchReport:
    watched, judged = progress.watch, progress.last
    release = watched.release
    return WatchReport(
        environment=connections.settings.name,
        timestamp=progress.started,
        version=release.version,
        git_sha=release.git_sha,
        release_id=release.release_id,
        since=watched.since,
        until=progress.until,
        baseline=_kept_baseline(watched.judge.baseline),
        reference_pct=judged.reference_pct,
        verdict=judged.verdict,
        action=judged.action,
        severity=judged.severity,
        detail=judged.detail,
        acted=tuple(progress.acted),
        findings=tuple(progress.findings),
        errors=_kept_errors(watched),
        looks=tuple(_kept_look(one) for one in progress.seen),
        ended=progress.ended,
        reason=progress.request.reason,
        triggered_by=progress.request.triggered_by,
        duration=(progress.seen[-1].at - progress.started).total_seconds(),
    )


def _kept_baseline(baseline: Baseline | None) -> WatchedBaseline | None:
    if baseline is None:
        return None
    return WatchedBaseline(
        source=baseline.source, requests=baseline.requests, errors=baseline.errors, p95_s=baseline.p95_s
    )


def _kept_look(seen: Observation) -> WatchLook:
    judged = seen.judgement
    return WatchLook(
        at=seen.at,
        requests=seen.metrics.requests,
        errors=seen.metrics.errors,
        verdict=judged.verdict,
        action=judged.action,
        detail=judged.detail,
        values={one.metric: one.value for one in seen.samples},
    )


def _kept_errors(watched: ReleaseWatch) -> tuple[LoggedError, ...]:
    return tuple(
        LoggedError(
            kind=one.kind,
            signature=one.group.signature,
            count=one.group.count,
            is_new=one.is_new,
            first_at=one.group.first_at,
            last_at=one.group.last_at,
        )
        for one in watched.logged
    )
