"""An incident in the channels: one message that is changed in place, its thread, a channel of its own, and pagers.

Source: runbook, "Incident Response Process" ("Notify stakeholders", "Create incident channel", "Update stakeholders").
"""

from __future__ import annotations

import logging
from dataclasses import replace
from datetime import UTC, datetime

from runbook.clients.object_store import MissingObjectError
from runbook.clients.pager_duty import PagerDuty, dedup_key
from runbook.clients.slack import SlackChannel, escaped
from runbook.connections import Connections
from runbook.rules.incident_messages import render_message
from runbook.rules.incidents import EventKind, Incident
from runbook.rules.thresholds import Severity
from runbook.stages import notification
from runbook.stages.kept_message import KeptMessage

_log = logging.getLogger(__name__)
_WITH_A_CHANNEL = (Severity.SEV1, Severity.SEV2)


def tell(connections: Connections, incident: Incident, text: str, *, level: int | None = None) -> tuple[str, ...]:
    """Bring the message of an incident up to date, and say what is new; return the channels that took it.

    Args:
        connections: the environment.
        incident: as it is now.
        text: what is new.
        level: of the escalation path, when that level is called by this; its call is an alert of its own.
    """
    channels = [one.afresh() if isinstance(one, SlackChannel) else one for one in connections.channels]
    connections = replace(connections, channels=tuple(channels))  # other runs show other things in the same channel
    _show(connections, incident)
    loud = level is not None or (incident.is_open and incident.severity in _WITH_A_CHANNEL)
    name = "error" if loud else "warning" if incident.is_open else "info"
    undelivered = notification.notify(connections, name, title_of(incident, level), text)
    return tuple(channel.name for channel in connections.channels if channel.name not in undelivered)


def title_of(incident: Incident, level: int | None = None) -> str:
    """Return the title of messages about an incident: always the same, so that a pager knows it again."""
    called = f"level {level} is called, " if level is not None else ""
    return f"{called}incident on {incident.environment}: {incident.title} ({incident.id})"


def end_alerts(connections: Connections, incident: Incident, *, resolved: bool) -> None:
    """Tell the pagers that somebody works on an incident, or that it is over."""
    levels = [one.level for one in incident.events if one.kind is EventKind.ESCALATED]
    for pager in (channel for channel in connections.channels if isinstance(channel, PagerDuty)):
        for title in (title_of(incident), *(title_of(incident, level) for level in levels)):
            key = dedup_key(incident.environment, title)
            try:
                pager.resolve(key) if resolved else pager.acknowledge(key)
            except Exception as error:  # noqa: BLE001 - a pager that does not answer stops nothing
                _log.warning("%s still shows %s as open: %s", pager.name, incident.id, error)


def _show(connections: Connections, incident: Incident) -> None:
    message = KeptMessage(connections, incident.id)
    for channel in message.channels:
        try:
            place = _channel_of_its_own(connections, channel, incident)
            message.show(channel, _text(incident, place))
        except Exception as error:  # noqa: BLE001 - no channel is trusted; what is new is told as a message all the same
            _log.warning("%s does not show how %s goes on: %s", channel.name, incident.id, error)


def _text(incident: Incident, place: str) -> str:
    mark = ":rotating_light:" if incident.is_open else ":white_check_mark:"
    head = f"{mark} *{incident.severity} on {incident.environment}: {escaped(incident.title)}*{place}"
    return f"{head}\n```{escaped(render_message(incident, datetime.now(UTC)))}```"


def _channel_of_its_own(connections: Connections, channel: SlackChannel, incident: Incident) -> str:
    """Open a channel for an incident that is bad enough, once; return the mention of it."""
    key = f"messages/{incident.environment}/{incident.id}.channel"
    objects = connections.store.objects
    try:
        return f"  <#{objects.read(key).decode()}>"
    except MissingObjectError:
        if incident.severity not in _WITH_A_CHANNEL or not connections.settings.incidents.open_channel:
            return ""
    name = f"{incident.id.replace('_', '-')[:23]}-{incident.environment}"
    people = connections.settings.incidents.slack_people
    made = channel.open_incident_channel(name, topic=f"{incident.severity}: {incident.title}"[:250], people=people)
    objects.replace(key, made.id.encode())
    return f"  <#{made.id}>"
