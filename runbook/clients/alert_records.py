"""What is remembered of an environment's alerts, kept in its store.

alerts/<environment>/state.json      what fires, who was told and when
alerts/<environment>/silences.json   maintenance windows that people have announced
"""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import TypeAdapter, ValidationError

from runbook.clients.object_store import MissingObjectError, ObjectStore
from runbook.errors import RejectedError
from runbook.rules.alerting import AlertBook, Silence
from runbook.rules.identifiers import check_environment_name

_SILENCES = TypeAdapter(tuple[Silence, ...])


class AlertRecords:
    """The records of one environment. One run writes the state at a time: the deployment sees to that."""

    def __init__(self, objects: ObjectStore, environment: str) -> None:
        self._objects = objects
        self._folder = f"alerts/{check_environment_name(environment)}"

    def book(self) -> AlertBook:
        """Return what is remembered; an empty book when nothing is.

        Raises:
            RejectedError: it cannot be read.
            ServiceError: the store does not answer.
        """
        try:
            return AlertBook.model_validate_json(self._objects.read(self._key("state")))
        except MissingObjectError:
            return AlertBook()
        except ValidationError as error:
            raise self._unreadable("state", "it will be built anew") from error

    def keep(self, book: AlertBook) -> None:
        """Remember."""
        self._objects.replace(self._key("state"), book.model_dump_json(indent=2).encode())

    def silences(self) -> tuple[Silence, ...]:
        """Return the maintenance windows that people have announced, those that are over too.

        Raises:
            RejectedError: they cannot be read.
            ServiceError: the store does not answer.
        """
        try:
            return _SILENCES.validate_json(self._objects.read(self._key("silences")))
        except MissingObjectError:
            return ()
        except ValidationError as error:
            raise self._unreadable("silences", "nothing will be silenced") from error

    def keep_silences(self, silences: Sequence[Silence]) -> None:
        """Remember the maintenance windows."""
        self._objects.replace(self._key("silences"), _SILENCES.dump_json(tuple(silences), indent=2))

    def _key(self, name: str) -> str:
        return f"{self._folder}/{name}.json"

    def _unreadable(self, name: str, then: str) -> RejectedError:
        place = self._objects.place
        return RejectedError(f"{self._key(name)} in {place} cannot be read; mend it, or delete it: {then}")
