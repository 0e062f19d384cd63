from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runbook.reports import RollbackScope
from runbook.rules.emergency import RECENT, Cause, Situation, classify, propose
from runbook.rules.thresholds import Action, Severity, Signals

FINE = {"/api/health": "", "/api/auth/health": ""}
LOGIN = ("/api/auth/health",)


def seen(
    errors_pct: float = 0,
    slowdown: float = 1,
    *,
    endpoints: dict[str, str] | None = None,
    database: str = "",
    released_ago: timedelta | None = timedelta(minutes=10),
) -> Situation:
    return Situation(
        endpoints=FINE if endpoints is None else endpoints,
        login_paths=LOGIN,
        database_trouble=database,
        signals=Signals(errors_pct, slowdown),
        version="v7",
        released_ago=released_ago,
    )


@pytest.mark.parametrize(
    ("situation", "severity", "why"),
    [
        (seen(endpoints={"/api/health": "answered 500", "/api/auth/health": "no answer"}), "SEV1", "outage"),
        (Situation(endpoints=FINE, signals=Signals(0)), "SEV1", "outage"),
        (seen(endpoints={**FINE, "/api/auth/health": "answered 503"}), "SEV1", "authentication system down"),
        (seen(database="connection refused"), "SEV1", "the database does not answer"),
        (seen(endpoints={**FINE, "/api/health": "answered 500"}), "SEV2", "partial service degradation"),
        (seen(5), "SEV2", "5.00 % errors"),
        (seen(4.99), "SEV3", "4.99 % errors"),
        (seen(1), "SEV3", "1.00 % errors"),
        (seen(0.99), "SEV4", "0.99 % errors"),
        (seen(0, 2), "SEV2", "2.0x the normal"),
        (seen(0, 1.99), "SEV3", "2.0x the normal"),
    ],
)
def test_it_is_as_bad_as_the_worst_of_what_was_seen(situation: Situation, severity: str, why: str) -> None:
    found = classify(situation, None)
    assert found.severity == severity
    assert why in found.why[0]


@given(st.sampled_from(Severity), st.floats(0, 100), st.floats(0, 100))
def test_a_persons_word_only_ever_raises_it_and_more_errors_never_lower_it(
    word: Severity, errors: float, more: float
) -> None:
    measured = classify(seen(errors), None).severity
    assert classify(seen(errors), word).severity == min(measured, word)
    assert classify(seen(min(100, errors + more)), word).severity <= classify(seen(errors), word).severity


def test_that_nothing_was_requested_is_said_and_is_no_all_clear_over_a_word() -> None:
    quiet = Situation(endpoints=FINE, version="v7")
    assert "not known" in classify(quiet, None).why[0]
    assert classify(quiet, Severity.SEV2).severity is Severity.SEV2


@pytest.mark.parametrize(
    ("situation", "level", "action", "scope"),
    [
        (seen(), Severity.SEV1, Action.ROLL_BACK, RollbackScope.APP_ONLY),
        (seen(10.01), Severity.SEV2, Action.ROLL_BACK, RollbackScope.APP_ONLY),
        (seen(10), Severity.SEV2, Action.CONSIDER, RollbackScope.APP_ONLY),
        (seen(released_ago=RECENT), Severity.SEV1, Action.ROLL_BACK, RollbackScope.APP_ONLY),
        (seen(released_ago=RECENT + timedelta(seconds=1)), Severity.SEV1, Action.CONSIDER, None),
        (seen(database="refused"), Severity.SEV1, Action.CONSIDER, RollbackScope.DB_ONLY),
        (seen(50), Severity.SEV3, Action.MONITOR, None),
        (seen(), Severity.SEV4, Action.MONITOR, None),
    ],
)
def test_what_is_proposed_is_the_decision_tree(
    situation: Situation, level: Severity, action: Action, scope: RollbackScope | None
) -> None:
    proposal = propose(situation, level, "production")
    assert (proposal.action, proposal.scope) == (action, scope)
    assert proposal.steps


def test_where_it_comes_from() -> None:
    assert seen(database="refused").cause is Cause.DATABASE
    assert seen().cause is Cause.RELEASE
    assert seen(released_ago=timedelta(days=3)).cause is Cause.UNKNOWN


def test_the_mitigations_of_sev3_are_those_of_the_runbook() -> None:
    steps = propose(seen(), Severity.SEV3, "production").steps
    assert [step.split(" (")[0] for step in steps] == [
        "Enable aggressive caching",
        "Scale database connections",
        "Add read replicas",
        "Schedule rollback during next maintenance window",
    ]
