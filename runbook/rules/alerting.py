"""Alerts over time: from what was measured to what is told, remembered between one sampling and the next.

Source: runbook, "Monitoring and Alerts".
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from runbook.rules.alerts import ANCHORS, BURN_RATES, RULES, AlertGroup, AlertRule, Counts
from runbook.rules.samples import Sample
from runbook.rules.thresholds import AlertLevel

LOOK_BACK = max(burn.long for burn in BURN_RATES)
"""How much of the past a sampling needs to be judged."""

_GAP = timedelta(minutes=5)
"""After so long without a value nobody knows that it was over the threshold all the time."""


class Phase(StrEnum):
    """How far an alert is."""

    INACTIVE = "inactive"
    PENDING = "pending"
    FIRING = "firing"


class _Kept(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class AlertState(_Kept):
    """What is known of one rule. `told_at` is None while nobody was told; `clear_since`: below since then."""

    phase: Phase = Phase.INACTIVE
    since: AwareDatetime | None = None
    clear_since: AwareDatetime | None = None
    told_at: AwareDatetime | None = None
    last_at: AwareDatetime | None = None
    value: float = 0.0
    worst: float = 0.0


class Silence(_Kept):
    """A maintenance window: until it ends nobody is told of alerts, apart from its beginning and its end."""

    start: AwareDatetime
    end: AwareDatetime
    reason: str
    by: str

    def covers(self, at: datetime) -> bool:
        """Return whether a time is in it; its end is not."""
        return self.start <= at < self.end


class AlertBook(_Kept):
    """All that is remembered of an environment's alerts: by rule, which silence was announced, what was last seen."""

    states: dict[str, AlertState] = Field(default_factory=dict[str, AlertState])
    announced: Silence | None = None
    seen: dict[str, AwareDatetime] = Field(default_factory=dict[str, AwareDatetime])
    last_at: AwareDatetime | None = None

    def state(self, name: str) -> AlertState:
        """Return what is known of a rule."""
        return self.states.get(name, AlertState())

    def is_firing(self, name: str) -> bool:
        """Return whether a rule fires."""
        return self.state(name).phase is Phase.FIRING


class NoticeKind(StrEnum):
    """What is told."""

    FIRING = "firing"
    STILL_FIRING = "still_firing"
    RESOLVED = "resolved"
    SILENCE_BEGINS = "silence_begins"
    SILENCE_ENDS = "silence_ends"


@dataclass(frozen=True)
class Notice:
    """Something to be told, in words. `rule` is None when it is about a silence."""

    kind: NoticeKind
    at: datetime
    text: str
    rule: AlertRule | None = None
    value: float = 0.0
    worst: float = 0.0

    @property
    def group(self) -> AlertGroup | None:
        """What it is about; None when it is about a silence."""
        return self.rule.group if self.rule else None

    @property
    def level(self) -> str:
        """How loud it is told: `info`, `warning` or `error`."""
        if self.rule is None or self.kind is NoticeKind.RESOLVED:
            return "info"
        return "error" if self.rule.level is AlertLevel.CRITICAL else "warning"


def readings(
    samples: Mapping[str, Sample], counts: Counts, at: datetime, seen: Mapping[str, datetime], objective_pct: float
) -> dict[str, float]:
    """Return the value of each metric that rules are about, at a sampling; one that is not known is left out.

    Args:
        samples: those of the sampling, by metric.
        counts: requests and errors, of the `LOOK_BACK` before, too.
        at: when it was.
        seen: when the metrics that every sampling should hold were last seen.
        objective_pct: percent of requests that are to be answered well.
    """
    found = {metric: one.value for metric, one in samples.items()}
    for burn in BURN_RATES:
        if (value := burn.value(counts, at, objective_pct)) is not None:
            found[burn.metric] = value
    for metric, anchor in ANCHORS.items():
        if anchor in samples:
            found[metric] = 0.0
        elif anchor in seen:
            found[metric] = (at - seen[anchor]).total_seconds()
    return found


