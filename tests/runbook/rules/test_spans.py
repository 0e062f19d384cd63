from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runbook.errors import InvalidInputError
from runbook.rules.samples import sample
from runbook.rules.spans import parse_span, pieces

NOON = datetime(2025, 1, 4, 12, tzinfo=UTC)
MOST = timedelta(days=90)


@pytest.mark.parametrize(
    ("text", "span"),
    [
        ("30m", timedelta(minutes=30)),
        ("10m", timedelta(minutes=10)),
        ("90s", timedelta(seconds=90)),
        ("1.5 h", timedelta(minutes=90)),
        (" 2D ", timedelta(days=2)),
        ("90d", MOST),
    ],
)
def test_a_span_is_a_number_with_a_unit(text: str, span: timedelta) -> None:
    assert parse_span(text, "--last", most=MOST) == span


@pytest.mark.parametrize("text", ["", "30", "30x", "-5m", "0m", "91d", "1e9s", "nan s", "5m 3s"])
def test_a_span_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(InvalidInputError, match="30m"):
        parse_span(text, "--last", most=MOST)


def test_a_piece_has_the_sums_and_the_worst_of_its_samples() -> None:
    samples = [
        sample(NOON + timedelta(minutes=minute), metric, value)
        for minute, errors, p95 in ((0, 0, 0.1), (5, 1, 0.9), (9, 2, 0.3), (10, 50, 0.2), (20, 7, 0.5))
        for metric, value in (("requests", 100), ("errors", errors), ("response_time_p95_s", p95))
    ]
    first, second = pieces(samples, since=NOON, until=NOON + timedelta(minutes=20), count=2)
    assert (first.since, first.samplings, first.requests, first.errors, first.worst_p95_s) == (NOON, 3, 300, 3, 0.9)
    assert (second.samplings, second.error_rate_pct) == (2, 28.5)


def test_a_piece_without_samples_says_nothing() -> None:
    (found,) = pieces([], since=NOON, until=NOON + timedelta(minutes=1), count=1)
    assert (found.samplings, found.requests, found.error_rate_pct, found.worst_p95_s) == (0, None, None, None)


@given(st.lists(st.integers(0, 3600), max_size=50), st.integers(1, 12))
def test_every_sample_of_a_span_counts_once(seconds: list[int], count: int) -> None:
    samples = [sample(NOON + timedelta(seconds=second), "requests", 1) for second in seconds]
    found = pieces(samples, since=NOON, until=NOON + timedelta(hours=1), count=count)
    assert sum(piece.requests or 0 for piece in found) == len(samples)
