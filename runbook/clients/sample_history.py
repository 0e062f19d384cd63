"""What was measured of an environment, kept in its store: bounded, one object for each hour.

monitoring/<environment>/20250104_12.jsonl   a line for each sampling: {"at": ..., "values": {"errors": 3, ...}}

In the store, so that every machine that may look sees the same; hours, so that the normal of an hour is a few reads.
"""

from __future__ import annotations

import json
import logging
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any, cast

from runbook.clients.object_store import MissingObjectError, ObjectStore
from runbook.rules.identifiers import check_environment_name
from runbook.rules.samples import METRICS, Sample, sample

_log = logging.getLogger(__name__)
_HOUR = "%Y%m%d_%H"
_ENDING = ".jsonl"
_AT_A_TIME = 8


class SampleHistory:
    """The samples of one environment. One run adds at a time: an hour is read, extended and replaced."""

    def __init__(self, objects: ObjectStore, environment: str, *, keep_days: int) -> None:
        self._objects = objects
        self._prefix = f"monitoring/{check_environment_name(environment)}/"
        self._keep = timedelta(days=keep_days)

    def add(self, samples: Iterable[Sample]) -> None:
        """Add samples; those that are older than what is kept go when an hour begins.

        Raises:
            ServiceError: the store does not answer.
        """
        hours: dict[str, dict[datetime, dict[str, float]]] = defaultdict(lambda: defaultdict(dict))
        for one in samples:
            at = one.at.astimezone(UTC)
            hours[self._key(at)][at][one.metric] = one.value
        for key, by_time in hours.items():
            try:
                before = self._objects.read(key)
            except MissingObjectError:
                before = b""
                self._prune(max(by_time))
            lines = [
                json.dumps({"at": at.isoformat(), "values": values}, separators=(",", ":"))
                for at, values in sorted(by_time.items())
            ]
            separator = b"\n" if before and not before.endswith(b"\n") else b""
            self._objects.replace(key, before + separator + "".join(f"{line}\n" for line in lines).encode())

    def read(
        self, *, since: datetime, until: datetime, hours: Callable[[int], bool] = lambda _hour: True
    ) -> list[Sample]:
        """Return the samples from `since` up to and with `until`, oldest first.

        A line that cannot be read is left out with a warning, a metric that is not known any more in silence.

        Args:
            since: aware.
            until: aware.
            hours: which hours of the day (UTC, 0-23) to read.

        Raises:
            ServiceError: the store does not answer.
        """
        first, last = self._key(since), self._key(until)
        keys = [key for key in self._keys() if first <= key <= last and hours(_hour_of(key).hour)]
        with ThreadPoolExecutor(_AT_A_TIME) as pool:
            found = [one for samples in pool.map(self._samples, keys) for one in samples]
        return sorted((one for one in found if since <= one.at <= until), key=lambda one: one.at)

    def last(self) -> dict[str, Sample]:
        """Return the newest sampling, by metric; empty when there is none.

        Raises:
            ServiceError: the store does not answer.
        """
        newest = max(self._keys(), default=None)
        samples = self._samples(newest) if newest else []
        at = max((one.at for one in samples), default=None)
        return {one.metric: one for one in samples if one.at == at}

    def _samples(self, key: str) -> list[Sample]:
        try:
            text = self._objects.read(key).decode(errors="replace")
        except MissingObjectError:  # pruned meanwhile
            return []
        return [one for number, line in enumerate(text.splitlines(), 1) for one in _parsed(line, f"{key}:{number}")]

    def _prune(self, now: datetime) -> None:
        oldest = self._key(now - self._keep)
        self._objects.delete([key for key in self._keys() if key < oldest])

    def _keys(self) -> list[str]:
        return [found.key for found in self._objects.objects(self._prefix) if _is_hour(found.key)]

    def _key(self, at: datetime) -> str:
        return f"{self._prefix}{at.astimezone(UTC):{_HOUR}}{_ENDING}"


def _parsed(line: str, place: str) -> Sequence[Sample]:
    try:
        content = cast(dict[str, Any], json.loads(line))
        at = datetime.fromisoformat(content["at"])
        values = {str(name): float(value) for name, value in content["values"].items()}
        return [sample(at, name, value) for name, value in values.items() if name in METRICS and math.isfinite(value)]
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        _log.warning("left out of the history, %s: %s", place, error)
        return []


def _is_hour(key: str) -> bool:
    try:
        _hour_of(key)
    except ValueError:
        return False
    return True


def _hour_of(key: str) -> datetime:
    return datetime.strptime(key.rpartition("/")[2], f"{_HOUR}{_ENDING}").replace(tzinfo=UTC)
