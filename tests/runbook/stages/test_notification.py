from __future__ import annotations

import json
import logging
import stat
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from runbook.clients.backup_store import BackupStore
from runbook.clients.channels import Channel, LogChannel, Notification
from runbook.clients.folder_store import FolderStore
from runbook.clients.git import Repository
from runbook.clients.postgres import Database
from runbook.connections import Connections
from runbook.errors import TransientError
from runbook.settings import Settings
from runbook.stages.notification import notify
from tests.fakes.application_host import MemoryHost


@dataclass
class Mailbox:
    """A channel that takes messages, or fails as it is told to."""

    name: str = "mailbox"
    error: Exception | None = None
    messages: list[Notification] = field(default_factory=list[Notification])

    def send(self, notification: Notification) -> None:
        if self.error:
            raise self.error
        self.messages.append(notification)


def send(tmp_path: Path, *channels: Channel) -> tuple[str, ...]:
    connections = Connections(
        settings=Settings(name="production", repository="", database="shop"),
        repository=Repository(tmp_path),
        database=Database("postgresql://127.0.0.1:1/shop"),
        host=MemoryHost(),
        store=BackupStore(FolderStore(tmp_path)),
        channels=channels,
    )
    return notify(connections, "error", "v2 not released", "disk full\nsecond line")


@pytest.mark.parametrize(
    "error", [TransientError("no answer"), OSError("disk full"), KeyError("webhook")], ids=lambda error: str(error)
)
def test_a_channel_that_does_not_work_stops_no_other(tmp_path: Path, error: Exception) -> None:
    first, last = Mailbox("first"), Mailbox("last")
    assert send(tmp_path, first, Mailbox("broken", error), last) == ("broken",)
    expected = Notification("production", "error", "v2 not released", "disk full\nsecond line")
    assert first.messages == last.messages == [expected]


def test_the_log_keeps_one_line_for_each_message(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "logs" / "notifications.log"
    with caplog.at_level(logging.INFO):
        assert send(tmp_path, LogChannel(path)) == ()
        assert send(tmp_path, LogChannel(path)) == ()
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert len(lines) == 2
    assert {**lines[0], "timestamp": ""} == {
        "timestamp": "",
        "environment": "production",
        "level": "error",
        "title": "v2 not released",
        "text": "disk full\nsecond line",
    }
    assert "+00:00" in lines[0]["timestamp"]
    assert [record.levelname for record in caplog.records] == ["ERROR", "ERROR"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_log_that_cannot_be_written_is_a_channel_that_does_not_work(tmp_path: Path) -> None:
    (tmp_path / "logs").touch()
    channel = LogChannel(tmp_path / "logs" / "notifications.log")
    assert send(tmp_path, replace(channel, name="the log")) == ("the log",)
