"""An application host in memory: releases are entries in a list, and one of them has the traffic."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from pydantic import SecretStr

from runbook.clients.application_host import LogLine, Release, ReleaseState, RequestMetrics
from runbook.errors import RejectedError
from runbook.rules.variables import Variable

NOTHING = RequestMetrics(requests=0, errors=0, p50_s=0, p95_s=0, p99_s=0)


@dataclass
class MemoryHost:
    """Every release is ready at once; of each it has counted `measured` and logged `lines`, nothing by default.

    A question named in `breaks` is answered by that error.
    """

    known: dict[str, Release] = field(default_factory=dict[str, Release])
    active_id: str | None = None
    environment: dict[str, Variable] = field(default_factory=dict[str, Variable])
    pinned: str | None = None
    breaks: dict[str, Exception] = field(default_factory=dict[str, Exception])
    measured: RequestMetrics = NOTHING
    lines: list[LogLine] = field(default_factory=list[LogLine])

    @property
    def public_url(self) -> str:
        return "http://shop.invalid"

    @property
    def private_headers(self) -> Mapping[str, SecretStr]:
        return {}

    def pin(self) -> str | None:
        return self.pinned

    def check(self) -> None:
        self._answer("check")

    def stage(self, git_sha: str, version: str) -> Release:
        for known in self.known.values():
            if known.git_sha == git_sha:
                return known
        name = f"r{len(self.known) + 1}"
        url = f"http://{name}.invalid"
        self.known[name] = Release(name, git_sha, version, url, ReleaseState.READY, datetime.now(UTC), None)
        return self.known[name]

    def promote(self, release_id: str) -> Release:
        self.known[release_id] = replace(self.release(release_id), promoted_at=datetime.now(UTC))
        self.active_id = release_id
        return self.known[release_id]

    def roll_back(self, release_id: str) -> Release:
        if self.release(release_id).promoted_at is None:
            raise RejectedError(f"{release_id} never had the traffic")
        return self.promote(release_id)

    def active(self) -> Release | None:
        self._answer("active")
        return None if self.active_id is None else self.known[self.active_id]

    def releases(self) -> Sequence[Release]:
        return list(reversed(self.known.values()))

    def release(self, release_id: str) -> Release:
        if release_id not in self.known:
            raise RejectedError(f"there is no release {release_id}")
        return self.known[release_id]

    def warm(self, release_id: str) -> Release:
        return self.release(release_id)

    @contextmanager
    def trial(self, release_id: str, database_url: str) -> Generator[str]:
        raise RejectedError("this host cannot try a release on another database")
        yield ""

    def logs(self, release_id: str, *, since: datetime | None = None, limit: int = 100) -> Sequence[LogLine]:
        self._answer("logs")
        return [line for line in self.lines if since is None or line.at >= since][-limit:]

    def metrics(self, release_id: str, *, since: datetime) -> RequestMetrics:
        self._answer("metrics")
        return self.measured

    def variables(self) -> Mapping[str, Variable]:
        self._answer("variables")
        return self.environment

    def _answer(self, question: str) -> None:
        if error := self.breaks.get(question):
            raise error
