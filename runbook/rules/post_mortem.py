"""The draft of a post-mortem: what the record knows, and a marked blank for what only people know. It blames nobody.

Source: runbook, "Incident Response Process" ("Post-Mortem"), "Post-Rollback Actions"; Google, "Site Reliability
Engineering", chapter 15, "Postmortem Culture".
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from runbook.rules.drills import duration_in_words
from runbook.rules.incident_report import BLANK, FORWARD_FIX, ROOT_CAUSE
from runbook.rules.incident_timeline import TimelineEntry
from runbook.rules.incidents import EventKind, Incident, IncidentPhase
from runbook.rules.markdown import bullets, safe, section, subsection, utc

_WHYS = 5


def render_post_mortem(incident: Incident, entries: Sequence[TimelineEntry], now: datetime) -> str:
    """Return the draft as markdown.

    Args:
        incident: as it is now.
        entries: its timeline, oldest first.
        now: aware.
    """
    lines = [
        f"# Post-mortem: {safe(incident.title)}",
        "",
        f"`{incident.id}` on {incident.environment}, {incident.severity}, {incident.status}. Draft of {utc(now)}; due "
        f"{_when(incident.deadline(IncidentPhase.POST_MORTEM))}.",
        *section("Impact", _or_blank(incident.texts(EventKind.IMPACT))),
        *section("Times", _times(incident)),
        *section("What went wrong", _or_blank(incident.texts(EventKind.CAUSE))),
        *section("Timeline", bullets([entry.render() for entry in entries])),
        *section("Actions taken", _or_blank(incident.texts(EventKind.ACTION))),
        *section("Five whys", _whys(incident)),
        *section("Root Cause Analysis", [line for point in ROOT_CAUSE for line in subsection(point, [BLANK])][1:]),
        *section("Action items", _items(incident)),
        *section("Plan Forward Fix", [f"- [ ] {step}" for step in FORWARD_FIX]),
        *section("Lessons", _or_blank(incident.texts(EventKind.LESSON))),
    ]
    return "\n".join(lines) + "\n"


def _times(incident: Incident) -> list[str]:
    rows = [
        ("detected", incident.detected_at),
        ("acknowledged", incident.acknowledged_at),
        ("first action", incident.acted_at),
        ("recovered", incident.resolved_at),
    ]
    lines = ["| | at | after it began |", "|---|---|---:|", f"| began | {utc(incident.began_at)} | |"]
    for name, at in rows:
        after = duration_in_words((at - incident.began_at).total_seconds()) if at else ""
        lines.append(f"| {name} | {_when(at)} | {after} |")
    late = [f"{phase} ({_when(incident.deadline(phase))})" for phase in IncidentPhase if _was_late(incident, phase)]
    return [*lines, *(["", f"Later than the runbook allows: {', '.join(late)}."] if late else [])]


def _was_late(incident: Incident, phase: IncidentPhase) -> bool:
    deadline, ended = incident.deadline(phase), incident.ended(phase)
    return deadline is not None and ended is not None and ended > deadline


def _whys(incident: Incident) -> list[str]:
    causes = incident.texts(EventKind.CAUSE)
    first = f"Why did this happen: {safe(incident.title)}?"
    asked = [first, *(f"Why: {safe(cause)}?" for cause in causes)][:_WHYS]
    asked += ["Why?"] * (_WHYS - len(asked))
    answers = [safe(cause) for cause in causes[:_WHYS]]
    answers += [BLANK] * (_WHYS - len(answers))
    return [f"{number}. {why} {answer}" for number, (why, answer) in enumerate(zip(asked, answers, strict=True), 1)]


def _items(incident: Incident) -> list[str]:
    if not incident.action_items:
        return [f"- [ ] {BLANK}, owner {BLANK}"]
    return [
        f"- [{'x' if item.is_done else ' '}] {safe(item.text)} (owner {safe(item.owner) or BLANK}"
        f"{f', due {item.due:%Y-%m-%d}' if item.due else ''}; {item.key})"
        for item in incident.action_items
    ]


def _or_blank(texts: Sequence[str]) -> list[str]:
    return bullets(texts) or [f"- {BLANK}"]


def _when(at: datetime | None) -> str:
    return utc(at) if at else "not yet"
