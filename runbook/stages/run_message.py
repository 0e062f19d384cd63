"""What the channels show of a run: one message, updated in place as it goes on.

Where the message is, is kept in the store, so that whoever recovers a dead run goes on with it.

Source: runbook, "Stage 7: Notifications".
"""

from __future__ import annotations

from dataclasses import dataclass, field

from pydantic import BaseModel, ConfigDict

from runbook.clients.object_store import MissingObjectError
from runbook.clients.slack import SlackChannel, escaped
from runbook.clients.slack_api import Message
from runbook.connections import Connections
from runbook.reports import FinalState
from runbook.stages.background import Background


class _Kept(BaseModel):
    model_config = ConfigDict(extra="forbid")

    channel: str
    ts: str


@dataclass
class RunMessage:
    """The message of one run in each channel that can change what it has said; without one nothing happens.

    Args:
        connections: the environment; `run_url` becomes the link to the log.
        run: name of the run, by which its message is found again.
        task: what is done: `deploy`, `rollback`, `undo-rollback`.
        version: what it is done to.
        wait_s: seconds that the end waits for the channels.
    """

    connections: Connections
    run: str
    task: str
    version: str
    wait_s: float = 15.0
    _kept: list[Message] = field(default_factory=list[Message])
    _background: Background = field(init=False)

    def __post_init__(self) -> None:
        self._background = Background("Slack", self.wait_s)

    def begin(self) -> None:
        """Show a run that begins."""
        self.step("has begun")

    def step(self, name: str) -> None:
        """Say which step the run is at."""
        if self._channels:
            self._background.tell_newest(lambda: self._show(":hourglass_flowing_sand:", name))

    def end(self, *, success: bool, state: FinalState) -> tuple[str, ...]:
        """Say how the run ended; return what went wrong with saying so."""
        mark = ":white_check_mark:" if success and state is FinalState.VERIFIED else ":warning:"
        mark = ":rotating_light:" if state is FinalState.DIVERGED else mark
        words = f"{'done' if success else 'not done'}, {state}"
        return self._background.finish(self.run, lambda: self._show(mark, words)) if self._channels else ()

    def leave(self) -> None:
        """Say nothing more: another run goes on with this one."""
        self._background.leave()

    @property
    def _channels(self) -> list[SlackChannel]:
        return [channel for channel in self.connections.channels if isinstance(channel, SlackChannel)]

    def _show(self, mark: str, words: str) -> None:
        name, url = self.connections.settings.name, self.connections.run_url
        text = f"{mark} *{self.task} {escaped(self.version)}* on {name}: {escaped(words)}"
        text += f"  <{url}|log>" if url else ""
        for channel in self._channels:
            self._take_up(channel)
            channel.show(text)
            self._keep(channel)

    def _take_up(self, channel: SlackChannel) -> None:
        """Go on with the message that a process which has died has begun."""
        if channel.shown is not None:
            return
        try:
            kept = _Kept.model_validate_json(self.connections.store.objects.read(self._key(channel)))
        except MissingObjectError:
            return
        channel.go_on_with(Message(channel=kept.channel, ts=kept.ts))

    def _keep(self, channel: SlackChannel) -> None:
        if channel.shown is None or channel.shown in self._kept:
            return
        kept = _Kept(channel=channel.shown.channel, ts=channel.shown.ts)
        self.connections.store.objects.replace(self._key(channel), kept.model_dump_json().encode())
        self._kept.append(channel.shown)

    def _key(self, channel: SlackChannel) -> str:
        return f"messages/{self.connections.settings.name}/{self.run}.{channel.channel.strip('#')}.json"
