from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runbook.rules.benchmarks import Figure, UnreadableFiguresError, judge_benchmarks, read_figures
from runbook.rules.checklist import Outcome

LIGHTHOUSE = '{"audits": {"largest-contentful-paint": {"numericValue": 2400.5}}, "runs": [{"kb": 12}]}'


def test_figures_are_found_by_their_path() -> None:
    budgets = {"audits.largest-contentful-paint.numericValue": 2500.0, "runs.0.kb": 10.0}
    paint, size = read_figures(LIGHTHOUSE, budgets)
    assert (paint.value, paint.is_over) == (2400.5, False)
    assert (size.value, size.is_over) == (12, True)


@pytest.mark.parametrize(
    ("text", "path", "said"),
    [
        ("", "a", "no JSON"),
        ("{}", "a", "no a"),
        ('{"a": []}', "a.0", r"no a\.0"),
        ('{"a": "5"}', "a", "a is no number"),
        ('{"a": true}', "a", "a is no number"),
        ('{"a": NaN}', "a", "a is no number"),
        ('{"a": 5}', "a.b", r"no a\.b"),
    ],
)
def test_what_is_not_there_was_not_measured(text: str, path: str, said: str) -> None:
    with pytest.raises(UnreadableFiguresError, match=said):
        read_figures(text, {path: 1})


@pytest.mark.parametrize(("value", "outcome"), [(299.9, "passed"), (300, "passed"), (300.1, "warning")])
def test_the_budget_itself_is_within_the_budget(value: float, outcome: str) -> None:
    assert judge_benchmarks([Figure("kb", value, 300)]).outcome == outcome


@given(st.lists(st.floats(0, 10), min_size=1), st.integers(min_value=0), st.floats(0, 10))
def test_a_higher_figure_never_makes_it_better(values: list[float], which: int, more: float) -> None:
    order = [Outcome.PASSED, Outcome.WARNING]
    before = [Figure(str(number), value, 5) for number, value in enumerate(values)]
    values[which % len(values)] += more
    after = [Figure(str(number), value, 5) for number, value in enumerate(values)]
    assert order.index(judge_benchmarks(before).outcome) <= order.index(judge_benchmarks(after).outcome)
