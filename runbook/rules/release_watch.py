"""Is a release worse than what ran before it? What was counted and probed, weighed look by look.

Tests say whether something is worse, with at most one chance in a hundred to say so wrongly, however often one looks;
the runbook's numbers say what to do about it. Too little traffic is neither good nor bad.

Source: runbook, "What to Monitor (First 30 Minutes)", "When to Rollback", "Severity Levels".
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum

from runbook.rules.drills import duration_in_words
from runbook.rules.sequential import RateTest, Side, upper_bound
from runbook.rules.thresholds import Action, Severity, Signals, decide, severity

CHANGE_EVERY_S = 60.0
"""So often a release may begin to be worse than it was: what went well for long does not hide what goes wrong now."""

ALPHA_ERRORS, ALPHA_SLOW, ALPHA_LOGIN, ALPHA_SMOKE, ALPHA_BASELINE = 0.004, 0.004, 0.0005, 0.0005, 0.001
"""The chances of a false alarm by each test, and by the baseline it rests on; one in a hundred in all."""

ALPHA_HEALTHY = 0.05
"""The chance that a release in which 10 % of requests fail is called healthy."""

ELEVATED, CONSIDER, ROLL_BACK = 0.01, 0.05, 0.10
"""Shares of failed requests. Source: runbook, "Elevated error rates (1-5%)", "Error rate 5-10%", "Error rate > 10%"."""

SLOWER = 2.0
"""Times the p95 of before. Source: runbook, "Performance degradation > 2x"."""

_NEEDED = 100  # requests of before without which they say nothing
_OUTAGE = 20  # requests in a row, none of them answered well
_BY_CHANCE = 0.05  # of requests are slower than their own p95
_FAILING = 0.1  # of the looks may find a wrong answer


class Verdict(StrEnum):
    """What a watch has found. That nothing was counted is its own verdict, and no good one."""

    HEALTHY = "healthy"
    DEGRADED = "degraded"
    INCONCLUSIVE = "inconclusive"
    NO_DATA = "no_data"


@dataclass(frozen=True)
class Baseline:
    """What was counted before the deploy; `source` says of what, in words. `p95_s` is None where nobody timed."""

    requests: int
    errors: int
    p95_s: float | None
    source: str

    @property
    def says_something(self) -> bool:
        """Whether there were requests enough to compare with."""
        return self.requests >= _NEEDED

    @property
    def slow_s(self) -> float | None:
        """Seconds from which a request counts as slow: twice the p95 of before; None where that is not known."""
        return SLOWER * self.p95_s if self.p95_s and self.says_something else None


@dataclass(frozen=True)
class Probes:
    """At how many looks the watch's own requests of a kind were answered, and at how many of these one was wrong."""

    failed: int = 0
    answered: int = 0


@dataclass(frozen=True)
class Look:
    """What was seen at one moment, `elapsed_s` after the release got the traffic.

    `requests`, `errors`, `timed`, `slow` (of those timed), and the probes are totals since then; `p95_s` is of the time
    since the last look, None where nothing was timed.
    """

    elapsed_s: float
    requests: int
    errors: int
    p95_s: float | None = None
    timed: int | None = None
    slow: int | None = None
    login: Probes = Probes()
    smoke: Probes = Probes()


@dataclass(frozen=True)
class Judgement:
    """What a look amounts to, and why.

    `error_rate_pct` is of the span that speaks most against it; more than `reference_pct` is worse than before.
    """

    verdict: Verdict
    action: Action
    severity: Severity
    detail: str
    error_rate_pct: float
    reference_pct: float


