"""A maintenance window: the queue of approved changes, one after the other, as long as there is time for them.

Plain Python: the flow `maintenance` hands in how each kind of change is made. Each takes the environment's lock itself.

Source: runbook, "Pre-Deployment Checklist" ("Maintenance window scheduled (if needed)"), "SEV3: Performance
Degradation" ("Mitigation").
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from runbook.clients.maintenance_records import MaintenanceRecords
from runbook.connections import Connections
from runbook.errors import InvalidInputError, RefusedError
from runbook.rules.alerting import Silence
from runbook.rules.drills import duration_in_words
from runbook.rules.maintenance import windows_at
from runbook.rules.maintenance_queue import (
    Change,
    ChangeKind,
    ChangeState,
    check_parameters,
    fits,
    next_change,
    predicted_s,
)
from runbook.stages import notification

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class MaintenanceStages:
    """How changes are made, by kind: each returns in words what came of it. `notify` tells everybody."""

    make: dict[ChangeKind, Callable[[Connections, Change], str]]
    notify: Callable[[Connections, str, str, str], tuple[str, ...]] = notification.notify


@dataclass(frozen=True)
class MaintenanceReport:
    """What was done in a window, and what was moved to the next one."""

    window: Silence
    made: tuple[Change, ...]
    moved: tuple[Change, ...]

    @property
    def has_failed(self) -> bool:
        """Whether a change has failed."""
        return any(change.state is ChangeState.FAILED for change in self.made)

    def lines(self) -> list[str]:
        """Return it line by line."""
        return [f"- {change.render()}" for change in (*self.made, *self.moved)]


def records_of(connections: Connections) -> MaintenanceRecords:
    """Return the queue of an environment."""
    return MaintenanceRecords(connections.store.objects, connections.settings.name)


def schedule(connections: Connections, kind: ChangeKind, parameters: dict[str, str], *, reason: str, by: str) -> Change:
    """Approve a change for the next window.

    Raises:
        InvalidInputError: there is no reason, nobody approves, a parameter does not fit, or the ref is unknown.
        ServiceError: the store does not answer.
    """
    if not reason.strip() or not by.strip():
        raise InvalidInputError("reason", reason, "why, and by whom", "Whoever reads the queue has to know.")
    given = check_parameters(kind, parameters)
    if kind is ChangeKind.DEPLOY:
        # The commit, not the name: what was approved is made, whatever the branch is by then.
        given = {**given, "git_ref": connections.repository.resolve(given["git_ref"])}
    return records_of(connections).add(kind, given, reason=reason.strip(), by=by.strip())


def cancel(connections: Connections, change_id: str, *, reason: str, by: str) -> Change:
    """Take a change out of the queue.

    Raises:
        InvalidInputError: there is none of this id.
        RefusedError: it does not wait any more.
    """
    records = records_of(connections)
    change = records.change(change_id)
    if not change.is_due:
        raise RefusedError(f"{change_id} is {change.state}; only what waits can be cancelled")
    detail = f"cancelled by {by}: {reason}"
    return records.keep(change.model_copy(update={"state": ChangeState.CANCELLED, "detail": detail}))


def expected_s(queue: Sequence[Change], kind: ChangeKind) -> float:
    """Return how many seconds a change of a kind is expected to take, by those of the queue that are done."""
    done = [one for one in queue if one.kind is kind and one.state is ChangeState.DONE]
    return predicted_s(kind, [one.duration_s for one in done if one.duration_s is not None])


def maintenance(connections: Connections, stages: MaintenanceStages) -> MaintenanceReport:
    """Work off the queue while the window lasts, and tell everybody what was done and what was moved.

    A change is begun only when it is expected to end in time, with the reserve of the settings left. After one that has
    failed no other is begun: it may build on it.

    Raises:
        RefusedError: no window is open, or nothing waits.
        ServiceError: the store does not answer.
    """
    open_now = windows_at(connections.settings.maintenance.windows, datetime.now(UTC))
    if not open_now:
        raise RefusedError("no maintenance window is open (`runbook maintenance:next`)")
    window, records = max(open_now, key=lambda one: one.end), records_of(connections)
    _end_interrupted(records)
    if next_change(records.queue()) is None:
        raise RefusedError("nothing waits for the maintenance window (`runbook maintenance:list`)")
    name = connections.settings.name
    until = f"until {window.end:%Y-%m-%d %H:%M} UTC"
    waiting = [f"- {change.render()}" for change in records.queue() if change.is_due]
    stages.notify(connections, "info", f"maintenance of {name} begins, {until}", "\n".join([window.reason, *waiting]))
    made: list[Change] = []
    while (change := next_change(records.queue())) is not None:
        remaining_s = (window.end - datetime.now(UTC)).total_seconds()
        takes_s = expected_s(records.queue(), change.kind)
        if not fits(takes_s, remaining_s, connections.settings.maintenance.reserve_s):
            left = duration_in_words(max(0.0, remaining_s))
            _move(records, f"it is expected to take {duration_in_words(takes_s)}, and {left} were left")
            break
        made.append(_make(connections, stages, records, change))
        if made[-1].state is ChangeState.FAILED:
            _move(records, f"{made[-1].id} failed before it")
            break
    moved = [one for one in records.queue() if one.state is ChangeState.MOVED]
    report = MaintenanceReport(window, tuple(made), tuple(moved))
    level = "error" if report.has_failed else "warning" if moved else "info"
    title = f"maintenance of {name} has ended: {len(made)} made, {len(moved)} moved to the next window"
    stages.notify(connections, level, title, "\n".join(report.lines()))
    return report


def _make(connections: Connections, stages: MaintenanceStages, records: MaintenanceRecords, change: Change) -> Change:
    records.keep(change.model_copy(update={"state": ChangeState.RUNNING}))
    begun = time.monotonic()
    try:
        state, detail = ChangeState.DONE, stages.make[change.kind](connections, change)
    except Exception as error:  # noqa: BLE001 - whatever it is, the queue says how the change ended
        state, detail = ChangeState.FAILED, str(error) or type(error).__name__
    took_s = round(time.monotonic() - begun, 1)
    _log.info("%s: %s, %s", change.id, state, detail)
    return records.keep(change.model_copy(update={"state": state, "detail": detail, "duration_s": took_s}))


def _move(records: MaintenanceRecords, why: str) -> None:
    for change in records.queue():
        if change.is_due:
            records.keep(change.model_copy(update={"state": ChangeState.MOVED, "detail": why}))


def _end_interrupted(records: MaintenanceRecords) -> None:
    """Say of changes whose run died that they failed; what they left is for `recover`."""
    for change in records.queue():
        if change.state is ChangeState.RUNNING:
            detail = "its run died; `runbook recover` looks at what it left"
            records.keep(change.model_copy(update={"state": ChangeState.FAILED, "detail": detail}))
