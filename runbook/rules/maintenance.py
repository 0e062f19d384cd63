"""Maintenance windows that come again every week, as they are written in the settings.

Source: runbook, "Pre-Deployment Checklist" ("Maintenance window scheduled (if needed)").
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, time, timedelta
from enum import StrEnum

from pydantic import BaseModel, ConfigDict, Field

from runbook.rules.alerting import Silence


class Weekday(StrEnum):
    """A day of the week."""

    MONDAY = "monday"
    TUESDAY = "tuesday"
    WEDNESDAY = "wednesday"
    THURSDAY = "thursday"
    FRIDAY = "friday"
    SATURDAY = "saturday"
    SUNDAY = "sunday"


class MaintenanceWindow(BaseModel):
    """Some hours of every week, in UTC, in which nobody is told of alerts."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    weekday: Weekday = Field(description="Day on which it begins, in UTC.")
    start: time = Field(description="When it begins, in UTC: `02:00`.")
    duration_s: float = Field(gt=0, le=86_400, description="Seconds that it lasts.")
    reason: str = Field(default="weekly maintenance", description="What is done then; it is announced.")

    def around(self, at: datetime) -> Silence:
        """Return the last time that it began at or before a time (aware), whether that one is over or not."""
        now = at.astimezone(UTC)
        days = (now.weekday() - list(Weekday).index(self.weekday)) % 7
        begun = datetime.combine(now.date() - timedelta(days=days), self.start.replace(tzinfo=None), UTC)
        if begun > now:
            begun -= timedelta(weeks=1)
        end = begun + timedelta(seconds=self.duration_s)
        return Silence(start=begun, end=end, reason=self.reason, by="the settings")


def windows_at(windows: Iterable[MaintenanceWindow], at: datetime) -> list[Silence]:
    """Return the windows that a time is in."""
    return [found for found in (window.around(at) for window in windows) if found.covers(at)]
