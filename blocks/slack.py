"""Slack as a form: where people are told of what happens in an environment."""

from __future__ import annotations

from typing import Self

from prefect.blocks.core import Block
from pydantic import Field, HttpUrl, SecretStr, model_validator

from blocks.naming import name_of
from runbook.clients.slack import SlackChannel, SlackWebhook, slack_channel, slack_webhook
from runbook.clients.slack_api import API_URL

_LOGO = "https://a.slack-edge.com/80588/marketing/img/meta/slack_hash_256.png"


class SlackNotifications(Block):
    """A channel of Slack: by an app's bot token, with one message for each run, updated in place; or by a webhook."""

    _block_type_name = "Runbook Slack Notifications"
    _block_type_slug = "runbook-slack-notifications"
    _description = (
        "Tells a channel of Slack of every run: one message, updated in place, with the details in its thread."
    )
    _logo_url = HttpUrl(_LOGO)
    _documentation_url = HttpUrl("https://docs.slack.dev/messaging")

    token: SecretStr | None = Field(
        default=None,
        description="Bot token (xoxb-...) of an app in the channel, with the scopes chat:write, channels:history, "
        "channels:manage, channels:read, files:write and files:read. Leave it empty to use a webhook.",
    )
    channel: str = Field(default="", description="Id of the channel, such as C0123456789. With a token only.")
    webhook_url: SecretStr | None = Field(
        default=None,
        description="Address of an incoming webhook (SLACK_WEBHOOK_URL), instead of a token: it cannot update what it "
        "has posted.",
    )
    api_url: str = Field(default=API_URL, description="Where Slack's Web API is.")

    @model_validator(mode="after")
    def _has_one_way(self) -> Self:
        given = [name for name, secret in (("token", self.token), ("webhook_url", self.webhook_url)) if secret]
        if len(given) != 1:
            raise ValueError("fill in either token and channel, or webhook_url; not both, and not none")
        if self.token and not self.channel:
            raise ValueError("channel is needed with a token: its id stands at the end of Slack's channel details")
        return self

    def get_client(self) -> SlackChannel | SlackWebhook:
        """Return the client; `InvalidInputError` when a field cannot be right."""
        if self.token:
            return slack_channel(self.token, self.channel, url=self.api_url, block=name_of(self))
        assert self.webhook_url is not None  # noqa: S101 - one of both, see above
        return slack_webhook(self.webhook_url, block=name_of(self))

    def check(self) -> str:
        """Return what was found; nothing is posted.

        Raises:
            ServiceError: in words a person can act on.
        """
        return self.get_client().check()
