"""`runbook app:ls` and `app:logs`, on a host in memory."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime

import pytest
from click.testing import CliRunner

from deployments.cli import cli
from runbook.clients.application_host import LogLine
from runbook.errors import RefusedError
from tests.fakes.application_host import MemoryHost

LINES = [
    LogLine(datetime(2025, 1, 4, 12, minute, tzinfo=UTC), level, f"line {minute}")
    for minute, level in enumerate(["info", "error", "info", "error", "info"])
]


class TalkingHost(MemoryHost):
    def logs(self, release_id: str, *, since: datetime | None = None, limit: int = 100) -> list[LogLine]:
        return LINES[-limit:]


@dataclass
class Connected:
    host: MemoryHost


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> MemoryHost:
    host = TalkingHost()
    for number in (1, 2, 3):
        host.stage(f"{number}" * 40, f"v{number}")
    connected = Connected(host)

    def connect(environment: str) -> Connected:
        assert environment == "local"
        return connected

    monkeypatch.setattr("deployments.application_commands.connect", connect)
    return host


def run(*arguments: str) -> str:
    done = CliRunner().invoke(cli, arguments, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def test_the_releases_are_listed_newest_first_and_the_active_one_is_marked(host: MemoryHost) -> None:
    host.promote("r2")
    host.pinned = "production is pinned"
    lines = run("app:ls", "--limit=2").splitlines()
    assert [line[0] for line in lines] == [" ", "*", "P"]
    assert "v3" in lines[0]
    assert "traffic: never" in lines[0]
    assert "http://r2.invalid" in lines[1]
    assert lines[2] == "PINNED: production is pinned"


def test_the_releases_as_json_say_which_one_is_active(host: MemoryHost) -> None:
    host.promote("r2")
    rows = json.loads(run("app:ls", "--json"))
    assert [(row["version"], row["active"]) for row in rows] == [("v3", False), ("v2", True), ("v1", False)]
    assert rows[0]["promotedAt"] is None


def test_the_log_of_the_active_release_is_shown_oldest_first(host: MemoryHost) -> None:
    host.promote("r1")
    assert [line[-6:] for line in run("app:logs", "--limit=2").splitlines()] == ["line 3", "line 4"]
    assert [line[-6:] for line in run("app:logs", "--limit=2", "--level=error").splitlines()] == ["line 1", "line 3"]
    assert json.loads(run("app:logs", "--limit=1", "--json")) == {
        "at": "2025-01-04T12:04:00+00:00",
        "level": "info",
        "message": "line 4",
    }


def test_without_a_release_that_has_the_traffic_one_has_to_be_named(host: MemoryHost) -> None:
    with pytest.raises(RefusedError, match="name one with --release"):
        run("app:logs")
    assert run("app:logs", "--release=r3", "--limit=1").endswith("line 4\n")
