"""Plots: the history of restore drills, as one SVG that a page or a report can show."""

# matplotlib ships types that leave its keyword arguments untyped
# pyright: reportUnknownMemberType=false

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, cast

from runbook.figures import BAD, GOOD, INK, QUIET, as_svg
from runbook.reports import DrillReport
from runbook.rules.drills import duration_in_words
from runbook.settings import DrillSettings

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MANY = 60  # points that still have room beside each other
_DATES = 6  # labels that have room beside each other
_STEPS_DAYS = (1 / 12, 1 / 8, 1 / 4, 1 / 2, 1, 2, 4, 7, 14, 28, 56, 91, 182, 365)
_UNITS = (("days", 86_400.0), ("hours", 3600.0), ("minutes", 60.0), ("seconds", 1.0))


@dataclass(frozen=True)
class _Panel:
    """One of the two panels: what was measured, in seconds (None: not), oldest first, and what is allowed.

    `absent` is the word for the last value when it was not measured.
    """

    title: str
    values_s: list[float | None]
    budget_s: float | None
    absent: str = "not known"


def drill_history(reports: Sequence[DrillReport], settings: DrillSettings) -> str:
    """Return an SVG of 900 x 500 pixels: time to restore (RTO) and writes at stake (RPO) of each drill, over time.

    Dashed lines are the budgets, red crosses failed drills, red points drills over a budget. The headline is about
    the last drill. The same input gives the same bytes.
    """
    ordered = sorted(reports, key=lambda report: (report.timestamp, report.backup_id))

    def draw(figure: Figure) -> None:
        if ordered:
            _draw(figure, ordered, settings)
        else:
            _draw_nothing(figure, settings)

    return as_svg(draw, title="History of restore drills", height_px=500)


def _draw(figure: Figure, reports: Sequence[DrillReport], settings: DrillSettings) -> None:
    text, colour = _headline(reports[-1], settings)
    figure.text(0.02, 0.935, text, fontsize=15, fontweight="bold", color=colour)
    environments = ", ".join(sorted({report.environment for report in reports}))
    figure.text(0.02, 0.885, f"Restore drills of {environments}, times in UTC", color=QUIET)
    grid = figure.add_gridspec(2, 1, left=0.085, right=0.87, top=0.79, bottom=0.11, hspace=0.38)
    upper = figure.add_subplot(grid[0])
    lower = figure.add_subplot(grid[1], sharex=upper)
    times = _draw_dates(upper, lower, [report.timestamp for report in reports])
    restored = [report.rto_s if report.success else None for report in reports]
    absent = "not known" if reports[-1].success else "failed"
    _draw_panel(upper, times, _Panel("Time to restore (RTO)", restored, settings.rto_budget_s, absent))
    _draw_failures(upper, [at for at, report in zip(times, reports, strict=True) if not report.success])
    at_stake = [report.rpo_s for report in reports]
    _draw_panel(lower, times, _Panel("Writes at stake in a failure (RPO)", at_stake, settings.rpo_budget_s))
    figure.align_ylabels([upper, lower])


def _draw_nothing(figure: Figure, settings: DrillSettings) -> None:
    budgets = [
        f"{name}: {duration_in_words(budget_s)}"
        for name, budget_s in (
            ("Budget of the time to restore (RTO)", settings.rto_budget_s),
            ("Budget of the writes at stake (RPO)", settings.rpo_budget_s),
        )
        if budget_s is not None
    ]
    figure.text(0.5, 0.56, "No drill yet", fontsize=20, fontweight="bold", color=BAD, ha="center")
    lines = ["Nobody knows how long a restore takes, or whether it works.", *budgets]
    for number, line in enumerate(lines):
        figure.text(0.5, 0.48 - 0.06 * number, line, color=QUIET, ha="center")


