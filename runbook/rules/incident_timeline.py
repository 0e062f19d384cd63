"""The timeline of an incident: what was said of it beside what runs did to its environment, in order of time.

Source: runbook, "Incident Response Process" ("Document timeline").
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from runbook.journal import Effect, Entry, EntryKind
from runbook.reports import DeployReport, RollbackReport
from runbook.rules.incident_report import effect_in_words, outcome_in_words
from runbook.rules.incidents import EventKind, Incident, IncidentEvent
from runbook.rules.markdown import one_line, utc

BEFORE = timedelta(hours=2)
"""So long before an incident what ran may have caused it."""
_SHOWN_EFFECTS = (Effect.PROMOTE, Effect.SWAP, Effect.ROLL_BACK_APPLICATION, Effect.MIGRATE, Effect.HOLD)


@dataclass(frozen=True)
class TimelineEntry:
    """One line: when, who or what, and what happened."""

    at: datetime
    who: str
    text: str

    def render(self) -> str:
        """Return it in one line."""
        return one_line(f"{utc(self.at)} {self.who}: {self.text}")


def timeline(
    incident: Incident,
    reports: Sequence[DeployReport | RollbackReport] = (),
    journal: Sequence[Entry] = (),
) -> list[TimelineEntry]:
    """Return what happened from two hours before an incident until it was resolved, oldest first.

    Args:
        incident: as it is now; all that was said of it belongs to it, also afterwards.
        reports: deploys and rollbacks of the environment.
        journal: what runs did to it, entry by entry.
    """
    since = incident.began_at - BEFORE
    until = incident.resolved_at

    def is_in(at: datetime) -> bool:
        return since <= at and (until is None or at <= until)

    began = incident.began_at if incident.detected_at - incident.began_at >= timedelta(seconds=1) else None
    entries = [TimelineEntry(began, "runbook", "it began, as far as known")] if began else []
    entries += [TimelineEntry(one.at, one.by, _event(one)) for one in incident.events]
    entries += [one for report in reports for one in _report(report) if is_in(one.at)]
    entries += [one for one in _journal(journal) if is_in(one.at)]
    return sorted(entries, key=lambda entry: entry.at)


def _event(event: IncidentEvent) -> str:
    match event.kind:
        case EventKind.OPENED:
            return f"opened, {event.severity}: {event.text}"
        case EventKind.SIGNAL | EventKind.NOTE:
            return event.text
        case EventKind.SEVERITY | EventKind.STATUS | EventKind.RESOLVED | EventKind.REOPENED:
            word = event.severity if event.kind is EventKind.SEVERITY else event.status
            return f"{event.kind}: {word}{f', {event.text}' if event.text else ''}"
        case EventKind.ESCALATED | EventKind.ACKNOWLEDGED:
            return f"{event.kind}, level {event.level}{f': {event.text}' if event.text else ''}"
        case EventKind.ITEM_DONE:
            return f"{event.kind}: {event.key}{f', {event.text}' if event.text else ''}"
        case _:
            return f"{event.kind}: {event.text}" if event.text else f"{event.kind}"


def _report(report: DeployReport | RollbackReport) -> Iterable[TimelineEntry]:
    what = f"deploy of {report.version}" if isinstance(report, DeployReport) else f"rollback ({report.scope})"
    ended = report.timestamp + timedelta(seconds=report.duration)
    yield TimelineEntry(report.timestamp, report.triggered_by, f"{what} begun: {report.reason}")
    outcome = "ended" if report.success else "failed"
    yield TimelineEntry(ended, "runbook", f"{what} {outcome}, {report.state}")


def _journal(journal: Sequence[Entry]) -> Iterable[TimelineEntry]:
    intents = {(one.run, one.number): one for one in journal if one.kind is EntryKind.INTENT}
    for one in journal:
        intent = intents.get((one.run, one.intent or 0))
        if intent is not None and intent.effect in _SHOWN_EFFECTS:
            yield TimelineEntry(one.at, "runbook", f"{effect_in_words(intent)}: {outcome_in_words(one)}")
