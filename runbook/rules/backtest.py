"""What would have been told, had the rules been in force: the past replayed, sampling by sampling."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from runbook.rules.alerting import AlertBook, NoticeKind, Silence, readings, step
from runbook.rules.alerts import RULES, AlertRule, Counts
from runbook.rules.samples import Sample


@dataclass(frozen=True)
class Episode:
    """One time that a rule fired. `resolved_at` is None when it fires still; `times_told` is 0 for what kept quiet."""

    rule: AlertRule
    fired_at: datetime
    resolved_at: datetime | None
    worst: float
    times_told: int

    def lasted(self, until: datetime) -> timedelta:
        """Return how long it fired, up to a time."""
        return (self.resolved_at or until) - self.fired_at


@dataclass(frozen=True)
class Replay:
    """A past that was replayed: from when to when, how many samplings it had, and what would have fired."""

    since: datetime
    until: datetime
    samplings: int
    episodes: tuple[Episode, ...]


def replay(
    samples: Sequence[Sample],
    *,
    since: datetime,
    until: datetime,
    objective_pct: float,
    silences: Iterable[Silence] = (),
) -> Replay:
    """Replay what was measured from `since` to `until`; samples of before are only what burn rates look back on."""
    by_time: dict[datetime, dict[str, Sample]] = defaultdict(dict)
    for one in samples:
        if since <= one.at <= until:
            by_time[one.at][one.metric] = one
    counts, book, windows = Counts(samples), AlertBook(), tuple(silences)
    firing: dict[str, Episode] = {}
    ended: list[Episode] = []
    for at in sorted(by_time):
        values = readings(by_time[at], counts, at, book.seen, objective_pct)
        book, notices = step(book, values, at, windows)
        told = {one.rule.name for one in notices if one.rule and one.kind is not NoticeKind.RESOLVED}
        for rule in RULES:
            if not book.is_firing(rule.name):
                if rule.name in firing:
                    ended.append(replace(firing.pop(rule.name), resolved_at=at))
                continue
            known = firing.get(rule.name) or Episode(rule, at, None, 0.0, 0)
            worst = max(known.worst, book.state(rule.name).worst)
            firing[rule.name] = replace(known, worst=worst, times_told=known.times_told + (rule.name in told))
    episodes = sorted([*ended, *firing.values()], key=lambda one: (one.fired_at, RULES.index(one.rule)))
    return Replay(since, until, len(by_time), tuple(episodes))
