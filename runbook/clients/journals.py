"""Journals in an object store; see `runbook.journal`."""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator
from contextlib import contextmanager
from datetime import UTC, datetime

from pydantic import JsonValue, ValidationError

from runbook.clients.object_store import ObjectExistsError, ObjectStore
from runbook.errors import LostLockError, RejectedError, ServiceError
from runbook.journal import Effect, Entry, EntryKind, open_intents
from runbook.rules.identifiers import check_environment_name, check_file_name

_log = logging.getLogger(__name__)


class Journal:
    """The journal of one run.

    Args:
        objects: where it is kept.
        environment: name of the environment.
        run: id of the run; a part of the key.
        token: of the environment's lock, held by whoever writes.
        require: raises `LostLockError` when that lock is lost; called before each intent.
    """

    def __init__(
        self, objects: ObjectStore, environment: str, run: str, *, token: int, require: Callable[[], None]
    ) -> None:
        self.objects, self.run, self.token, self._require = objects, check_file_name(run), token, require
        self._folder = f"journal/{check_environment_name(environment)}/{run}/"
        self.entries = self._read()

    @property
    def place(self) -> str:
        """Where it is, for messages."""
        return f"{self.objects.place}/{self._folder}"

    @property
    def has_begun(self) -> bool:
        """Whether the run got so far that it may have done something."""
        return bool(self.entries)

    @property
    def has_ended(self) -> bool:
        """Whether nothing is left to be done."""
        return any(entry.kind is EntryKind.ENDED for entry in self.entries)

    @property
    def has_passed(self) -> bool:
        """Whether the run is to be finished, not undone."""
        return any(entry.kind is EntryKind.PASSED for entry in self.entries)

    def open_intents(self) -> list[Entry]:
        """Return what may have been done and was not taken back, oldest first."""
        return open_intents(self.entries)

    def write(
        self,
        kind: EntryKind,
        effect: Effect | None = None,
        intent: int | None = None,
        detail: dict[str, JsonValue] | None = None,
    ) -> Entry:
        """Add an entry and return it, once the store has it.

        Raises:
            LostLockError: another run has written in this journal.
            ServiceError: the store cannot be written to.
        """
        entry = Entry(
            run=self.run,
            number=len(self.entries) + 1,
            at=datetime.now(UTC),
            token=self.token,
            kind=kind,
            effect=effect,
            intent=intent,
            detail=detail or {},
        )
        key = f"{self._folder}{entry.number:04d}.json"
        try:
            self.objects.create(key, entry.model_dump_json(indent=2).encode())
        except ObjectExistsError as error:
            there = Entry.model_validate_json(self.objects.read(key))
            if there.token != self.token:
                raise LostLockError(
                    f"another run has taken over {self.place}; this one does nothing any more"
                ) from error
            self.entries.append(there)  # our own, but the answer was lost, or we were interrupted while it came
            if there.model_copy(update={"at": entry.at}) == entry:
                return there
            return self.write(kind, effect, intent, detail)
        self.entries.append(entry)
        return entry

    @contextmanager
    def effect(self, effect: Effect, **detail: JsonValue) -> Generator[None]:
        """Write down what the body of a `with` is about to do, and afterwards how that ended.

        That the outcome cannot be written down takes nothing back: whoever reads the intent alone looks at the world.

        Raises:
            LostLockError: another run has taken over; the body was not run.
            ServiceError: the intent cannot be written; the body was not run.
        """
        self._require()
        intent = self.write(EntryKind.INTENT, effect, detail=detail)
        try:
            yield
        except BaseException as error:
            self._outcome(EntryKind.FAILED, intent, {"error": str(error) or type(error).__name__})
            raise
        self._outcome(EntryKind.DONE, intent, {})

    def undone(self, intent: Entry) -> None:
        """Write down that an effect was taken back, or had never happened."""
        self._outcome(EntryKind.UNDONE, intent, {})

    def end(self, state: str) -> None:
        """Write down that nothing is left to be done; `state` is how it ended."""
        try:
            self.write(EntryKind.ENDED, detail={"state": state})
        except ServiceError as error:
            _log.warning("%s: that the run has ended was not written down: %s", self.place, error)

    def _outcome(self, kind: EntryKind, intent: Entry, detail: dict[str, JsonValue]) -> None:
        try:
            self.write(kind, intent.effect, intent.number, detail)
        except ServiceError as error:
            _log.warning("%s: the outcome of %s was not written down: %s", self.place, intent.effect, error)

    def _read(self) -> list[Entry]:
        found: list[Entry] = []
        for item in self.objects.objects(self._folder):
            try:
                entry = Entry.model_validate_json(self.objects.read(item.key))
            except ValidationError as error:
                raise RejectedError(
                    f"{item.key} in {self.objects.place} cannot be read as a journal's entry"
                ) from error
            if entry.number != len(found) + 1 or entry.run != self.run:
                raise RejectedError(f"{self.place} is not complete: entry {len(found) + 1} is missing or another one's")
            found.append(entry)
        return found
