"""Watching a release under real traffic: what users see, what the host counts, what the database and the log say.

Observations only; never taken from a cache. Source: runbook, "What to Monitor (First 30 Minutes)".
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from statistics import median

from runbook.clients.application_host import CountsSlow, Release, RequestMetrics
from runbook.clients.database_diagnostics import Part, read_state
from runbook.clients.http_probe import probe
from runbook.connections import Connections
from runbook.errors import ServiceError
from runbook.rules.database_samples import database_samples
from runbook.rules.error_signatures import is_error
from runbook.rules.normal import rates
from runbook.rules.release_watch import Baseline, Judgement, Look, Probes, ReleaseJudge, Verdict
from runbook.rules.samples import Sample, sample
from runbook.rules.smoke import SmokeTest
from runbook.rules.thresholds import Action, Severity
from runbook.rules.watch_log import LogFinding
from runbook.stages.monitoring import history_of
from runbook.stages.release_log import BEFORE, LINES

_HISTORY = timedelta(days=1)
_DATABASE = (Part.SESSIONS, Part.REPLICATION, Part.TOTALS)


@dataclass(frozen=True)
class Observation:
    """One look at a release: what it amounts to, and all that was measured, by metric."""

    at: datetime
    judgement: Judgement
    metrics: RequestMetrics
    samples: tuple[Sample, ...] = ()


@dataclass
class ReleaseWatch:
    """Looks at one release again and again, and remembers what it has seen.

    Its own harmless requests (GET smoke tests, health endpoints, pages) go along, so that a quiet hour is not blind.
    """

    connections: Connections
    release: Release
    since: datetime
    smoke_tests: tuple[SmokeTest, ...]
    baseline: Baseline | None
    duration_s: float
    judge: ReleaseJudge = field(init=False)
    login: Probes = field(default_factory=Probes)
    smoke: Probes = field(default_factory=Probes)
    logged: tuple[LogFinding, ...] = ()
    _last: datetime = field(init=False)
    _samples: dict[str, Sample] = field(default_factory=dict[str, Sample])

    def __post_init__(self) -> None:
        self.judge = ReleaseJudge(self.baseline, self.duration_s)
        self.smoke_tests = tuple(test for test in self.smoke_tests if test.method == "GET")
        self._last = self.since

    def look(self) -> Observation:
        """Look once: at what users see, and at what the host has counted."""
        at = datetime.now(UTC)
        page_load_s = self._probe()
        try:
            metrics = self.connections.host.metrics(self.release.release_id, since=self.since)
            recent = self.connections.host.metrics(self.release.release_id, since=self._last)
            look = self._with_slow(self._look(at, metrics, recent))
        except ServiceError as error:
            why = f"the requests could not be counted: {error}"
            nothing = Judgement(Verdict.NO_DATA, Action.MONITOR, Severity.SEV4, why, 0.0, 100 * self.judge.reference)
            return Observation(at, nothing, RequestMetrics(0, 0, 0, 0, 0), tuple(self._user_samples(at, page_load_s)))
        passed_s = max(1.0, (at - self._last).total_seconds())
        samples = [*_request_samples(at, recent, passed_s), *self._user_samples(at, page_load_s)]
        self._last = at
        return Observation(at, self.judge.see(look), metrics, tuple(samples))

    def look_at_all(self) -> Observation:
        """Look once, at the database and the error log, too; what cannot be looked at is left out."""
        since, seen = self._last, self.look()
        samples = list(seen.samples)
        try:
            lines = self.connections.host.logs(self.release.release_id, since=since, limit=LINES)
        except ServiceError:
            lines = ()
        else:
            minutes = max(1.0, (seen.at - since).total_seconds()) / 60
            samples.append(sample(seen.at, "error_log_lines_per_min", sum(is_error(x.level) for x in lines) / minutes))
        try:
            state = read_state(self.connections.database, _DATABASE)
        except ServiceError:
            self._samples = {}
        else:
            now = {one.metric: one for one in database_samples(state)}
            samples += [*now.values(), *rates(self._samples, now)]
            self._samples = now
        return replace(seen, samples=tuple(samples))

    def _look(self, at: datetime, metrics: RequestMetrics, recent: RequestMetrics) -> Look:
        return Look(
            elapsed_s=(at - self.since).total_seconds(),
            requests=metrics.requests,
            errors=metrics.errors,
            p95_s=recent.p95_s or None,
            login=self.login,
            smoke=self.smoke,
        )

    def _with_slow(self, look: Look) -> Look:
        host, slow_s = self.connections.host, self.judge.baseline.slow_s if self.judge.baseline else None
        if slow_s is None or not isinstance(host, CountsSlow):
            return look
        counted = host.count_slow(self.release.release_id, since=self.since, slower_than_s=slow_s)
        return replace(look, timed=counted.timed, slow=counted.slow)

    def _probe(self) -> float | None:
        """Send the harmless requests; return the longest time that one of the pages took to load, in seconds.

        One that was not answered at all counts for nothing: it may be this machine that is cut off.
        """
        url, settings = self.connections.host.public_url, self.connections.settings
        watch, login = settings.watch, [probe(url + path) for path in settings.login_paths]
        self.login = _with(self.login, [answer.status != 200 for answer in login if answer.status is not None])
        health = [probe(url + path) for path in settings.health_paths if path not in settings.login_paths]
        wrong = [answer.status != 200 for answer in health if answer.status is not None]
        loads_s: list[float] = []
        for test in self.smoke_tests:
            answer = probe(url + test.path)
            if answer.status is not None:
                wrong.append(test.problem(answer.status, answer.text) is not None)
                loads_s += [answer.elapsed_s] if test.path in watch.page_paths else []
        self.smoke = _with(self.smoke, wrong)
        for path in set(watch.page_paths) - {test.path for test in self.smoke_tests}:
            answer = probe(url + path)
            loads_s += [answer.elapsed_s] if answer.status == 200 else []
        return max(loads_s, default=None)

    def _user_samples(self, at: datetime, page_load_s: float | None) -> list[Sample]:
        samples = [sample(at, "page_load_s", page_load_s)] if page_load_s is not None else []
        if self.login.answered:
            good = 1 - self.login.failed / self.login.answered
            samples.append(sample(at, "login_success_pct", 100 * good))
        return samples


def watch_until_known(watch: ReleaseWatch) -> Observation:
    """Look every few seconds for the time of the watch; ends early when the runbook says to roll back.

    When it has seen too little by then it goes on, at most as long again.
    """
    every_s = watch.connections.settings.watch.interval_s
    begun = time.monotonic()
    while True:
        seen = watch.look()
        passed_s = time.monotonic() - begun
        is_known = seen.judgement.verdict in (Verdict.HEALTHY, Verdict.DEGRADED)
        left_s = (1 if is_known else 2) * watch.duration_s - passed_s
        if seen.judgement.action is Action.ROLL_BACK or left_s <= 0:
            return seen
        time.sleep(min(every_s, left_s))


def baseline_of(connections: Connections, before: Release | None, until: datetime) -> Baseline | None:
    """Return what was counted up to a time: of the release that ran then, or, if that is too little, in the history.

    None where nobody has counted. Numbers that cannot be read are none.
    """
    counted = None
    if before is not None:
        try:
            found = connections.host.metrics(before.release_id, since=until - BEFORE)
        except ServiceError:
            pass
        else:
            counted = Baseline(found.requests, found.errors, found.p95_s or None, f"{before.version} before it")
    if counted is not None and counted.says_something:
        return counted
    try:
        kept = history_of(connections).read(since=until - _HISTORY, until=until)
    except ServiceError:
        return counted
    return _from_history(kept) or counted


def _from_history(samples: Sequence[Sample]) -> Baseline | None:
    values = {
        metric: [one.value for one in samples if one.metric == metric]
        for metric in ("requests", "errors", "response_time_p95_s")
    }
    if not values["requests"]:
        return None
    p95_s = median(values["response_time_p95_s"]) if values["response_time_p95_s"] else None
    requests, errors = round(sum(values["requests"])), round(sum(values["errors"]))
    return Baseline(requests, errors, p95_s, "the day before it")


def _with(probes: Probes, wrong: Sequence[bool]) -> Probes:
    """Return probes with those of one more look; a look without an answer counts for nothing."""
    return Probes(probes.failed + any(wrong), probes.answered + 1) if wrong else probes


def _request_samples(at: datetime, recent: RequestMetrics, passed_s: float) -> list[Sample]:
    values: dict[str, float] = {
        "window_s": passed_s,
        "requests": recent.requests,
        "errors": recent.errors,
        "requests_per_s": recent.requests / passed_s,
    }
    if recent.requests:
        values["error_rate_pct"] = recent.error_rate_pct
        times = {"p50": recent.p50_s, "p95": recent.p95_s, "p99": recent.p99_s}
        values |= {f"response_time_{name}_s": value for name, value in times.items() if value > 0}
    return [sample(at, metric, value) for metric, value in values.items()]
