"""Instant copies of a database beside its dumps, made and kept by the database's provider."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Protocol

from runbook.errors import InvalidInputError
from runbook.manifest import RestorePoint
from runbook.rules.identifiers import check_backup_id

_PREFIX = "runbook-"


def point_name(backup_id: str) -> str:
    """Return the name of the restore point beside a backup: `runbook-<backup_id>`.

    Raises:
        InvalidInputError: not a backup id.
    """
    return _PREFIX + check_backup_id(backup_id)


def is_point_name(name: str) -> bool:
    """Whether `point_name` made this name."""
    try:
        return name == point_name(name.removeprefix(_PREFIX))
    except InvalidInputError:
        return False


@dataclass(frozen=True)
class ServerAddress:
    """Where a server listens."""

    host: str
    port: int


class RestorePoints(Protocol):
    """What a provider of instant copies can do for one live database.

    A branch is a copy of the live database's whole server, beside it, that takes connections, and can take its place.

    Every method raises `TransientError` when trying again can help and `RejectedError` when it cannot, in words a
    person can act on. A point stays usable until its `expires_at`; None means until it is removed.
    """

    def check(self) -> str:
        """Say in words what is there, and raise `RejectedError` for a wrong key, project or branch."""
        ...

    def horizon(self) -> timedelta:
        """Return how far back the provider itself can restore, with or without a point."""
        ...

    def create(self, name: str, *, keep_for: timedelta | None) -> RestorePoint:
        """Copy the live database as it is now, and return when the copy can be used; None keeps it until removed.

        Safe to repeat: a point that has this name already is returned as it is.

        Raises:
            InvalidInputError: not a name that `point_name` makes, or longer than the provider keeps copies.
            StageError: the provider began and failed.
        """
        ...

    def find(self, name: str) -> RestorePoint | None:
        """Return the point of this name, or None."""
        ...

    def points(self) -> Sequence[RestorePoint]:
        """Return the points that the runbook made, by name.

        Another environment that lives in the same project has its points among them.
        """
        ...

    def open(self, point: RestorePoint, name: str) -> None:
        """Make a branch of a point that takes connections, beside the live one. Safe to repeat.

        Raises:
            RejectedError: the point is not there any more; nothing was changed.
            StageError: the provider began and failed.
        """
        ...

    def remove(self, point: RestorePoint) -> None:
        """Remove a point; no error when it is gone. `RejectedError` while the provider still needs it."""
        ...

    def address(self, name: str, *, database: str, role: str) -> ServerAddress | None:
        """Return where the branch of this name takes connections; None when there is no such branch."""
        ...

    def sizes(self, prefix: str) -> Mapping[str, int]:
        """Return the branches whose name begins so, and the bytes in each."""
        ...

    def take_place(self, name: str, *, preserve_as: str) -> None:
        """Put the state of a branch in the live one's place; how to connect stays the same, connections are cut.

        The state replaced stays, as branch `preserve_as`. Returns when it is done. Not safe to repeat: whoever gets an
        error looks first at what is there.

        Raises:
            InvalidInputError: the name `preserve_as` is taken or cannot be a name.
            RejectedError: there is no such branch; nothing was changed.
            StageError: the provider began and failed.
            DivergedError: the provider says it is done, and what is there does not fit.
        """
        ...

    def close(self, name: str) -> bool:
        """Remove a branch; return whether it is gone now. It stays while the provider builds other ones on it."""
        ...
