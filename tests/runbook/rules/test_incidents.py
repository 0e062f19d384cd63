from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runbook.rules.incidents import (
    ESCALATION_PATH,
    EscalationLevel,
    EventKind,
    Incident,
    IncidentEvent,
    IncidentPhase,
    IncidentStatus,
    due_escalation,
    joins,
    worst,
)
from runbook.rules.thresholds import Severity

START = datetime(2026, 3, 1, 3, 0, tzinfo=UTC)
PATH = tuple(EscalationLevel(name=name, acknowledge_within_s=600) for name in ("lead", "director", "support"))
DAY = timedelta(days=1)


def minutes(number: float) -> datetime:
    return START + timedelta(minutes=number)


def event(at: float, kind: EventKind, **more: object) -> IncidentEvent:
    return IncidentEvent.model_validate({"at": minutes(at), "by": "Ada", "kind": kind, **more})


def incident(*events: IncidentEvent, severity: Severity = Severity.SEV1, began: float = 0) -> Incident:
    opened = event(2, EventKind.OPENED, text="the shop is down", severity=severity, began=minutes(began), key="errors")
    return Incident(id="inc_20260301_030200_000000", environment="production", events=(opened, *events))


RESOLVED = {"status": IncidentStatus.RESOLVED}


def test_what_is_true_now_is_what_the_events_add_up_to() -> None:
    found = incident(
        event(3, EventKind.SEVERITY, severity=Severity.SEV2),
        event(4, EventKind.ACTION, text="rolled back to v1"),
        event(5, EventKind.STATUS, status=IncidentStatus.MITIGATING),
        event(6, EventKind.IMPACT, text="nobody can pay"),
        event(7, EventKind.IMPACT, text="one in ten cannot pay"),
        event(8, EventKind.ACTION_ITEM, key="a1", text="alert earlier", owner="Ben"),
        event(9, EventKind.ITEM_DONE, key="a1"),
    )
    assert (found.severity, found.status, found.is_open) == (Severity.SEV2, IncidentStatus.MITIGATING, True)
    assert found.latest(EventKind.IMPACT) == "one in ten cannot pay"
    assert (found.began_at, found.detected_at, found.acted_at) == (START, minutes(2), minutes(4))
    assert [(item.text, item.is_done) for item in found.action_items] == [("alert earlier", True)]


@pytest.mark.parametrize(
    ("phase", "limit", "ends_it"),
    [
        (IncidentPhase.ASSESSMENT, 10, EventKind.ASSESSED),
        (IncidentPhase.COMMUNICATION, 15, EventKind.TOLD),
        (IncidentPhase.MITIGATION, 60, EventKind.ACTION),
    ],
)
def test_a_phase_is_overdue_after_its_last_minute_and_not_once_it_is_over(
    phase: IncidentPhase, limit: float, ends_it: EventKind
) -> None:
    assert phase not in incident().overdue(minutes(limit))
    assert phase in incident().overdue(minutes(limit) + timedelta(seconds=1))
    assert phase not in incident(event(limit + 5, ends_it)).overdue(minutes(limit + 6))


def test_detection_is_in_time_when_it_was_noticed() -> None:
    late = incident(began=-10)
    assert late.ended(IncidentPhase.DETECTION) == minutes(2)
    assert late.overdue(minutes(2)) == (IncidentPhase.ASSESSMENT,), "what is past is not waited for"


def test_a_post_mortem_is_due_48_hours_after_it_was_resolved() -> None:
    found = incident(event(30, EventKind.TOLD), event(30, EventKind.ACTION), event(30, EventKind.RESOLVED, **RESOLVED))
    assert found.overdue(minutes(30) + 2 * DAY) == ()
    assert found.overdue(minutes(30) + 2 * DAY + timedelta(seconds=1)) == (IncidentPhase.POST_MORTEM,)
    reopened = incident(*found.events[1:], event(40, EventKind.REOPENED, status=IncidentStatus.INVESTIGATING))
    assert reopened.deadline(IncidentPhase.POST_MORTEM) is None


@pytest.mark.parametrize(
    ("severity", "called_after_h"), [(Severity.SEV1, 0), (Severity.SEV2, 0), (Severity.SEV3, 2), (Severity.SEV4, 12)]
)
def test_the_first_level_is_called_when_the_severity_asks_for_it(severity: Severity, called_after_h: float) -> None:
    at = minutes(2) + timedelta(hours=called_after_h)
    due = due_escalation(incident(severity=severity), PATH, at)
    assert due is not None
    assert due.level == 1
    if called_after_h:
        assert due_escalation(incident(severity=severity), PATH, at - timedelta(seconds=1)) is None


