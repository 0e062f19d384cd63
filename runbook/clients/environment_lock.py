"""The lock of an environment: one change at a time, also when the Prefect server is down.

locks/<environment>/00000007.json         who got it as the seventh; that number is the fencing token
locks/<environment>/00000007.beat         written again and again while its owner lives
locks/<environment>/00000007.free.json    given back, or forced open, by whom and why

Each token's file can only be created once, so of two that want it one wins, and whoever went on without noticing that
another took over finds a higher token. All ages are by the store's own clock.

Source: M. Kleppmann, "How to do distributed locking" (fencing tokens).
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TypeVar

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from runbook.clients.object_store import ObjectExistsError, ObjectStore
from runbook.clients.process_id import ProcessId, current_process, machine
from runbook.errors import LostLockError, RefusedError, RejectedError, ServiceError
from runbook.rules.identifiers import check_environment_name

_log = logging.getLogger(__name__)
_OWNER, _BEAT, _FREE = ".json", ".beat", ".free.json"
_KEPT = 20
_ATTEMPTS = 5
OwnerOrFreed = TypeVar("OwnerOrFreed", bound=BaseModel)


class Owner(BaseModel):
    """Who holds the lock, and since when.

    `machine`, `pid` and `create_time` tell whether it lives, on its machine. `unfinished` are the runs before it that
    died with the lock, or had it taken away: their journals have to be finished first.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    run: str
    procedure: str
    reason: str
    triggered_by: str
    since: AwareDatetime
    unfinished: tuple[str, ...] = ()
    machine: str = Field(default_factory=machine)
    pid: int = Field(default_factory=lambda: current_process().pid)
    create_time: float = Field(default_factory=lambda: current_process().create_time)

    def is_gone(self) -> bool:
        """Return whether its process is known to have ended; False on another machine, where nobody can know."""
        return self.machine == machine() and not ProcessId(self.pid, self.create_time).alive()

    def render(self) -> str:
        """Say who it is."""
        return (
            f"{self.procedure} ({self.run}) by {self.triggered_by} since {self.since:%Y-%m-%d %H:%M:%S} UTC: "
            f"{self.reason or 'no reason given'}"
        )


class Freed(BaseModel):
    """How the lock was given back, by its owner or by force; `unfinished` when work may be left for the next run."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    at: AwareDatetime
    by: str
    reason: str
    unfinished: bool = False


class LockedError(RefusedError):
    """Another run changes the environment."""


@dataclass(frozen=True)
class LockState:
    """The lock as it is in the store. `silent_for` is the time since its owner's last sign of life."""

    token: int
    owner: Owner
    silent_for: timedelta
    freed: Freed | None

    @property
    def unfinished(self) -> tuple[str, ...]:
        """Runs that may have left work behind, if this lock is taken over now."""
        return (self.owner.run, *self.owner.unfinished) if self.freed is None or self.freed.unfinished else ()


@dataclass
class HeldLock:
    """The lock, held by this process; `unfinished` says, when it is given back, that work is left for the next run."""

    lock: EnvironmentLock
    token: int
    owner: Owner
    unfinished: bool = False
    _lost: threading.Event = field(default_factory=threading.Event)

    def require(self) -> None:
        """Raise `LostLockError` when another run has taken over: nothing may be done any more."""
        if not self._lost.is_set() and self.lock.is_newest(self.token):
            return
        self._lost.set()
        raise LostLockError(
            f"the lock of {self.lock.environment} was lost while {self.owner.procedure} ran: this machine was silent "
            "for too long, or somebody forced it open. Another run decides now; this one does nothing any more."
        )


