"""Stage 7: telling people. A channel that does not work never stops an action.

Source: runbook, "Stage 7: Notifications".
"""

from __future__ import annotations

import logging

from runbook.clients.channels import Notification
from runbook.connections import Connections

_log = logging.getLogger(__name__)


def notify(connections: Connections, level: str, title: str, text: str) -> tuple[str, ...]:
    """Send a message to every channel of the environment; return the names of those that did not take it."""
    notification = Notification(connections.settings.name, level, title, text)
    undelivered: list[str] = []
    for channel in connections.channels:
        try:
            channel.send(notification)
        except Exception as error:  # noqa: BLE001 - no channel is trusted, not even to fail as it should
            _log.warning("%s did not take the message %r: %s", channel.name, title, error)
            undelivered.append(channel.name)
    return tuple(undelivered)
