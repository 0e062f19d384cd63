"""The queue of approved changes for a maintenance window: what is begun, what is moved to the next one.

Changes are made in the order in which they were approved, and none overtakes another, even when it would still fit:
they may build on each other.

Source: runbook, "SEV3: Performance Degradation" ("Schedule rollback during next maintenance window"), "Plan Forward
Fix" ("Deploy during maintenance window").
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from enum import StrEnum

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from runbook.errors import InvalidInputError

LEAST_KNOWN = 3
"""So many earlier durations say how long a change takes; with fewer the default counts."""


class ChangeKind(StrEnum):
    """What is done."""

    DEPLOY = "deploy"
    ROLLBACK = "rollback"
    DRILL = "drill"
    RETENTION = "retention"
    VACUUM = "vacuum"
    REINDEX = "reindex"


class ChangeState(StrEnum):
    """How far a change is. MOVED: it waits for the next window, because the last one was too short."""

    WAITING = "waiting"
    MOVED = "moved"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


DEFAULTS_S = {
    ChangeKind.DEPLOY: 1200.0,
    ChangeKind.ROLLBACK: 900.0,
    ChangeKind.DRILL: 900.0,
    ChangeKind.RETENTION: 300.0,
    ChangeKind.VACUUM: 1800.0,
    ChangeKind.REINDEX: 1800.0,
}
"""Seconds that a change is expected to take while nobody knows better."""


_PARAMETERS = {
    ChangeKind.DEPLOY: {"git_ref"},
    ChangeKind.ROLLBACK: {"scope", "backup_id", "discard_writes"},
    ChangeKind.DRILL: {"backup_id"},
    ChangeKind.RETENTION: set[str](),
    ChangeKind.VACUUM: {"table"},
    ChangeKind.REINDEX: {"table"},
}
_NEEDED = {ChangeKind.DEPLOY: "git_ref"}


def check_parameters(kind: ChangeKind, given: dict[str, str]) -> dict[str, str]:
    """Return the parameters of a change unchanged when they fit its kind.

    Raises:
        InvalidInputError: one is not known, or one that is needed is missing.
    """
    known = ", ".join(sorted(_PARAMETERS[kind])) or "none"
    for name in given:
        if name not in _PARAMETERS[kind]:
            raise InvalidInputError("parameter", name, f"for {kind}: {known}", "Leave it out.")
    needed = _NEEDED.get(kind)
    if needed and not given.get(needed):
        raise InvalidInputError("parameter", needed, f"a value: {kind} needs it", f"Add {needed}=...")
    return given


class Change(BaseModel):
    """A change that somebody has approved; `parameters` as the deployment of that kind takes them.

    `duration_s` is how long it took, once it has.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    kind: ChangeKind
    parameters: dict[str, str] = Field(default={})
    reason: str = Field(min_length=1)
    approved_by: str = Field(min_length=1)
    approved_at: AwareDatetime
    state: ChangeState = ChangeState.WAITING
    detail: str = ""
    duration_s: float | None = None
    changed_at: AwareDatetime | None = None

    @property
    def is_due(self) -> bool:
        """Whether it waits for a window."""
        return self.state in (ChangeState.WAITING, ChangeState.MOVED)

    def render(self) -> str:
        """Return it in one line."""
        what = " ".join(f"{name}={value}" for name, value in self.parameters.items())
        more = f": {self.detail}" if self.detail else ""
        return f"{self.kind} {what} ({self.reason}, {self.approved_by}), {self.state}{more}"


def predicted_s(kind: ChangeKind, durations_s: Sequence[float]) -> float:
    """Return how many seconds a change is expected to take: the 95th percentile of earlier ones, or the default.

    Args:
        kind: of the change.
        durations_s: how long earlier ones of this kind took, in seconds.
    """
    if len(durations_s) < LEAST_KNOWN:
        return DEFAULTS_S[kind]
    ordered = sorted(durations_s)
    return ordered[math.ceil(0.95 * len(ordered)) - 1]


def next_change(queue: Sequence[Change]) -> Change | None:
    """Return the change whose turn it is; None when none waits."""
    return min((one for one in queue if one.is_due), key=lambda one: (one.approved_at, one.id), default=None)


def fits(expected_s: float, remaining_s: float, reserve_s: float) -> bool:
    """Return whether a change may be begun: it is expected to end with the reserve left, all in seconds."""
    return expected_s + reserve_s <= remaining_s
