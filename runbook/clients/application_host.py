"""The application host as the runbook sees it: stage a release, look at it, give it the traffic.

Two implementations: the local process host (`runbook.clients.local_host`) and Vercel. Promote and roll back
never rebuild.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Protocol, runtime_checkable

from pydantic import SecretStr

from runbook.rules.infrastructure import Resources
from runbook.rules.variables import Variable


class ReleaseState(StrEnum):
    """Whether a release can take traffic."""

    STARTING = "starting"
    READY = "ready"
    FAILED = "failed"
    STOPPED = "stopped"


@dataclass(frozen=True)
class Release:
    """One build of the application, made from one commit.

    `url` is the private URL of this release alone; `promoted_at` is when it last got the public traffic.
    Times are aware UTC.
    """

    release_id: str
    git_sha: str
    version: str
    url: str
    state: ReleaseState
    created_at: datetime
    promoted_at: datetime | None


@dataclass(frozen=True)
class LogLine:
    """One line of a release's log; `at` is aware UTC, `level` is lower case (`info`, `warning`, `error`)."""

    at: datetime
    level: str
    message: str


@dataclass(frozen=True)
class RequestMetrics:
    """What the host counted on the public URL for one release in one span of time.

    `errors` are answers with status 5xx and requests that got no answer; latencies are seconds, 0 without requests.
    """

    requests: int
    errors: int
    p50_s: float
    p95_s: float
    p99_s: float

    @property
    def error_rate_pct(self) -> float:
        """Errors in percent of requests (0-100); 0 when there were no requests."""
        return 100.0 * self.errors / self.requests if self.requests else 0.0


@dataclass(frozen=True)
class SlowRequests:
    """How many of the requests that were timed took longer than asked about."""

    timed: int
    slow: int


@runtime_checkable
class CountsSlow(Protocol):
    """A host that keeps how long each request took; not every host does."""

    def count_slow(self, release_id: str, *, since: datetime, slower_than_s: float) -> SlowRequests:
        """Return how many requests to a release since a time took longer than so many seconds."""
        ...


@runtime_checkable
class Rolls(Protocol):
    """A host that can give a release the traffic in stages; not every host, and not every plan, does.

    `roll_back` ends what is under way and gives all of the traffic back.
    """

    def start_rolling(self, release_id: str) -> None:
        """Give a staged release the traffic of the first stage. Safe to repeat."""
        ...

    def advance_rolling(self, release_id: str) -> bool:
        """Give it the traffic of the next stage, or all of it after the last one; return whether that is all."""
        ...


@runtime_checkable
class ShowsResources(Protocol):
    """A host that runs releases on machines that it can look at; not every host does."""

    def resources(self, release_id: str) -> Resources:
        """Return what a release and its machine have used up to now."""
        ...


class ApplicationHost(Protocol):
    """What every application host can do. All methods raise `ServiceError` when the host fails."""

    @property
    def public_url(self) -> str:
        """The stable URL that users call, without a trailing slash."""
        ...

    @property
    def private_headers(self) -> Mapping[str, SecretStr]:
        """What a request to a private URL has to carry, where the host protects those; by name of the header."""
        ...

    def pin(self) -> str | None:
        """Say in words why the host will leave the traffic where it is until a promote; None where it does not."""
        ...

    def check(self) -> None:
        """Raise `ServiceError`, in words a person can act on, unless the host answers."""
        ...

    def stage(self, git_sha: str, version: str) -> Release:
        """Build and start the release of a commit under a private URL; it gets no traffic.

        Repeating it for a commit that is already staged and healthy returns that release.
        """
        ...

    def promote(self, release_id: str) -> Release:
        """Give the public traffic to a staged release. Safe to repeat."""
        ...

    def roll_back(self, release_id: str) -> Release:
        """Give the public traffic back to a release that had it before, without a rebuild. Safe to repeat."""
        ...

    def active(self) -> Release | None:
        """Return the release that has the public traffic, or None before the first promote."""
        ...

    def releases(self) -> Sequence[Release]:
        """Return the known releases, newest first."""
        ...

    def release(self, release_id: str) -> Release:
        """Return one release; `RejectedError` when the host does not know it."""
        ...

    def warm(self, release_id: str) -> Release:
        """Make sure that a known release runs and answers on its private URL."""
        ...

    def trial(self, release_id: str, database_url: str) -> AbstractContextManager[str]:
        """Run a known release once more, against another database, and yield its private URL; end it with the `with`.

        It gets no traffic and is in no list. A host that cannot do that raises `RejectedError`.
        """
        ...

    def logs(self, release_id: str, *, since: datetime | None = None, limit: int = 100) -> Sequence[LogLine]:
        """Return the newest `limit` log lines of a release, oldest first."""
        ...

    def metrics(self, release_id: str, *, since: datetime) -> RequestMetrics:
        """Return what was counted on the public URL for a release since a time."""
        ...

    def variables(self) -> Mapping[str, Variable]:
        """Return the names of the environment variables releases run with, and what may be told of each."""
        ...
