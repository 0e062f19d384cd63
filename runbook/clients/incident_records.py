"""The incidents of an environment, kept in its store: each event by itself, so that writers lose nothing.

incidents/<environment>/<id>/<time>-<id of the event>.json
"""

from __future__ import annotations

import uuid
from collections import defaultdict
from datetime import UTC, datetime

from pydantic import ValidationError

from runbook.clients.object_store import MissingObjectError, ObjectExistsError, ObjectStore
from runbook.errors import InvalidInputError, RejectedError
from runbook.rules.identifiers import check_environment_name, check_incident_id, time_stamp
from runbook.rules.incidents import Incident, IncidentEvent


class IncidentRecords:
    """The incidents of one environment. Every method raises `ServiceError` when the store does not answer."""

    def __init__(self, objects: ObjectStore, environment: str) -> None:
        self._objects = objects
        self._environment = check_environment_name(environment)

    def open(self, event: IncidentEvent) -> Incident:
        """Begin an incident with its first event; return it."""
        for _ in range(10):
            incident_id = f"inc_{time_stamp(datetime.now(UTC))}"
            try:
                self._objects.create(f"{self._folder}{incident_id}/begun.json", _bytes(event))
            except ObjectExistsError:
                continue
            return Incident(id=incident_id, environment=self._environment, events=(event,))
        raise RejectedError(f"no id was free for an incident of {self._environment}; look at the store's clock")

    def add(self, incident_id: str, event: IncidentEvent) -> Incident:
        """Add an event; return the incident with it.

        Raises:
            InvalidInputError: there is no such incident.
        """
        self.incident(incident_id)
        key = f"{self._folder}{incident_id}/{time_stamp(datetime.now(UTC))}-{uuid.uuid4().hex[:8]}.json"
        self._objects.create(key, _bytes(event))
        return self.incident(incident_id)

    def incident(self, incident_id: str) -> Incident:
        """Return an incident.

        Raises:
            InvalidInputError: there is none with this id.
            RejectedError: an event of it cannot be read.
        """
        check_incident_id(incident_id)
        prefix = f"{self._folder}{incident_id}/"
        found = self._read([about.key for about in self._objects.objects(prefix)])
        if f"{prefix}begun.json" not in found:
            newest = ", ".join(one.id for one in self.incidents()[-3:]) or "none"
            raise InvalidInputError(
                "incident", incident_id, f"one of {self._environment}; newest: {newest}", "`runbook incident:show`."
            )
        return self._of(incident_id, found)

    def incidents(self) -> list[Incident]:
        """Return all incidents, the one begun last at the end."""
        by_id: dict[str, list[str]] = defaultdict(list)
        for about in list(self._objects.objects(self._folder)):
            incident_id, _, name = about.key.removeprefix(self._folder).partition("/")
            if name:
                by_id[incident_id].append(about.key)
        found = {incident_id: self._read(keys) for incident_id, keys in sorted(by_id.items())}
        return [self._of(one, events) for one, events in found.items() if f"{self._folder}{one}/begun.json" in events]

    def _of(self, incident_id: str, events: dict[str, IncidentEvent]) -> Incident:
        begun = events.pop(f"{self._folder}{incident_id}/begun.json")
        later = sorted(events.items(), key=lambda item: (item[1].at, item[0]))
        return Incident(id=incident_id, environment=self._environment, events=(begun, *(one for _, one in later)))

    def _read(self, keys: list[str]) -> dict[str, IncidentEvent]:
        found: dict[str, IncidentEvent] = {}
        for key in keys:
            try:
                found[key] = IncidentEvent.model_validate_json(self._objects.read(key))
            except MissingObjectError:
                continue
            except ValidationError as error:
                raise RejectedError(
                    f"{key} in {self._objects.place} cannot be read as an event; mend it or move it away"
                ) from error
        return found

    @property
    def _folder(self) -> str:
        return f"incidents/{self._environment}/"


def _bytes(event: IncidentEvent) -> bytes:
    return event.model_dump_json(indent=2, exclude_defaults=True).encode()
