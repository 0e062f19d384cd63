"""What an incoming webhook answers: https://docs.slack.dev/messaging/sending-messages-using-incoming-webhooks."""

from __future__ import annotations

import httpx

from tests.emulators.slack import slack_emulator


def test_the_webhook_answers_with_words() -> None:
    with slack_emulator(token="xoxb-1", webhook_secret="secret") as slack, httpx.Client() as client:
        posted = client.post(slack.webhook_url, json={"text": "deploy v2"})
        empty = client.post(slack.webhook_url, json={})
        broken = client.post(slack.webhook_url, content="{")
        wrong = client.post(f"{slack.webhook_url}x", json={"text": "x"})
        slack.posted_to.is_archived = True
        late = client.post(slack.webhook_url, json={"text": "x"})
    assert [(each.status_code, each.text) for each in (posted, empty, broken, wrong, late)] == [
        (200, "ok"),
        (400, "no_text"),
        (400, "invalid_payload"),
        (404, "no_service"),
        (410, "channel_is_archived"),
    ]
    assert [each.text for each in slack.posted_to.messages] == ["deploy v2"]
