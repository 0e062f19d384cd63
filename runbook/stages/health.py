"""Stage 6: is what runs healthy? Endpoints, smoke tests, schema, logs, and the first minutes under real traffic.

Observations only; never taken from a cache. Source: runbook, "Post-Deployment Validation".
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum

from pydantic import SecretStr

from runbook.clients.application_host import Release, RequestMetrics
from runbook.clients.http_probe import probe
from runbook.connections import Connections
from runbook.errors import RunbookError, ServiceError
from runbook.reports import FinalState
from runbook.rules.checklist import Check, Outcome
from runbook.rules.migration_names import Phase
from runbook.rules.smoke import SmokeTest
from runbook.rules.thresholds import Action, Signals, decide
from runbook.stages.checklist import ReleasePlan
from runbook.stages.migration_plan import applied_to, required_migrations
from runbook.stages.rollback import RollbackPlan
from runbook.stages.traffic import check_active

_log = logging.getLogger(__name__)


class Verdict(StrEnum):
    """What the watch found; too little traffic is its own verdict, not a good one."""

    HEALTHY = "healthy"
    DEGRADED = "degraded"
    INCONCLUSIVE = "inconclusive"


@dataclass(frozen=True)
class WatchResult:
    """The watch's verdict, why, and the numbers it rests on."""

    verdict: Verdict
    detail: str
    metrics: RequestMetrics


_OUTCOMES = {
    Verdict.HEALTHY: Outcome.PASSED,
    Verdict.INCONCLUSIVE: Outcome.COULD_NOT_RUN,
    Verdict.DEGRADED: Outcome.FAILED,
}


def check_health(
    connections: Connections, base_url: str, git_sha: str, headers: Mapping[str, SecretStr] | None = None
) -> list[Check]:
    """Ask each health endpoint of a URL; the first one's release header has to name `git_sha`.

    `headers` go along, where the host protects the URL.
    """
    checks: list[Check] = []
    answers = {path: probe(base_url + path, headers=headers) for path in connections.settings.health_paths}
    for path, answer in answers.items():
        name = f"GET {path}"
        if answer.status is None:
            checks.append(Check(name, Outcome.FAILED, answer.problem))
        elif answer.status != 200:
            checks.append(Check(name, Outcome.FAILED, f"answered {answer.status}: {answer.text[:200]}"))
        else:
            checks.append(Check(name, Outcome.PASSED, f"answered 200 in {answer.elapsed_s * 1000:.0f} ms"))
    served = answers[connections.settings.health_paths[0]].headers.get(connections.settings.release_header)
    outcome = Outcome.PASSED if served == git_sha else Outcome.FAILED
    return [*checks, Check("served version", outcome, f"{served or 'no release header'}, expected {git_sha}")]


def run_smoke_tests(
    base_url: str, smoke_tests: tuple[SmokeTest, ...], headers: Mapping[str, SecretStr] | None = None
) -> list[Check]:
    """Send each smoke test's request to a URL and compare the answers; `headers` as in `check_health`."""
    checks: list[Check] = []
    for test in smoke_tests:
        answer = probe(base_url + test.path, method=test.method, body=test.body, headers=headers)
        problem = answer.problem or test.problem(answer.status, answer.text)
        name = f"smoke: {test.name}"
        checks.append(Check(name, Outcome.FAILED if problem else Outcome.PASSED, problem or f"{answer.status}"))
    return checks


def validate_release(
    connections: Connections, plan: ReleasePlan, release: Release, promoted_at: datetime
) -> tuple[Check, ...]:
    """Check a release that has the traffic: health, smoke tests, schema and its log since it was promoted."""
    checks = check_health(connections, connections.host.public_url, release.git_sha)
    checks += run_smoke_tests(connections.host.public_url, plan.smoke_tests)
    return (*checks, check_schema(connections, release.git_sha), _check_log(connections, release, promoted_at))


def check_schema(connections: Connections, git_sha: str) -> Check:
    """Check that every migration a commit brings is applied to the live database; a second half may come later."""
    name = "schema"
    try:
        needed = required_migrations(connections, git_sha)
        applied = set(applied_to(connections))
    except RunbookError as error:
        return Check(name, Outcome.COULD_NOT_RUN, str(error))
    missing = [migration for migration in needed if migration.name not in applied]
    if first := sorted(migration.name for migration in missing if migration.phase is Phase.PRE):
        return Check(name, Outcome.FAILED, f"not applied: {', '.join(first)}")
    later = f", {len(missing)} of the second half are still to come" if missing else ""
    return Check(
        name, Outcome.PASSED, f"all {len(needed) - len(missing)} migrations of {git_sha[:12]} are applied{later}"
    )


def watch_release(connections: Connections, plan: ReleasePlan, release: Release, promoted_at: datetime) -> WatchResult:
    """Look at a release under real traffic, every few seconds for the environment's watch time.

    Its own harmless requests (the GET smoke tests) go along, so that a quiet hour is not blind. Ends early when the
    runbook's rule says to roll back. Numbers that cannot be read are no reason to roll back: without any, it is
    inconclusive.

    Source: runbook, "What to Monitor (First 30 Minutes)" and "When to Rollback".
    """
    return _watch(connections, plan.smoke_tests, release, promoted_at, connections.settings.watch.duration_s)


