"""Maintenance windows and freezes: when changes are made, when alerts keep quiet, and when nothing is deployed.

A window comes again by a recurrence rule in the wall time of its own zone: 02:00 stays 02:00 when the clocks change.
A time that the clocks jump over is an hour later; of one that comes twice the first is meant.

Source: runbook, "Pre-Deployment Checklist" ("Maintenance window scheduled (if needed)"), "SEV3: Performance
Degradation" ("Schedule rollback during next maintenance window"); RFC 5545, sections 3.3.5 and 3.3.10.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from datetime import UTC, date, datetime, timedelta
from itertools import islice, pairwise
from typing import Annotated, Self
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from dateutil.rrule import rrule, rrulestr
from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, model_validator

from runbook.rules.alerting import Silence

_RULE = re.compile(r"FREQ=(?:DAILY|WEEKLY|MONTHLY|YEARLY)(?:;(?!INTERVAL=0)[A-Z]+=[A-Z0-9,+-]+)*")
_FAR = timedelta(days=800)
"""So far ahead the next window is looked for: a rule for every second year is found."""


def check_time_zone(text: str) -> str:
    """Return `text` unchanged when it names a time zone.

    Raises:
        ValueError: there is no such zone.
    """
    try:
        ZoneInfo(text)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise ValueError(f"{text!r} is no time zone; give a name such as Europe/Berlin or UTC") from error
    return text


class MaintenanceWindow(BaseModel):
    """A time in which changes are made, once or again and again."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    name: str = Field(default="maintenance", min_length=1, max_length=80, description="What it is called.")
    start: datetime = Field(description="When it begins the first time, by the clock of its zone: 2026-01-04T02:00:00.")
    duration_s: float = Field(ge=60, le=86_400, description="Seconds that it lasts.")
    rule: str = Field(
        default="",
        description="How it comes again, as a recurrence rule (RFC 5545): `FREQ=WEEKLY;BYDAY=SU`. Empty: once.",
    )
    time_zone: Annotated[str, AfterValidator(check_time_zone)] = Field(
        default="UTC", description="Whose clock `start` is by: `Europe/Berlin`."
    )
    exceptions: tuple[date, ...] = Field(default=(), description="Days on which it does not begin.")
    reason: str = Field(default="maintenance", description="What is done then; it is announced.")

    @model_validator(mode="after")
    def _can_be_meant(self) -> Self:
        if self.start.tzinfo is not None:
            raise ValueError("start is by the clock of `time_zone`: leave the offset out")
        if not self.rule:
            return self
        if not _RULE.fullmatch(self.rule):
            raise ValueError(f"rule {self.rule!r} is no recurrence rule such as FREQ=WEEKLY;BYDAY=SU, daily at most")
        try:
            self._recurrence()
            begins = list(islice(self._local(self.start), 20))
        except (ValueError, TypeError, KeyError, OverflowError) as error:
            raise ValueError(f"rule {self.rule!r} is no recurrence rule such as FREQ=WEEKLY;BYDAY=SU") from error
        if not begins:
            raise ValueError(f"rule {self.rule!r} never comes")
        distances = [later - earlier for earlier, later in pairwise(begins)]
        if distances and min(distances) < timedelta(seconds=self.duration_s):
            raise ValueError("duration_s is longer than the time until it comes again")
        return self

    def occurrences(self, since: datetime, until: datetime) -> Iterator[Silence]:
        """Return the times of this window that overlap a span, in order, as aware UTC.

        Args:
            since: aware; one that ends then is over.
            until: aware; one that begins then is not in the span.
        """
        duration = timedelta(seconds=self.duration_s)
        zone = ZoneInfo(self.time_zone)
        first = (since - duration).astimezone(zone).replace(tzinfo=None) - timedelta(hours=2)  # the clocks may change
        for begin in self._local(first):
            start = begin.replace(tzinfo=zone, fold=0).astimezone(UTC)
            if start >= until:
                return
            if start + duration > since and begin.date() not in self.exceptions:
                yield Silence(
                    start=start, end=start + duration, reason=f"{self.name}: {self.reason}", by="the settings"
                )

    def _local(self, since: datetime) -> Iterator[datetime]:
        """Return when it begins by the clock, from a time on."""
        if not self.rule:
            yield from (one for one in (self.start,) if one >= since)
            return
        yield from self._recurrence().xafter(since, inc=True)

    def _recurrence(self) -> rrule:
        found = rrulestr(self.rule, dtstart=self.start, ignoretz=True)
        if not isinstance(found, rrule):
            raise ValueError("one rule is allowed, without RDATE and EXDATE")
        return found


class Freeze(BaseModel):
    """A time in which nothing is deployed and no database is migrated. A rollback always is."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    start: AwareDatetime = Field(description="When it begins: 2026-12-20T00:00:00+01:00.")
    end: AwareDatetime = Field(description="When it ends.")
    reason: str = Field(min_length=1, description="Why; whoever is refused reads it.")

    @model_validator(mode="after")
    def _ends_after_it_begins(self) -> Self:
        if self.end <= self.start:
            raise ValueError("end has to be after start")
        return self

    def covers(self, at: datetime) -> bool:
        """Return whether a time is in it; its end is not."""
        return self.start <= at < self.end


def windows_at(windows: Iterable[MaintenanceWindow], at: datetime) -> list[Silence]:
    """Return the windows that a time is in; the beginning of a window is in it, its end is not."""
    moment = timedelta(microseconds=1)
    return [found for window in windows for found in window.occurrences(at, at + moment) if found.covers(at)]


def next_window(windows: Iterable[MaintenanceWindow], now: datetime) -> Silence | None:
    """Return the window that is open, or the next one to begin; None when none ever does."""
    found = [next(window.occurrences(now, now + _FAR), None) for window in windows]
    return min((one for one in found if one is not None), key=lambda one: one.start, default=None)


def freeze_at(freezes: Iterable[Freeze], at: datetime) -> Freeze | None:
    """Return the freeze that a time is in, the one that lasts longest; None without one."""
    return max((freeze for freeze in freezes if freeze.covers(at)), key=lambda freeze: freeze.end, default=None)
