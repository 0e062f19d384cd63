"""One release of the local application host: its record on disk, its process, and whether that should run."""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path

from runbook.clients.application_host import ReleaseState
from runbook.clients.local_host_files import (
    LocalHostConfig,
    minimal_environment,
    read_json,
    read_variables,
    tail,
    write_private,
)
from runbook.clients.local_host_process import answers, free_port, spawn, stop_groups
from runbook.clients.process_id import ProcessId
from runbook.errors import StageError, TransientError

logger = logging.getLogger(__name__)

_PROBE_S = 0.5  # how long the supervisor waits for one health answer
_ASKED_PROBE_S = 5.0  # a busy release is slow, not dead: before it is started anew it gets this long
_BACK_OFF_S = (0.1, 0.5, 1.0, 2.0, 5.0)
_SETTLED_S = 10.0  # a release that lived this long starts its back-off from the beginning
_DRAIN_S = 30.0
_TAIL_LINES = 20


@dataclass(frozen=True)
class ReleaseRecord:
    """What release.json holds; `state` is the one intended, so a READY release whose process died is restarted."""

    release_id: str
    git_sha: str
    version: str
    created_at: str
    state: str = ReleaseState.STOPPED
    port: int = 0
    pid: int = 0
    create_time: float = 0.0


def read_records(root: Path) -> list[ReleaseRecord]:
    """Return the records of all releases under a root."""
    contents = (read_json(path) for path in (root / "releases").glob("[!.]*/release.json"))
    return [ReleaseRecord(**content) for content in contents if content is not None]


def recorded_processes(root: Path) -> list[ProcessId]:
    """Return the processes that were started last for the releases under a root; they may have ended."""
    return [ProcessId(record.pid, record.create_time) for record in read_records(root) if record.pid]


class HostedRelease:
    """One release with its directory and its process. `lock` is held by whoever starts or stops it."""

    def __init__(self, root: Path, record: ReleaseRecord, spawning: threading.Lock, closing: threading.Event) -> None:
        self.release_id = record.release_id
        self.record = record
        self.lock = threading.RLock()
        self.in_flight = 0
        self.touched_at = datetime.fromisoformat(record.created_at)
        self._root = root
        self._log = root / "logs" / f"{record.release_id}.log"
        self._spawning = spawning
        self._closing = closing
        self._answering = False
        self._started = 0.0
        self._restarts = 0
        self._unwanted_since: float | None = None

    @property
    def process(self) -> ProcessId:
        """The process that was started last."""
        return ProcessId(self.record.pid, self.record.create_time)

    def is_alive(self) -> bool:
        """Return whether the process that was started last still runs."""
        return self.record.pid > 0 and self.process.alive()

    def observed_state(self) -> ReleaseState:
        """Return what a caller may count on: READY only while the process runs and has answered."""
        intended = ReleaseState(self.record.state)
        if intended is ReleaseState.READY and not (self._answering and self.is_alive()):
            return ReleaseState.STARTING
        return intended

    def ensure_running(self, config: LocalHostConfig) -> None:
        """Start the release unless it answers already; the caller holds `lock`.

        Raises:
            StageError: it does not become ready; its process is stopped and the error ends with its last log lines.
        """
        if self.is_alive():
            if answers(self.record.port, config.health_path, timeout_s=_ASKED_PROBE_S):
                self._answering = True
                self._save(state=ReleaseState.READY)
                return
            stop_groups([self.process])
        offset = self._log.stat().st_size if self._log.exists() else 0
        try:
            self._spawn(config, ReleaseState.STARTING)
        except OSError as exc:
            self._save(state=ReleaseState.FAILED)
            raise StageError(f"release {self.release_id} cannot be started: {exc}") from exc
        reason = self._wait_until_ready(config)
        if reason is not None:
            stop_groups([self.process])
            self._save(state=ReleaseState.FAILED)
            last = "\n".join(tail(self._log, _TAIL_LINES, offset=offset)) or "(nothing)"
            raise StageError(f"release {self.release_id} did not become ready: {reason}. Last log lines:\n{last}")
        self._save(state=ReleaseState.READY)

    def _spawn(self, config: LocalHostConfig, state: ReleaseState) -> None:
        port = free_port(self.record.port)
        environment = minimal_environment() | read_variables(self._root)
        environment |= {"PORT": str(port), "APP_VERSION": self.record.version, "RELEASE_SHA": self.record.git_sha}
        argv = [sys.executable if word == "{python}" else word for word in config.start_command]
        self._answering = False
        with self._spawning:
            if self._closing.is_set():
                raise TransientError("the local host is shutting down")
            process = spawn(
                argv,
                directory=self._root / "releases" / self.release_id / "source",
                environment=environment,
                log=self._log,
            )
            self._started = time.monotonic()
            self._save(state=state, port=port, pid=process.pid, create_time=process.create_time)

    def _wait_until_ready(self, config: LocalHostConfig) -> str | None:
        """Return None when the release answers, or why it will not."""
        deadline = time.monotonic() + config.ready_timeout_s
        while time.monotonic() < deadline:
            answered = answers(self.record.port, config.health_path, timeout_s=min(2.0, config.ready_timeout_s))
            if not self.is_alive():
                return "its process ended"
            if answered:
                self._answering = True
                return None
            time.sleep(0.02)
        return f"{config.health_path} did not answer 200 within {config.ready_timeout_s:g} s"

    def supervise(self, config: LocalHostConfig, is_wanted: Callable[[], bool]) -> None:
        """Restart, probe or retire the release, unless somebody else is at it. Never waits for a start."""
        if not self.lock.acquire(blocking=False):
            return
        try:
            if not is_wanted():  # asked under the lock: a promote may just have ended
                self._retire_when_drained()
                return
            self._unwanted_since = None
            if not self.is_alive():
                self._restart(config)
            elif not self._answering:
                self._answering = answers(self.record.port, config.health_path, timeout_s=_PROBE_S)
        finally:
            self.lock.release()

    def _restart(self, config: LocalHostConfig) -> None:
        lived_s = time.monotonic() - self._started
        if lived_s > _SETTLED_S:
            self._restarts = 0
        if lived_s < _BACK_OFF_S[min(self._restarts, len(_BACK_OFF_S) - 1)]:
            return
        logger.warning("release %s: its process ended, starting it again", self.release_id)
        self._restarts += 1
        self._started = time.monotonic()
        self._spawn(config, ReleaseState.READY)

    def _retire_when_drained(self) -> None:
        now = time.monotonic()
        self._unwanted_since = self._unwanted_since or now
        if self.in_flight and now - self._unwanted_since < _DRAIN_S:
            return
        logger.info("release %s: no longer kept warm", self.release_id)
        self.stop()

    def stop(self) -> None:
        """Stop the release and leave it stopped; the caller holds `lock`."""
        self._unwanted_since = None
        self._answering = False
        self._save(state=ReleaseState.STOPPED)
        stop_groups([self.process])

    def _save(self, **changes: str | int | float) -> None:
        changed = replace(self.record, **changes)  # pyright: ignore[reportArgumentType] - names are those of fields
        if changed != self.record:
            write_private(self._root / "releases" / self.release_id / "release.json", asdict(changed))
            self.record = changed
