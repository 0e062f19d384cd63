from __future__ import annotations

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from runbook.journal import Effect, Entry, EntryKind
from runbook.rules.incident_messages import draft_public, render_markdown, render_message
from runbook.rules.incident_timeline import timeline
from runbook.rules.incidents import EventKind, Incident, IncidentEvent, IncidentStatus
from runbook.rules.post_mortem import render_post_mortem
from runbook.rules.thresholds import Severity

START = datetime(2026, 3, 1, 3, 0, tzinfo=UTC)
NOW = START + timedelta(minutes=45)


def event(at: float, kind: EventKind, text: str = "", **more: object) -> IncidentEvent:
    at_time = START + timedelta(minutes=at)
    return IncidentEvent.model_validate({"at": at_time, "by": "Ada", "kind": kind, "text": text, **more})


def incident(*events: IncidentEvent, title: str = "the shop is down") -> Incident:
    opened = event(5, EventKind.OPENED, title, severity=Severity.SEV1, began=START)
    return Incident(id="inc_20260301_030500_000000", environment="production", events=(opened, *events))


FULL = incident(
    event(6, EventKind.IMPACT, "nobody can pay"),
    event(7, EventKind.STATUS, status=IncidentStatus.MITIGATING),
    event(8, EventKind.CURRENT, "v7 is being taken back"),
    event(9, EventKind.ACTION, "asked for a rollback"),
    event(10, EventKind.ACTION, "rolled back to v6"),
    event(11, EventKind.NEXT_STEPS, "watch the error rate; tell support"),
    event(12, EventKind.ETA, "04:00 UTC"),
)


def test_the_message_is_the_template_of_the_runbook() -> None:
    assert render_message(FULL, NOW) == (
        "🚨 INCIDENT REPORT\n\n"
        "Severity: SEV1\n"
        "Status: Mitigating\n"
        "Started: 2026-03-01 03:00:00 UTC\n"
        "Impact: nobody can pay\n\n"
        "Current Status:\nv7 is being taken back\n\n"
        "Actions Taken:\n- asked for a rollback\n- rolled back to v6\n\n"
        "Next Steps:\n- watch the error rate\n- tell support\n\n"
        "ETA: 04:00 UTC\n\n"
        "Updated: 2026-03-01 03:45:00 UTC"
    )


def test_what_nobody_has_said_is_a_marked_blank() -> None:
    text = render_message(incident(), NOW)
    assert "Impact: [to be filled in]" in text
    assert "Current Status:\nthe shop is down" in text
    assert "ETA: [to be filled in]" in text


@given(st.text(), st.text())
def test_no_text_breaks_out_of_its_line(title: str, said: str) -> None:
    found = incident(event(6, EventKind.IMPACT, said), event(7, EventKind.ACTION, said), title=title)
    assert len(render_message(found, NOW).splitlines()) == len(render_message(incident(), NOW).splitlines())
    headings = [token for token in MarkdownIt().parse(render_markdown(found, NOW)) if token.type == "heading_open"]
    assert len(headings) == 1


def test_users_read_other_words_without_causes() -> None:
    assert draft_public(FULL, ("the shop",)) == (
        "We are working on the problem with the shop, and see to it that it works again. Expected: 04:00 UTC."
    )
    over = incident(*FULL.events[1:], event(20, EventKind.RESOLVED, "v6 runs", status=IncidentStatus.RESOLVED))
    assert draft_public(over) == "The problem with our application is over. We are sorry for the trouble."


def entry(number: int, kind: EntryKind, at: float, **more: object) -> Entry:
    about = {"run": "rollback_1", "number": number, "at": START + timedelta(minutes=at), "token": 1, "kind": kind}
    return Entry.model_validate({**about, **more})


def test_the_timeline_has_what_was_said_and_what_runs_did_in_order() -> None:
    journal = [
        entry(1, EntryKind.BEGUN, 9.1),
        entry(
            2, EntryKind.INTENT, 9.5, effect=Effect.ROLL_BACK_APPLICATION, detail={"previous": "v7", "releaseId": "v6"}
        ),
        entry(3, EntryKind.DONE, 9.8, intent=2),
        entry(4, EntryKind.INTENT, -300, effect=Effect.PROMOTE),
        entry(5, EntryKind.DONE, -299, intent=4),
    ]
    lines = [one.render() for one in timeline(FULL, (), journal)]
    assert lines[0] == "2026-03-01 03:00:00 UTC runbook: it began, as far as known"
    assert lines[1] == "2026-03-01 03:05:00 UTC Ada: opened, SEV1: the shop is down"
    switched = next(
        number for number, line in enumerate(lines) if "Switch the traffic from v7 back to v6: done" in line
    )
    assert "asked for a rollback" in lines[switched - 1]
    assert "rolled back to v6" in lines[switched + 1]
    assert not any("promote" in line for line in lines), "hours before is no part of it"


def test_the_post_mortem_has_what_is_known_and_blanks_for_the_rest() -> None:
    found = incident(
        *FULL.events[1:],
        event(30, EventKind.RESOLVED, "v6 runs", status=IncidentStatus.RESOLVED),
        event(60, EventKind.CAUSE, "a migration took a lock"),
        event(61, EventKind.ACTION_ITEM, "rehearse under load", key="a1", owner="Ben"),
        event(62, EventKind.LESSON, "the alert came late"),
    )
    text = render_post_mortem(found, timeline(found), NOW)
    for part in ("Impact", "Timeline", "What went wrong", "Actions taken", "Five whys", "Action items", "Lessons"):
        assert f"## {part}\n" in text
    assert "| detected | 2026-03-01 03:05:00 UTC | 5 min |" in text
    assert "| recovered | 2026-03-01 03:30:00 UTC | 30 min |" in text
    assert "1. Why did this happen: the shop is down? a migration took a lock" in text
    assert "2. Why: a migration took a lock? \\[to be filled in\\]".replace("\\", "") in text.replace("\\", "")
    assert "- [ ] rehearse under load (owner Ben; a1)" in text
    assert "due 2026-03-03 03:30:00 UTC" in text
    assert "- [to be filled in]" in render_post_mortem(incident(), [], NOW)


def test_the_template_is_word_for_word_that_of_the_runbook() -> None:
    """The words of the template before each colon, in its order."""
    words = [
        "Severity",
        "Status",
        "Started",
        "Impact",
        "Current Status",
        "Actions Taken",
        "Next Steps",
        "ETA",
        "Updated",
    ]
    said = [line.partition(":")[0] for line in render_message(incident(), NOW).splitlines() if ":" in line]
    assert said == words
