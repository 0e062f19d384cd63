"""The queue of approved changes of an environment, kept in its store.

maintenance/<environment>/<id>.json    one for each change, also those that are done
"""

from __future__ import annotations

import logging
import uuid
from datetime import UTC, datetime

from pydantic import ValidationError

from runbook.clients.object_store import MissingObjectError, ObjectStore
from runbook.errors import InvalidInputError
from runbook.rules.identifiers import check_environment_name, time_stamp
from runbook.rules.maintenance_queue import Change, ChangeKind

_log = logging.getLogger(__name__)


class MaintenanceRecords:
    """The changes of one environment. Every method raises `ServiceError` when the store does not answer."""

    def __init__(self, objects: ObjectStore, environment: str) -> None:
        self._objects = objects
        self._folder = f"maintenance/{check_environment_name(environment)}/"

    def add(self, kind: ChangeKind, parameters: dict[str, str], *, reason: str, by: str) -> Change:
        """Put a change at the end of the queue; return it."""
        now = datetime.now(UTC)
        about = {"id": f"{kind}-{time_stamp(now)}-{uuid.uuid4().hex[:4]}", "kind": kind, "parameters": parameters}
        change = Change.model_validate({**about, "reason": reason, "approved_by": by, "approved_at": now})
        self._objects.create(f"{self._folder}{change.id}.json", change.model_dump_json(indent=2).encode())
        return change

    def keep(self, change: Change) -> Change:
        """Keep how far a change is; return it."""
        kept = change.model_copy(update={"changed_at": datetime.now(UTC)})
        self._objects.replace(f"{self._folder}{change.id}.json", kept.model_dump_json(indent=2).encode())
        return kept

    def change(self, change_id: str) -> Change:
        """Return a change.

        Raises:
            InvalidInputError: there is none of this id.
        """
        found = next((one for one in self.queue() if one.id == change_id), None)
        if found is None:
            waiting = ", ".join(one.id for one in self.queue() if one.is_due) or "none"
            raise InvalidInputError("change", change_id, f"one of: {waiting}", "List them: `runbook maintenance:list`.")
        return found

    def queue(self) -> list[Change]:
        """Return all changes in the order in which they were approved; one that cannot be read is left out."""
        found: list[Change] = []
        for about in list(self._objects.objects(self._folder)):
            try:
                found.append(Change.model_validate_json(self._objects.read(about.key)))
            except MissingObjectError:
                continue
            except ValidationError:
                _log.warning("%s in %s is no change; it is left out", about.key, self._objects.place)
        return sorted(found, key=lambda one: (one.approved_at, one.id))
