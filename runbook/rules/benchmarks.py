"""Performance budgets: figures that a command has measured of a release, held against what they may be.

Source: runbook, "Manual Verification" ("Performance benchmarks met"); https://web.dev/articles/performance-budgets-101.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from runbook.rules.checklist import Check, Outcome

NAME = "performance budgets"


class UnreadableFiguresError(ValueError):
    """There is no such figure: the measurement could not be made."""


@dataclass(frozen=True)
class Figure:
    """One measured value and the highest one that is within the budget."""

    name: str
    value: float
    budget: float

    @property
    def is_over(self) -> bool:
        """Whether it is over the budget."""
        return self.value > self.budget

    def render(self) -> str:
        """Return it in words."""
        return f"{self.name} {self.value:g} of {self.budget:g}"


def read_figures(text: str, budgets: Mapping[str, float]) -> tuple[Figure, ...]:
    """Return the figures that there is a budget for, from JSON.

    Args:
        text: JSON as a benchmark prints it, for example the report of Lighthouse.
        budgets: highest value by the path of the figure in it: `audits.largest-contentful-paint.numericValue`.

    Raises:
        UnreadableFiguresError: it is no JSON, or a figure is not in it or no number.
    """
    try:
        found: object = json.loads(text)
    except (ValueError, RecursionError):
        raise UnreadableFiguresError("it printed no JSON") from None
    return tuple(Figure(path, _value(found, path), budget) for path, budget in budgets.items())


def judge_benchmarks(figures: Sequence[Figure]) -> Check:
    """Return what the figures amount to. One over its budget is a warning: it need not keep a repair from users."""
    over = [figure for figure in figures if figure.is_over]
    if over:
        detail = f"over budget: {', '.join(figure.render() for figure in over)}"
        return Check(NAME, Outcome.WARNING, detail, "Make it faster, or raise the budget in the settings and say why.")
    return Check(NAME, Outcome.PASSED, ", ".join(figure.render() for figure in figures))


def _value(found: object, path: str) -> float:
    for part in path.split("."):
        if isinstance(found, list) and part.isdecimal() and int(part) < len(cast("list[Any]", found)):
            found = cast("list[Any]", found)[int(part)]
        elif isinstance(found, dict) and part in cast("dict[str, Any]", found):
            found = cast("dict[str, Any]", found)[part]
        else:
            raise UnreadableFiguresError(f"it printed no {path}")
    if isinstance(found, bool) or not isinstance(found, int | float) or not math.isfinite(found):
        raise UnreadableFiguresError(f"{path} is no number")
    return float(found)
