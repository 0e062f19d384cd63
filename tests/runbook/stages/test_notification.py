from __future__ import annotations

import json
import logging
import stat
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from runbook.clients.channels import Channel, LogChannel, Notification
from runbook.connections import Connections
from runbook.errors import TransientError
from runbook.stages.notification import LONGEST, MOST, deliver, notify, records_of
from tests.runbook.surroundings import surrounded


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
    return notify(made(tmp_path, *channels), "error", "v2 not released", "disk full\nsecond line")


def made(tmp_path: Path, *channels: Channel) -> Connections:
    return surrounded(tmp_path, *channels)


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


def test_what_a_channel_did_not_take_is_told_before_the_next_message_and_once(tmp_path: Path) -> None:
    mailbox = Mailbox(error=TransientError("no answer"))
    assert send(tmp_path, mailbox) == ("mailbox",)
    assert send(tmp_path, mailbox) == ("mailbox",)
    mailbox.error = None
    assert send(tmp_path, mailbox) == ()
    assert ["delivered late" in message.text for message in mailbox.messages] == [True, True, False]
    assert send(tmp_path, mailbox) == ()
    assert len(mailbox.messages) == 4


def test_a_channel_gets_only_what_it_has_not_taken_itself(tmp_path: Path) -> None:
    works, broken = Mailbox("works"), Mailbox("broken", OSError("no route"))
    send(tmp_path, works, broken)
    broken.error = None
    send(tmp_path, works, broken)
    assert [len(works.messages), len(broken.messages)] == [2, 2]


def test_what_waits_can_be_seen_and_delivered_by_hand(tmp_path: Path) -> None:
    mailbox = Mailbox(error=TransientError("no answer"))
    send(tmp_path, mailbox)
    connections = made(tmp_path, mailbox)
    [waiting] = records_of(connections).waiting().values()
    assert (waiting.channel, waiting.title, waiting.trouble) == ("mailbox", "v2 not released", "no answer")
    assert deliver(connections) == {"mailbox": "no answer"}
    mailbox.error = None
    assert deliver(connections) == {}
    assert records_of(connections).waiting() == {}


def test_what_is_too_old_or_too_much_is_given_up_and_the_log_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    connections, mailbox = made(tmp_path), Mailbox()
    for number in range(MOST + 1):
        said = Notification("production", "info", f"message {number}", "")
        records_of(connections).keep(mailbox.name, said, "no answer")
    [last, *_] = list(records_of(connections).waiting().items())[::-1]
    old = last[1].model_copy(update={"said_at": datetime.now(UTC) - LONGEST})
    connections.store.objects.replace(last[0], old.model_dump_json().encode())
    assert send(tmp_path, mailbox) == ()
    titles = [message.title for message in mailbox.messages]
    assert titles == [f"message {number}" for number in range(1, MOST)] + ["v2 not released"]
    assert "2 messages that it never took are given up" in caplog.text
    assert records_of(connections).waiting() == {}


def test_a_store_that_is_down_stops_no_message(tmp_path: Path) -> None:
    (tmp_path / "undelivered").write_text("not a folder")
    mailbox, broken = Mailbox(), Mailbox("broken", OSError("no route"))
    assert send(tmp_path, broken, mailbox) == ("broken",)
    assert len(mailbox.messages) == 1
