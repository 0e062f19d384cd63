"""Telling others how far a run is, without waiting for them."""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

_log = logging.getLogger(__name__)


@dataclass
class Background:
    """Tells one place in the background, in order, and only the newest: it never stops a run and holds up no step.

    Args:
        place: what messages call it: `GitHub`.
        wait_s: seconds that the end waits for it.
    """

    place: str
    wait_s: float
    _newest: int = 0
    _trouble: Exception | None = None
    _worker: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1, thread_name_prefix="told"))

    def tell(self, say: Callable[[], None]) -> None:
        """Say something, always."""
        self._newest += 1
        self._worker.submit(self._say, say, None)

    def tell_newest(self, say: Callable[[], None]) -> None:
        """Say something unless there is something newer by then, or nothing could be said: the end is tried again."""
        if self._trouble is None:
            self._newest += 1
            self._worker.submit(self._say, say, self._newest)

    def finish(self, run: str, say: Callable[[], None]) -> tuple[str, ...]:
        """Say how a run ended, and wait for it; return what went wrong with that."""
        self._newest += 1
        told = self._worker.submit(self._say, say, None)
        self._worker.shutdown(wait=False)
        try:
            told.result(timeout=self.wait_s)
        except TimeoutError:
            self._trouble = TimeoutError(f"no answer within {self.wait_s:g} s")
        if self._trouble is None:
            return ()
        finding = f"{self.place} does not show how this ended: {self._trouble}"
        _log.warning("%s: %s", run, finding)
        return (finding,)

    def leave(self) -> None:
        """Say nothing more: another run goes on with this one."""
        self._newest += 1
        self._worker.shutdown(wait=False, cancel_futures=True)

    def _say(self, say: Callable[[], None], number: int | None) -> None:
        if number is not None and number < self._newest:
            return
        try:
            say()
            self._trouble = None
        except Exception as error:  # noqa: BLE001 - whatever it is, the run goes on
            self._trouble = error
