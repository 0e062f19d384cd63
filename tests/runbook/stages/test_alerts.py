from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import cast

import pytest

from runbook.clients.application_host import ApplicationHost
from runbook.clients.backup_store import BackupStore
from runbook.clients.channels import Notification
from runbook.clients.folder_store import FolderStore
from runbook.clients.git import Repository
from runbook.clients.postgres import Database
from runbook.connections import Connections
from runbook.errors import InvalidInputError, RefusedError, RejectedError, TransientError
from runbook.rules.samples import sample
from runbook.settings import Settings
from runbook.stages.alerts import backtest, end_silence, evaluate, silence, status
from runbook.stages.monitoring import history_of
from tests.fakes.application_host import MemoryHost

Measure = Callable[..., None]


@dataclass
class Channel:
    """Keeps what it is told, or refuses."""

    name: str = "chat"
    error: Exception | None = None
    told: list[Notification] = field(default_factory=list[Notification])

    def send(self, notification: Notification) -> None:
        if self.error:
            raise self.error
        self.told.append(notification)


@pytest.fixture
def channel() -> Channel:
    return Channel()


@pytest.fixture
def connections(tmp_path: Path, channel: Channel) -> Connections:
    """An environment of which only the store is asked."""
    store = BackupStore(FolderStore(tmp_path))
    settings = Settings(name="test", repository="", records=str(tmp_path), database="shop")
    host = cast("ApplicationHost", MemoryHost())
    return Connections(settings, Repository(tmp_path), Database("postgresql://nowhere/shop"), host, store, (channel,))


@pytest.fixture
def measure(connections: Connections) -> Measure:
    """Keep one sampling of so many minutes ago."""

    def keep(minutes_ago: float, **values: float) -> None:
        at = datetime.now(UTC) - timedelta(minutes=minutes_ago)
        history_of(connections).add(sample(at, metric, value) for metric, value in values.items())

    return keep


def test_the_channels_are_told_of_what_was_measured_since_the_last_time(
    connections: Connections, channel: Channel, measure: Measure
) -> None:
    measure(5, error_rate_pct=30)
    assert evaluate(connections).firing == ()
    measure(4, error_rate_pct=30, database_connections_pct=95)
    measure(2.5, error_rate_pct=30, database_connections_pct=95)
    found = evaluate(connections)
    firing = {rule.name for rule, _ in found.firing}
    assert firing == {"error-rate-critical", "error-rate-warning", "connections-critical"}
    assert [(one.level, one.title.split(":")[0]) for one in channel.told] == [
        ("error", "test, application"),
        ("error", "test, database"),
    ], "one message for each group"
    assert evaluate(connections).notices == (), "the same samplings are not told twice"
    assert {rule.name for rule, _ in status(connections).firing} == firing


def test_a_channel_that_refuses_is_named(connections: Connections, channel: Channel, measure: Measure) -> None:
    measure(5, disk_usage_pct=99)
    evaluate(connections)
    channel.error = TransientError("no answer")
    measure(4, disk_usage_pct=99)
    measure(2.5, disk_usage_pct=99)
    assert evaluate(connections).undelivered == ("chat",)


def test_a_store_that_does_not_take_the_state_lets_it_be_told_again(
    connections: Connections, channel: Channel, measure: Measure, monkeypatch: pytest.MonkeyPatch
) -> None:
    measure(5, error_rate_pct=30)
    evaluate(connections)
    measure(3.5, error_rate_pct=30)

    def refuse(*_: object) -> None:
        raise TransientError("the store is away")

    with monkeypatch.context() as patch:
        patch.setattr(FolderStore, "replace", refuse)
        with pytest.raises(TransientError):
            evaluate(connections)
    evaluate(connections)
    assert len(channel.told) == 2, "twice, never not at all"


@pytest.mark.parametrize("name", ["state", "silences"])
def test_what_cannot_be_read_is_an_error_that_says_what_to_do(connections: Connections, name: str) -> None:
    connections.store.objects.replace(f"alerts/test/{name}.json", b"{]")
    with pytest.raises(RejectedError, match=rf"alerts/test/{name}\.json in .* cannot be read; mend it, or delete it"):
        evaluate(connections)


def test_a_silence_is_announced_and_ended(connections: Connections, channel: Channel, measure: Measure) -> None:
    silence(connections, duration=timedelta(hours=1), reason="new disks", by="ada")
    measure(0, disk_usage_pct=99)
    assert evaluate(connections).silence is not None
    assert channel.told[0].title.startswith("test, maintenance: no alerts until")
    assert [one.reason for one in end_silence(connections)] == ["new disks"]
    measure(0, disk_usage_pct=99)
    assert evaluate(connections).silence is None
    assert "the maintenance window has ended (new disks, ada)" in channel.told[-1].title
    with pytest.raises(RefusedError, match="no maintenance window is open"):
        end_silence(connections)


@pytest.mark.parametrize(("hours", "reason"), [(1, "  "), (0, "x"), (24 * 8, "x"), (-1, "x")])
def test_a_silence_without_reason_or_measure_is_refused(connections: Connections, hours: int, reason: str) -> None:
    with pytest.raises(InvalidInputError):
        silence(connections, duration=timedelta(hours=hours), reason=reason, by="ada")


def test_the_windows_of_the_settings_count(connections: Connections, measure: Measure) -> None:
    now = datetime.now(UTC)
    window = {"start": f"{now:%Y-%m-%d}T00:00:00", "duration_s": 86_400, "rule": "FREQ=DAILY"}
    settings = Settings.model_validate({**connections.settings.model_dump(), "maintenance": {"windows": [window]}})
    measure(0, disk_usage_pct=99)
    assert evaluate(replace(connections, settings=settings)).silence is not None


def test_the_past_is_replayed_from_the_history(connections: Connections, channel: Channel, measure: Measure) -> None:
    for minutes_ago in range(30, 10, -1):
        measure(minutes_ago, requests=100, errors=30, error_rate_pct=30)
    found = backtest(connections, timedelta(hours=1))
    assert found.samplings == 20
    assert "error-rate-critical" in {one.rule.name for one in found.episodes}
    assert channel.told == [], "nobody is told"
    assert status(connections).measured_at is None, "and nothing is remembered"
