from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from runbook.errors import InvalidInputError
from runbook.rules.calendar_file import from_ical, to_ical
from runbook.rules.maintenance import Freeze, MaintenanceWindow, freeze_at, next_window, windows_at

YEAR = (datetime(2026, 1, 1, tzinfo=UTC), datetime(2027, 1, 1, tzinfo=UTC))


def window(rule: str = "FREQ=WEEKLY;BYDAY=SU", zone: str = "UTC", **more: object) -> MaintenanceWindow:
    about = {"start": datetime(2026, 1, 4, 2), "duration_s": 7200, "rule": rule, "time_zone": zone}  # noqa: DTZ001 - wall time
    return MaintenanceWindow.model_validate({**about, **more})


def begins(found: MaintenanceWindow, since: str, until: str) -> list[str]:
    span = (datetime.fromisoformat(f"{since}T00:00Z"), datetime.fromisoformat(f"{until}T00:00Z"))
    return [f"{one.start:%m-%d %H:%M}" for one in found.occurrences(*span)]


def test_two_at_night_stays_two_at_night_when_the_clocks_change() -> None:
    """In Berlin on 2026-03-29 and 2026-10-25, in New York on 2026-03-08 and 2026-11-01; times in UTC."""
    berlin = window(zone="Europe/Berlin", start=datetime(2026, 1, 4, 4))  # noqa: DTZ001 - wall time
    assert begins(berlin, "2026-03-20", "2026-04-06") == ["03-22 03:00", "03-29 02:00", "04-05 02:00"]
    assert begins(berlin, "2026-10-18", "2026-11-02") == ["10-18 02:00", "10-25 03:00", "11-01 03:00"]
    new_york = window(zone="America/New_York", start=datetime(2026, 1, 4, 4))  # noqa: DTZ001 - wall time
    assert begins(new_york, "2026-03-01", "2026-03-16") == ["03-01 09:00", "03-08 08:00", "03-15 08:00"]
    assert begins(new_york, "2026-10-25", "2026-11-09") == ["10-25 08:00", "11-01 09:00", "11-08 09:00"]


def test_a_time_that_the_clocks_jump_over_is_an_hour_later_and_of_a_double_one_the_first_is_meant() -> None:
    at = datetime(2026, 1, 4, 2, 30)  # noqa: DTZ001 - wall time
    berlin = window(zone="Europe/Berlin", start=at)
    assert begins(berlin, "2026-03-29", "2026-03-30") == ["03-29 01:30"], "03:30 in summer time"
    assert begins(berlin, "2026-10-25", "2026-10-26") == ["10-25 00:30"], "02:30 while it is still summer time"


@pytest.mark.parametrize(
    ("rule", "found"),
    [
        ("FREQ=MONTHLY;BYDAY=1SU", ["03-01 02:00", "04-05 02:00", "05-03 02:00"]),
        ("FREQ=WEEKLY;BYDAY=SU;UNTIL=20260308T235959", ["03-01 02:00", "03-08 02:00"]),
        ("FREQ=WEEKLY;INTERVAL=4", ["03-01 02:00", "03-29 02:00", "04-26 02:00", "05-24 02:00"]),
        ("", []),
    ],
)
def test_a_window_comes_again_by_its_rule(rule: str, found: list[str]) -> None:
    assert begins(window(rule), "2026-03-01", "2026-05-31") == found


def test_a_window_without_a_rule_comes_once() -> None:
    assert begins(window(""), "2026-01-01", "2026-12-31") == ["01-04 02:00"]


def test_on_an_exception_it_does_not_begin() -> None:
    without = window(exceptions=[date(2026, 3, 8)])
    assert begins(without, "2026-03-01", "2026-03-20") == ["03-01 02:00", "03-15 02:00"]


