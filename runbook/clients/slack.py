"""Slack as a place that people are told in: one message for each run, updated in place, the rest in its thread.

Source: https://docs.slack.dev/messaging; https://docs.slack.dev/messaging/sending-messages-using-incoming-webhooks.
"""

from __future__ import annotations

import re
import uuid
from dataclasses import dataclass, replace

import httpx
from pydantic import SecretStr

from runbook.clients.channels import Notification
from runbook.clients.http_api import HttpApi, Patience, Service, TakenError, check_url
from runbook.clients.slack_api import API_URL, LONGEST, Conversation, Message, SlackApi
from runbook.errors import InvalidInputError, RejectedError

_MARKS = {"info": ":white_check_mark:", "warning": ":warning:", "error": ":rotating_light:"}
_CUT_ENTITY = re.compile("&[a-z]{0,3}$")
_UNNAMEABLE = re.compile(r"[^a-z0-9_-]+")
_NAME_TRIES = 20
_OFFICIAL_WEBHOOK = "https://hooks.slack.com/services/..."


def escaped(text: str) -> str:
    """Return text of which Slack takes nothing for a link or a mention.

    Source: https://docs.slack.dev/messaging/formatting-message-text/#escaping.
    """
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def worded(notification: Notification) -> str:
    """Return a notification as a message, cut where Slack would, but never within an entity."""
    head = f"{_MARKS[notification.level]} *{escaped(notification.title)}*"
    return _CUT_ENTITY.sub("", f"{head}\n{escaped(notification.text)}".strip()[:LONGEST])


@dataclass
class SlackChannel:
    """A channel of a workspace, as an app with a bot token.

    While a run shows its progress here, what is said goes into the thread of its message; what is alarming is posted to
    the channel as well. Another process goes on with the message of a run by its `Message`.
    """

    api: SlackApi
    channel: str
    name: str = "Slack"
    _shown: Message | None = None

    def send(self, notification: Notification) -> None:
        """Post a notification, or reply to the message of the run that is shown."""
        thread = self._shown.ts if self._shown else None
        place = self._shown.channel if self._shown else self.channel
        aloud = notification.level == "error"
        self.api.post(place, worded(notification), message_id=uuid.uuid4().hex, thread=thread, aloud=aloud)

    def show(self, text: str) -> None:
        """Say how far the run is, where it was said before; the first time in a message of its own."""
        if self._shown is None:
            self._shown = self.api.post(self.channel, text, message_id=uuid.uuid4().hex)
        else:
            self.api.update(self._shown, text)

    def afresh(self) -> SlackChannel:
        """Return the same channel, in which nothing is shown yet."""
        return replace(self, _shown=None)

    @property
    def shown(self) -> Message | None:
        """The message of the run; None before it is there."""
        return self._shown

    def go_on_with(self, message: Message) -> None:
        """Take up the message of a run that another process has begun."""
        self._shown = message

    def open_incident_channel(self, name: str, *, topic: str, people: tuple[str, ...] = ()) -> Conversation:
        """Create a public channel for an incident; one whose name is taken gets a number behind it.

        Args:
            name: what Slack does not allow in it becomes a hyphen.
            topic: in a line: severity, what is wrong.
            people: ids of those who are invited.

        Source: runbook, "Incident Response" ("Create incident channel").
        """
        wanted = _UNNAMEABLE.sub("-", name.lower()).strip("-")[:74]
        for number in range(1, _NAME_TRIES + 1):
            try:
                made = self.api.create_channel(wanted if number == 1 else f"{wanted}-{number}")
            except TakenError:
                if number == _NAME_TRIES:
                    raise
                continue
            self.api.set_topic(made.id, topic)
            if people:
                self.api.invite(made.id, people)
            return made
        raise AssertionError("unreachable")

    def attach(self, name: str, content: bytes) -> None:
        """Share a file: in the thread of the run that is shown, otherwise in the channel.

        Slack shares files by the id of a channel; before a message was posted only that of the block is known.
        """
        place = self._shown.channel if self._shown else self.channel
        self.api.upload(place, name, content, thread=self._shown.ts if self._shown else None)

    def check(self) -> str:
        """Return who the token belongs to."""
        found = self.api.identity()
        return f"Slack workspace {found.team}, as {found.user}, to {self.channel}"


@dataclass(frozen=True)
class SlackWebhook:
    """An incoming webhook: posts to one channel, and can change nothing afterwards. Its address is the secret."""

    http: HttpApi
    name: str = "Slack"

    def send(self, notification: Notification) -> None:
        """Post a notification. When the answer is lost it may be there: it is not sent again by itself."""
        self.http.send("POST", "", "post a message", body={"text": worded(notification)})

    def check(self) -> str:
        """Say that it works: it then refuses an empty message, in words that no other has; nothing is posted.

        Raises:
            ServiceError: the address is not that of a webhook any more, or Slack does not answer.
        """
        try:
            self.http.send("POST", "", "ask whether the webhook works", body={"text": ""})
        except RejectedError as error:
            if "no_text" not in str(error):
                raise
        return "the incoming webhook of Slack takes messages"


def slack_channel(
    token: SecretStr, channel: str, *, url: str = API_URL, block: str = "block", patience: Patience | None = None
) -> SlackChannel:
    """Return the client of a channel; `InvalidInputError` when the address cannot be right."""
    return SlackChannel(SlackApi(token, patience, url=check_url("api_url", url, API_URL), block=block), channel)


def slack_webhook(url: SecretStr, *, block: str = "block", patience: Patience | None = None) -> SlackWebhook:
    """Return the client of an incoming webhook; `InvalidInputError`, without it, when its address cannot be right."""
    try:
        check_url("webhook_url", url.get_secret_value(), _OFFICIAL_WEBHOOK)
    except InvalidInputError:
        allowed = "an address with https, or http on this machine"
        raise InvalidInputError("webhook_url", "(secret)", allowed, f"Copy it again: {_OFFICIAL_WEBHOOK}.") from None
    gone = f"Make a new webhook in the app's settings, and put it into the {block}."
    hints = {403: gone, 404: gone, 410: "Its channel is archived: make one for another channel."}
    return SlackWebhook(HttpApi(Service("Slack", url.get_secret_value(), url, _words, hints, headers={}), patience))


def _words(answer: httpx.Response) -> str:
    """Return the word that a webhook refuses with; anything longer may be somebody else's, and holds what was sent."""
    return answer.text if re.fullmatch("[a-z_]{1,60}", answer.text) else ""
