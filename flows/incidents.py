"""Runbook, "Incident Response": what a person says of an incident in the UI, and what is looked after on a schedule."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.states import Completed

from blocks.environment import load_environment
from runbook.rules.incidents import EventKind, IncidentEvent, IncidentStatus
from runbook.rules.thresholds import Severity
from runbook.stages.incidents import Opening
from tasks import incidents as tasks


@flow(name="incident-open", flow_run_name="incident-open-{environment}-{severity}", retries=0)
def incident_open(environment: str, title: str, severity: Severity, by: str, impact: str = "") -> str:
    """Open an incident: everybody is told, and the escalation path begins. Returns its id.

    Args:
        environment: name of a registered environment, for example `local` or `production`.
        title: what is wrong, in a line.
        severity: SEV1 to SEV4, by the runbook's criteria.
        by: your name.
        impact: what users notice.
    """
    connections = load_environment(environment).connect()
    incident = tasks.open_or_join(connections, Opening(title, severity, by))
    if impact:
        tasks.say(connections, incident.id, _event(EventKind.IMPACT, by, impact))
    tasks.show(connections, incident.id)
    return incident.id


@flow(name="incident-update", flow_run_name="incident-update-{environment}", retries=0)
def incident_update(
    environment: str,
    by: str,
    incident: str = "",
    severity: Severity | None = None,
    status: IncidentStatus | None = None,
    impact: str = "",
    current_status: str = "",
    action: str = "",
    next_steps: str = "",
    eta: str = "",
    note: str = "",
) -> None:
    """Say how an incident goes on: its message is changed, and what is new goes into the thread.

    Args:
        environment: name of a registered environment.
        by: your name.
        incident: its id; the one that is open when left empty.
        severity: how bad it is now.
        status: how far it is; resolved: `incident-resolve`.
        impact: what users notice.
        current_status: what is happening now.
        action: what was done; it is added to what was done before.
        next_steps: what is planned; several with a semicolon between.
        eta: when it is expected to be over.
        note: for the timeline alone; nobody is told.
    """
    connections = load_environment(environment).connect()
    chosen = tasks.choose(connections, incident)
    said = {
        EventKind.IMPACT: impact,
        EventKind.CURRENT: current_status,
        EventKind.ACTION: action,
        EventKind.NEXT_STEPS: next_steps,
        EventKind.ETA: eta,
    }
    events = [_event(kind, by, text) for kind, text in said.items() if text]
    events += [_event(EventKind.SEVERITY, by, severity=severity)] if severity else []
    events += [_event(EventKind.STATUS, by, status=status)] if status else []
    if events:
        tasks.say(connections, chosen, *events)
    if note:
        tasks.say(connections, chosen, _event(EventKind.NOTE, by, note), aloud=False)
    tasks.show(connections, chosen)


@flow(name="incident-ack", flow_run_name="incident-ack-{environment}", retries=0)
def incident_ack(environment: str, by: str, incident: str = "", note: str = "") -> None:
    """Say that you work on it: nobody else is called for want of an answer.

    Args:
        environment: name of a registered environment.
        by: your name.
        incident: its id; the one that is open when left empty.
        note: what you are about to do.
    """
    connections = load_environment(environment).connect()
    tasks.acknowledge(connections, tasks.choose(connections, incident), by=by, note=note)


@flow(name="incident-resolve", flow_run_name="incident-resolve-{environment}", retries=0)
def incident_resolve(environment: str, by: str, note: str, incident: str = "") -> None:
    """Say that it is over. The draft of the post-mortem is an artifact, and in logs/.

    Args:
        environment: name of a registered environment.
        by: your name.
        note: how it was mended, and how you know.
        incident: its id; the one that is open when left empty.
    """
    connections = load_environment(environment).connect()
    chosen = tasks.choose(connections, incident)
    tasks.resolve(connections, chosen, by=by, note=note)
    tasks.show(connections, chosen)


@flow(name="incident-publish", flow_run_name="incident-publish-{environment}", retries=0)
def incident_publish(environment: str, by: str, incident: str = "", text: str = "") -> None:
    """Tell users on the status page. To start this run is to approve the text; `incident-show` shows the draft.

    Args:
        environment: name of a registered environment.
        by: your name.
        incident: its id; the one that is open when left empty.
        text: what users read; the draft when left empty.
    """
    connections = load_environment(environment).connect()
    tasks.publish(connections, tasks.choose(connections, incident), text=text, by=by)
    if connections.status_site is not None:
        tasks.write_status_site(connections)


@flow(name="incident-show", flow_run_name="incident-show-{environment}", retries=0)
def incident_show(environment: str, incident: str = "") -> None:
    """Leave an incident as artifacts: the message, the draft for users, the timeline and the post-mortem.

    Args:
        environment: name of a registered environment.
        incident: its id; the one that is open when left empty.
    """
    connections = load_environment(environment).connect()
    tasks.show(connections, tasks.choose(connections, incident))


@flow(name="incidents", flow_run_name="incidents-{environment}", retries=0)
def incidents(environment: str, remind: bool = False) -> State[Any]:
    """Call the levels of the escalation path that are due; on a schedule.

    Args:
        environment: name of a registered environment.
        remind: tell of action items that are due and not done, too; once a day.
    """
    connections = load_environment(environment).connect()
    called = tasks.escalate_due(connections)
    late = tasks.remind(connections) if remind else ()
    said = [f"{one.incident.id}: level {one.level} was called, {one.why}" for one in called]
    said += [f"due: {item}" for item in late]
    return Completed(name="Escalated" if called else "Quiet", message="; ".join(said) or "nobody has to be called")


def _event(kind: EventKind, by: str, text: str = "", **more: object) -> IncidentEvent:
    return IncidentEvent.model_validate({"at": datetime.now(UTC), "by": by, "kind": kind, "text": text, **more})