@pytest.mark.parametrize(
    ("at", "is_open"), [("01:59:59", False), ("02:00:00", True), ("03:59:59", True), ("04:00:00", False)]
)
def test_its_beginning_is_in_it_and_its_end_is_not(at: str, is_open: bool) -> None:
    moment = datetime.fromisoformat(f"2026-03-01T{at}Z")
    assert bool(windows_at([window()], moment)) == is_open


def test_one_that_crosses_midnight_is_open_on_the_next_day() -> None:
    late = window("FREQ=WEEKLY;BYDAY=SA", start=datetime(2026, 1, 3, 23))  # noqa: DTZ001 - wall time
    assert windows_at([late], datetime(2026, 3, 1, 0, 59, tzinfo=UTC))
    assert not windows_at([late], datetime(2026, 3, 1, 1, tzinfo=UTC))


def test_the_next_window_is_the_open_one_or_the_first_to_begin() -> None:
    windows = [window(), window("FREQ=MONTHLY;BYDAY=1SA", name="monthly")]
    during, between = datetime(2026, 3, 1, 3, tzinfo=UTC), datetime(2026, 3, 2, tzinfo=UTC)
    now, then = next_window(windows, during), next_window(windows, between)
    assert now is not None
    assert now.start == datetime(2026, 3, 1, 2, tzinfo=UTC)
    assert then is not None
    assert (then.start, then.reason) == (datetime(2026, 3, 7, 2, tzinfo=UTC), "monthly: maintenance")
    assert next_window([window("")], between) is None


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"time_zone": "Mars/Olympus"}, "no time zone"),
        ({"rule": "FREQ=HOURLY"}, "daily at most"),
        ({"rule": "every sunday"}, "no recurrence rule"),
        ({"rule": "FREQ=WEEKLY;BYDAY=XX"}, "no recurrence rule"),
        ({"rule": "FREQ=WEEKLY;INTERVAL=0"}, "no recurrence rule"),
        ({"rule": "FREQ=YEARLY;BYMONTH=2;BYMONTHDAY=30"}, "never comes"),
        ({"rule": "FREQ=DAILY;BYHOUR=2,3", "duration_s": 7200}, "longer than the time until it comes again"),
        ({"duration_s": 59}, "60"),
        ({"duration_s": 86_401}, "86400"),
        ({"start": datetime(2026, 1, 4, 2, tzinfo=UTC)}, "leave the offset out"),
    ],
)
def test_a_window_that_cannot_be_meant_is_refused_with_what_is_wrong(change: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        window(**change)


def test_a_freeze_ends_when_it_says() -> None:
    start, end = datetime(2026, 12, 20, tzinfo=UTC), datetime(2027, 1, 4, tzinfo=UTC)
    freeze, short = (
        Freeze(start=start, end=end, reason="holidays"),
        Freeze(start=start, end=start.replace(day=21), reason="x"),
    )
    assert freeze_at([short, freeze], start) is freeze
    assert freeze_at([freeze], end) is None
    assert freeze_at([freeze], start - timedelta(microseconds=1)) is None
    with pytest.raises(ValidationError, match="after start"):
        Freeze(start=end, end=start, reason="x")


_ZONES = st.sampled_from(["UTC", "Europe/Berlin", "America/New_York", "Asia/Kolkata", "Australia/Lord_Howe"])
_RULES = st.sampled_from(
    ["", "FREQ=DAILY", "FREQ=WEEKLY;BYDAY=SU", "FREQ=MONTHLY;BYDAY=-1FR", "FREQ=YEARLY", "FREQ=WEEKLY;INTERVAL=3"]
)
_WINDOWS = st.builds(
    window,
    rule=_RULES,
    zone=_ZONES,
    start=st.datetimes(datetime(2025, 12, 1), datetime(2026, 3, 1)).map(lambda at: at.replace(microsecond=0)),  # noqa: DTZ001
    duration_s=st.integers(60, 80_000),
    name=st.text("abc äöü,;:\\\n", min_size=1, max_size=10),
)


@settings(max_examples=40)
@given(st.lists(_WINDOWS, max_size=3))
def test_a_calendar_that_is_written_and_read_has_the_same_times(windows: list[MaintenanceWindow]) -> None:
    freeze = Freeze(start=YEAR[0], end=YEAR[0] + timedelta(days=3), reason="stocktaking; nobody deploys")
    text = to_ical("production", windows, [freeze], YEAR[0])
    read, freezes = from_ical(text, "calendar.ics")
    assert [[one.start for one in window.occurrences(*YEAR)] for window in read] == [
        [one.start for one in window.occurrences(*YEAR)] for window in windows
    ]
    assert freezes == (freeze,)
    assert to_ical("production", windows, [freeze], YEAR[0]) == text, "the same ids every time"


@given(_WINDOWS)
def test_times_come_in_order_and_never_overlap(found: MaintenanceWindow) -> None:
    times = list(found.occurrences(*YEAR))
    assert all(earlier.end <= later.start + timedelta(hours=1) for earlier, later in pairwise(times))


FOREIGN = """BEGIN:VCALENDAR\r
VERSION:2.0\r
PRODID:x\r
BEGIN:VEVENT\r
UID:1\r
DTSTAMP:20260101T000000Z\r
SUMMARY:Weekly\r
  maintenance\r
DTSTART;TZID=Europe/Berlin:20260104T020000\r
DTEND;TZID=Europe/Berlin:20260104T040000\r
RRULE:BYDAY=SU;FREQ=WEEKLY\r
EXDATE;TZID=Europe/Berlin:20260111T020000,20260118T020000\r
END:VEVENT\r
BEGIN:VEVENT\r
UID:2\r
DTSTAMP:20260101T000000Z\r
SUMMARY:Holidays\r
CATEGORIES:Freeze\r
DTSTART;VALUE=DATE:20261220\r
DTEND;VALUE=DATE:20270104\r
END:VEVENT\r
END:VCALENDAR\r
"""


def test_a_calendar_of_another_program_is_read() -> None:
    [weekly], [holidays] = from_ical(FOREIGN, "team.ics")
    assert (weekly.name, weekly.time_zone, weekly.duration_s) == ("Weekly maintenance", "Europe/Berlin", 7200)
    assert begins(weekly, "2026-01-01", "2026-01-31") == ["01-04 01:00", "01-25 01:00"]
    assert (holidays.reason, holidays.start, holidays.end) == (
        "Holidays",
        datetime(2026, 12, 20, tzinfo=UTC),
        datetime(2027, 1, 4, tzinfo=UTC),
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "an iCalendar file"),
        ("BEGIN:VCALENDAR", "an iCalendar file"),
        ("x" * 1_000_001, "at most 1,000,000 characters"),
        (FOREIGN.replace("RRULE:", "RECURRENCE-ID:20260104T020000Z\r\nRRULE:"), "without a change to one of its times"),
        (FOREIGN.replace("RRULE:", "RRULE:FREQ=DAILY\r\nRRULE:"), "an event with one rule"),
        (FOREIGN.replace("RRULE:", "RDATE:20260105T020000Z\r\nRRULE:"), "without other dates"),
        (FOREIGN.replace("FREQ=WEEKLY", "FREQ=HOURLY"), "daily at most"),
    ],
)
def test_a_calendar_that_cannot_be_kept_is_refused_with_its_name(text: str, said: str) -> None:
    with pytest.raises(InvalidInputError, match=said) as caught:
        from_ical(text, "team.ics")
    assert "team.ics" in str(caught.value)


@given(st.text(max_size=300))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        windows, freezes = from_ical(
            f"BEGIN:VCALENDAR\r\nBEGIN:VEVENT\r\n{text}\r\nEND:VEVENT\r\nEND:VCALENDAR\r\n", "x.ics"
        )
    except InvalidInputError:
        return
    assert all(window.duration_s >= 60 for window in windows)
    assert all(freeze.start < freeze.end for freeze in freezes)
