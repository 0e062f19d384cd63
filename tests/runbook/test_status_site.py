from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from html.parser import HTMLParser
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runbook.clients.browser import require_browser
from runbook.rules.alerting import Silence
from runbook.rules.incident_messages import PublicIncidentStatus
from runbook.rules.incidents import EventKind, Incident, IncidentEvent, IncidentStatus
from runbook.rules.public_status import (
    ComponentState,
    PublicIncident,
    PublicMaintenance,
    PublicStatus,
    PublicUpdate,
    component_state,
    last_days,
    planned,
    public_incidents,
    uptime_days,
)
from runbook.rules.samples import Sample, sample
from runbook.rules.thresholds import Severity
from runbook.status_site import COLOURS, render_atom, render_html, render_json
from tests.runbook.browsers import needs_browser

if TYPE_CHECKING:
    from playwright.sync_api import Page

NOW = datetime(2026, 11, 27, 3, 40, tzinfo=UTC)
ATOM = "{http://www.w3.org/2005/Atom}"


def told(text: str, *, ended: bool, number: int = 1) -> PublicIncident:
    began = NOW - timedelta(hours=2 * number)
    updates = [PublicUpdate(at=began, status=PublicIncidentStatus.INVESTIGATING, text=text)]
    if ended:
        updates.insert(
            0, PublicUpdate(at=began + timedelta(minutes=30), status=PublicIncidentStatus.RESOLVED, text=text)
        )
    return PublicIncident(
        id=f"inc_{number}",
        title=text,
        impact=ComponentState.PARTIAL_OUTAGE,
        began=began,
        ended=began + timedelta(minutes=30) if ended else None,
        updates=tuple(updates),
    )


def status(text: str = "the shop", incidents: int = 20) -> PublicStatus:
    days = {(NOW - timedelta(days=back)).date(): 100.0 - back for back in range(30)}
    return PublicStatus(
        name=text,
        at=NOW,
        components=((text, ComponentState.PARTIAL_OUTAGE), ("accounts", ComponentState.OPERATIONAL)),
        incidents=(told(text, ended=False), *(told(text, ended=True, number=2 + one) for one in range(incidents - 1))),
        maintenance=(
            PublicMaintenance(id="m1", start=NOW + timedelta(days=1), end=NOW + timedelta(days=2), text=text),
        ),
        uptime=last_days(days, NOW.date()),
    )


