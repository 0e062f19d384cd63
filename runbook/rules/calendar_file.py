"""Maintenance windows and freezes as an iCalendar file, for the calendars of people, and back.

A freeze is an event of the category FREEZE. Source: RFC 5545; https://icalendar.readthedocs.io.
"""

# icalendar ships types that leave its methods partly untyped
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime, time, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from icalendar import Calendar, Event, vRecur
from pydantic import ValidationError

from runbook.errors import InvalidInputError
from runbook.rules.maintenance import Freeze, MaintenanceWindow

LARGEST = 1_000_000
"""Characters of a calendar that is read."""
_FREEZE = "FREEZE"


def to_ical(environment: str, windows: Sequence[MaintenanceWindow], freezes: Sequence[Freeze], now: datetime) -> str:
    """Return windows and freezes as a calendar; the same ones always have the same ids, so that they are updated."""
    calendar = Calendar()
    calendar.add("prodid", "-//MantisNXT runbook//maintenance//EN")
    calendar.add("version", "2.0")
    calendar.add("x-wr-calname", f"Maintenance of {environment}")
    for window in windows:
        zone = ZoneInfo(window.time_zone)
        event = _event(environment, "window", f"{window.name}|{window.start}|{window.rule}", now)
        event.add("summary", f"{window.name} ({environment})")
        event.add("description", window.reason)
        event.add("dtstart", window.start.replace(tzinfo=zone))
        event.add("duration", timedelta(seconds=window.duration_s))
        if window.rule:
            event.add("rrule", vRecur.from_ical(window.rule))
        for day in window.exceptions:
            event.add("exdate", datetime.combine(day, window.start.time(), zone))
        calendar.add_component(event)
    for freeze in freezes:
        event = _event(environment, "freeze", f"{freeze.start}|{freeze.end}", now)
        event.add("summary", f"freeze ({environment})")
        event.add("description", freeze.reason)
        event.add("categories", [_FREEZE])
        event.add("dtstart", freeze.start.astimezone(UTC))
        event.add("dtend", freeze.end.astimezone(UTC))
        calendar.add_component(event)
    calendar.add_missing_timezones()
    return calendar.to_ical().decode()


def from_ical(text: str, name: str) -> tuple[tuple[MaintenanceWindow, ...], tuple[Freeze, ...]]:
    """Read windows and freezes from a calendar. Whole days are freezes, or windows of a day.

    Raises:
        InvalidInputError: it is no calendar, is too large, or an event cannot be kept as a window: it is changed for
            one of its times (RECURRENCE-ID), has other dates (RDATE) or several rules.
    """
    if len(text) > LARGEST:
        raise InvalidInputError("calendar", name, f"at most {LARGEST:,} characters", "Export fewer events.")
    windows: list[MaintenanceWindow] = []
    freezes: list[Freeze] = []
    try:
        for event in Calendar.from_ical(text).walk("VEVENT"):
            found = _read(event, name)
            windows += [found] if isinstance(found, MaintenanceWindow) else []
            freezes += [found] if isinstance(found, Freeze) else []
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        raise InvalidInputError("calendar", name, first["msg"], "Mend the event.") from error
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, OverflowError) as error:
        raise InvalidInputError("calendar", name, "an iCalendar file", f"Export it again: {error}") from error
    return tuple(windows), tuple(freezes)


def _event(environment: str, what: str, about: str, now: datetime) -> Event:
    event = Event()
    event.add("uid", f"{hashlib.sha256(f'{environment}|{what}|{about}'.encode()).hexdigest()[:24]}@mantis-runbook")
    event.add("dtstamp", now.astimezone(UTC))
    return event


def _read(event: Any, name: str) -> MaintenanceWindow | Freeze:  # noqa: ANN401 - icalendar has no types of its own
    summary = str(event.get("summary", "maintenance"))
    for what, meaning in (("recurrence-id", "a change to one of its times"), ("rdate", "other dates")):
        if what in event:
            raise InvalidInputError(
                "calendar", f"{name}: {summary}", f"an event without {meaning}", "Make it an event of its own."
            )
    if isinstance(event.get("rrule"), list):
        raise InvalidInputError("calendar", f"{name}: {summary}", "an event with one rule", "Make two events of it.")
    start, end = event.decoded("dtstart"), _end(event)
    categories = {str(one).upper() for one in _categories(event)}
    if _FREEZE in categories:
        return Freeze(start=_aware(start), end=_aware(end), reason=str(event.get("description") or summary))
    begin = start if isinstance(start, datetime) else datetime.combine(start, time())
    zone = getattr(begin.tzinfo, "key", None) or ("UTC" if begin.tzinfo in (None, UTC) else str(begin.tzinfo))
    rule = event["rrule"].to_ical().decode() if "rrule" in event else ""
    return MaintenanceWindow(
        name=summary[:80],
        start=begin.replace(tzinfo=None),
        duration_s=(_aware(end) - _aware(start)).total_seconds(),
        rule=_freq_first(rule),
        time_zone=zone,
        exceptions=tuple(_exceptions(event)),
        reason=str(event.get("description") or "maintenance"),
    )


def _end(event: Any) -> date:  # noqa: ANN401 - see above
    if "dtend" in event:
        return event.decoded("dtend")
    start = event.decoded("dtstart")
    if "duration" in event:
        return start + event.decoded("duration")
    return start + timedelta(days=1)


def _aware(at: date) -> datetime:
    """Return a day as its first moment, and a time without a zone as UTC."""
    moment = at if isinstance(at, datetime) else datetime.combine(at, time())
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _categories(event: Any) -> Iterator[object]:  # noqa: ANN401 - see above
    given = event.get("categories", [])
    for one in given if isinstance(given, list) else [given]:
        yield from one.cats


def _exceptions(event: Any) -> Iterator[date]:  # noqa: ANN401 - see above
    given = event.get("exdate", [])
    for one in given if isinstance(given, list) else [given]:
        for at in one.dts:
            yield at.dt.date() if isinstance(at.dt, datetime) else at.dt


def _freq_first(rule: str) -> str:
    parts = [part for part in rule.split(";") if part]
    return ";".join(sorted(parts, key=lambda part: not part.startswith("FREQ=")))
