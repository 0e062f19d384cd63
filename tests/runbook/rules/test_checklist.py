from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runbook.rules.checklist import MANUAL_ITEMS, Check, Outcome, refusals


@pytest.mark.parametrize(
    ("outcome", "refused", "refused_when_strict"),
    [
        (Outcome.PASSED, False, False),
        (Outcome.WARNING, False, True),
        (Outcome.FAILED, True, True),
        (Outcome.COULD_NOT_RUN, True, True),
    ],
)
def test_what_stops_a_deployment(outcome: Outcome, refused: bool, refused_when_strict: bool) -> None:
    check = Check("x", outcome, "seen")
    assert bool(refusals([check], strict=False)) is refused
    assert bool(refusals([check], strict=True)) is refused_when_strict


@given(st.lists(st.sampled_from(list(Outcome))))
def test_strict_never_refuses_less(found: list[Outcome]) -> None:
    checks = [Check(str(number), outcome, "seen") for number, outcome in enumerate(found)]
    assert set(refusals(checks, strict=False)) <= set(refusals(checks, strict=True))


def test_the_manual_items_are_the_eight_of_the_runbook() -> None:
    assert len(MANUAL_ITEMS) == len(set(MANUAL_ITEMS)) == 8
