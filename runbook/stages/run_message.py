"""What the channels show of a run: one message, updated in place as it goes on.

Told in the background, and only the newest, as GitHub is: that a channel is slow or down never stops a run and never
holds up a step. Where the message is, is kept in the store, so that whoever recovers a dead run goes on with it.

Source: runbook, "Stage 7: Notifications".
"""

from __future__ import annotations

import logging
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

from pydantic import BaseModel, ConfigDict

from runbook.clients.object_store import MissingObjectError
from runbook.clients.slack import SlackChannel, escaped
from runbook.clients.slack_api import Message
from runbook.connections import Connections
from runbook.reports import FinalState

_log = logging.getLogger(__name__)


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
    _newest: int = 0
    _trouble: Exception | None = None
    _kept: list[Message] = field(default_factory=list[Message])
    _worker: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1, thread_name_prefix="channels"))

    def begin(self) -> None:
        """Show a run that begins."""
        self._submit(":hourglass_flowing_sand:", "has begun")

    def step(self, name: str) -> None:
        """Say which step the run is at."""
        if self._trouble is None:  # it is tried again at the end
            self._submit(":hourglass_flowing_sand:", name)

    def end(self, *, success: bool, state: FinalState) -> tuple[str, ...]:
        """Say how the run ended; return what went wrong with saying so."""
        mark = ":white_check_mark:" if success and state is FinalState.VERIFIED else ":warning:"
        mark = ":rotating_light:" if state is FinalState.DIVERGED else mark
        told = self._submit(mark, f"{'done' if success else 'not done'}, {state}")
        self._worker.shutdown(wait=False)
        if told is None:
            return ()
        try:
            told.result(timeout=self.wait_s)
        except TimeoutError:
            self._trouble = TimeoutError(f"no answer within {self.wait_s:g} s")
        if self._trouble is not None:
            finding = f"Slack does not show how this ended: {self._trouble}"
            _log.warning("%s: %s", self.run, finding)
            return (finding,)
        return ()

    def leave(self) -> None:
        """Say nothing more: another run goes on with this one."""
        self._newest += 1
        self._worker.shutdown(wait=False, cancel_futures=True)

    @property
    def _channels(self) -> list[SlackChannel]:
        return [channel for channel in self.connections.channels if isinstance(channel, SlackChannel)]

    def _submit(self, mark: str, words: str) -> Future[None] | None:
        if not self._channels:
            return None
        self._newest += 1
        return self._worker.submit(self._tell, mark, words, self._newest)

    def _tell(self, mark: str, words: str, number: int) -> None:
        if number < self._newest:
            return
        name, url = self.connections.settings.name, self.connections.run_url
        text = f"{mark} *{self.task} {escaped(self.version)}* on {name}: {escaped(words)}"
        text += f"  <{url}|log>" if url else ""
        try:
            for channel in self._channels:
                self._take_up(channel)
                channel.show(text)
                self._keep(channel)
        except Exception as error:  # noqa: BLE001 - whatever it is, the run goes on
            self._trouble = error
        else:
            self._trouble = None

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
