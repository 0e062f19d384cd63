from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runbook.rules.sequential import RateTest, Side, upper_bound

counts = st.integers(0, 500)


def seen(hits: int, trials: int, limit: float = 0.01, side: Side = Side.ABOVE) -> RateTest:
    test = RateTest(limit, side)
    test.see(hits, trials)
    return test


def test_nothing_seen_is_no_evidence() -> None:
    assert RateTest(0.1).log_evidence == 0
    assert RateTest(0.1, changes=30).log_evidence == pytest.approx(0)
    assert not RateTest(0.1, Side.BELOW).shows(0.05)


def test_a_tenth_of_errors_is_shown_to_be_more_than_one_in_a_hundred() -> None:
    assert seen(10, 100).shows(0.005)
    assert not seen(1, 100).shows(0.005)
    assert not seen(2, 20).shows(0.005), "two of twenty may be chance"


def test_few_requests_without_an_error_do_not_show_that_less_than_a_tenth_fails() -> None:
    assert not seen(0, 20, 0.1, Side.BELOW).shows(0.05)
    assert seen(0, 40, 0.1, Side.BELOW).shows(0.05)
    assert not seen(4, 40, 0.1, Side.BELOW).shows(0.05)


def test_a_change_after_long_good_times_is_found_where_all_together_hides_it() -> None:
    """Ten thousand good requests, then a hundred of which twenty fail."""
    apart, together = RateTest(0.01, changes=30), RateTest(0.01)
    for test in (apart, together):
        test.see(50, 10_000)
        test.allow_change()
        test.see(70, 10_100)
    assert apart.shows(0.005)
    assert not together.shows(0.005)
    assert apart.strongest() == (20, 100)


@pytest.mark.parametrize("limit", [0.01, 0.05, 0.5])
def test_the_wealth_has_no_expected_gain_at_the_limit(limit: float) -> None:
    """The defining property, exactly: the mean over all that n requests can do is 1."""
    for trials in (1, 5, 40):
        mean = sum(
            math.comb(trials, hits) * limit**hits * (1 - limit) ** (trials - hits) * math.exp(wealth)
            for hits in range(trials + 1)
            for wealth in [seen(hits, trials, limit).log_evidence]
        )
        assert mean == pytest.approx(1)


def test_looking_again_and_again_raises_no_more_false_alarms_than_was_said() -> None:
    """Rates at the limit, one look after each request: the worst case. At most 5 % of the runs may ever be wrong."""
    generator, wrong, runs = random.Random(7), 0, 300  # noqa: S311 - a simulation
    for _ in range(runs):
        test, hits = RateTest(0.1), 0
        for trials in range(1, 201):
            hits += generator.random() < 0.1
            test.see(hits, trials)
            if test.shows(0.05):
                wrong += 1
                break
    assert wrong / runs <= 0.05


@given(counts, counts, st.integers(1, 50))
def test_more_hits_never_lower_the_evidence(hits: int, misses: int, more: int) -> None:
    trials = hits + misses + more
    assert seen(hits + more, trials).log_evidence > seen(hits, trials).log_evidence
    below = [seen(one, trials, 0.1, Side.BELOW).log_evidence for one in (hits, hits + more)]
    assert below[1] < below[0]


@given(st.lists(st.tuples(counts, counts), min_size=1, max_size=12))
def test_counts_that_begin_anew_are_survived(looks: list[tuple[int, int]]) -> None:
    test = RateTest(0.02, changes=5)
    for hits, misses in looks:
        test.see(hits, hits + misses)
        test.allow_change()
    assert math.isfinite(test.log_evidence)
    found, trials = test.strongest()
    assert found >= 0
    assert trials >= 0


@pytest.mark.parametrize(("hits", "trials"), [(-1, 5), (6, 5)])
def test_impossible_counts_are_refused(hits: int, trials: int) -> None:
    with pytest.raises(ValueError, match="cannot be"):
        RateTest(0.1).see(hits, trials)


@pytest.mark.parametrize("limit", [0, 1, -0.1, math.nan])
def test_a_limit_that_is_no_rate_is_refused(limit: float) -> None:
    with pytest.raises(ValueError, match="limit"):
        RateTest(limit)


@given(st.integers(0, 200), st.integers(1, 200))
def test_the_upper_bound_holds_as_the_exact_binomial_says(hits: int, misses: int) -> None:
    """So few hits at the bound have at most the chance that was said: of Clopper and Pearson, but never lower."""
    trials, alpha = hits + misses, 0.01
    bound = upper_bound(hits, trials, alpha=alpha)
    assert hits / trials < bound <= 1
    chance = sum(math.comb(trials, one) * bound**one * (1 - bound) ** (trials - one) for one in range(hits + 1))
    assert chance <= alpha * (1 + 1e-9)


def test_without_trials_any_rate_is_possible() -> None:
    assert upper_bound(0, 0, alpha=0.01) == 1
    assert upper_bound(3, 3, alpha=0.01) == 1


def test_hits_that_are_counted_later_than_their_trials_belong_to_these() -> None:
    test = RateTest(0.01, changes=3)
    test.see(0, 1000)
    test.allow_change()
    test.see(300, 1000)
    assert test.strongest() == (300, 1000)
    assert test.shows(0.001)
