"""Spans of time as people type them, and what was measured within one, piece by piece."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from runbook.errors import InvalidInputError
from runbook.rules.samples import Sample

_SPAN = re.compile(r"(\d{1,6}(?:\.\d{1,3})?)\s*([smhd])")
_UNIT_S = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


def parse_span(text: str, field: str, *, most: timedelta) -> timedelta:
    """Return a span of time that was typed as `90s`, `30m`, `2h` or `1d`.

    Args:
        text: what was typed.
        field: where, for the error.
        most: the longest that is allowed.

    Raises:
        InvalidInputError: it is none, is nothing, or is too long.

    Source: runbook, "SEV2: High Error Rates" (`--last=30m`).
    """
    match = _SPAN.fullmatch(text.strip().lower())
    span = timedelta(seconds=float(match[1]) * _UNIT_S[match[2]]) if match else timedelta(0)
    if not timedelta(0) < span <= most:
        allowed = f"a number with s, m, h or d (30m), up to {most.total_seconds() / 86_400:g} days"
        raise InvalidInputError(field, text, allowed, "Say how far to look back.")
    return span


@dataclass(frozen=True)
class Piece:
    """What was measured in one piece of a span: sums of requests and errors, the worst p95; None without any."""

    since: datetime
    samplings: int
    requests: int | None
    errors: int | None
    worst_p95_s: float | None

    @property
    def error_rate_pct(self) -> float | None:
        """Errors in percent of requests (0-100)."""
        return 100.0 * (self.errors or 0) / self.requests if self.requests else None


def pieces(samples: Sequence[Sample], *, since: datetime, until: datetime, count: int) -> list[Piece]:
    """Cut a span into `count` equal pieces (1 or more), oldest first, with what was measured in each.

    A sampling counts for the piece in which it was made; those outside of the span count for none.
    """
    length = (until - since) / count
    found: list[Piece] = []
    for number in range(count):
        begin, end = since + number * length, since + (number + 1) * length
        inside = [one for one in samples if begin <= one.at < end or (number == count - 1 and one.at == until)]
        requests, errors = _values(inside, "requests"), _values(inside, "errors")
        found.append(
            Piece(
                since=begin,
                samplings=len({one.at for one in inside}),
                requests=round(sum(requests)) if requests else None,
                errors=round(sum(errors)) if errors else None,
                worst_p95_s=max(_values(inside, "response_time_p95_s"), default=None),
            )
        )
    return found


def _values(samples: Sequence[Sample], metric: str) -> list[float]:
    return [one.value for one in samples if one.metric == metric]