class ReleaseJudge:
    """Weighs what is seen of a release, look after look.

    Errors are compared with the most that the baseline allows, but with no less than 1 %, and no more than 5 %: below
    the one nobody would act, above the other somebody has to, whatever it was before.

    Args:
        baseline: what was counted before; None when nothing was.
        duration_s: how long the release is to be watched.
    """

    def __init__(self, baseline: Baseline | None, duration_s: float) -> None:
        self.baseline = baseline if baseline and baseline.says_something else None
        changes = math.ceil(duration_s / CHANGE_EVERY_S)
        before = _most_errors(self.baseline)
        self.reference = min(max(before, ELEVATED), CONSIDER)
        self._errors = RateTest(self.reference, changes=changes)
        # Where more failed before than the runbook lets pass, a rollback helps only against what is worse than that.
        self._worse = RateTest(before, changes=changes) if CONSIDER < before < 1 else self._errors
        self._few_errors = RateTest(ROLL_BACK, Side.BELOW)
        self._slow = RateTest(_most_slow(self.baseline), changes=changes)
        self._slow_looks = RateTest(0.5)
        self._looks = (0, 0)
        self._login, self._smoke = RateTest(_FAILING, changes=changes), RateTest(_FAILING, changes=changes)
        self._changed_s = 0.0
        self._times = 1.0

    def see(self, look: Look) -> Judgement:
        """Take in one more look, and say what all of them amount to."""
        errors = min(look.errors, look.requests)
        for test in {self._errors, self._worse, self._few_errors}:
            test.see(errors, look.requests)
        for test, probes in ((self._login, look.login), (self._smoke, look.smoke)):
            test.see(probes.failed, probes.answered)
        self._see_times(look)
        judgement = self._judge(look)
        if look.elapsed_s - self._changed_s >= CHANGE_EVERY_S:
            self._changed_s = look.elapsed_s
            for test in {self._errors, self._worse, self._slow, self._login, self._smoke}:
                test.allow_change()
        return judgement

    def _see_times(self, look: Look) -> None:
        if self.baseline is None or not self.baseline.p95_s or not self.baseline.slow_s:
            return
        if look.p95_s is not None:
            self._times = look.p95_s / self.baseline.p95_s
        if look.timed is not None and look.slow is not None:
            self._slow.see(min(look.slow, look.timed), look.timed)
        elif look.p95_s is not None:
            self._looks = (self._looks[0] + (look.p95_s > self.baseline.slow_s), self._looks[1] + 1)
            self._slow_looks.see(*self._looks)

    def _judge(self, look: Look) -> Judgement:
        if not look.requests and not look.login.answered and not look.smoke.answered:
            why = "nothing was requested, or nobody counted it"
            return self._as(Verdict.NO_DATA, Action.MONITOR, Severity.SEV4, why)
        is_worse = self._errors.shows(ALPHA_ERRORS)
        is_slow = self._slow.shows(ALPHA_SLOW) or self._slow_looks.shows(ALPHA_SLOW)
        no_login, is_wrong = self._login.shows(ALPHA_LOGIN), self._smoke.shows(ALPHA_SMOKE)
        failed, requests = self._errors.strongest() if is_worse else (look.errors, look.requests)
        rate_pct = min(100.0, 100 * failed / requests) if requests else 0.0
        if not (is_worse or is_slow or no_login or is_wrong):
            return self._undisturbed(look, rate_pct)
        times = max(SLOWER, self._times) if is_slow else 1.0
        is_out = is_worse and failed == requests >= _OUTAGE
        found = Signals(rate_pct, times, outage=no_login or is_out, validation_failed=is_wrong)
        action, why = decide(found), self._why(failed, requests, found, no_login=no_login)
        if action is Action.ROLL_BACK and is_worse and not no_login and not self._worse.shows(ALPHA_ERRORS):
            action, why = Action.CONSIDER, f"{why}, and hardly fewer before, so that going back may not help"
        return self._as(Verdict.DEGRADED, action, severity(found), why, rate_pct)

    def _undisturbed(self, look: Look, rate_pct: float) -> Judgement:
        """Say whether nothing was shown to be wrong because nothing is, or because too little was seen."""
        level, counted = severity(Signals(rate_pct)), _counted(look.errors, look.requests)
        if rate_pct >= 100 * CONSIDER:
            why = f"{counted}; that may be chance, so it goes on being watched"
            return self._as(Verdict.INCONCLUSIVE, Action.MONITOR, level, why, rate_pct)
        if not self._few_errors.shows(ALPHA_HEALTHY):
            why = f"{counted}; too few requests to rule out that {ROLL_BACK:.0%} fail"
            return self._as(Verdict.INCONCLUSIVE, Action.MONITOR, level, why, rate_pct)
        timed = f", p95 {duration_in_words(look.p95_s)}" if look.p95_s else ""
        lacks = "" if self.baseline else "; nothing to compare with was counted before"
        return self._as(Verdict.HEALTHY, Action.MONITOR, level, f"{counted}{timed}{lacks}", rate_pct)

    def _why(self, failed: int, requests: int, found: Signals, *, no_login: bool) -> str:
        whys: list[str] = []
        if found.error_rate_pct and self._errors.shows(ALPHA_ERRORS):
            old = self.baseline
            known = f"{old.source}: {_counted(old.errors, old.requests)}" if old else "what was before is not known"
            whys.append(f"{_counted(failed, requests)}, shown to be more than {self.reference:.1%} ({known})")
        if found.slowdown > 1 and self.baseline and self.baseline.p95_s:
            p95 = duration_in_words(self._times * self.baseline.p95_s)
            whys.append(f"slower than twice as before: p95 {p95}, before {duration_in_words(self.baseline.p95_s)}")
        if no_login:
            failures, tries = self._login.strongest()
            whys.append(f"nobody can log in: it failed at {failures} of {tries} looks")
        if found.validation_failed:
            failures, tries = self._smoke.strongest()
            whys.append(f"smoke tests fail: at {failures} of {tries} looks")
        return "; ".join(whys)

    def _as(self, verdict: Verdict, action: Action, level: Severity, detail: str, rate_pct: float = 0.0) -> Judgement:
        return Judgement(verdict, action, level, detail, rate_pct, 100 * self.reference)


def _most_errors(baseline: Baseline | None) -> float:
    """Return the share of errors that the baseline allows at most."""
    return upper_bound(baseline.errors, baseline.requests, alpha=ALPHA_BASELINE) if baseline else ELEVATED


def _most_slow(baseline: Baseline | None) -> float:
    """Return the share of requests that may be slower than a p95 that was itself measured by so many requests."""
    if baseline is None:
        return _BY_CHANCE
    return upper_bound(_BY_CHANCE * baseline.requests, baseline.requests, alpha=ALPHA_BASELINE)


def _counted(errors: int, requests: int) -> str:
    share = f"{100 * errors / requests:.1f} %" if requests else "none"
    return f"{errors} of {requests} requests failed ({share})"
