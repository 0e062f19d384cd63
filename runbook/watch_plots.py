"""Plots of a watch: the application as its users see it, and the database below it, minute by minute.

Source: runbook, "What to Monitor (First 30 Minutes)".
"""

# matplotlib ships types that leave its keyword arguments untyped
# pyright: reportUnknownMemberType=false

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from runbook.figures import BAD, GOOD, INK, QUIET, as_svg
from runbook.rules.alerts import RUNBOOK_RULES
from runbook.rules.drills import duration_in_words
from runbook.rules.release_watch import SLOWER, Verdict
from runbook.rules.thresholds import AlertLevel
from runbook.watch_report import WatchReport

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_PALE = "#8fb4d9"
_ALARM, _UNKNOWN = "#fbe3e3", "#eceff1"
_WORDS = {
    Verdict.HEALTHY: "HEALTHY",
    Verdict.DEGRADED: "DEGRADED",
    Verdict.INCONCLUSIVE: "NOT KNOWN YET",
    Verdict.NO_DATA: "NO DATA",
}


@dataclass(frozen=True)
class _Line:
    """One metric in a panel; `name` stands beside its last value."""

    metric: str
    name: str
    colour: str
    width: float = 1.4


@dataclass(frozen=True)
class _Limit:
    """A dashed line that means something, with what it means."""

    value: float
    text: str
    colour: str = BAD


@dataclass(frozen=True)
class _Panel:
    """One of the panels: what is drawn in it, in `unit`.

    Values are multiplied by `scale`; the axis reaches to `least` at least, and never above `highest`.
    """

    title: str
    unit: str
    lines: tuple[_Line, ...]
    limits: tuple[_Limit, ...] = ()
    scale: float = 1.0
    least: float = 1.0
    highest: float = math.inf


_ERRORS = _Panel(
    "Requests that failed",
    "%",
    (_Line("error_rate_pct", "", BAD, 1.8),),
    (_Limit(10, "> 10 %: roll back"), _Limit(5, "5 %: consider", QUIET)),
    least=12,
    highest=100,
)
_VOLUME = _Panel("Requests", "per second", (_Line("requests_per_s", "", GOOD, 1.8),))


def application_plot(report: WatchReport) -> str:
    """Return an SVG of response times, error rate and volume since the release got the traffic."""
    panels = (_response_times(report), _ERRORS, _VOLUME)
    return as_svg(lambda figure: _draw(figure, report, panels), title=f"Watch of {report.version}", height_px=760)


def database_plot(report: WatchReport) -> str:
    """Return an SVG of the database's connections and locks in the same time."""
    warning, critical = (
        next(rule for rule in RUNBOOK_RULES if rule.metric == "database_connections_pct" and rule.level is level)
        for level in (AlertLevel.WARNING, AlertLevel.CRITICAL)
    )
    connections = _Panel(
        "Connections in use",
        "%",
        (_Line("database_connections_pct", "", GOOD, 1.8),),
        (
            _Limit(warning.threshold, f"warning > {warning.threshold:g} %", QUIET),
            _Limit(critical.threshold, f"critical > {critical.threshold:g} %"),
        ),
        least=100,
        highest=100,
    )
    lines = (_Line("database_locks", "held", _PALE), _Line("database_blocked", "waiting", BAD, 1.8))
    locks = _Panel("Locks held, and sessions that wait for one", "", lines, least=4)
    panels = (connections, locks)
    return as_svg(lambda figure: _draw(figure, report, panels), title=f"Database of {report.version}", height_px=560)


def _response_times(report: WatchReport) -> _Panel:
    values = [one.values.get("response_time_p99_s", 0.0) for one in report.looks]
    limits: tuple[_Limit, ...] = ()
    before_s = report.baseline.p95_s if report.baseline else None
    in_ms = max([*values, SLOWER * (before_s or 0.0)], default=0.0) < 2
    scale, unit = (1000.0, "ms") if in_ms else (1.0, "s")
    if before_s:
        limits = (_Limit(SLOWER * before_s * scale, f"twice the p95 before\n{duration_in_words(SLOWER * before_s)}"),)
    lines = (
        _Line("response_time_p99_s", "p99", _PALE),
        _Line("response_time_p95_s", "p95", GOOD, 2.2),
        _Line("response_time_p50_s", "p50", QUIET),
    )
    return _Panel("Response time", unit, lines, limits, scale, least=10 if in_ms else 1)


