"""Stage 6: is what runs healthy? Endpoints, smoke tests, schema, logs, and the first minutes under real traffic.

Observations only; never taken from a cache. Source: runbook, "Post-Deployment Validation".
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from pydantic import SecretStr

from runbook.clients.application_host import Release, RequestMetrics
from runbook.clients.browser import look_at_pages
from runbook.clients.http_probe import probe
from runbook.connections import Connections
from runbook.errors import RefusedError, RunbookError, ServiceError
from runbook.reports import FinalState
from runbook.rules.checklist import Check, Outcome
from runbook.rules.migration_names import Phase
from runbook.rules.release_watch import Verdict
from runbook.rules.smoke import SmokeTest
from runbook.rules.thresholds import Action
from runbook.stages.checklist import ReleasePlan
from runbook.stages.error_tracking import check_new_issues
from runbook.stages.migration_plan import applied_to, required_migrations
from runbook.stages.release_log import check_log, release_before
from runbook.stages.rollback import RollbackPlan
from runbook.stages.traffic import check_active
from runbook.stages.watch import ReleaseWatch, baseline_of, watch_until_known

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class WatchResult:
    """What the watch found, what the runbook says to do about it, why, and the numbers it rests on."""

    verdict: Verdict
    action: Action
    detail: str
    metrics: RequestMetrics

    @property
    def outcome(self) -> Outcome:
        """What it means for a release that it was to pass; between good and bad nobody but a person decides."""
        if self.action is Action.ROLL_BACK:
            return Outcome.FAILED
        return Outcome.PASSED if self.verdict is Verdict.HEALTHY else Outcome.COULD_NOT_RUN


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
    """Send each smoke test's request to a URL and compare the answers; `headers` as in `check_health`.

    Those that say what is visible are opened in a browser as well.
    """
    checks: list[Check] = []
    for test in smoke_tests:
        answer = probe(base_url + test.path, method=test.method, body=test.body, headers=headers)
        problem = answer.problem or test.problem(answer.status, answer.text)
        name = f"smoke: {test.name}"
        checks.append(Check(name, Outcome.FAILED if problem else Outcome.PASSED, problem or f"{answer.status}"))
    return checks + _look_at_pages(base_url, [test for test in smoke_tests if test.visible], headers)


def _look_at_pages(base_url: str, pages: list[SmokeTest], headers: Mapping[str, SecretStr] | None) -> list[Check]:
    if not pages:
        return []
    names = [f"in a browser: {page.name}" for page in pages]
    try:
        problems = look_at_pages(base_url, pages, headers)
    except RefusedError as error:
        return [Check(name, Outcome.COULD_NOT_RUN, str(error)) for name in names]
    return [
        Check(name, Outcome.FAILED if problem else Outcome.PASSED, problem or f"shows {page.visible!r}")
        for name, page, problem in zip(names, pages, problems, strict=True)
    ]


def validate_release(
    connections: Connections, plan: ReleasePlan, release: Release, promoted_at: datetime
) -> tuple[Check, ...]:
    """Check a release that has the traffic: health, smoke tests, schema, its log since then, what is new in Sentry."""
    return look_at_release(connections, release, plan.smoke_tests, promoted_at)


def look_at_release(
    connections: Connections, release: Release, smoke_tests: tuple[SmokeTest, ...], since: datetime
) -> tuple[Check, ...]:
    """Check a release that has the traffic, and its log since a time; whoever asks, a deploy or a person."""
    checks = check_health(connections, connections.host.public_url, release.git_sha)
    checks += run_smoke_tests(connections.host.public_url, smoke_tests)
    checks += [check_schema(connections, release.git_sha), check_log(connections, release, since)]
    issues = check_new_issues(connections, release)
    return (*checks, issues) if issues else tuple(checks)


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

    It is compared with what ran before. Ends early when the runbook's rule says to roll back. Numbers that cannot be
    read are no reason to roll back, and none to call it healthy.

    Source: runbook, "What to Monitor (First 30 Minutes)" and "When to Rollback".
    """
    try:
        before = release_before(connections, release, promoted_at)
    except ServiceError:
        before = None
    baseline = baseline_of(connections, before, promoted_at)
    duration_s = connections.settings.watch.duration_s
    return _watch(ReleaseWatch(connections, release, promoted_at, plan.smoke_tests, baseline, duration_s))


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
    # Nothing to compare with: what ran before is what was rolled back.
    duration_s = connections.settings.rollback.watch_s
    watched = _watch(ReleaseWatch(connections, expected, since, plan.smoke_tests, None, duration_s))
    return (*checks, Check("error rate", watched.outcome, watched.detail))


def state_of(checks: tuple[Check, ...]) -> FinalState:
    """Return what a set of probes amounts to; one that could not run leaves the state unverified."""
    outcomes = {check.outcome for check in checks}
    if Outcome.FAILED in outcomes:
        return FinalState.DIVERGED
    return FinalState.UNVERIFIED if Outcome.COULD_NOT_RUN in outcomes else FinalState.VERIFIED


def _watch(watch: ReleaseWatch) -> WatchResult:
    seen = watch_until_known(watch)
    judged = seen.judgement
    advice = {
        Action.ROLL_BACK: ": the runbook says to roll back",
        Action.CONSIDER: ": the runbook says to consider a rollback",
        Action.MONITOR: "",
    }
    return WatchResult(judged.verdict, judged.action, judged.detail + advice[judged.action], seen.metrics)


def _active(connections: Connections, expected: Release) -> Check:
    try:
        return check_active(connections, expected)
    except ServiceError as error:
        return Check("active release", Outcome.COULD_NOT_RUN, str(error))
