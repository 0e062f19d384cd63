"""The application host of the environment `local`: releases are processes on this machine, behind a small proxy.

`LocalHost` speaks to a daemon (`runbook.clients.local_host_daemon`) that outlives whoever started it.
"""

from __future__ import annotations

import logging
import ssl
import subprocess
import sys
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, cast

import httpx
from pydantic import SecretStr

from runbook.clients.application_host import LogLine, Release, ReleaseState, RequestMetrics, SlowRequests
from runbook.clients.local_host_files import (
    LocalHostConfig,
    exclusive,
    minimal_environment,
    read_address,
    read_variables,
    tail,
    write_config,
)
from runbook.clients.local_host_process import kill_strays, stop_groups
from runbook.clients.local_host_release import recorded_processes
from runbook.clients.process_id import ProcessId
from runbook.errors import RejectedError, StageError, TransientError
from runbook.rules.infrastructure import Resources
from runbook.rules.variables import Flaw, Variable

__all__ = ["LocalHost", "LocalHostConfig"]

logger = logging.getLogger(__name__)
_START_S = 15.0
_STOP_S = 15.0
_SIGN_OF_LIFE_S = 2.0  # a daemon that is silent for so long is stopped without asking it
_ANSWER_S = 10.0
_START_RELEASE_S = 300.0  # a stage takes as long as the application needs to start; the daemon bounds that