class EnvironmentLock:
    """The lock of one environment; see the module.

    Args:
        objects: where it is kept.
        environment: its name.
        heartbeat_s: seconds between two signs of life of the owner.
        expires_s: seconds without a sign of life after which the owner is taken for dead.
    """

    def __init__(self, objects: ObjectStore, environment: str, *, heartbeat_s: float, expires_s: float) -> None:
        self.objects = objects
        self.environment = check_environment_name(environment)
        self.heartbeat_s, self.expires_s = heartbeat_s, expires_s

    def state(self) -> LockState | None:
        """Return how the lock is, or None when nobody ever held it.

        Raises:
            RejectedError: it cannot be read; nothing may be done until somebody has looked.
            TransientError: the store does not answer.
        """
        found = {item.key.removeprefix(self._folder): item for item in self.objects.objects(self._folder)}
        tokens = [int(name[:8]) for name in found if name[8:] == _OWNER and name[:8].isdigit()]
        if not tokens:
            return None
        token = max(tokens)
        signs = [found[name].modified_at for name in (f"{token:08d}{_OWNER}", f"{token:08d}{_BEAT}") if name in found]
        owner = self._read(self._key(token, _OWNER), Owner)
        freed = self._read(self._key(token, _FREE), Freed) if f"{token:08d}{_FREE}" in found else None
        return LockState(token, owner, self.objects.now() - max(signs), freed)

    def holder(self) -> LockState | None:
        """Return who holds the lock now, dead or alive, or None when it is free."""
        state = self.state()
        return None if state is None or state.freed else state

    def is_dead(self, state: LockState) -> bool:
        """Return whether the owner has died: its process is gone, or it was silent for too long."""
        return state.owner.is_gone() or state.silent_for > timedelta(seconds=self.expires_s)

    @contextmanager
    def held(self, owner: Owner) -> Generator[HeldLock]:
        """Hold the lock for the body of a `with`, and show signs of life meanwhile.

        The lock of an owner that has died is taken over; see `Owner.unfinished`.

        Raises:
            LockedError: another run holds it; the message says who, and since when.
        """
        held = self._acquire(owner)
        stop = threading.Event()
        beating = threading.Thread(target=self._beat, args=(held, stop), name="lock heartbeat", daemon=True)
        beating.start()
        try:
            yield held
        finally:
            stop.set()
            beating.join()
            self._free(held.token, by=owner.triggered_by, reason="ended", unfinished=held.unfinished)

    def force(self, *, by: str, reason: str) -> LockState:
        """Open the lock whoever holds it, and return who did. Its run finds out before its next effect.

        Raises:
            RefusedError: nobody holds it.
        """
        state = self.holder()
        if state is None:
            raise RefusedError(f"nobody holds the lock of {self.environment}; there is nothing to open")
        # A new token, given back at once, is what its run will notice.
        owner = state.owner.model_copy(update={"procedure": "unlock", "reason": reason, "triggered_by": by})
        self._create(state.token + 1, owner)
        self._free(state.token + 1, by=by, reason=reason, unfinished=True)
        return state

    def is_newest(self, token: int) -> bool:
        """Return whether nobody got the lock after the holder of this token."""
        newer = self._key(token, "~")
        return not any(item.key > newer for item in self.objects.objects(self._folder))

    def _acquire(self, owner: Owner) -> HeldLock:
        for _ in range(_ATTEMPTS):
            state = self.state()
            if state is not None and state.freed is None and not self.is_dead(state):
                raise LockedError(
                    f"{self.environment} is being changed: {state.owner.render()}. Wait until it has ended, or, when "
                    "you are sure that it does nothing any more, `runbook deploy:unlock --reason=...`."
                )
            token = state.token + 1 if state else 1
            owner = owner.model_copy(update={"unfinished": state.unfinished if state else ()})
            try:
                self._create(token, owner)
            except ObjectExistsError:
                continue  # another one was quicker; see who
            self._prune(token)
            return HeldLock(self, token, owner)
        raise LockedError(f"{self.environment} is wanted by several runs at once; try again")

    def _create(self, token: int, owner: Owner) -> None:
        data = owner.model_dump_json(indent=2).encode()
        try:
            self.objects.create(self._key(token, _OWNER), data)
        except ObjectExistsError:
            if self.objects.read(self._key(token, _OWNER)) != data:
                raise  # else it is our own, and only the answer was lost

    def _beat(self, held: HeldLock, stop: threading.Event) -> None:
        while not stop.wait(self.heartbeat_s):
            try:
                held.require()
                self.objects.replace(self._key(held.token, _BEAT), b"")
            except LostLockError as error:
                _log.error("%s", error)
                return
            except ServiceError as error:
                _log.warning("no sign of life could be given for the lock of %s: %s", self.environment, error)

    def _free(self, token: int, *, by: str, reason: str, unfinished: bool = False) -> None:
        try:
            freed = Freed(at=self.objects.now(), by=by, reason=reason, unfinished=unfinished)
            self.objects.create(self._key(token, _FREE), freed.model_dump_json(indent=2).encode())
        except ServiceError as error:  # also when it was opened by force
            _log.warning("the lock of %s was not given back: %s", self.environment, error)

    def _prune(self, token: int) -> None:
        try:
            keys = [item.key for item in self.objects.objects(self._folder)]
            old = [key for key in keys if int(key.removeprefix(self._folder)[:8]) <= token - _KEPT]
            self.objects.delete(old)
        except (ServiceError, ValueError) as error:
            _log.warning("old tokens of the lock of %s were not deleted: %s", self.environment, error)

    @property
    def _folder(self) -> str:
        return f"locks/{self.environment}/"

    def _key(self, token: int, kind: str) -> str:
        return f"{self._folder}{token:08d}{kind}"

    def _read(self, key: str, model: type[OwnerOrFreed]) -> OwnerOrFreed:
        try:
            return model.model_validate_json(self.objects.read(key))
        except ValidationError as error:
            raise RejectedError(
                f"{key} in {self.objects.place} cannot be read as a lock. See who wrote it; when nothing runs, move it "
                "away."
            ) from error
