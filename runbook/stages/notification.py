"""Stage 7: telling people. A channel that does not work never stops an action.

What it did not take is kept, and told with the next message, before it: at least once, late rather than never. After a
week, and beyond the newest hundred of a channel, it is given up, and the log says so.

Source: runbook, "Stage 7: Notifications".
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

from runbook.clients.channels import Channel, Notification
from runbook.clients.undelivered import Undelivered, UndeliveredRecords
from runbook.connections import Connections
from runbook.errors import ServiceError

LONGEST = timedelta(days=7)
MOST = 100

_log = logging.getLogger(__name__)


def notify(connections: Connections, level: str, title: str, text: str) -> tuple[str, ...]:
    """Send a message to every channel of the environment; return the names of those that did not take it."""
    notification = Notification(connections.settings.name, level, title, text)
    records = records_of(connections)
    waiting = _waiting(records)
    undelivered: list[str] = []
    for channel in connections.channels:
        try:
            _send_waiting(channel, records, waiting, notification.environment)
            channel.send(notification)
        except Exception as error:  # noqa: BLE001 - no channel is trusted, not even to fail as it should
            _log.warning("%s did not take the message %r: %s", channel.name, title, error)
            undelivered.append(channel.name)
            _keep(records, channel.name, notification, error)
    return tuple(undelivered)


def deliver(connections: Connections) -> dict[str, str]:
    """Send what waits; return the channels that still do not take it, each with the reason.

    Raises:
        ServiceError: the store does not answer.
    """
    records, troubles = records_of(connections), dict[str, str]()
    waiting = records.waiting()
    for channel in connections.channels:
        try:
            _send_waiting(channel, records, waiting, connections.settings.name)
        except Exception as error:  # noqa: BLE001 - see above
            troubles[channel.name] = str(error)
    return troubles


def records_of(connections: Connections) -> UndeliveredRecords:
    """Return where undelivered notifications of an environment are kept."""
    return UndeliveredRecords(connections.store.objects, connections.settings.name)


def _send_waiting(
    channel: Channel, records: UndeliveredRecords, waiting: Mapping[str, Undelivered], environment: str
) -> None:
    """Send what waits for a channel, in the order in which it was said; what is too old, or too much, is given up."""
    mine = {key: one for key, one in waiting.items() if one.channel == channel.name}
    given_up = [key for key, one in mine.items() if one.said_at < datetime.now(UTC) - LONGEST]
    given_up += [key for key in list(mine)[:-MOST] if key not in given_up]
    if given_up:
        _log.warning("%s: %d messages that it never took are given up", channel.name, len(given_up))
        records.remove(given_up)
    for key, one in mine.items():
        if key not in given_up:
            late = f"{one.text}\n(said at {one.said_at:%Y-%m-%d %H:%M:%S} UTC, delivered late, perhaps a second time)"
            channel.send(Notification(environment, one.level, one.title, late))
            records.remove([key])


def _waiting(records: UndeliveredRecords) -> Mapping[str, Undelivered]:
    try:
        return records.waiting()
    except ServiceError as error:
        _log.warning("what waits to be told could not be read: %s", error)
        return {}


def _keep(records: UndeliveredRecords, channel: str, notification: Notification, error: Exception) -> None:
    try:
        records.keep(channel, notification, str(error))
    except ServiceError as trouble:
        _log.error("the message %r for %s could not be kept either: %s", notification.title, channel, trouble)