class Tags(HTMLParser):
    """The tags of a page, and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        assert not [name for name, _ in attrs if name.startswith("on")]

    def handle_data(self, data: str) -> None:
        self.text += data


@given(st.text(min_size=1, max_size=40))
def test_no_text_becomes_anything_but_that_text(text: str) -> None:
    assert Tags(render_html(status(text))).tags == Tags(render_html(status("the shop"))).tags
    assert json.loads(render_json(status(text)))["page"]["name"] == text
    ElementTree.fromstring(render_atom(status(text)))  # noqa: S314 - our own


def test_markup_in_a_text_is_shown_as_such() -> None:
    assert "<script>alert(1)</script>" in Tags(render_html(status("<script>alert(1)</script>"))).text


def test_the_page_asks_nobody_for_anything_and_is_small() -> None:
    page = render_html(status())
    assert len(page.encode()) < 50_000
    assert not [tag for tag in Tags(page).tags if tag in {"script", "img", "iframe", "object", "form"}]
    assert "http://" not in page
    assert "https://" not in page


def test_the_summary_has_the_shape_that_readers_know() -> None:
    found = json.loads(render_json(status()))
    assert found["status"] == {"indicator": "major", "description": "Partial outage"}
    assert found["components"][1] == {"name": "accounts", "status": "operational"}
    assert found["incidents"][0]["resolved_at"] is None
    assert found["scheduled_maintenances"][0]["scheduled_for"] == "2026-11-28T03:40:00Z"
    assert found["uptime"][0] == {"day": "2026-08-30", "uptime_pct": None}


def test_the_feed_has_an_entry_for_each_thing_said_with_an_id_that_stays() -> None:
    def entries(found: PublicStatus) -> dict[str, str]:
        feed = ElementTree.fromstring(render_atom(found))  # noqa: S314 - our own
        return {str(e.findtext(f"{ATOM}id")): str(e.findtext(f"{ATOM}updated")) for e in feed.iter(f"{ATOM}entry")}

    now = status()
    assert len(entries(now)) == 1 + 19 * 2 + 1
    later = now.model_copy(update={"at": NOW + timedelta(minutes=5)})
    assert entries(later) == entries(now)


@given(st.lists(st.sampled_from(ComponentState), min_size=1))
def test_the_worst_component_decides(states: list[ComponentState]) -> None:
    found = PublicStatus(name="x", at=NOW, components=tuple((f"{number}", one) for number, one in enumerate(states)))
    order = list(ComponentState)
    assert order.index(found.overall) == max(order.index(one) for one in states)


def incident(*events: IncidentEvent, severity: Severity = Severity.SEV1) -> Incident:
    opened = IncidentEvent(
        at=NOW,
        by="Ada",
        kind=EventKind.OPENED,
        text="db-7 is out of disk",
        severity=severity,
        status=IncidentStatus.INVESTIGATING,
    )
    return Incident(id="inc_20261127_034000_000000", environment="production", events=(opened, *events))


def event(minutes: float, kind: EventKind, text: str = "", status: IncidentStatus | None = None) -> IncidentEvent:
    return IncidentEvent(at=NOW + timedelta(minutes=minutes), by="Ada", kind=kind, text=text, status=status)


def test_users_see_what_was_published_and_nothing_else() -> None:
    assert public_incidents([incident()], "Problems") == ()
    resolved = event(20, EventKind.RESOLVED, "disk added", IncidentStatus.RESOLVED)
    found = incident(
        event(5, EventKind.PUBLISHED, "We look into it."), resolved, event(25, EventKind.PUBLISHED, "Over.")
    )
    [shown] = public_incidents([found], "Problems")
    assert [(one.status, one.text) for one in shown.updates] == [
        ("resolved", "Over."),
        ("investigating", "We look into it."),
    ]
    assert shown.ended == resolved.at
    assert "db-7" not in shown.model_dump_json()
    assert "disk" not in shown.model_dump_json()


def test_what_is_resolved_but_not_published_as_such_is_still_shown_as_it_was_told() -> None:
    resolved = event(20, EventKind.RESOLVED, "", IncidentStatus.RESOLVED)
    [shown] = public_incidents([incident(event(5, EventKind.PUBLISHED, "We look."), resolved)], "Problems")
    assert (shown.ended, shown.status) == (None, "investigating")


@pytest.mark.parametrize(
    ("last_seen_min", "window_open", "is_open", "expected"),
    [
        (1, False, False, ComponentState.OPERATIONAL),
        (15, False, False, ComponentState.OPERATIONAL),
        (15.1, False, False, ComponentState.UNKNOWN),
        (None, False, False, ComponentState.UNKNOWN),
        (1, True, False, ComponentState.UNDER_MAINTENANCE),
        (1, True, True, ComponentState.PARTIAL_OUTAGE),
    ],
)
def test_how_a_component_does(
    last_seen_min: float | None, window_open: bool, is_open: bool, expected: ComponentState
) -> None:
    seen = None if last_seen_min is None else NOW - timedelta(minutes=last_seen_min)
    windows = [Silence(start=NOW, end=NOW + timedelta(hours=1), reason="x", by="x")] if window_open else []
    assert component_state([told("x", ended=not is_open)], windows, seen, NOW) is expected


def test_maintenance_that_is_on_or_near_is_shown() -> None:
    def window(days: float) -> Silence:
        start = NOW + timedelta(days=days)
        return Silence(start=start, end=start + timedelta(hours=2), reason=f"in {days}", by="x")

    assert [one.text for one in planned([window(13), window(-0.05), window(15), window(-1)], NOW)] == [
        "in -0.05",
        "in 13",
    ]


def sampled(minute: int, *, errors_pct: float | None = 0, database: bool = True) -> Iterator[Sample]:
    at = NOW + timedelta(minutes=minute)
    yield sample(at, "requests", 10)
    if errors_pct is not None:
        yield sample(at, "error_rate_pct", errors_pct)
    if database:
        yield sample(at, "database_connections", 3)


def uptime(*samplings: Iterator[Sample]) -> dict[date, float]:
    return uptime_days(one for sampling in samplings for one in sampling)


def test_a_day_is_as_good_as_the_share_of_samplings_in_which_it_worked() -> None:
    day = NOW.date()
    assert uptime() == {}
    assert uptime(sampled(0), sampled(1), sampled(2, errors_pct=50), sampled(3, database=False)) == {day: 50.0}
    assert uptime(sampled(0, errors_pct=49.9), sampled(1, errors_pct=None)) == {day: 100.0}
    assert uptime(sampled(0), sampled(24 * 60, errors_pct=100)) == {day: 100.0, day + timedelta(days=1): 0.0}


@given(st.lists(st.booleans(), min_size=1, max_size=20))
def test_one_more_failure_never_raises_the_uptime(ups: list[bool]) -> None:
    before = uptime(*(sampled(number, database=up) for number, up in enumerate(ups)))[NOW.date()]
    after = uptime(*(sampled(number, database=up) for number, up in enumerate([*ups, False])))[NOW.date()]
    assert after <= before


@pytest.mark.parametrize(
    ("scheme", "text", "behind"),
    [(s, t, b) for s in COLOURS for t, b in product(set(COLOURS[s]) - {"paper", "card", "line"}, ("paper", "card"))],
)
def test_every_text_can_be_read_on_what_is_behind_it(scheme: str, text: str, behind: str) -> None:
    """WCAG 2.2, 1.4.3: 4.5 to 1."""

    def luminance(colour: str) -> float:
        parts = [int(colour[number : number + 2], 16) / 255 for number in (1, 3, 5)]
        linear = [one / 12.92 if one <= 0.04045 else ((one + 0.055) / 1.055) ** 2.4 for one in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    lighter, darker = sorted((luminance(COLOURS[scheme][text]), luminance(COLOURS[scheme][behind])), reverse=True)
    assert (lighter + 0.05) / (darker + 0.05) >= 4.5


@needs_browser
def test_the_page_fits_a_telephone_and_a_desk(tmp_path: Path) -> None:
    """Long words too; the order of what is read aloud is overall, incidents, maintenance, components."""
    from playwright.sync_api import sync_playwright

    (tmp_path / "index.html").write_text(render_html(status("A" * 60 + " <b>shop</b>")), encoding="utf-8")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=require_browser())
        for width in (360, 1280):
            page: Page = browser.new_page(viewport={"width": width, "height": 800})
            refused: list[str] = []
            page.on("console", lambda message, kept=refused: kept.append(message.text))
            page.goto(f"file://{tmp_path}/index.html")
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            assert [page.locator(tag).count() for tag in ("main", "header", "footer", "h1")] == [1, 1, 1, 1]
            headings = page.locator("h2").all_inner_texts()
            assert headings == ["Incidents", "Maintenance", "Components", "Uptime", "Past incidents"]
            assert page.get_by_role("status").inner_text() == "Partial outage"
            assert page.get_by_role("img", name="Uptime of the last 90 days").count() == 1
            assert refused == [], "the page's own policy refuses nothing of it"
        browser.close()