def _draw(figure: Figure, report: WatchReport, panels: Sequence[_Panel]) -> None:
    height_px = figure.get_figheight() * 96
    is_bad = report.verdict is not Verdict.HEALTHY
    minutes = report.duration / 60
    title = f"{report.version}: {_WORDS[report.verdict]} after {minutes:.0f} min"
    figure.text(0.02, 1 - 32 / height_px, title, fontsize=15, fontweight="bold", color=BAD if is_bad else GOOD)
    compared = f"compared with {report.baseline.source}" if report.baseline else "nothing to compare with"
    below = f"{report.environment}, from {report.since:%Y-%m-%d %H:%M} UTC; {compared}"
    figure.text(0.02, 1 - 56 / height_px, below, color=QUIET)
    grid = figure.add_gridspec(
        len(panels), 1, left=0.085, right=0.82, top=1 - 100 / height_px, bottom=52 / height_px, hspace=0.42
    )
    end = (report.until - report.since).total_seconds() / 60
    first = None
    for number, panel in enumerate(panels):
        axes = figure.add_subplot(grid[number], sharex=first)
        first = first or axes
        _shade(axes, report)
        _draw_panel(axes, report, panel)
        axes.set_xlim(0, max(end, 0.1))
        is_last = number == len(panels) - 1
        axes.tick_params(labelbottom=is_last)
        if is_last:
            axes.set_xlabel("minutes since the release got the traffic")
    figure.align_ylabels()


def _at(report: WatchReport) -> list[float]:
    return [(one.at - report.since).total_seconds() / 60 for one in report.looks]


def _shade(axes: Axes, report: WatchReport) -> None:
    """Colour the times that were degraded, or of which nothing is known."""
    begin = 0.0
    for at, one in zip(_at(report), report.looks, strict=True):
        colour = {Verdict.DEGRADED: _ALARM, Verdict.NO_DATA: _UNKNOWN}.get(one.verdict)
        if colour:
            axes.axvspan(begin, at, color=colour, linewidth=0, zorder=0)
        begin = at


def _draw_panel(axes: Axes, report: WatchReport, panel: _Panel) -> None:
    times = _at(report)
    series = [
        [one.values[line.metric] * panel.scale if line.metric in one.values else math.nan for one in report.looks]
        for line in panel.lines
    ]
    measured = [value for values in series for value in values if not math.isnan(value)]
    top = max([panel.least, *(value * 1.15 for value in measured), *(one.value * 1.15 for one in panel.limits)])
    top = min(top, panel.highest * 1.06)
    axes.set_ylim(0, top)
    axes.set_title(panel.title, loc="left", fontsize=11, fontweight="bold")
    axes.set_ylabel(panel.unit)
    axes.grid(axis="y", color="#e3e5e8", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.locator_params(axis="y", nbins=4)
    for limit in panel.limits:
        axes.axhline(limit.value, color=limit.colour, linestyle=(0, (5, 3)), linewidth=1.1)
    if not measured:
        axes.text(0.5, 0.5, "not measured", color=QUIET, ha="center", va="center", transform=axes.transAxes)
    labels = [(limit.value, limit.text, limit.colour) for limit in panel.limits]
    for line, values in zip(panel.lines, series, strict=True):
        marker = "o" if sum(not math.isnan(value) for value in values) < 3 else None
        axes.plot(times, values, color=line.colour, linewidth=line.width, marker=marker, markersize=4, clip_on=False)
        last = next((value for value in reversed(values) if not math.isnan(value)), None)
        if line.name and last is not None:
            labels.append((last, f"{line.name} {_short(last)} {panel.unit}".rstrip(), line.colour))
    _label(axes, labels, top)
    if measured and not any(line.name for line in panel.lines):
        shown = [value for value in series[0] if not math.isnan(value)]
        text = f"last {_short(shown[-1])} {panel.unit}, highest {_short(max(shown))}"
        axes.set_title(text, loc="right", fontsize=10, color=INK)


def _label(axes: Axes, labels: Sequence[tuple[float, str, str]], top: float) -> None:
    """Write labels at the right edge, the highest first, so that none covers another."""
    ceiling = 1.1
    for value, text, colour in sorted(labels, key=lambda one: -one[0]):
        room = 0.085 * (text.count("\n") + 1)
        height = min(value / top, ceiling - room)
        ceiling = height - room
        axes.text(1.012, height, text, color=colour, va="center", fontsize=9, transform=axes.transAxes)


def _short(value: float) -> str:
    return f"{value:.0f}" if value >= 10 else f"{value:.1f}"
