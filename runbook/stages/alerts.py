"""Alerts: what was measured is held against the rules, and people are told; or the past is.

Source: runbook, "Monitoring and Alerts".
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from runbook.clients.alert_records import AlertRecords
from runbook.connections import Connections
from runbook.errors import InvalidInputError, RefusedError
from runbook.rules.alerting import LOOK_BACK, AlertBook, AlertState, Notice, Silence, readings, step
from runbook.rules.alerts import RULES, AlertGroup, AlertRule, Counts
from runbook.rules.backtest import Replay, replay
from runbook.rules.maintenance import windows_at
from runbook.rules.samples import Sample
from runbook.stages import notification
from runbook.stages.monitoring import history_of

Notify = Callable[[Connections, str, str, str], tuple[str, ...]]
_LEVELS = ("info", "warning", "error")
_LONGEST = timedelta(days=7)


@dataclass(frozen=True)
class Evaluation:
    """What the rules say now: what fires, what was told just now, and the channels that did not take it.

    `measured_at` is the newest sampling, None when there is none.
    """

    environment: str
    measured_at: datetime | None
    firing: tuple[tuple[AlertRule, AlertState], ...]
    silence: Silence | None
    notices: tuple[Notice, ...] = ()
    undelivered: tuple[str, ...] = ()


def evaluate(connections: Connections, notify: Notify = notification.notify) -> Evaluation:
    """Hold all samplings since the last time against the rules, and tell the channels.

    What was told is remembered afterwards: a run that dies in between tells twice, never not at all.

    Raises:
        ServiceError: the store does not answer.
    """
    settings, records, now = connections.settings, _records(connections), datetime.now(UTC)
    book, silences = records.book(), records.silences()
    samples = history_of(connections).read(since=now - LOOK_BACK, until=now)
    counts, notices = Counts(samples), list[Notice]()
    for at, found in _samplings(samples, after=book.last_at):
        values = readings(found, counts, at, book.seen, settings.alerts.objective_pct)
        book, told = step(book, values, at, [*silences, *windows_at(settings.maintenance.windows, at)])
        notices += told
    undelivered = _tell(connections, notices, notify)
    records.keep(book)
    return _evaluation(connections, book, notices, undelivered)


def status(connections: Connections) -> Evaluation:
    """Return what fires, as it was when the rules were last held against samples; tells nobody.

    Raises:
        ServiceError: the store does not answer.
    """
    return _evaluation(connections, _records(connections).book(), (), ())


def backtest(connections: Connections, window: timedelta) -> Replay:
    """Return what would have fired in a span up to now, by the samples of it and by all maintenance windows.

    Raises:
        ServiceError: the store does not answer.
    """
    settings, until = connections.settings, datetime.now(UTC)
    since = until - window
    samples = history_of(connections).read(since=since - LOOK_BACK, until=until)
    planned = [found for one in settings.maintenance.windows for found in one.occurrences(since - LOOK_BACK, until)]
    silences = [*_records(connections).silences(), *planned]
    objective_pct = settings.alerts.objective_pct
    return replay(samples, since=since, until=until, objective_pct=objective_pct, silences=silences)


def silence(connections: Connections, *, duration: timedelta, reason: str, by: str) -> Silence:
    """Announce a maintenance window that begins now; the channels are told when it begins and when it has ended.

    Raises:
        InvalidInputError: no reason is given, or it is to last for too long.
        ServiceError: the store does not answer.
    """
    if not reason.strip():
        raise InvalidInputError("reason", reason, "why, in words", "It is announced, for those who hear no alert.")
    if not timedelta(0) < duration <= _LONGEST:
        allowed = f"up to {_LONGEST.days} days"
        raise InvalidInputError("for", str(duration), allowed, "Put one that comes again into the settings.")
    records, now = _records(connections), datetime.now(UTC)
    made = Silence(start=now, end=now + duration, reason=reason, by=by)
    kept = [one for one in records.silences() if one.end > now - _LONGEST]
    records.keep_silences([*kept, made])
    return made


def end_silence(connections: Connections) -> tuple[Silence, ...]:
    """End the maintenance windows that were announced and are open; return them.

    Raises:
        RefusedError: none is open, or only one of the settings.
        ServiceError: the store does not answer.
    """
    records, now = _records(connections), datetime.now(UTC)
    known = records.silences()
    is_open = [one.covers(now) for one in known]
    if not any(is_open):
        raise RefusedError("no maintenance window is open that somebody has announced (`runbook alerts:status`)")
    ended = [one.model_copy(update={"end": now}) if it else one for one, it in zip(known, is_open, strict=True)]
    records.keep_silences(ended)
    return tuple(one for one, it in zip(known, is_open, strict=True) if it)


def _records(connections: Connections) -> AlertRecords:
    return AlertRecords(connections.store.objects, connections.settings.name)


def _samplings(samples: Sequence[Sample], *, after: datetime | None) -> list[tuple[datetime, dict[str, Sample]]]:
    """Return the samplings after a time, oldest first; only the newest when nothing was ever looked at."""
    by_time: dict[datetime, dict[str, Sample]] = defaultdict(dict)
    for one in samples:
        if after is None or one.at > after:
            by_time[one.at][one.metric] = one
    ordered = sorted(by_time.items())
    return ordered[-1:] if after is None else ordered


def _evaluation(
    connections: Connections, book: AlertBook, notices: Sequence[Notice], undelivered: tuple[str, ...]
) -> Evaluation:
    firing = tuple((rule, book.state(rule.name)) for rule in RULES if book.is_firing(rule.name))
    name = connections.settings.name
    return Evaluation(name, book.last_at, firing, book.announced, tuple(notices), undelivered)


def _tell(connections: Connections, notices: Sequence[Notice], notify: Notify) -> tuple[str, ...]:
    """Send one message for each group; return the channels that did not take one."""
    by_group: dict[AlertGroup | None, list[Notice]] = defaultdict(list)
    for notice in notices:
        by_group[notice.group].append(notice)
    undelivered: list[str] = []
    for group, together in by_group.items():
        level = max((one.level for one in together), key=_LEVELS.index)
        more = f" and {len(together) - 1} more" if len(together) > 1 else ""
        title = f"{connections.settings.name}, {group or 'maintenance'}: {together[0].text}{more}"
        undelivered += notify(connections, level, title, "\n".join(one.text for one in together))
    return tuple(dict.fromkeys(undelivered))
