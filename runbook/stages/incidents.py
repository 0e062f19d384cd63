"""An incident from the first alert to the post-mortem: kept, told, escalated, and written down.

What people are told goes to every channel of the environment; a message that can be changed is, and what is new goes
into its thread. No channel that fails stops anything: what it did not take waits (`runbook notifications`).

Source: runbook, "Incident Response", "Emergency Contact Protocol", "Support Contacts".
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from runbook.clients.incident_records import IncidentRecords
from runbook.clients.object_store import MissingObjectError
from runbook.connections import Connections
from runbook.errors import InvalidInputError, RefusedError, RunbookError, ServiceError
from runbook.journal import Entry
from runbook.rules.incident_messages import PUBLIC_STATUS, draft_public, render_message
from runbook.rules.incident_timeline import BEFORE, TimelineEntry, timeline
from runbook.rules.incidents import (
    EventKind,
    Incident,
    IncidentEvent,
    IncidentPhase,
    IncidentStatus,
    due_escalation,
    joins,
)
from runbook.rules.markdown import one_line
from runbook.rules.post_mortem import render_post_mortem
from runbook.rules.thresholds import Severity
from runbook.stages.incident_channels import end_alerts, tell
from runbook.stages.notification import notify

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Opening:
    """What opens an incident, or joins one: what is wrong, how bad it is, who says so, and since when.

    `key` names the alert; with one the incident that it belongs to is looked for first.
    """

    title: str
    severity: Severity
    by: str
    began: datetime | None = None
    key: str = ""


@dataclass(frozen=True)
class Escalated:
    """A level that was called just now for an incident."""

    incident: Incident
    level: int
    why: str


def open_or_join(connections: Connections, opening: Opening) -> Incident:
    """Open an incident and tell everybody, or add an alert to the one that it belongs to.

    Two alerts of one environment make one incident; one that was resolved is opened again when the same alert fires
    again within `incidents.reopen_within_h`, with the severity that it has then. While it is open a severity is only
    ever raised by this.

    Raises:
        InvalidInputError: there is no title, or it began later than now.
        ServiceError: the store does not answer.
    """
    now = datetime.now(UTC)
    if not opening.title.strip():
        raise InvalidInputError("title", opening.title, "what is wrong, in a line", "It is what everybody reads first.")
    if opening.began is not None and opening.began > now:
        raise InvalidInputError("began", f"{opening.began}", "a time up to now", "Leave it out when it is not known.")
    if opening.key:
        reopen_within = timedelta(hours=connections.settings.incidents.reopen_within_h)
        newest_first = reversed(records_of(connections).incidents())
        for known in sorted(newest_first, key=lambda one: not one.is_open):  # one that is open before one that was
            if joins(known, opening.key, now, reopen_within=reopen_within):
                return _join(connections, known, opening, now)
    event = IncidentEvent(
        at=now,
        by=opening.by,
        kind=EventKind.OPENED,
        text=one_line(opening.title),
        severity=opening.severity,
        status=IncidentStatus.INVESTIGATING,
        began=opening.began,
        key=opening.key,
    )
    return _told(connections, records_of(connections).open(event), f"opened by {opening.by}")


def say(connections: Connections, incident_id: str, *events: IncidentEvent, aloud: bool = True) -> Incident:
    """Add events to an incident, and tell everybody unless it is a note in between.

    Raises:
        InvalidInputError: there is no such incident.
        ServiceError: the store does not answer.
    """
    records = records_of(connections)
    incident = records.incident(incident_id)
    for event in events:
        incident = records.add(incident_id, event)
    if not aloud:
        return incident
    return _told(connections, incident, "; ".join(_in_words(event) for event in events))


def note_run(connections: Connections, what: str, *, by: str, is_action: bool) -> None:
    """Write into the incidents that are open what a run did to the environment: an action, or a note when it failed."""
    kind = EventKind.ACTION if is_action else EventKind.NOTE
    for incident in open_incidents(connections):
        event = IncidentEvent(at=datetime.now(UTC), by=by or "runbook", kind=kind, text=what)
        records_of(connections).add(incident.id, event)


def acknowledge(connections: Connections, incident_id: str, *, by: str, note: str = "") -> Incident:
    """Say that somebody works on it: the level that was called last has answered."""
    incident = records_of(connections).incident(incident_id)
    called = [one.level for one in incident.events if one.kind is EventKind.ESCALATED]
    level = called[-1] if called else None
    event = IncidentEvent(at=datetime.now(UTC), by=by, kind=EventKind.ACKNOWLEDGED, level=level, text=note)
    incident = say(connections, incident_id, event)
    end_alerts(connections, incident, resolved=False)
    return incident


def resolve(connections: Connections, incident_id: str, *, by: str, note: str) -> Incident:
    """Say that it is over, and write the draft of the post-mortem.

    Raises:
        RefusedError: it is resolved already.
    """
    incident = records_of(connections).incident(incident_id)
    if not incident.is_open:
        raise RefusedError(f"{incident_id} is resolved already, since {incident.resolved_at:%Y-%m-%d %H:%M} UTC")
    resolved = IncidentStatus.RESOLVED
    event = IncidentEvent(at=datetime.now(UTC), by=by, kind=EventKind.RESOLVED, status=resolved, text=note)
    incident = say(connections, incident_id, event)
    end_alerts(connections, incident, resolved=True)
    write_post_mortem(connections, incident_id)
    return incident


def escalate_due(connections: Connections) -> tuple[Escalated, ...]:
    """Call the levels of the escalation path that are due, one for each incident; return who was called and why."""
    called: list[Escalated] = []
    path, records = connections.settings.incidents.escalation, records_of(connections)
    for incident in records.incidents():
        due = due_escalation(incident, path, datetime.now(UTC))
        if due is None:
            continue
        level = path[due.level - 1]
        contacts = f" ({', '.join(level.contacts)})" if level.contacts else ""
        event = IncidentEvent(
            at=datetime.now(UTC),
            by="runbook",
            kind=EventKind.ESCALATED,
            level=due.level,
            key=due.phase.value if due.phase else "",
            text=f"{level.name}{contacts}: {due.why}",
        )
        incident = records.add(incident.id, event)
        lines = [
            f"Level {due.level}: {level.name}{contacts}",
            due.why,
            f"To answer: runbook incident:ack --environment={connections.settings.name} {incident.id}",
            "",
            render_message(incident, datetime.now(UTC)),
        ]
        _record_told(connections, incident, tell(connections, incident, "\n".join(lines), level=due.level))
        called.append(Escalated(incident, due.level, due.why))
    return tuple(called)


def remind(connections: Connections) -> tuple[str, ...]:
    """Tell of action items that are due and not done; return them in words."""
    now = datetime.now(UTC)
    late = [
        f"{item.text} (owner {item.owner or 'nobody'}, due {item.due:%Y-%m-%d}; {incident.id} {item.key})"
        for incident in records_of(connections).incidents()
        for item in incident.action_items
        if item.due is not None and item.due <= now and not item.is_done
    ]
    if late:
        title = f"{connections.settings.name}: {len(late)} action items of incidents are due"
        notify(connections, "warning", title, "\n".join(late))
    return tuple(late)


def write_post_mortem(connections: Connections, incident_id: str) -> str:
    """Write the draft of a post-mortem, unless there is one already, which people may have changed; return where."""
    incident = records_of(connections).incident(incident_id)
    objects, key = connections.store.objects, f"logs/postmortem_{incident.id.removeprefix('inc_')}.md"
    try:
        objects.read(key)
    except MissingObjectError:
        objects.replace(key, post_mortem_of(connections, incident).encode())
    return f"{objects.place}/{key}"


def post_mortem_of(connections: Connections, incident: Incident) -> str:
    """Return the draft of a post-mortem by what is known now."""
    return render_post_mortem(incident, timeline_of(connections, incident), datetime.now(UTC))


def publish(connections: Connections, incident_id: str, *, text: str, by: str) -> Incident:
    """Tell users, on the status pages, in these words or, when there are none, in those of the draft.

    Whoever calls this approves it. The first time the incident is published, then it is brought up to date.

    Raises:
        RefusedError: the environment has no status page.
        ServiceError: the page does not take it.
    """
    page, records = connections.status_page, records_of(connections)
    if page is None and connections.status_site is None:
        raise RefusedError(
            f"{connections.settings.name} has no status page: put the block runbook-status-page or runbook-status-site "
            "into it"
        )
    incident = records.incident(incident_id)
    body = text.strip() or draft_public(incident, connections.settings.incidents.components)
    status = PUBLIC_STATUS[incident.status]
    published = next((one.key for one in reversed(incident.events) if one.kind is EventKind.PUBLISHED), "")
    if page is None:
        published = ""
    elif published:
        page.update_incident(published, body, status=status, components={})
    else:
        title = connections.settings.incidents.public_title
        published = page.open_incident(title, body, status=status, components={}, notify=True).id
    event = IncidentEvent(at=datetime.now(UTC), by=by, kind=EventKind.PUBLISHED, text=body, key=published)
    return records.add(incident_id, event)


def timeline_of(connections: Connections, incident: Incident) -> list[TimelineEntry]:
    """Return the timeline of an incident; what cannot be read is left out, and the log says so."""
    try:
        reports = [one for one in connections.store.history() if one.environment == incident.environment]
        journal = _journal(connections, incident)
    except RunbookError as error:
        _log.warning("the timeline of %s lacks what runs did: %s", incident.id, error)
        reports, journal = [], []
    return timeline(incident, reports, journal)


def records_of(connections: Connections) -> IncidentRecords:
    """Return where the incidents of an environment are kept."""
    return IncidentRecords(connections.store.objects, connections.settings.name)


def choose(connections: Connections, incident_id: str = "") -> str:
    """Return the id of the incident that is named, or of the only one that is open.

    Raises:
        InvalidInputError: none is named, and not exactly one is open.
    """
    if incident_id:
        return records_of(connections).incident(incident_id).id
    known = open_incidents(connections)
    if len(known) != 1:
        ids = ", ".join(one.id for one in known) or "none"
        raise InvalidInputError("incident", "", f"the id of one; open are: {ids}", "`runbook incident:show` lists all.")
    return known[0].id


def open_incidents(connections: Connections) -> list[Incident]:
    """Return the incidents that are not resolved, the newest last."""
    return [incident for incident in records_of(connections).incidents() if incident.is_open]


def _join(connections: Connections, known: Incident, opening: Opening, now: datetime) -> Incident:
    events: list[IncidentEvent] = []
    if not known.is_open:
        reopened, status = EventKind.REOPENED, IncidentStatus.INVESTIGATING
        events.append(IncidentEvent(at=now, by=opening.by, kind=reopened, status=status, text=opening.title))
    if opening.key not in known.signals() or events:
        key = opening.key
        events.append(IncidentEvent(at=now, by=opening.by, kind=EventKind.SIGNAL, text=opening.title, key=key))
    if opening.severity < known.severity or (not known.is_open and opening.severity is not known.severity):
        severity = opening.severity
        events.append(IncidentEvent(at=now, by=opening.by, kind=EventKind.SEVERITY, severity=severity))
    return say(connections, known.id, *events) if events else known


def _told(connections: Connections, incident: Incident, news: str) -> Incident:
    text = f"{news}\n\n{render_message(incident, datetime.now(UTC))}"
    return _record_told(connections, incident, tell(connections, incident, text))


def _record_told(connections: Connections, incident: Incident, took: Sequence[str]) -> Incident:
    """Write down the first time that a channel took a message: communication is over then."""
    if not took or incident.ended(IncidentPhase.COMMUNICATION) is not None:
        return incident
    event = IncidentEvent(at=datetime.now(UTC), by="runbook", kind=EventKind.TOLD, text=", ".join(took))
    return records_of(connections).add(incident.id, event)


def _in_words(event: IncidentEvent) -> str:
    word = event.severity or event.status or ""
    return " ".join(part for part in (f"{event.kind} by {event.by}:", f"{word}", event.text) if part).rstrip(":")


def _journal(connections: Connections, incident: Incident) -> list[Entry]:
    """Return what runs did to the environment since shortly before it began."""
    objects, since = connections.store.objects, incident.began_at - BEFORE
    found: list[Entry] = []
    for about in objects.objects(f"journal/{incident.environment}/"):
        if about.modified_at >= since:
            try:
                found.append(Entry.model_validate_json(objects.read(about.key)))
            except (ServiceError, ValueError) as error:
                _log.warning("left out of the timeline: %s: %s", about.key, error)
    return found
