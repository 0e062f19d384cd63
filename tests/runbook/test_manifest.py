from __future__ import annotations

import pytest

from runbook.manifest import SequenceRange


@pytest.mark.parametrize(
    ("before", "after", "admitted", "refused"),
    [
        pytest.param(3, 5, (3, 4, 5), (2, 6, None), id="counted on"),
        pytest.param(-3, -9, (-3, -6, -9), (-2, -10, None), id="counts down"),
        pytest.param(7, 7, (7,), (6, 8, None), id="stood still"),
        pytest.param(None, None, (None,), (1,), id="never called"),
        pytest.param(None, 4, (None, 1, 4), (), id="called for the first time"),
    ],
)
def test_a_sequence_comes_back_between_its_values_before_and_after(
    before: int | None, after: int | None, admitted: tuple[int | None, ...], refused: tuple[int | None, ...]
) -> None:
    known = SequenceRange(before=before, after=after)
    assert [value for value in admitted if not known.admits(value)] == []
    assert [value for value in refused if known.admits(value)] == []
