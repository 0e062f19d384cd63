"""How bad it is, what it comes from, and what the runbook says to do about it.

Source: runbook, "Severity Levels", "SEV1: Complete Outage", "SEV2: High Error Rates", "SEV3: Performance Degradation",
"Decision Tree".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum

from runbook.reports import RollbackScope
from runbook.rules.drills import duration_in_words
from runbook.rules.thresholds import Action, Severity, Signals, decide, severity

RECENT = timedelta(hours=24)
"""So long after it got the traffic a release is looked at first: "If caused by recent deployment"."""


class Cause(StrEnum):
    """Where it seems to come from."""

    RELEASE = "a recent release"
    DATABASE = "the database"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Situation:
    """What was seen just now.

    `endpoints` holds what is wrong with each health endpoint, by its path; empty where nothing is. `signals` are None
    when nothing was requested, `version` and `released_ago` when no release has the traffic.
    """

    endpoints: Mapping[str, str] = field(default_factory=dict[str, str])
    login_paths: tuple[str, ...] = ()
    database_trouble: str = ""
    signals: Signals | None = None
    version: str | None = None
    released_ago: timedelta | None = None

    @property
    def is_outage(self) -> bool:
        """Whether no health endpoint works, or nothing has the traffic."""
        return self.version is None or (bool(self.endpoints) and all(self.endpoints.values()))

    @property
    def cause(self) -> Cause:
        """Where it seems to come from: the database, when it does not answer; a release, when it is recent."""
        if self.database_trouble:
            return Cause.DATABASE
        if self.released_ago is not None and self.released_ago <= RECENT:
            return Cause.RELEASE
        return Cause.UNKNOWN


@dataclass(frozen=True)
class Classified:
    """How bad it is, and what says so, the worst first."""

    severity: Severity
    why: tuple[str, ...]


@dataclass(frozen=True)
class Proposal:
    """What the runbook says to do: `scope` where that is a rollback, `steps` for people, in order."""

    action: Action
    scope: RollbackScope | None
    what: str
    steps: tuple[str, ...]


def classify(situation: Situation, word: Severity | None) -> Classified:
    """Return how bad it is by what was seen and by what somebody says; the higher one counts.

    Args:
        situation: what was seen.
        word: what a person, or an alert, says; None when nobody says anything.

    Source: runbook, "Severity Levels".
    """
    found: list[tuple[Severity, str]] = []
    if situation.is_outage:
        found.append((Severity.SEV1, "complete service outage: no health endpoint works"))
    if situation.database_trouble:
        found.append((Severity.SEV1, f"the database does not answer: {situation.database_trouble}"))
    if any(situation.endpoints.get(path) for path in situation.login_paths):
        found.append((Severity.SEV1, "authentication system down"))
    found += [
        (Severity.SEV2, f"partial service degradation: {path}: {problem}")
        for path, problem in situation.endpoints.items()
        if problem
    ]
    if situation.signals is not None:
        signals = situation.signals
        seen = f"{signals.error_rate_pct:.2f} % errors, {signals.slowdown:.1f}x the normal response time"
        found.append((severity(signals), seen))
    else:
        found.append((Severity.SEV4, "nothing was requested, so errors and response times are not known"))
    if word is not None:
        found.append((word, f"{word} was said"))
    found.sort(key=lambda one: one[0])
    return Classified(found[0][0], tuple(why for _, why in found))


def propose(situation: Situation, level: Severity, environment: str) -> Proposal:
    """Return what to do by the decision tree.

    A rollback of the application for what comes from a recent release, at once for SEV1 and above 10 % errors; a
    restore for a broken database, which is always a person's decision, since it costs rows.

    Source: runbook, "Decision Tree", "SEV1: Complete Outage" ("If caused by recent deployment", "If database issue"),
    "SEV2: High Error Rates" ("If error rate > 10%").
    """
    if level is Severity.SEV4:
        return Proposal(Action.MONITOR, None, "schedule a fix", ("Schedule the fix; act within 24 hours.",))
    if level is Severity.SEV3:
        return Proposal(Action.MONITOR, None, "investigate, plan a fix", _relief(environment))
    if situation.cause is Cause.DATABASE:
        steps = (
            f"runbook db:status --environment={environment}",
            f"If it is damaged, restore: runbook deploy:rollback --environment={environment} --db-only --latest",
        )
        return Proposal(Action.CONSIDER, RollbackScope.DB_ONLY, "see what is wrong with the database", steps)
    if situation.cause is Cause.UNKNOWN:
        ago = duration_in_words(situation.released_ago.total_seconds()) if situation.released_ago else "unknown time"
        what = f"investigate: what runs has had the traffic for {ago}, and the database answers"
        steps = ("Look at the log, at the providers' status pages, and at what changed outside of the application.",)
        return Proposal(Action.CONSIDER, None, what, steps)
    signals = situation.signals
    at_once = level is Severity.SEV1 or (signals is not None and decide(signals) is Action.ROLL_BACK)
    action = Action.ROLL_BACK if at_once else Action.CONSIDER
    command = f'runbook deploy:rollback --environment={environment} --app-only --severity={level} --reason="..."'
    what = "roll back at once" if at_once else "investigate, consider a rollback"
    return Proposal(action, RollbackScope.APP_ONLY, what, (command, "Verify, notify, plan and deploy a fix."))


def _relief(environment: str) -> tuple[str, ...]:
    """Return the mitigations of SEV3. Source: runbook, "SEV3: Performance Degradation" ("Mitigation")."""
    return (
        "Enable aggressive caching",
        "Scale database connections",
        "Add read replicas (if available)",
        f"Schedule rollback during next maintenance window (runbook maintenance:schedule --environment={environment})",
    )