class LocalHost:
    """Client of a running local host; implements `ApplicationHost`.

    Every method raises `TransientError` when the daemon does not answer and `RejectedError` when it refuses; `stage`,
    `promote`, `roll_back` and `warm` raise `StageError`, with the last log lines, when the release does not start.
    """

    def __init__(self, admin_url: str, token: str, public_url: str) -> None:
        self._admin_url = admin_url
        self._token = token
        self._public_url = public_url
        # The admin interface is plain HTTP on loopback: an empty TLS context spares reading the system's certificates.
        self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)

    @classmethod
    def start(cls, root: Path, config: LocalHostConfig) -> LocalHost:
        """Start the daemon of a root, or find it running; either way `config` holds for what is started from now on.

        Releases that an earlier daemon left running are adopted; those that ended are started again. Safe to repeat
        and to call from several processes at once.

        Raises:
            RejectedError: app.env cannot be read as KEY=VALUE lines, or the daemon's program cannot run.
            TransientError: the daemon did not come up; the message ends with the last lines of its log.
        """
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        root = root.resolve()
        for name in ("releases", "logs"):
            (root / name).mkdir(mode=0o700, exist_ok=True)
        read_variables(root)
        with exclusive(root / "start.lock", timeout_s=2 * _START_S):
            write_config(root, config)
            host = cls._running(root)
            if host is None:
                _launch(root)
                host = cls._wait_until_running(root)
        host.check()
        return host

    @classmethod
    def attach(cls, root: Path) -> LocalHost:
        """Return a client of the daemon that runs for a root.

        Raises:
            RejectedError: none runs; the message says how to start one.
        """
        host = cls._running(root)
        if host is None:
            raise RejectedError(f"no local host runs for {root}; start it with LocalHost.start(root, config)")
        return host

    @staticmethod
    def stop(root: Path) -> None:
        """Stop the daemon and every release; nothing of it runs afterwards. Safe to repeat.

        Raises:
            TransientError: another process starts or stops this host and does not come to an end.
        """
        if not root.exists():
            return
        root = root.resolve()
        with exclusive(root / "start.lock", timeout_s=2 * _START_S):
            address, host = read_address(root), LocalHost._running(root)
            if address is not None and host is not None:
                host._shut_down(ProcessId(address.pid, address.create_time))
            stop_groups(recorded_processes(root))
            kill_strays(root / "releases")

    @classmethod
    def _running(cls, root: Path) -> LocalHost | None:
        address = read_address(root)
        if address is None or not ProcessId(address.pid, address.create_time).alive():
            return None
        return cls(address.admin_url, address.token, address.public_url)

    @classmethod
    def _wait_until_running(cls, root: Path) -> LocalHost:
        deadline = time.monotonic() + _START_S
        while time.monotonic() < deadline:
            host = cls._running(root)
            if host is not None:
                return host
            time.sleep(0.01)
        last = "\n".join(tail(root / "host.log", 20))
        raise TransientError(f"the local host of {root} did not start within {_START_S:g} s. Last log lines:\n{last}")

    def _shut_down(self, daemon: ProcessId) -> None:
        try:
            self._ask("GET", "/check", timeout_s=_SIGN_OF_LIFE_S)
            self._ask("POST", "/shutdown", timeout_s=_STOP_S)
            deadline = time.monotonic() + _STOP_S
            while daemon.alive() and time.monotonic() < deadline:
                time.sleep(0.01)
        except (TransientError, RejectedError):
            pass  # it hangs or is going down already; both end below
        stop_groups([daemon], grace_s=2.0)

    @property
    def public_url(self) -> str:
        """The stable URL that users call, without a trailing slash."""
        return self._public_url

    @property
    def private_headers(self) -> Mapping[str, SecretStr]:
        """Nothing: private URLs are on loopback."""
        return {}

    def pin(self) -> str | None:
        """Return None: a promote is all it takes."""
        return None

    def check(self) -> None:
        """Raise unless the daemon answers."""
        self._ask("GET", "/check")

    def stage(self, git_sha: str, version: str) -> Release:
        """Check out a commit and start it on a private URL; a healthy release of it is returned as it is."""
        return self._started("/stage", {"git_sha": git_sha, "version": version})

    def promote(self, release_id: str) -> Release:
        """Give the public traffic to a release; no request is dropped. Safe to repeat."""
        return self._started("/promote", {"release_id": release_id})

    def roll_back(self, release_id: str) -> Release:
        """Give the public traffic back to a release that had it before. Safe to repeat."""
        return self._started("/roll_back", {"release_id": release_id})

    def warm(self, release_id: str) -> Release:
        """Make sure that a known release runs and answers on its private URL."""
        return self._started("/warm", {"release_id": release_id})

    def active(self) -> Release | None:
        """Return the release that has the public traffic, or None before the first promote."""
        answer = self._ask("GET", "/active")
        return _release(answer) if answer is not None else None

    def releases(self) -> Sequence[Release]:
        """Return the known releases, newest first."""
        return [_release(answer) for answer in self._ask("GET", "/releases")]

    def release(self, release_id: str) -> Release:
        """Return one release."""
        return _release(self._ask("GET", "/release", {"release_id": release_id}))

    @contextmanager
    def trial(self, release_id: str, database_url: str) -> Generator[str]:
        """Run a release once more, against another database, and yield its private URL; end it with the `with`.

        A daemon that is gone by then stops nothing: the trial has ended with it, or the next one ends it.
        """
        asked = {"release_id": release_id, "database_url": database_url}
        trial: dict[str, str] = self._ask("POST", "/trial", body=asked, timeout_s=_START_RELEASE_S)
        try:
            yield trial["url"]
        finally:
            try:
                self._ask("DELETE", "/trial", {"trial_id": trial["trial_id"]}, timeout_s=_STOP_S)
            except TransientError as error:
                logger.warning("a trial of %s was left to the daemon: %s", release_id, error)

    def logs(self, release_id: str, *, since: datetime | None = None, limit: int = 100) -> Sequence[LogLine]:
        """Return the newest `limit` log lines of a release, oldest first; `since` is aware."""
        query = {"release_id": release_id, "limit": str(limit)} | ({"since": since.isoformat()} if since else {})
        lines = cast(list[dict[str, str]], self._ask("GET", "/logs", query))
        return [LogLine(datetime.fromisoformat(line["at"]), line["level"], line["message"]) for line in lines]

    def metrics(self, release_id: str, *, since: datetime) -> RequestMetrics:
        """Return what was counted on the public URL for a release from the second of `since` (aware) on.

        Counts are kept for an hour and start anew with the daemon.
        """
        return RequestMetrics(**self._ask("GET", "/metrics", {"release_id": release_id, "since": since.isoformat()}))

    def count_slow(self, release_id: str, *, since: datetime, slower_than_s: float) -> SlowRequests:
        """Return how many of the requests timed since the second of `since` (aware) took longer than that."""
        query = {"release_id": release_id, "since": since.isoformat(), "slower_than_s": str(slower_than_s)}
        return SlowRequests(**self._ask("GET", "/slow", query))

    def resources(self, release_id: str) -> Resources:
        """Return what a release and this machine have used up to now."""
        answer = self._ask("GET", "/resources", {"release_id": release_id})
        return Resources(**answer | {"at": datetime.fromisoformat(answer["at"])})

    def variables(self) -> Mapping[str, Variable]:
        """Return the names in app.env and what may be told of each; the values stay in the daemon."""
        answer = cast(dict[str, dict[str, Any]], self._ask("GET", "/variables"))
        return {
            name: Variable(about["length"], tuple(Flaw(flaw) for flaw in about["flaws"]))
            for name, about in answer.items()
        }

    def _started(self, path: str, query: Mapping[str, str]) -> Release:
        return _release(self._ask("POST", path, query, timeout_s=_START_RELEASE_S))

    def _ask(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        *,
        body: Mapping[str, str] | None = None,
        timeout_s: float = _ANSWER_S,
    ) -> Any:  # noqa: ANN401 - JSON, whose shape only the caller knows
        query = query or {}
        what = f"local host {path[1:]} {' '.join(query.values())}".rstrip()
        timeout = httpx.Timeout(timeout_s, connect=2.0)
        headers = {"Authorization": f"Bearer {self._token}"}
        try:
            with httpx.Client(verify=self._tls, trust_env=False, timeout=timeout, headers=headers) as client:
                response = client.request(method, self._admin_url + path, params=query, json=body)
        except httpx.TransportError as exc:
            raise TransientError(f"{what}: the daemon at {self._admin_url} does not answer: {exc}") from exc
        if response.is_success:
            return response.json()
        is_json = response.headers.get("content-type") == "application/json"
        refusal: dict[str, str] = response.json() if is_json else {"message": f"HTTP {response.status_code}"}
        message = f"{what}: {refusal['message']}"
        if refusal.get("error") == "StageError":
            raise StageError(message)
        raise TransientError(message) if response.is_server_error else RejectedError(message)


def _launch(root: Path) -> None:
    """Start the daemon, which goes to the background by itself; what it prints goes to host.log."""
    with (root / "host.log").open("ab") as log:
        (root / "host.log").chmod(0o600)
        launched = subprocess.run(
            [sys.executable, "-m", "runbook.clients.local_host_daemon", str(root)],
            cwd=Path(__file__).parents[2],
            env=minimal_environment(),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    if launched.returncode:
        last = "\n".join(tail(root / "host.log", 20))
        raise RejectedError(f"the local host of {root} cannot be started. Last log lines:\n{last}")


def _release(answer: dict[str, Any]) -> Release:
    promoted_at = answer["promoted_at"]
    answer["state"] = ReleaseState(answer["state"])
    answer["created_at"] = datetime.fromisoformat(answer["created_at"])
    answer["promoted_at"] = datetime.fromisoformat(promoted_at) if promoted_at else None
    return Release(**answer)