def test_the_next_level_is_called_when_nobody_answers_in_time_and_none_after_the_last() -> None:
    called = [event(2, EventKind.ESCALATED, level=1)]
    assert due_escalation(incident(*called), PATH, minutes(11.9)) is None
    due = due_escalation(incident(*called), PATH, minutes(12))
    assert due is not None
    assert (due.level, "nobody of level 1" in due.why) == (2, True)
    answered = [*called, event(11, EventKind.ACKNOWLEDGED, level=1)]
    told = [event(3, EventKind.ASSESSED), event(3, EventKind.TOLD), event(3, EventKind.ACTION)]
    assert due_escalation(incident(*answered, *told), PATH, minutes(600)) is None
    everybody = [event(level, EventKind.ESCALATED, level=level) for level in (1, 2, 3)]
    assert due_escalation(incident(*everybody), PATH, minutes(600)) is None


def test_a_phase_that_is_overdue_is_escalated_once_although_somebody_has_answered() -> None:
    answered = [event(2, EventKind.ESCALATED, level=1), event(3, EventKind.ACKNOWLEDGED, level=1)]
    due = due_escalation(incident(*answered), PATH, minutes(12))
    assert due is not None
    assert (due.level, due.phase) == (2, IncidentPhase.ASSESSMENT)
    again = [*answered, event(12, EventKind.ESCALATED, level=2, key=due.phase), event(13, EventKind.ACKNOWLEDGED)]
    assert due_escalation(incident(*again), PATH, minutes(14)) is None
    later = due_escalation(incident(*again), PATH, minutes(23))
    assert later is not None
    assert (later.level, later.phase) == (3, IncidentPhase.COMMUNICATION)


def test_nobody_is_called_for_what_is_resolved() -> None:
    told = [event(3, EventKind.TOLD), event(4, EventKind.RESOLVED, **RESOLVED)]
    assert due_escalation(incident(*told), PATH, minutes(600)) is None
    assert due_escalation(incident(event(2, EventKind.ESCALATED, level=1), *told), PATH, minutes(600)) is None


def test_a_post_mortem_that_is_late_is_escalated_though_all_is_resolved_and_nothing_else_is() -> None:
    quiet = incident(event(30, EventKind.RESOLVED, **RESOLVED), severity=Severity.SEV4)
    late = minutes(31) + 2 * DAY
    for one in (quiet, incident(event(2, EventKind.ESCALATED, level=1), *quiet.events[1:])):
        assert due_escalation(one, PATH, minutes(600)) is None, "nobody was told, and now it is over"
        due = due_escalation(one, PATH, late)
        assert due is not None
        assert due.phase is IncidentPhase.POST_MORTEM


@given(st.lists(st.sampled_from(EventKind), max_size=8), st.floats(0, 5000), st.floats(0, 5000))
def test_waiting_longer_never_calls_fewer(kinds: list[EventKind], at: float, longer: float) -> None:
    events = [
        event(3 + number, kind, level=1 if kind is EventKind.ESCALATED else None) for number, kind in enumerate(kinds)
    ]
    now = due_escalation(incident(*events), PATH, minutes(12 + at))
    then = due_escalation(incident(*events), PATH, minutes(12 + at + longer))
    assert now is None or then is not None


def test_two_alerts_make_one_incident_and_one_that_fires_again_soon_reopens_it() -> None:
    day = timedelta(hours=24)
    assert joins(incident(), "another alert", minutes(5), reopen_within=day)
    over = incident(event(30, EventKind.RESOLVED, **RESOLVED))
    assert joins(over, "errors", minutes(30) + day, reopen_within=day)
    assert not joins(over, "errors", minutes(31) + day, reopen_within=day)
    assert not joins(over, "another alert", minutes(31), reopen_within=day)


@given(st.lists(st.sampled_from(Severity)), st.sampled_from(Severity))
def test_one_more_signal_never_lowers_the_severity(severities: list[Severity], more: Severity) -> None:
    assert worst([*severities, more]) <= worst([*severities, None])


def test_the_escalation_path_is_that_of_the_runbook() -> None:
    assert [level.name for level in ESCALATION_PATH] == [
        "Development Team Lead",
        "CTO / Technical Director",
        "External Support (Vercel, Neon)",
    ]
