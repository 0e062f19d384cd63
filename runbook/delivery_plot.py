"""The plot of how long deploys take, stage by stage."""

# matplotlib ships types that leave its keyword arguments untyped
# pyright: reportUnknownMemberType=false

from __future__ import annotations

from typing import TYPE_CHECKING

from runbook.figures import GOOD, INK, QUIET, as_svg
from runbook.rules.delivery import DeliveryReport
from runbook.rules.drills import duration_in_words

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_PALE = "#8fb4d9"
_ROW_PX = 26
_LONGEST = 42


def deploy_durations(report: DeliveryReport) -> str:
    """Return an SVG with a bar for each stage: its p50, and behind it its p95, in seconds."""

    def draw(figure: Figure) -> None:
        figure.text(
            0.02, 0.95, f"Deploys of {report.environment} by stage", fontsize=15, fontweight="bold", color=INK, va="top"
        )
        if not report.stages:
            figure.text(0.02, 0.6, "nothing was deployed", color=QUIET)
            return
        stages = list(reversed(report.stages))
        top, bottom = 1 - 70 / _height(report), 50 / _height(report)
        axes = figure.add_axes((0.36, bottom, 0.53, top - bottom))
        rows = range(len(stages))
        axes.barh(rows, [one.p95_s for one in stages], color=_PALE, height=0.7, label="p95")
        axes.barh(rows, [one.p50_s for one in stages], color=GOOD, height=0.4, label="p50")
        axes.set_yticks(list(rows), [one.stage[:_LONGEST] for one in stages])
        for row, one in enumerate(stages):
            words = f"{duration_in_words(one.p50_s)}, {duration_in_words(one.p95_s)}"
            axes.annotate(
                words, (one.p95_s, row), (4, 0), textcoords="offset points", va="center", color=QUIET, fontsize=9
            )
        axes.set_xlabel("seconds")
        axes.margins(x=0.15, y=0.02)
        for side in ("top", "right", "left"):
            axes.spines[side].set_visible(False)
        axes.tick_params(axis="y", length=0)
        figure.legend(loc="upper right", frameon=False, ncols=2, bbox_to_anchor=(0.98, 0.99))

    return as_svg(draw, title=f"Deploys of {report.environment} by stage", height_px=_height(report))


def _height(report: DeliveryReport) -> int:
    return 140 + _ROW_PX * max(2, len(report.stages))
