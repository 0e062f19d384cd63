"""Notifications that a channel did not take, kept in the environment's store until it does.

undelivered/<environment>/<time>-<id>.json    one for each channel that did not take it, oldest first
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from datetime import UTC, datetime

from pydantic import AwareDatetime, BaseModel, ConfigDict, ValidationError

from runbook.clients.channels import Notification
from runbook.clients.object_store import MissingObjectError, ObjectStore
from runbook.rules.identifiers import check_environment_name


class Undelivered(BaseModel):
    """A notification that waits for a channel."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    channel: str
    said_at: AwareDatetime
    level: str
    title: str
    text: str
    trouble: str


class UndeliveredRecords:
    """What waits in one environment. Every method raises `ServiceError` when the store does not answer."""

    def __init__(self, objects: ObjectStore, environment: str) -> None:
        self._objects = objects
        self._environment = check_environment_name(environment)

    def keep(self, channel: str, notification: Notification, trouble: str) -> None:
        """Keep a notification that a channel did not take."""
        now = datetime.now(UTC)
        waiting = Undelivered(
            channel=channel,
            said_at=now,
            level=notification.level,
            title=notification.title,
            text=notification.text,
            trouble=trouble,
        )
        key = f"{self._folder}{now:%Y%m%d_%H%M%S_%f}-{uuid.uuid4().hex[:8]}.json"
        self._objects.create(key, waiting.model_dump_json(indent=2).encode())

    def waiting(self) -> dict[str, Undelivered]:
        """Return what waits by its key, oldest first; what another run has delivered meanwhile is left out."""
        found: dict[str, Undelivered] = {}
        for about in list(self._objects.objects(self._folder)):
            try:
                found[about.key] = Undelivered.model_validate_json(self._objects.read(about.key))
            except (MissingObjectError, ValidationError):
                continue
        return found

    def remove(self, keys: Iterable[str]) -> None:
        """Forget what was delivered, or is given up."""
        self._objects.delete(keys)

    @property
    def _folder(self) -> str:
        return f"undelivered/{self._environment}/"
