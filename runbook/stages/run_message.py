"""What the channels show of a run: one message, updated in place as it goes on.

Source: runbook, "Stage 7: Notifications".
"""

from __future__ import annotations

from dataclasses import dataclass, field

from runbook.clients.slack import escaped
from runbook.connections import Connections
from runbook.reports import FinalState
from runbook.stages.background import Background
from runbook.stages.kept_message import KeptMessage


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
    _message: KeptMessage = field(init=False)
    _background: Background = field(init=False)

    def __post_init__(self) -> None:
        self._message = KeptMessage(self.connections, self.run)
        self._background = Background("Slack", self.wait_s)

    def begin(self) -> None:
        """Show a run that begins."""
        self.step("has begun")

    def step(self, name: str) -> None:
        """Say which step the run is at."""
        if self._message.channels:
            self._background.tell_newest(lambda: self._show(":hourglass_flowing_sand:", name))

    def end(self, *, success: bool, state: FinalState) -> tuple[str, ...]:
        """Say how the run ended; return what went wrong with saying so."""
        mark = ":white_check_mark:" if success and state is FinalState.VERIFIED else ":warning:"
        mark = ":rotating_light:" if state is FinalState.DIVERGED else mark
        words = f"{'done' if success else 'not done'}, {state}"
        return self._background.finish(self.run, lambda: self._show(mark, words)) if self._message.channels else ()

    def leave(self) -> None:
        """Say nothing more: another run goes on with this one."""
        self._background.leave()

    def _show(self, mark: str, words: str) -> None:
        name, url = self.connections.settings.name, self.connections.run_url
        text = f"{mark} *{self.task} {escaped(self.version)}* on {name}: {escaped(words)}"
        text += f"  <{url}|log>" if url else ""
        for channel in self._message.channels:
            self._message.show(channel, text)
