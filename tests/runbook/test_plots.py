from __future__ import annotations

import base64
import os
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import TextPath

from runbook.figures import as_data_uri
from runbook.manifest import VerificationLevel
from runbook.plots import drill_history
from runbook.reports import DrillReport
from runbook.settings import DrillSettings

START = datetime(2025, 1, 4, 3, tzinfo=UTC)
BUDGETS = DrillSettings(maximum_age_days=30, rto_budget_s=600, rpo_budget_s=7200)
NO_BUDGETS = DrillSettings()
SVG = "{http://www.w3.org/2000/svg}"
RED = "#c62828"


def drill(
    day: float, rto_s: float | None = 250, rpo_s: float | None = 3600, *, environment: str = "production"
) -> DrillReport:
    """Return a drill made `day` days after the start; without a time to restore it failed."""
    at = START + timedelta(days=day)
    return DrillReport(
        environment=environment,
        timestamp=at,
        backup_id=f"backup_{at:%Y%m%d_%H%M%S}",
        triggered_by="mira",
        level=VerificationLevel.FULL,
        rto_s=rto_s,
        rpo_s=rpo_s,
        size_bytes=1,
        rows=1,
        duration=1,
        success=rto_s is not None,
        error=None if rto_s is not None else "no such table",
    )


@dataclass(frozen=True)
class Label:
    """One text of the picture and the box it fills, in points from the upper left corner."""

    text: str
    colour: str
    left: float
    top: float
    right: float
    bottom: float

    def overlaps(self, other: Label) -> bool:
        beside = self.right <= other.left or other.right <= self.left
        return not beside and not (self.bottom <= other.top or other.bottom <= self.top)


def root(svg: str) -> ET.Element:
    return ET.fromstring(svg)  # noqa: S314 - drawn by ourselves


def labels(svg: str) -> list[Label]:
    return [_label(element) for element in root(svg).iter(f"{SVG}text")]


def texts(svg: str) -> list[str]:
    return [label.text for label in labels(svg)]


def headline(svg: str) -> Label:
    return next(label for label in labels(svg) if label.text.startswith("Last drill"))


def uses(svg: str, colour: str) -> int:
    """Return how many points and crosses have this colour."""
    return sum(colour in (element.get("style") or "") for element in root(svg).iter(f"{SVG}use"))


def _label(element: ET.Element) -> Label:
    style = element.get("style") or ""
    size = float(re.findall(r"font-size: ([0-9.]+)px", style)[0])
    weight = "bold" if "font-weight: 700" in style else "normal"
    text = element.text or ""
    width = float(max(TextPath((0, 0), text, size=size, prop=FontProperties(weight=weight)).vertices[:, 0]))
    numbers = [float(number) for number in re.findall(r"-?[0-9.]+", element.get("transform") or "")]
    x, y = numbers[-2:]
    before = width * {"middle": 0.5, "end": 1.0}.get("".join(re.findall(r"text-anchor: (\w+)", style)), 0.0)
    above, below = 0.75 * size, 0.2 * size
    colour = re.findall(r"fill: (#[0-9a-f]+)", style)[0]
    if numbers[0] == -90:
        return Label(text, colour, x - above, y - width + before, x + below, y + before)
    return Label(text, colour, x - before, y - above, x - before + width, y + below)


WEEKLY = [drill(7 * week, 200 + 10 * week) for week in range(10)]
HISTORIES: dict[str, tuple[list[DrillReport], DrillSettings]] = {
    "weekly": (WEEKLY, BUDGETS),
    "one": ([drill(0)], BUDGETS),
    "one, no budgets": ([drill(0)], NO_BUDGETS),
    "none": ([], BUDGETS),
    "only failures": ([drill(7 * week, None, None) for week in range(3)], BUDGETS),
    "only failures, no budgets": ([drill(7 * week, None) for week in range(3)], NO_BUDGETS),
    "far below the budgets": ([drill(hour / 24, 5, 90) for hour in range(9)], BUDGETS),
    "far above the budgets": ([drill(day, 80_000, 9e6) for day in range(9)], BUDGETS),
    "once far above the budgets": (
        [*(drill(7 * week, 650, 8280) for week in range(6)), drill(30, 86_399, 3e5)],
        BUDGETS,
    ),
    "years": ([drill(day, None if day % 50 == 0 else 600) for day in range(0, 1500, 5)], BUDGETS),
    "no time at all": ([drill(0, 0, 0), drill(1, 1e-9, 1e-300)], NO_BUDGETS),
    "at one time": ([drill(0), drill(0)], BUDGETS),
}
histories = pytest.mark.parametrize(("reports", "budgets"), HISTORIES.values(), ids=HISTORIES.keys())


