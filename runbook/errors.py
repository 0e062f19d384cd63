"""What can go wrong, and whether trying again can help.

RunbookError                    exit code 1: it failed, and what was begun was undone
├── RefusedError                exit code 3: refused before the first side effect
│   ├── InvalidInputError       a field, its value, what is allowed, what to do
│   └── UnansweredError         nobody consented in time
├── ServiceError                exit code 1: a service outside answered, or did not
│   ├── TransientError          trying again can help
│   └── RejectedError           trying again cannot help
│       └── DamagedBackupError  a backup is not what was once written
├── StageError                  exit code 1: a stage ran and its result is bad
├── LostLockError               exit code 4: another run has taken over; this one did nothing more
└── DivergedError               exit code 4: the state is not what was planned; a person has to look
"""

from __future__ import annotations


class RunbookError(Exception):
    """Base of every error that this project raises on purpose."""

    exit_code = 1


class RefusedError(RunbookError):
    """Refused before the first side effect; nothing was changed."""

    exit_code = 3


class InvalidInputError(RefusedError):
    """An input is not acceptable.

    Args:
        field: name of the input, as the person typed it.
        value: what was given; never a secret.
        allowed: what would be accepted.
        action: what to do now.
    """

    def __init__(self, field: str, value: object, allowed: str, action: str) -> None:
        super().__init__(f"{field}: {value!r} is not acceptable. Allowed: {allowed}. {action}")
        self.field = field


class UnansweredError(RefusedError):
    """Nobody who was asked for consent answered in time; nothing was changed."""


class ServiceError(RunbookError):
    """A service outside this process failed."""


class TransientError(ServiceError):
    """Trying again can help: a time-out, a lost connection, a lock not available, HTTP 429 or 5xx."""


class RejectedError(ServiceError):
    """Trying again cannot help: the service understood and said no."""


class DamagedBackupError(RejectedError):
    """A file of a backup is missing, changed, cut or swapped; the backup was not used."""


class StageError(RunbookError):
    """A stage ran to its end and its result is bad (tests failed, smoke test failed, ...)."""


class LostLockError(RunbookError):
    """Another run has taken over the environment: nothing may be done, nor undone, any more."""

    exit_code = 4


class DivergedError(RunbookError):
    """The state found is neither the old nor the new one; a person has to look."""

    exit_code = 4
