"""The releases of the local application host: which there are, which run, which one has the traffic."""

from __future__ import annotations

import logging
import re
import shutil
import threading
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

from runbook.clients.application_host import Release, ReleaseState
from runbook.clients.git import Repository
from runbook.clients.local_host_files import (
    check_git_sha,
    new_release_directory,
    read_config,
    read_json,
    write_private,
)
from runbook.clients.local_host_process import stop_groups
from runbook.clients.local_host_release import HostedRelease, ReleaseRecord, read_records
from runbook.errors import DivergedError, RejectedError

logger = logging.getLogger(__name__)

_STAGED_KEPT = timedelta(hours=1)  # a release that was staged or warmed waits this long for its promote


class Releases:
    """All releases under one root and the pointer to the one that has the traffic. Safe to use from many threads."""

    def __init__(self, root: Path) -> None:
        """Adopt what an earlier daemon left: releases that still run keep running.

        Raises:
            DivergedError: active.json names a release that is not there.
        """
        self._root = root
        self._closing = threading.Event()
        self._spawning = threading.Lock()
        self._table = threading.Lock()
        self._switching = threading.Lock()
        self._traffic = threading.Lock()
        self._known: dict[str, HostedRelease] = {}
        for leftover in (root / "releases").glob(".tmp-*"):
            shutil.rmtree(leftover, ignore_errors=True)
        for record in read_records(root):
            self._adopt(record)
        pointer = read_json(root / "active.json") or {"release_id": "", "promoted": {}}
        active_id: str = pointer["release_id"]
        self._promoted = {name: datetime.fromisoformat(at) for name, at in pointer["promoted"].items()}
        self._active = self._known.get(active_id)
        if active_id and self._active is None:
            raise DivergedError(f"active.json names {active_id}, which is not under {root / 'releases'}")

    def _adopt(self, record: ReleaseRecord) -> None:
        release = self._hosted(record)
        if record.state == ReleaseState.STARTING:  # its stage was cut off, so nobody waits for it
            release.stop()
        self._known[record.release_id] = release

    def _hosted(self, record: ReleaseRecord) -> HostedRelease:
        return HostedRelease(self._root, record, self._spawning, self._closing)

    def enter(self) -> HostedRelease | None:
        """Return the active release for one request, and count the request as in flight until `leave`."""
        with self._traffic:
            if self._active is not None:
                self._active.in_flight += 1
            return self._active

    def leave(self, release: HostedRelease) -> None:
        """Say that a request that `enter` gave a release to is over."""
        with self._traffic:
            release.in_flight -= 1

    def stage(self, git_sha: str, version: str) -> Release:
        """Check out a commit and start it on a private URL; safe to repeat.

        Raises:
            RejectedError: no such commit, or no version that could be part of a name.
            StageError: the release does not become ready.
        """
        check_git_sha(git_sha)
        name = re.sub(r"[^A-Za-z0-9._-]+", "-", version).strip(".-")[:64]
        if not name:
            raise RejectedError(f"version {version!r} holds no letter or digit")
        release_id = f"{name}-{git_sha[:12]}"
        config = read_config(self._root)
        with self._table:
            release = self._known.get(release_id)
        if release is None:
            release = self._check_out(config.repository, release_id, git_sha, version)
        if release.record.git_sha != git_sha:
            raise RejectedError(f"release {release_id} is of commit {release.record.git_sha}, not of {git_sha}")
        with release.lock:
            release.ensure_running(config)
            release.touched_at = datetime.now(UTC)
        return self.describe(release)

    def _check_out(self, repository: Path, release_id: str, git_sha: str, version: str) -> HostedRelease:
        record = ReleaseRecord(release_id, git_sha, version, datetime.now(UTC).isoformat())
        with self._table:  # one at a time: the same commit may be asked for twice at once
            if release_id in self._known:
                return self._known[release_id]
            with new_release_directory(self._root / "releases", release_id) as directory:
                Repository(repository).export(git_sha, directory / "source")
                write_private(directory / "release.json", asdict(record))
            release = self._hosted(record)
            self._known = {**self._known, release_id: release}
            return release

    def promote(self, release_id: str) -> Release:
        """Give the traffic to a release, which is started first when it does not run.

        Raises:
            RejectedError: no such release.
            StageError: it had to be started and did not become ready; the traffic stays where it was.
        """
        release = self.find(release_id)
        with release.lock:
            release.ensure_running(read_config(self._root))
            with self._switching:
                self._switch_to(release)
        return self.describe(release)

    def _switch_to(self, release: HostedRelease) -> None:
        if self._active is release:
            return
        promoted = {**self._promoted, release.release_id: datetime.now(UTC)}
        on_disk = {name: at.isoformat() for name, at in promoted.items()}
        write_private(self._root / "active.json", {"release_id": release.release_id, "promoted": on_disk})
        with self._traffic:
            self._promoted = promoted
            self._active = release

    def roll_back(self, release_id: str) -> Release:
        """Give the traffic back to a release that had it before.

        Raises:
            RejectedError: no such release, or it never had the traffic.
            StageError: it had to be started and did not become ready; the traffic stays where it was.
        """
        if self.find(release_id).release_id not in self._promoted:
            raise RejectedError(f"release {release_id} never had the traffic, so it cannot be rolled back to")
        return self.promote(release_id)

    def warm(self, release_id: str) -> Release:
        """Make sure that a release runs and answers.

        Raises:
            RejectedError: no such release.
            StageError: it does not become ready.
        """
        release = self.find(release_id)
        with release.lock:
            release.ensure_running(read_config(self._root))
            release.touched_at = datetime.now(UTC)
        return self.describe(release)

    def find(self, release_id: str) -> HostedRelease:
        """Return a known release.

        Raises:
            RejectedError: no such release.
        """
        release = self._known.get(release_id)
        if release is None:
            raise RejectedError(f"the local host knows no release {release_id!r}")
        return release

    def active(self) -> Release | None:
        """Return the release that has the traffic, or None before the first promote."""
        active = self._active
        return self.describe(active) if active is not None else None

    def newest_first(self) -> list[Release]:
        """Return all releases."""
        described = [self.describe(release) for release in self._known.values()]
        return sorted(described, key=lambda release: release.created_at, reverse=True)

    def describe(self, release: HostedRelease) -> Release:
        """Return a release as callers see it."""
        record = release.record
        return Release(
            release_id=record.release_id,
            git_sha=record.git_sha,
            version=record.version,
            url=f"http://127.0.0.1:{record.port}",
            state=release.observed_state(),
            created_at=datetime.fromisoformat(record.created_at),
            promoted_at=self._promoted.get(record.release_id),
        )

    def supervise(self) -> None:
        """Bring every process nearer to what is intended: restart the dead, retire the superseded."""
        config = read_config(self._root)
        for release in self._known.values():
            if release is self._active or release.record.state == ReleaseState.READY:
                try:
                    release.supervise(config, partial(self._is_kept, release.release_id, config.keep_warm))
                except Exception:  # one release must not keep the others from being looked after
                    logger.exception("release %s", release.release_id)

    def _is_kept(self, release_id: str, keep_warm: int) -> bool:
        """Return whether a release has the traffic, is one of those that had it last, or waits for its promote."""
        promoted = self._promoted
        newest_first = sorted(promoted, key=lambda name: promoted[name], reverse=True)
        if release_id in newest_first[: keep_warm + 1]:
            return True
        touched_at = self._known[release_id].touched_at
        waits = release_id not in promoted or promoted[release_id] < touched_at
        return waits and datetime.now(UTC) - touched_at < _STAGED_KEPT

    def shut_down(self) -> None:
        """Stop every process and start no other; those that were ready are started by the next daemon."""
        with self._spawning:
            self._closing.set()
        stop_groups([release.process for release in self._known.values() if release.record.pid])