def _headline(last: DrillReport, settings: DrillSettings) -> tuple[str, str]:
    on = f"Last drill, {last.timestamp.astimezone(UTC):%Y-%m-%d}"
    if not last.success:
        return f"{on}: FAILED", BAD
    took = "restored" if last.rto_s is None else f"restored in {duration_in_words(last.rto_s)}"
    budgets = {"RTO": (last.rto_s, settings.rto_budget_s), "RPO": (last.rpo_s, settings.rpo_budget_s)}
    over = [name for name, (value_s, budget_s) in budgets.items() if _is_over(value_s, budget_s)]
    if over:
        return f"{on}: {took}, {' and '.join(over)} OVER BUDGET", BAD
    within = [name for name, (value_s, budget_s) in budgets.items() if value_s is not None and budget_s is not None]
    return f"{on}: {took}{', within budget' if within else ''}", GOOD


def _is_over(value_s: float | None, budget_s: float | None) -> bool:
    return value_s is not None and budget_s is not None and value_s > budget_s


def _draw_panel(axes: Axes, times: Sequence[float], panel: _Panel) -> None:
    measured = [value_s for value_s in panel.values_s if value_s is not None]
    highest_s = max([*measured, panel.budget_s or 0.0])
    unit, unit_s = next(((name, size_s) for name, size_s in _UNITS if highest_s >= 2 * size_s), _UNITS[-1])
    values = [math.nan if value_s is None else value_s / unit_s for value_s in panel.values_s]
    late = [index for index, value_s in enumerate(panel.values_s) if _is_over(value_s, panel.budget_s)]
    size = 6 if len(times) <= _MANY else 3
    axes.plot(times, values, "o-", color=GOOD, linewidth=1.2, markersize=size, clip_on=False)
    marked = [values[index] for index in late]
    axes.plot([times[index] for index in late], marked, "o", color=BAD, markersize=size, clip_on=False)
    axes.set_title(panel.title, loc="left", fontsize=11, fontweight="bold")
    last_s = panel.values_s[-1]
    last = panel.absent if last_s is None else duration_in_words(last_s)
    is_bad = last_s is None or len(times) - 1 in late
    axes.set_title(f"last: {last}", loc="right", fontsize=11, color=BAD if is_bad else INK)
    axes.set_ylim(0, max(highest_s / unit_s * 1.5, 0.1))  # room above the highest for failed drills
    axes.set_ylabel(unit)
    axes.grid(axis="y", color="#e3e5e8", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.locator_params(axis="y", nbins=4)
    if panel.budget_s is not None:
        _draw_budget(axes, panel.budget_s, unit_s)
    if not measured:
        axes.set_yticks([])
        axes.set_ylabel("")
        axes.text(0.5, 0.3, "not measured yet", color=QUIET, ha="center", transform=axes.transAxes)


def _draw_budget(axes: Axes, budget_s: float, unit_s: float) -> None:
    axes.axhline(budget_s / unit_s, color=INK, linestyle=(0, (5, 3)), linewidth=1.2)
    height = budget_s / unit_s / axes.get_ylim()[1]
    clear_of_dates = max(height, 0.14)
    label = f"budget\n{duration_in_words(budget_s)}"
    axes.text(1.01, clear_of_dates, label, va="center", transform=axes.transAxes)


def _draw_failures(axes: Axes, times: Sequence[float]) -> None:
    if not times:
        return
    beside = axes.get_xaxis_transform()
    axes.plot(times, [0.93] * len(times), "x", color=BAD, markersize=8, markeredgewidth=2.2, transform=beside)
    axes.text(1.01, 0.93, "failed", color=BAD, va="center", transform=axes.transAxes)


def _draw_dates(upper: Axes, lower: Axes, times: Sequence[datetime]) -> list[float]:
    """Scale the shared axis; return where on it the times are, in days."""
    from matplotlib import dates, ticker

    numbers = [float(number) for number in cast("list[float]", dates.date2num(times))]
    margin = max((numbers[-1] - numbers[0]) * 0.04, 0.25)
    first, last = numbers[0] - margin, numbers[-1] + margin
    widest = (last - first) / _DATES
    step = next((step for step in _STEPS_DAYS if step >= widest), math.ceil(widest / 365) * 365)
    lower.set_xlim(first, last)
    lower.xaxis.set_major_locator(ticker.MultipleLocator(step))
    lower.xaxis.set_major_formatter(dates.DateFormatter("%Y-%m-%d" if step >= 1 else "%Y-%m-%d\n%H:%M", tz=UTC))
    upper.tick_params(labelbottom=False)
    return numbers
