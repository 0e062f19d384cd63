"""Trials on the local application host: a known release started once more, against another database, on its own port.

A trial gets no traffic, is in no list of releases, and has a log of its own. It ends with whoever began it, and at the
latest after ten minutes or with the daemon; what a daemon that was killed left is ended by the next one. The URL of its
database is in the memory of the processes alone.
"""

from __future__ import annotations

import logging
import secrets
import sys
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from runbook.clients.local_host_files import (
    minimal_environment,
    read_config,
    read_json,
    read_variables,
    tail,
    write_private,
)
from runbook.clients.local_host_process import answers, free_port, spawn, stop_groups
from runbook.clients.local_host_releases import Releases
from runbook.clients.process_id import ProcessId
from runbook.errors import StageError

logger = logging.getLogger(__name__)
_LIFETIME_S = 600
_TAIL_LINES = 20


@dataclass(frozen=True)
class Trial:
    """A trial that runs; `url` is where it answers."""

    trial_id: str
    url: str
    process: ProcessId
    begun: float


class Trials:
    """The trials of one daemon."""

    def __init__(self, root: Path, releases: Releases) -> None:
        self._root = root
        self._releases = releases
        self._lock = threading.Lock()
        self._running: dict[str, Trial] = {}

    def begin(self, release_id: str, database_url: str) -> Trial:
        """Start a release against a database and wait until it answers.

        Raises:
            RejectedError: no such release.
            StageError: it does not become ready; the error ends with its last log lines.
        """
        record = self._releases.find(release_id).record
        config, port = read_config(self._root), free_port(None)
        environment = minimal_environment() | read_variables(self._root)
        environment |= {"PORT": str(port), "APP_VERSION": record.version, "RELEASE_SHA": record.git_sha}
        trial_id = secrets.token_hex(8)
        log = self._file(trial_id, "log")
        process = spawn(
            [sys.executable if word == "{python}" else word for word in config.start_command],
            directory=self._root / "releases" / release_id / "source",
            environment=environment | {"DATABASE_URL": database_url},
            log=log,
        )
        trial = Trial(trial_id, f"http://127.0.0.1:{port}", process, time.monotonic())
        with self._lock:
            self._running[trial_id] = trial
        write_private(self._file(trial_id, "json"), asdict(process))
        deadline = time.monotonic() + config.ready_timeout_s
        while not answers(port, config.health_path, timeout_s=min(2.0, config.ready_timeout_s)):
            if not process.alive() or time.monotonic() > deadline:
                last = _without_password("\n".join(tail(log, _TAIL_LINES)), database_url) or "(nothing)"
                self.end(trial_id)
                raise StageError(f"release {release_id} does not answer with this database. Last log lines:\n{last}")
            time.sleep(0.02)
        return trial

    def end(self, trial_id: str) -> None:
        """End a trial and delete its log; no error when it has ended already."""
        with self._lock:
            trial = self._running.pop(trial_id, None)
        if trial is not None:
            stop_groups([trial.process])
            self._forget(trial_id)

    def end_leftovers(self) -> None:
        """End the trials of an earlier daemon that had no time to do so."""
        for record in (self._root / "logs").glob("trial-*.json"):
            if (process := read_json(record)) is not None:
                stop_groups([ProcessId(**process)])
            self._forget(record.stem.removeprefix("trial-"))

    def end_overdue(self) -> None:
        """End the trials whose time is over."""
        for trial in list(self._running.values()):
            if time.monotonic() - trial.begun > _LIFETIME_S:
                logger.warning("trial %s has run for %d s and is ended", trial.trial_id, _LIFETIME_S)
                self.end(trial.trial_id)

    def end_all(self) -> None:
        """End every trial."""
        for trial_id in list(self._running):
            self.end(trial_id)

    def _file(self, trial_id: str, kind: str) -> Path:
        return self._root / "logs" / f"trial-{trial_id}.{kind}"

    def _forget(self, trial_id: str) -> None:
        for kind in ("log", "json"):
            self._file(trial_id, kind).unlink(missing_ok=True)


def _without_password(text: str, database_url: str) -> str:
    """Return what a release said without the URL of its database and the password in it, as written or decoded."""
    password = urlsplit(database_url).password or ""
    for secret in (database_url, unquote(database_url), password, unquote(password)):
        text = text.replace(secret, "(not shown)") if secret else text
    return text
