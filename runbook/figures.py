"""How all plots look, and how they become images.

900 pixels wide, with text that stays text; the same input gives the same bytes.
"""

# matplotlib ships types that leave its keyword arguments untyped
# pyright: reportUnknownMemberType=false

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from matplotlib.typing import RcKeyType

GOOD, BAD, QUIET, INK = "#1f5fa8", "#c62828", "#5f6368", "#202124"
_PIXELS_PER_INCH = 96  # as CSS has it
_WIDTH_PX = 900
_STYLE: dict[RcKeyType, Any] = {
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "runbook",  # the same numbers give the same bytes
    "text.parse_math": False,
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans", "Verdana", "Arial"],
    "font.size": 10,
    "text.color": INK,
    "axes.edgecolor": QUIET,
    "axes.labelcolor": QUIET,
    "xtick.color": QUIET,
    "ytick.color": QUIET,
}


def as_svg(draw: Callable[[Figure], None], *, title: str, height_px: int) -> str:
    """Return an SVG of what `draw` puts on a figure; `title` is for those who cannot see it."""
    import matplotlib  # here, because it is slow: a CLI that draws nothing does not wait for it
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_STYLE):
        size = (_WIDTH_PX / _PIXELS_PER_INCH, height_px / _PIXELS_PER_INCH)
        figure = Figure(figsize=size, facecolor="white")
        draw(figure)
        written = io.StringIO()
        figure.savefig(written, format="svg", metadata={"Title": title, "Date": None, "Creator": None})
    return written.getvalue()


def as_data_uri(svg: str) -> str:
    """Return the SVG as a `data:` URI, for the source of an image in a page that stands alone."""
    return "data:image/svg+xml;base64," + base64.b64encode(svg.encode()).decode("ascii")