@histories
def test_a_history_is_a_picture_of_900_by_500_pixels_on_white(
    reports: list[DrillReport], budgets: DrillSettings
) -> None:
    picture = root(drill_history(reports, budgets))
    assert (picture.get("width"), picture.get("height")) == ("675pt", "375pt")  # 96 pixels are 72 points
    background = next(picture.iter(f"{SVG}path"))
    assert background.get("style") == "fill: #ffffff"


@histories
def test_no_label_covers_another_or_is_cut_off(reports: list[DrillReport], budgets: DrillSettings) -> None:
    check_labels(drill_history(reports, budgets))


spans_s = st.floats(0, 4e6)
some_drills = st.lists(
    st.builds(drill, st.floats(-900, 900), st.one_of(st.none(), spans_s), st.one_of(st.none(), spans_s)), max_size=12
)
some_budgets = st.builds(
    DrillSettings,
    rto_budget_s=st.one_of(st.none(), st.floats(0.1, 4e6)),
    rpo_budget_s=st.one_of(st.none(), st.floats(0.1, 4e6)),
)


@settings(max_examples=25)
@given(some_drills, some_budgets)
def test_no_label_covers_another_whatever_was_measured(reports: list[DrillReport], budgets: DrillSettings) -> None:
    check_labels(drill_history(reports, budgets))


def check_labels(svg: str) -> None:
    found = labels(svg)
    assert found
    for index, label in enumerate(found):
        assert label.left >= 0, label
        assert label.top >= 0, label
        assert label.right <= 675, label
        assert label.bottom <= 375, label
        for other in found[index + 1 :]:
            assert not label.overlaps(other), (label, other)


@pytest.mark.parametrize(
    ("last", "budgets", "expected", "is_red"),
    [
        (drill(1), BUDGETS, "restored in 4 min 10 s, within budget", False),
        (drill(1), NO_BUDGETS, "restored in 4 min 10 s", False),
        (drill(1, rpo_s=None), DrillSettings(rpo_budget_s=1), "restored in 4 min 10 s", False),
        (drill(1, 600, 7200), BUDGETS, "restored in 10 min, within budget", False),
        (drill(1, 601), BUDGETS, "restored in 10 min 1 s, RTO OVER BUDGET", True),
        (drill(1, 250, 7201), BUDGETS, "restored in 4 min 10 s, RPO OVER BUDGET", True),
        (drill(1, 660, 9000), BUDGETS, "restored in 11 min, RTO and RPO OVER BUDGET", True),
        (drill(1, None, 9000), BUDGETS, "FAILED", True),
    ],
)
def test_the_headline_says_how_the_last_drill_went(
    last: DrillReport, budgets: DrillSettings, expected: str, is_red: bool
) -> None:
    found = headline(drill_history([last, drill(0, None)], budgets))
    assert found.text.split(": ", 1) == ["Last drill, 2025-01-05", expected]
    assert (found.colour == RED) is is_red


def test_the_panels_have_titles_in_words_units_and_labelled_budgets() -> None:
    svg = drill_history(WEEKLY, BUDGETS)
    expected = {
        "Restore drills of production, times in UTC",
        "Time to restore (RTO)",
        "last: 4 min 50 s",
        "minutes",
        "10 min",
        "Writes at stake in a failure (RPO)",
        "last: 1 h",
        "hours",
        "2 h",
    }
    assert expected <= set(texts(svg))
    assert texts(svg).count("budget") == 2
    assert svg.count("stroke-dasharray") == 2


def test_without_budgets_no_budget_is_drawn() -> None:
    svg = drill_history(WEEKLY, NO_BUDGETS)
    assert "budget" not in texts(svg)
    assert "stroke-dasharray" not in svg


@pytest.mark.parametrize(
    ("rto_s", "unit"), [(0.5, "seconds"), (100, "seconds"), (120, "minutes"), (7200, "hours"), (180_000, "days")]
)
def test_the_unit_fits_what_was_measured(rto_s: float, unit: str) -> None:
    assert unit in texts(drill_history([drill(0, rto_s, None)], NO_BUDGETS))


def test_a_failed_drill_is_a_red_cross_and_one_over_budget_a_red_point() -> None:
    good = [drill(0), drill(1)]
    assert uses(drill_history(good, BUDGETS), RED) == 0
    assert uses(drill_history([*good, drill(2, None)], BUDGETS), RED) == 1
    assert uses(drill_history([*good, drill(2, None), drill(3, 601), drill(4, 250, 7201)], BUDGETS), RED) == 3
    assert "failed" in texts(drill_history([*good, drill(2, None), drill(3)], BUDGETS))
    assert "failed" not in texts(drill_history(good, BUDGETS))


