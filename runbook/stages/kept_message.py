"""A message that is changed in place: where it is, is kept in the store, so that any later process goes on with it."""

from __future__ import annotations

from dataclasses import dataclass, field

from pydantic import BaseModel, ConfigDict

from runbook.clients.object_store import MissingObjectError
from runbook.clients.slack import SlackChannel
from runbook.clients.slack_api import Message
from runbook.connections import Connections


class _Kept(BaseModel):
    model_config = ConfigDict(extra="forbid")

    channel: str
    ts: str


@dataclass
class KeptMessage:
    """What is shown under one name, for example that of a run, in the channels that can change what they have said."""

    connections: Connections
    name: str
    _kept: list[Message] = field(default_factory=list[Message])

    @property
    def channels(self) -> list[SlackChannel]:
        """The channels that can."""
        return [channel for channel in self.connections.channels if isinstance(channel, SlackChannel)]

    def show(self, channel: SlackChannel, text: str) -> None:
        """Say it where it was said before; the first time in a message of its own.

        Raises:
            ServiceError: the channel or the store does not take it.
        """
        self.take_up(channel)
        channel.show(text)
        if channel.shown is not None and channel.shown not in self._kept:
            kept = _Kept(channel=channel.shown.channel, ts=channel.shown.ts)
            self.connections.store.objects.replace(self._key(channel), kept.model_dump_json().encode())
            self._kept.append(channel.shown)

    def take_up(self, channel: SlackChannel) -> None:
        """Go on with the message that another process has begun, if there is one."""
        if channel.shown is not None:
            return
        try:
            kept = _Kept.model_validate_json(self.connections.store.objects.read(self._key(channel)))
        except MissingObjectError:
            return
        channel.go_on_with(Message(channel=kept.channel, ts=kept.ts))

    def _key(self, channel: SlackChannel) -> str:
        return f"messages/{self.connections.settings.name}/{self.name}.{channel.channel.strip('#')}.json"
