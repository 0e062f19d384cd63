"""A test of a rate that may be looked at as often as one likes, and stopped at any time.

A bettor who starts with 1 bets, request by request, that the rate is on the other side of a limit. While it is not,
the wealth has no expected gain (a test supermartingale), so by Ville's inequality it ever reaches 1/alpha with a chance
of at most alpha, whatever the number of looks, also when requests depend on each other: only the chance of the next
one, given the past, counts. The wealth is spread over guesses of the rate, and over moments at which it may change.

Sources: Howard, Ramdas, McAuliffe, Sekhon, "Time-uniform, nonparametric, nonasymptotic confidence sequences", Annals of
Statistics 2021; Johari, Koomen, Pekelis, Walsh, "Peeking at A/B tests", KDD 2017 (mixture sequential probability ratio
test); Waudby-Smith, Ramdas, "Estimating means of bounded random variables by betting", JRSS B 2024; Shin, Ramdas,
Rinaldo, "E-detectors", New England Journal of Statistics in Data Science 2023 (moments of change).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from enum import StrEnum

_GUESSES_ABOVE = (1 / 64, 1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2, 0.9)
"""Of the way from the limit to 1: a rate in between costs little, as each guess is about double the one before."""

_GUESSES_BELOW = (0.01, 0.2, 0.5)
"""Of the limit: that next to nothing fails is the usual case, and is to be shown with few requests."""

_FROM_THE_BEGINNING = 0.5
"""Share of the wealth that is bet on the rate as it was from the first request on."""

_BISECTIONS = 60


class Side(StrEnum):
    """On which side of the limit the rate is suspected to be."""

    ABOVE = "above"
    BELOW = "below"


class RateTest:
    """Evidence that the rate of hits among trials is above, or below, a limit (0 to 1, both excluded).

    `changes`: at so many of the looks, 0 or more, the rate may have changed; each costs a little evidence.

    Raises:
        ValueError: the limit is no rate between 0 and 1.
    """

    def __init__(self, limit: float, side: Side = Side.ABOVE, *, changes: int = 0) -> None:
        if not 0 < limit < 1:
            raise ValueError(f"limit must be a number between 0 and 1, got {limit!r}")
        self.limit = limit
        self._changes = changes
        guesses = _GUESSES_ABOVE if side is Side.ABOVE else _GUESSES_BELOW
        rates = [limit + (1 - limit) * share if side is Side.ABOVE else limit * share for share in guesses]
        # What one hit, and one miss, does to the logarithm of the wealth bet on each guess.
        self._gains = [(math.log(rate / limit), math.log((1 - rate) / (1 - limit))) for rate in rates]
        self._starts = [(0, 0)]
        self._now = (0, 0)

    def see(self, hits: int, trials: int) -> None:
        """Take in what was counted up to now, all in all.

        Raises:
            ValueError: fewer than none, or more hits than trials.
        """
        if not 0 <= hits <= trials:
            raise ValueError(f"{hits} hits of {trials} trials cannot be")
        self._now = (hits, trials)

    def allow_change(self) -> None:
        """Let the rate have changed at this look; the looks after `changes` of them are not bet on."""
        if len(self._starts) <= self._changes and self._starts[-1] != self._now:
            self._starts.append(self._now)

    @property
    def log_evidence(self) -> float:
        """The natural logarithm of the wealth; 0 when nothing was seen."""
        first, *later = [self._log_wealth(start) for start in self._starts]
        if not self._changes:
            return first
        each = math.log((1 - _FROM_THE_BEGINNING) / self._changes)
        unspent = self._changes - len(later)
        parts = [first + math.log(_FROM_THE_BEGINNING), *(wealth + each for wealth in later)]
        return _log_sum([*parts, each + math.log(unspent)] if unspent else parts)

    def shows(self, alpha: float) -> bool:
        """Return whether the rate is shown to be on that side, with a chance of at most `alpha` to be wrong, ever."""
        return self.log_evidence >= -math.log(alpha)

    def strongest(self) -> tuple[int, int]:
        """Return hits and trials since the moment from which the evidence is strongest."""
        return self._since(max(self._starts, key=self._log_wealth))

    def _log_wealth(self, start: tuple[int, int]) -> float:
        """Return the wealth that was bet from a start on, spread evenly over the guesses."""
        hits, trials = self._since(start)
        misses = trials - hits
        return _log_sum([hits * hit + misses * miss for hit, miss in self._gains]) - math.log(len(self._gains))

    def _since(self, start: tuple[int, int]) -> tuple[int, int]:
        """Return hits and trials since a start; who counts may be late with either, so no more hits than trials."""
        trials = max(0, self._now[1] - start[1])
        return min(trials, max(0, self._now[0] - start[0])), trials


def upper_bound(hits: float, trials: int, *, alpha: float) -> float:
    """Return a rate that the true one exceeds with a chance of at most `alpha`; 1 without trials.

    For a number of trials that was fixed beforehand. Source: Chernoff's bound, by relative entropy.
    """
    if not trials:
        return 1.0
    share = min(1.0, hits / trials)
    low, high = share, 1.0
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        if trials * _relative_entropy(share, middle) > -math.log(alpha):
            high = middle
        else:
            low = middle
    return high


def _relative_entropy(share: float, rate: float) -> float:
    if rate >= 1:
        return 0.0 if share >= 1 else math.inf
    hit = share * math.log(share / rate) if share else 0.0
    return hit + ((1 - share) * math.log((1 - share) / (1 - rate)) if share < 1 else 0.0)


def _log_sum(logarithms: Sequence[float]) -> float:
    highest = max(logarithms)
    return highest + math.log(sum(math.exp(one - highest) for one in logarithms))