def probe_state(connections: Connections, git_sha: str | None) -> tuple[Check, ...]:
    """Look at what runs now, independently of what a run believes: health, served version, schema.

    `git_sha` is the commit that has to be served; None when no release may have the traffic.
    """
    if git_sha is None:
        name = "served version"
        try:
            active = connections.host.active()
        except ServiceError as error:
            return (Check(name, Outcome.COULD_NOT_RUN, str(error)),)
        outcome = Outcome.FAILED if active else Outcome.PASSED
        return (Check(name, outcome, active.version if active else "no release has the traffic"),)
    return (*check_health(connections, connections.host.public_url, git_sha), check_schema(connections, git_sha))


def verify_rollback(connections: Connections, plan: RollbackPlan) -> tuple[Check, ...]:
    """Check what runs after a rollback: active and served release, health, schema, smoke tests; then the error rate.

    Host and public URL have to agree on the target, as they had to before. The error rate is watched for the
    environment's time, unless something is wrong already.

    Source: runbook, "Rollback Verification".
    """
    expected, since = plan.target or plan.active, datetime.now(UTC)
    smoke = run_smoke_tests(connections.host.public_url, plan.smoke_tests)
    checks = (_active(connections, expected), *probe_state(connections, expected.git_sha), *smoke)
    if any(check.outcome is Outcome.FAILED for check in checks):
        return checks
    watched = _watch(connections, plan.smoke_tests, expected, since, connections.settings.rollback.watch_s)
    return (*checks, Check("error rate", _OUTCOMES[watched.verdict], watched.detail))


def state_of(checks: tuple[Check, ...]) -> FinalState:
    """Return what a set of probes amounts to; one that could not run leaves the state unverified."""
    outcomes = {check.outcome for check in checks}
    if Outcome.FAILED in outcomes:
        return FinalState.DIVERGED
    return FinalState.UNVERIFIED if Outcome.COULD_NOT_RUN in outcomes else FinalState.VERIFIED


def _watch(
    connections: Connections, smoke_tests: tuple[SmokeTest, ...], release: Release, since: datetime, duration_s: float
) -> WatchResult:
    watch = connections.settings.watch
    harmless = tuple(test for test in smoke_tests if test.method == "GET")
    deadline = time.monotonic() + duration_s
    while True:
        run_smoke_tests(connections.host.public_url, harmless)
        try:
            metrics, problem = connections.host.metrics(release.release_id, since=since), ""
        except ServiceError as error:
            metrics, problem = RequestMetrics(0, 0, 0, 0, 0), f"the requests could not be counted: {error}"
        result = _judge(metrics, watch.minimum_requests)
        left_s = deadline - time.monotonic()
        if result.verdict is Verdict.DEGRADED or left_s <= 0:
            return WatchResult(result.verdict, problem, metrics) if problem else result
        time.sleep(min(watch.interval_s, left_s))


def _judge(metrics: RequestMetrics, minimum_requests: int) -> WatchResult:
    if metrics.requests < minimum_requests:
        detail = f"{metrics.requests} requests are too few to judge, {minimum_requests} are needed"
        return WatchResult(Verdict.INCONCLUSIVE, detail, metrics)
    action = decide(Signals(error_rate_pct=metrics.error_rate_pct))
    if action is Action.ROLL_BACK:
        return WatchResult(Verdict.DEGRADED, f"{_words(metrics)}: the runbook says to roll back", metrics)
    if action is Action.CONSIDER:
        return WatchResult(Verdict.INCONCLUSIVE, f"{_words(metrics)}: the runbook says to consider a rollback", metrics)
    return WatchResult(Verdict.HEALTHY, _words(metrics), metrics)


def _words(metrics: RequestMetrics) -> str:
    return (
        f"{metrics.errors} of {metrics.requests} requests failed ({metrics.error_rate_pct:.1f} %),"
        f" p95 {metrics.p95_s * 1000:.0f} ms"
    )


def _active(connections: Connections, expected: Release) -> Check:
    try:
        return check_active(connections, expected)
    except ServiceError as error:
        return Check("active release", Outcome.COULD_NOT_RUN, str(error))


def _check_log(connections: Connections, release: Release, since: datetime) -> Check:
    name = "error log"
    try:
        lines = connections.host.logs(release.release_id, since=since.astimezone(UTC), limit=1000)
    except ServiceError as error:
        return Check(name, Outcome.COULD_NOT_RUN, str(error))
    errors = Counter(line.message[:120] for line in lines if line.level in {"error", "critical"})
    if errors:
        most = "; ".join(f"{count}x {message}" for message, count in errors.most_common(3))
        return Check(name, Outcome.WARNING, most)
    return Check(name, Outcome.PASSED, f"no error in {len(lines)} lines since the release got the traffic")