def test_with_failures_alone_the_time_to_restore_is_not_known() -> None:
    svg = drill_history([drill(0, None, None), drill(7, None, None)], NO_BUDGETS)
    assert texts(svg).count("not measured yet") == 2
    assert "last: failed" in texts(svg)
    assert "last: not known" in texts(svg)
    assert uses(svg, RED) == 2


def test_without_a_drill_it_says_so_and_what_is_allowed() -> None:
    assert texts(drill_history([], BUDGETS)) == [
        "No drill yet",
        "Nobody knows how long a restore takes, or whether it works.",
        "Budget of the time to restore (RTO): 10 min",
        "Budget of the writes at stake (RPO): 2 h",
    ]


def test_every_environment_is_named_and_markup_stays_text() -> None:
    drills = [drill(0, environment="staging"), drill(1, environment="<b>&$x$")]
    assert "Restore drills of <b>&$x$, staging, times in UTC" in texts(drill_history(drills, BUDGETS))


@pytest.mark.parametrize(
    ("days", "expected"),
    [
        ([0], ["2025-01-03", "22:00", "2025-01-04", "00:00", "2025-01-04", "02:00"]),
        ([0, 1], ["2025-01-04", "00:00", "2025-01-04", "06:00", "2025-01-04", "12:00"]),
        ([-9, 0], ["2024-12-27", "2024-12-29", "2024-12-31", "2025-01-02", "2025-01-04"]),
        ([0, 400], ["2025-01-23", "2025-04-24", "2025-07-24", "2025-10-23", "2026-01-22"]),
        ([0, 9000], ["2024-12-18", "2029-12-17", "2034-12-16", "2039-12-15", "2044-12-13", "2049-12-12"]),
    ],
    ids=["one drill", "a day", "over New Year", "a year", "a quarter of a century"],
)
def test_dates_are_evenly_spaced_and_in_utc(days: list[float], expected: list[str]) -> None:
    shown = texts(drill_history([drill(day) for day in days], NO_BUDGETS))
    assert [text for text in shown if re.fullmatch(r"\d{4}-\d\d-\d\d|\d\d:\d\d", text)][: len(expected)] == expected


def test_the_time_zone_of_a_report_does_not_matter() -> None:
    tokyo = timezone(timedelta(hours=9))
    elsewhere = [report.model_copy(update={"timestamp": report.timestamp.astimezone(tokyo)}) for report in WEEKLY]
    assert drill_history(elsewhere, BUDGETS) == drill_history(WEEKLY, BUDGETS)


def test_the_order_of_the_reports_does_not_matter() -> None:
    assert drill_history(WEEKLY[::-1], BUDGETS) == drill_history(WEEKLY, BUDGETS)


def test_a_data_uri_holds_the_picture() -> None:
    svg = drill_history([], NO_BUDGETS)
    kind, data = as_data_uri(svg).split(",", 1)
    assert kind == "data:image/svg+xml;base64"
    assert base64.b64decode(data, validate=True).decode() == svg


DRAW = """
import sys
import runbook.plots
assert "matplotlib" not in sys.modules, "matplotlib is slow and is imported only to draw"
from runbook.reports import DrillReport
from runbook.settings import DrillSettings
reports = [DrillReport.model_validate_json(line) for line in sys.stdin]
svg = runbook.plots.drill_history(reports, DrillSettings.model_validate_json(sys.argv[1]))
assert "matplotlib.pyplot" not in sys.modules, "pyplot keeps figures in a global"
sys.stdout.write(svg)
"""


@pytest.mark.parametrize("home", ["writable", "not writable"])
def test_another_process_draws_the_same_bytes_without_a_warning(home: str, tmp_path: Path) -> None:
    folder = tmp_path / "home"
    if home == "writable":
        folder.mkdir()
    else:
        folder.write_text("a file: nobody, root included, can make a folder in it")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("MPL", "XDG", "PYTHON"))}
    drawn = subprocess.run(
        [sys.executable, "-W", "error", "-c", DRAW, BUDGETS.model_dump_json()],
        input="\n".join(report.model_dump_json() for report in WEEKLY),
        env={**kept, "HOME": str(folder), "TZ": "Asia/Tokyo", "PYTHONHASHSEED": "7"},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert drawn.returncode == 0, drawn.stderr
    assert drawn.stdout == drill_history(WEEKLY, BUDGETS)
