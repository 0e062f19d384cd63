from __future__ import annotations

import pytest
from pydantic import SecretStr, ValidationError

from blocks.slack import SlackNotifications
from runbook.clients.slack import SlackWebhook
from runbook.errors import InvalidInputError, RejectedError
from tests.emulators.slack import slack_emulator

TOKEN = "xoxb-never_to_be_seen_0123456789"
SECRET = "hook_never_to_be_seen_0123456789"


def test_a_filled_in_form_reaches_the_workspace() -> None:
    with slack_emulator(token=TOKEN, webhook_secret=SECRET) as slack:
        api_url = f"{slack.url}/api"
        block = SlackNotifications(token=SecretStr(TOKEN), channel="C0", api_url=api_url)
        assert block.check() == "Slack workspace Mantis, as runbook, to C0"
        wrong = SlackNotifications(token=SecretStr("xoxb-wrong"), channel="C0", api_url=api_url)
        wrong._block_document_name = "ops"  # pyright: ignore[reportPrivateUsage] - as a saved block has it
        with pytest.raises(RejectedError, match="into the block runbook-slack-notifications/ops"):
            wrong.check()
        hook = SlackNotifications(webhook_url=SecretStr(slack.webhook_url))
        assert hook.check() == "the incoming webhook of Slack takes messages"
        assert slack.posted_to.messages == []


def test_a_field_that_the_form_sends_empty_counts_as_left_out() -> None:
    block = SlackNotifications.model_validate({"token": "", "webhook_url": "https://hooks.slack.com/services/T/B/x"})
    assert isinstance(block.get_client(), SlackWebhook)


@pytest.mark.parametrize(
    ("given", "wrong"),
    [
        ({}, "either token and channel, or webhook_url"),
        ({"token": TOKEN, "channel": "C0", "webhook_url": "https://hooks.slack.com/x"}, "not both"),
        ({"token": TOKEN}, "channel is needed"),
    ],
)
def test_a_form_needs_one_way_to_slack(given: dict[str, str], wrong: str) -> None:
    with pytest.raises(ValidationError, match=wrong):
        SlackNotifications.model_validate(given)


def test_an_address_in_clear_gives_no_client() -> None:
    with pytest.raises(InvalidInputError, match="api_url"):
        SlackNotifications(token=SecretStr(TOKEN), channel="C0", api_url="http://slack.example/api").get_client()
