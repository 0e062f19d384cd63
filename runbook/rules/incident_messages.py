"""What is said of an incident: to those who work on it, in the runbook's template, and to users, in other words.

Source: runbook, "Incident Communication Template".
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum

from runbook.rules.incident_report import BLANK
from runbook.rules.incidents import EventKind, Incident, IncidentStatus
from runbook.rules.markdown import one_line, safe, utc

_PUBLIC = {
    IncidentStatus.INVESTIGATING: "We are looking into a problem with {what}.",
    IncidentStatus.IDENTIFIED: "We have found the cause of the problem with {what} and are working on it.",
    IncidentStatus.MITIGATING: "We are working on the problem with {what}, and see to it that it works again.",
    IncidentStatus.RESOLVED: "The problem with {what} is over. We are sorry for the trouble.",
}


class PublicIncidentStatus(StrEnum):
    """How far an incident is, as status pages call it."""

    INVESTIGATING = "investigating"
    IDENTIFIED = "identified"
    MONITORING = "monitoring"
    RESOLVED = "resolved"


PUBLIC_STATUS = {
    IncidentStatus.INVESTIGATING: PublicIncidentStatus.INVESTIGATING,
    IncidentStatus.IDENTIFIED: PublicIncidentStatus.IDENTIFIED,
    IncidentStatus.MITIGATING: PublicIncidentStatus.MONITORING,
    IncidentStatus.RESOLVED: PublicIncidentStatus.RESOLVED,
}


def render_message(incident: Incident, now: datetime) -> str:
    """Return the incident in the runbook's template, word for word; what nobody has said yet is a marked blank.

    Args:
        incident: as it is now.
        now: aware.
    """
    actions = incident.texts(EventKind.ACTION)
    steps = incident.texts(EventKind.NEXT_STEPS)[-1:]
    lines = [
        "🚨 INCIDENT REPORT",
        "",
        f"Severity: {incident.severity}",
        f"Status: {incident.status}",
        f"Started: {utc(incident.began_at)}",
        f"Impact: {_said(incident, EventKind.IMPACT)}",
        "",
        "Current Status:",
        _said(incident, EventKind.CURRENT, one_line(incident.title)),
        "",
        "Actions Taken:",
        *(f"- {one_line(text)}" for text in actions or ["none yet"]),
        "",
        "Next Steps:",
        *(f"- {one_line(text)}" for step in steps or [BLANK] for text in step.split(";")),
        "",
        f"ETA: {_said(incident, EventKind.ETA)}",
        "",
        f"Updated: {utc(now)}",
    ]
    return "\n".join(lines)


def render_markdown(incident: Incident, now: datetime) -> str:
    """Return the same for GitHub: a heading, and the template as a text that can be copied."""
    head = f"# {safe(f'{incident.severity} on {incident.environment}: {incident.title}')}"
    return "\n".join(
        [head, "", f"`{incident.id}`, {incident.status}", "", "```text", render_message(incident, now), "```", ""]
    )


def draft_public(incident: Incident, components: tuple[str, ...] = ()) -> str:
    """Return what users could be told: no cause, no names, no numbers; a person approves it, or says it better."""
    what = one_line(" and ".join(components)) or "our application"
    text = _PUBLIC[incident.status].format(what=what)
    eta = incident.latest(EventKind.ETA)
    return f"{text} Expected: {one_line(eta)}." if eta and incident.is_open else text


def _said(incident: Incident, kind: EventKind, otherwise: str = BLANK) -> str:
    return one_line(incident.latest(kind)) or otherwise