def step(
    book: AlertBook, values: Mapping[str, float], at: datetime, silences: Iterable[Silence] = ()
) -> tuple[AlertBook, list[Notice]]:
    """Take in one sampling; return what is known now, and what is to be told. A sampling of the past changes nothing.

    Args:
        book: what was known before.
        values: by metric, as `readings` returns them. What is missing resolves nothing.
        at: when it was measured, aware.
        silences: the maintenance windows that were announced.
    """
    if book.last_at is not None and at <= book.last_at:
        return book, []
    states = {rule.name: _advance(rule, book.state(rule.name), values.get(rule.metric), at) for rule in RULES}
    seen = dict(book.seen) | {anchor: at for metric, anchor in ANCHORS.items() if values.get(metric) == 0.0}
    silence = max((one for one in silences if one.covers(at)), key=lambda one: one.end, default=None)
    now = AlertBook(states=states, announced=silence, seen=seen, last_at=at)
    notices = _announcements(book, now, at)
    for rule in RULES:
        before, after = book.state(rule.name), states[rule.name]
        notice = None if silence else _notice(rule, before, after, at, now)
        if notice is not None:
            notices.append(notice)
            told_at = None if notice.kind is NoticeKind.RESOLVED else at
            states[rule.name] = after.model_copy(update={"told_at": told_at})
        elif after.phase is Phase.INACTIVE:
            states[rule.name] = after.model_copy(update={"told_at": None})
    return now.model_copy(update={"states": states}), notices


def _advance(rule: AlertRule, state: AlertState, value: float | None, at: datetime) -> AlertState:
    if value is None:
        return state
    update: dict[str, object] = {"value": value, "last_at": at}
    if state.phase is Phase.FIRING:
        return state.model_copy(update=update | _while_firing(rule, state, value, at))
    if not rule.is_over(value):
        return AlertState(last_at=at, value=value)
    is_known = state.phase is Phase.PENDING and state.last_at is not None and at - state.last_at <= _GAP
    since = state.since if is_known and state.since is not None else at
    phase = Phase.FIRING if (at - since).total_seconds() >= rule.for_s else Phase.PENDING
    worst = max(value, state.worst) if is_known else value
    return state.model_copy(update=update | {"phase": phase, "since": since, "worst": worst, "clear_since": None})


def _while_firing(rule: AlertRule, state: AlertState, value: float, at: datetime) -> dict[str, object]:
    if value > rule.clear:
        return {"clear_since": None, "worst": max(value, state.worst)}
    clear_since = state.clear_since or at
    if (at - clear_since).total_seconds() < rule.clear_for_s:
        return {"clear_since": clear_since}
    return {"phase": Phase.INACTIVE, "since": None, "clear_since": None}


def _notice(rule: AlertRule, before: AlertState, after: AlertState, at: datetime, now: AlertBook) -> Notice | None:
    """Return what is to be told of a rule, if anything."""
    what = f"{rule.metric} {after.value:.4g} {rule.unit}"
    if after.phase is not Phase.FIRING:
        if before.phase is not Phase.FIRING or before.told_at is None:
            return None
        text = f"{rule.name} is over: {what}, at worst {after.worst:.4g} {rule.unit}"
        return Notice(NoticeKind.RESOLVED, at, text, rule, after.value, after.worst)
    if any(now.is_firing(other) for other in rule.inhibited_by):
        return None
    since = f"since {after.since:%H:%M} UTC" if after.since else ""
    if after.told_at is None:
        text = f"{rule.name}: {what} ({rule.condition} {since})"
        return Notice(NoticeKind.FIRING, at, text, rule, after.value, after.worst)
    if at - after.told_at >= rule.repeat_after:
        text = f"{rule.name} still: {what} ({rule.condition} {since}, at worst {after.worst:.4g} {rule.unit})"
        return Notice(NoticeKind.STILL_FIRING, at, text, rule, after.value, after.worst)
    return None


def _announcements(before: AlertBook, now: AlertBook, at: datetime) -> list[Notice]:
    """Return what is to be told about silences: that one begins, that one has ended and what fires then."""
    notices: list[Notice] = []
    old, new = before.announced, now.announced
    firing = ", ".join(rule.name for rule in RULES if now.is_firing(rule.name)) or "nothing"
    if old is not None and new is None:
        text = f"the maintenance window has ended ({old.reason}, {old.by}); firing now: {firing}"
        notices.append(Notice(NoticeKind.SILENCE_ENDS, at, text))
    if new is not None and (old is None or old.end != new.end):
        text = f"no alerts until {new.end:%Y-%m-%d %H:%M} UTC: {new.reason} ({new.by}); firing now: {firing}"
        notices.append(Notice(NoticeKind.SILENCE_BEGINS, at, text))
    return notices
