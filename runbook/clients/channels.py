"""Where notifications go. No channel is trusted to work: `runbook.stages.notification` keeps going without it."""

from __future__ import annotations

import json
import logging
import os
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Notification:
    """One message; `level` is `info`, `warning` or `error`."""

    environment: str
    level: str
    title: str
    text: str


class Channel(Protocol):
    """A place that notifications are sent to."""

    @property
    def name(self) -> str:
        """How messages call this channel."""
        ...

    def send(self, notification: Notification) -> None:
        """Deliver a notification or raise `ServiceError`."""
        ...


@dataclass(frozen=True)
class LogChannel:
    """Writes notifications to the log and, one JSON object a line, to a file."""

    path: Path
    name: str = "log"

    def send(self, notification: Notification) -> None:
        """Append the notification to the file and log it."""
        line = {"timestamp": datetime.now(UTC).isoformat(), **vars(notification)}
        self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
            stream.write(json.dumps(line) + "\n")
        level = logging.getLevelNamesMapping()[notification.level.upper()]
        _log.log(level, "%s: %s", notification.title, notification.text)
