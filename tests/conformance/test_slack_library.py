"""Slack's own library, pointed at the emulator."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from tests.conformance.deviations import unexpected
from tests.conformance.installed import Calls, call_npm
from tests.emulators.recording import record_of
from tests.emulators.slack import SlackEmulator, slack_emulator

pytestmark = pytest.mark.conformance

TOKEN = "xoxb-never_to_be_seen_0123456789"
SECRET = "hook_never_to_be_seen_0123456789"


@pytest.fixture
def slack() -> Generator[SlackEmulator]:
    """Serve a workspace; what was sent has to be as Slack's document says, which has requests only."""
    with slack_emulator(token=TOKEN, webhook_secret=SECRET) as emulator:
        yield emulator
        said = [record_of(emulator, exchange) for exchange in emulator.exchanges]
    assert said
    assert [(each.method, each.path, line) for each in said for line in unexpected(each)] == []


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "shop"
    made.mkdir()
    return made


def call(slack: SlackEmulator, calls: Calls, folder: Path, token: str = TOKEN) -> list[Any]:
    return call_npm("slack", slack.url, token, calls, cwd=folder)


def test_a_message_is_posted_and_updated_in_place(slack: SlackEmulator, folder: Path) -> None:
    blocks = [{"type": "section", "text": {"type": "mrkdwn", "text": "*deploy* v2"}}]
    posted = {"channel": slack.posted_to.id, "text": "deploy v2", "blocks": blocks}
    (first,) = call(slack, [("chat.postMessage", posted)], folder)
    updated = {"channel": first["value"]["channel"], "ts": first["value"]["ts"], "text": "deploy v2: done"}
    answers = call(
        slack,
        [("chat.update", updated), ("chat.postMessage", {**posted, "thread_ts": first["value"]["ts"]})],
        folder,
    )
    assert [answer["value"]["ok"] for answer in answers] == [True, True]
    message, reply = slack.posted_to.messages
    assert (message.text, message.blocks, message.edits) == ("deploy v2: done", blocks, 1)
    assert reply.thread_ts == message.ts
    assert isinstance(dict(each.split("=") for each in slack.exchanges[0].call.raw.decode().split("&"))["blocks"], str)


def test_an_incident_channel_is_made_filled_and_archived(slack: SlackEmulator, folder: Path) -> None:
    (made,) = call(slack, [("conversations.create", {"name": "inc-20250104", "is_private": False})], folder)
    channel = made["value"]["channel"]["id"]
    answers = call(
        slack,
        [
            ("conversations.invite", {"channel": channel, "users": "U1,U2"}),
            ("conversations.setTopic", {"channel": channel, "topic": "SEV1: down"}),
            ("conversations.create", {"name": "inc-20250104"}),
            ("conversations.archive", {"channel": channel}),
            ("chat.postMessage", {"channel": channel, "text": "late"}),
            ("conversations.list", {"exclude_archived": False}),
        ],
        folder,
    )
    assert [answer.get("error", {}).get("status") for answer in answers] == [
        *(None, None, "name_taken", None, "is_archived", None)
    ]
    assert [each["name"] for each in answers[-1]["value"]["channels"]] == ["deploys", "inc-20250104"]
    incident = slack.channels[channel]
    assert (incident.topic, incident.members[1:], incident.is_archived) == ("SEV1: down", ["U1", "U2"], True)


def test_a_file_is_uploaded_to_a_channel(slack: SlackEmulator, folder: Path) -> None:
    upload = {
        "channel_id": slack.posted_to.id,
        "filename": "incident.md",
        "content": "# What happened",
        "title": "SEV1",
    }
    (done,) = call(slack, [("filesUploadV2", upload)], folder)
    assert "value" in done, done
    (file,) = slack.files.values()
    assert (file.name, file.title, file.length, slack.posted_to.files) == ("incident.md", "SEV1", 15, [file.id])
    assert file.content is not None
    assert b"# What happened" in file.content


def test_a_wrong_token_and_a_scope_that_is_missing_are_told(slack: SlackEmulator, folder: Path) -> None:
    (refused,) = call(slack, [("auth.test", {})], folder, token="xoxb-wrong")
    assert refused["error"]["status"] == "invalid_auth"
    slack.scopes.remove("chat:write")
    (missing,) = call(slack, [("chat.postMessage", {"channel": slack.posted_to.id, "text": "x"})], folder)
    assert missing["error"]["status"] == "missing_scope"
    assert slack.posted_to.messages == []


def test_what_asks_too_often_waits_as_long_as_it_is_told(slack: SlackEmulator, folder: Path) -> None:
    slack.refuse("POST", "/api/chat.postMessage", 429, headers={"Retry-After": "1"})
    (posted,) = call(slack, [("chat.postMessage", {"channel": slack.posted_to.id, "text": "x"})], folder)
    assert posted["value"]["ok"] is True
    assert ([each.reply.status for each in slack.exchanges], slack.too_early) == ([429, 200], 0)
