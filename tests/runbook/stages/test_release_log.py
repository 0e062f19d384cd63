from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from runbook.clients.application_host import LogLine, Release
from runbook.connections import Connections
from runbook.errors import TransientError
from runbook.rules.checklist import Outcome
from runbook.stages.release_log import check_log
from tests.fakes.application_host import MemoryHost
from tests.runbook.surroundings import surrounded

NOW = datetime.now(UTC)


@dataclass
class LoggingHost(MemoryHost):
    """A host that keeps a log for each release."""

    logged: dict[str, list[LogLine]] = field(default_factory=dict[str, list[LogLine]])

    def logs(self, release_id: str, *, since: datetime | None = None, limit: int = 100) -> Sequence[LogLine]:
        self._answer("logs")
        return [line for line in self.logged.get(release_id, []) if since is None or line.at >= since][-limit:]


@dataclass
class Site:
    """v1 had the traffic until v2 got it just now."""

    connections: Connections
    host: LoggingHost
    release: Release

    def log(self, release_id: str, minutes: float, *messages: str, level: str = "error") -> None:
        at = NOW + timedelta(minutes=minutes)
        self.host.logged.setdefault(release_id, []).extend(LogLine(at, level, message) for message in messages)

    def check(self) -> tuple[Outcome, str]:
        found = check_log(self.connections, self.release, NOW)
        return found.outcome, found.detail


@pytest.fixture
def site(tmp_path: Path) -> Site:
    host = LoggingHost()
    for sha, version, promoted in (("a", "v1", -60), ("b", "v2", 0)):
        made = host.stage(sha * 40, version)
        host.known[made.release_id] = replace(made, promoted_at=NOW + timedelta(minutes=promoted))
    return Site(replace(surrounded(tmp_path), host=host), host, host.known["r2"])


def test_errors_that_differ_in_values_alone_are_one_and_those_that_a_release_has_brought_come_first(site: Site) -> None:
    site.log("r1", -5, "order 17 not found")
    site.log("r2", 1, "order 20 not found", "order 21 not found", "order 22 not found", "no relation stock")
    assert site.check() == (Outcome.WARNING, "new: 1x no relation stock; 3x order ? not found")


def test_what_the_release_before_logged_long_ago_does_not_make_an_error_old(site: Site) -> None:
    site.log("r1", -61, "no relation stock")
    site.log("r2", 1, "no relation stock")
    assert site.check() == (Outcome.WARNING, "new: 1x no relation stock")


def test_of_a_first_release_nobody_knows_what_is_new(site: Site) -> None:
    site.host.known.pop("r1")
    site.log("r2", 1, "no relation stock")
    assert site.check() == (Outcome.WARNING, "1x no relation stock")


def test_only_errors_since_it_got_the_traffic_count(site: Site) -> None:
    site.log("r2", -1, "while it was tried in private")
    site.log("r2", 1, "started", level="info")
    assert site.check() == (Outcome.PASSED, "no error since the release got the traffic")


def test_many_kinds_are_cut(site: Site) -> None:
    site.log("r2", 1, *(f"kind {letter}" for letter in "abcdefg"))
    assert site.check()[1].endswith("; and 2 kinds more")


def test_a_log_that_cannot_be_read_could_not_be_checked(site: Site) -> None:
    site.host.breaks["logs"] = TransientError("no answer")
    assert site.check() == (Outcome.COULD_NOT_RUN, "no answer")
