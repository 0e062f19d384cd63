"""Branches and snapshots of Neon as restore points.

Facts of Neon that shape this module:
- Restoring from a branch keeps the id of the live branch, and gives it a parent. A snapshot is restored as a branch
  beside it first; that takes its place, its name and its compute, has another id, and no parent. So the name is the
  better way to say which branch is live. Both ways how to connect to it stays the same.
- No branch hangs from one that expires: a branch that another one is made from is kept until it is removed.
- The state that a restore has preserved becomes the parent of the live branch, and cannot be deleted then.

Source: https://neon.com/docs/introduction/branch-restore, https://neon.com/docs/guides/backup-restore,
https://neon.com/docs/guides/branch-expiration.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, TypeVar

from pydantic import SecretStr

from runbook.clients.http_api import LostError, MissingError, Patience, TakenError, check_url
from runbook.clients.neon_api import Branch, NeonApi, Operation, Snapshot
from runbook.clients.restore_points import ServerAddress, is_point_name
from runbook.errors import DivergedError, InvalidInputError, RejectedError, StageError, TransientError
from runbook.manifest import RestorePoint

API_URL = "https://console.neon.tech/api/v2"

_BRANCH, _SNAPSHOT = "neon-branch", "neon-snapshot"
_LOOKS = 5  # how often to look for an effect: lists can lag behind
_BRANCH_LIFE = timedelta(days=30)
_NAME_MAX = 200  # Neon takes 256; the rest is for a suffix
_log = logging.getLogger(__name__)
_ID = re.compile(r"[a-z0-9-]{1,60}")

_Found = TypeVar("_Found")


@dataclass(frozen=True)
class NeonSettings:
    """Which branch of which project is live, by name or id, and what a point of it is: a branch or a snapshot.

    `block` is what messages call the form with the key.

    Raises:
        InvalidInputError: the id cannot be one, or the API key would travel in clear.
    """

    project_id: str
    branch: str
    kind: Literal["branch", "snapshot"] = "branch"
    api_url: str = API_URL
    block: str = "block Neon Project"

    def __post_init__(self) -> None:
        if _ID.fullmatch(self.project_id) is None:
            allowed = "1 to 60 of a-z, 0-9 and '-'"
            raise InvalidInputError("project_id", self.project_id, allowed, "Copy it from the project's settings.")
        check_url("api_url", self.api_url, API_URL)


class NeonRestorePoints:
    """Client of one project of Neon; implements `RestorePoints`.

    `find` and `points` know the kind of points that is made now; `open` and `remove` take both kinds.
    """

    def __init__(self, settings: NeonSettings, api_key: SecretStr, patience: Patience | None = None) -> None:
        self._settings = settings
        self._patience = patience or Patience()
        self._api = NeonApi(settings.api_url, settings.project_id, api_key, self._patience, block=settings.block)

    def __repr__(self) -> str:
        return f"NeonRestorePoints({self._settings!r})"

    def check(self) -> str:
        """Say which project and branch it is and how far back Neon can restore it.

        Raises:
            RejectedError: the key, the project or the branch is wrong, or no snapshot can be made of the branch.
        """
        project, live = self._api.project(), self._live()
        self._check_kind(live)
        copies = "branches" if self._settings.kind == "branch" else "snapshots"
        history = _in_words(timedelta(seconds=project.history_retention_seconds))
        return (
            f"Neon project {project.name} ({project.id}), branch {live.name} ({live.id}): restore points are {copies}, "
            f"history of {history}"
        )

    def horizon(self) -> timedelta:
        """Return the history retention of the project."""
        return timedelta(seconds=self._api.project().history_retention_seconds)

    def create(self, name: str, *, keep_for: timedelta | None) -> RestorePoint:
        """Make a branch without a compute, or a snapshot, of the live branch as it is now.

        Safe to repeat: sent once only, and looked up by name before and after.

        Raises:
            InvalidInputError: not the name of a point, or `keep_for` is under a second, or over 30 days for a branch.
            RejectedError: the name belongs to a copy of another branch, or Neon refuses (a limit of the plan, ...).
            StageError: an operation of Neon failed.
            TransientError: it is not known whether there is a point now; repeating looks for it first.
        """
        if not is_point_name(name):
            raise InvalidInputError("name", name, "runbook-<backup_id>", "Make it with `point_name`.")
        self._check_life(keep_for)
        expires = {} if keep_for is None else {"expires_at": f"{datetime.now(UTC) + keep_for:%Y-%m-%dT%H:%M:%SZ}"}
        live = self._live()
        self._check_kind(live)
        if self._settings.kind == "branch":
            return self._create_branch(live, name, expires)
        return self._create_snapshot(live, name, expires)

    def find(self, name: str) -> RestorePoint | None:
        """Return the point of this name, or None."""
        return next((point for point in self.points() if point.name == name), None)

    def points(self) -> Sequence[RestorePoint]:
        """Return the points that the runbook made, by name, those of other branches of the project included."""
        copies = self._api.branches() if self._settings.kind == "branch" else self._api.snapshots()
        return sorted((_point(copy) for copy in copies if is_point_name(copy.name)), key=lambda point: point.name)

    def open(self, point: RestorePoint, name: str) -> None:
        """Make a branch with a compute of a point. Safe to repeat.

        A branch that another one is made from does not expire any more: Neon refuses it otherwise.

        Raises:
            RejectedError: the point is gone, or Neon refuses.
            StageError: an operation of Neon failed.
            TransientError: it is not known whether there is a branch now; repeating looks for it first.
        """
        source = self._source(point)
        if source is None:
            kept = f"until {point.expires_at:%Y-%m-%d %H:%M} UTC" if point.expires_at else "until it is removed"
            raise RejectedError(
                f"Neon, open {point.name}: {point.kind} {point.point_id} is not there any more; it was to be kept "
                f"{kept}. Nothing was changed. Restore the dump of this backup instead."
            )
        what = f"open {point.name} as {name}"
        if (found := self._named(name)) is not None:
            self._api.wait(self._api.operations({found.id}), what)
        elif isinstance(source, Branch):
            self._keep(source, what)
            body = {"branch": {"name": name, "parent_id": source.id}, "endpoints": [{"type": "read_write"}]}
            self._api.wait(self._send_once("/branches", what, lambda: self._named(name), [source], body=body), what)
        else:
            live, path = self._live(), f"/snapshots/{source.id}/restore"
            body = {"name": name, "target_branch_id": live.id, "finalize_restore": False}
            self._api.wait(self._send_once(path, what, lambda: self._named(name), [live], body=body), what)
        opened = self._seen(lambda: self._named(name), what)
        if not self._api.endpoints(opened.id):
            self._add_compute(opened, what)

    def address(self, name: str, *, database: str, role: str) -> ServerAddress | None:
        """Return where a branch takes connections; None when there is none of this name, or none without a compute."""
        branch = self._named(name)
        if branch is None:
            return None
        if not self._api.endpoints(branch.id):
            self._add_compute(branch, f"connect to {name}")
        return self._api.address(branch.id, database=database, role=role)

    def sizes(self, prefix: str) -> Mapping[str, int]:
        """Return the branches of the project whose name begins so, and the bytes in each, as far as Neon knows."""
        found = [branch for branch in self._api.branches() if branch.name.startswith(prefix)]
        return {branch.name: branch.logical_size or 0 for branch in found}

    def take_place(self, name: str, *, preserve_as: str) -> None:
        """Put the state of a branch into the live one and keep the state replaced as branch `preserve_as`.

        Raises:
            InvalidInputError: `preserve_as` is taken or cannot be the name of a branch; nothing was changed.
            RejectedError: there is no such branch, or Neon refuses.
            StageError: an operation of Neon failed; the message names it.
            TransientError: it is not known how far it went; look at the branches before repeating.
            DivergedError: Neon says that it is done, but the state replaced, or the live branch, is not to be found.
        """
        live, source = self._live(), self._named(name)
        self._check_free(preserve_as)
        if source is None:
            raise RejectedError(f"Neon has no branch {name} to restore {live.name} from. Nothing was changed.")
        what = f"restore {live.name} from branch {name}"
        if source.restored_as == live.id and source.restore_status != "finalized":
            self._finalize(source, live, preserve_as, what)
        else:
            self._keep(source, what)
            path = f"/branches/{live.id}/restore"
            body = {"source_branch_id": source.id, "preserve_under_name": preserve_as}
            self._api.wait(self._send_once(path, what, lambda: self._named(preserve_as), [live], body=body), what)
        after = self._patiently(lambda: self._named(live.name))
        preserved = self._patiently(lambda: self._named(preserve_as))
        if after is None or preserved is None:
            raise DivergedError(
                f"Neon, {what}: it says that this is done, but there are not both of the branches {live.name} and "
                f"{preserve_as}. Look at the branches in Neon's console before anything else."
            )

    def close(self, name: str) -> bool:
        """Delete a branch; return False while Neon needs it for other branches."""
        branch = self._named(name)
        if branch is None:
            return True
        if branch.id == self._live().id:
            raise StageError(f"{name} is the live branch; it is never deleted")
        what = f"delete branch {name}"
        attempts = 0
        while self._named(name) is not None:
            attempts += 1
            try:
                self._api.wait(self._api.change("DELETE", f"/branches/{branch.id}", what), what)
            except MissingError:
                return True
            except LostError:
                if attempts == _LOOKS:
                    raise
                time.sleep(self._patience.pause_s)
            except RejectedError as error:
                _log.warning("%s stays: %s", name, error)
                return False
            else:
                return True
        return True

    def remove(self, point: RestorePoint) -> None:
        """Delete the branch or snapshot of a point; no error when it is gone.

        Raises:
            RejectedError: something else has this id, or Neon refuses (a branch has children, ...).
            StageError: an operation of Neon failed.
        """
        what = f"remove {point.name}"
        attempts = 0
        while self._source(point) is not None:
            attempts += 1
            try:
                self._api.wait(self._api.change("DELETE", _path(point), what), what)
            except MissingError:
                return
            except LostError:
                if attempts == _LOOKS:
                    raise
                time.sleep(self._patience.pause_s)
            else:
                return

    def _create_branch(self, live: Branch, name: str, expires: Mapping[str, str]) -> RestorePoint:
        what = f"create branch {name}"
        found = self._named(name)
        if found is None:
            body = {"branch": {"name": name, "parent_id": live.id, **expires}, "endpoints": list[str]()}
            operations = self._send_once("/branches", what, lambda: self._named(name), [live], body=body)
        else:
            operations = self._api.operations({found.id})
        self._api.wait(operations, what)
        made = self._seen(lambda: self._named(name), what)
        _check_copy(made.parent_id, live, name)
        if made.current_state not in {"ready", "archived"}:
            raise TransientError(f"Neon, {what}: the branch is there, but still in the state {made.current_state}.")
        return _point(made)

    def _create_snapshot(self, live: Branch, name: str, expires: Mapping[str, str]) -> RestorePoint:
        what = f"create snapshot {name}"

        def look() -> Snapshot | None:
            return next((snapshot for snapshot in self._api.snapshots() if snapshot.name == name), None)

        if look() is None:
            path, query = f"/branches/{live.id}/snapshot", {"name": name, **expires}
            operations = self._send_once(path, what, look, [live], query=query)
        else:
            operations = [each for each in self._api.operations({live.id}) if not each.has_ended]
        self._api.wait(operations, what)
        made = self._seen(look, what)
        _check_copy(made.source_branch_id or live.id, live, name)
        return _point(made)

    def _keep(self, source: Branch, what: str) -> None:
        """Let a branch not expire that another one is about to depend on."""
        if source.expires_at is not None:
            body = {"branch": {"expires_at": None}}
            self._api.wait(self._api.change("PATCH", f"/branches/{source.id}", what, body=body), what)

    def _finalize(self, restored: Branch, live: Branch, preserve_as: str, what: str) -> None:
        """Put a restored snapshot in the live branch's place, with its name and its compute instead of its own."""
        for endpoint in self._api.endpoints(restored.id):
            self._api.wait(self._api.change("DELETE", f"/endpoints/{endpoint.id}", what), what)
        path, body = f"/branches/{restored.id}/finalize_restore", {"name": preserve_as}
        touched = [live, restored]
        self._api.wait(self._send_once(path, what, lambda: self._named(preserve_as), touched, body=body), what)

    def _add_compute(self, branch: Branch, what: str) -> None:
        body = {"endpoint": {"branch_id": branch.id, "type": "read_write"}}
        try:
            self._api.wait(self._api.change("POST", "/endpoints", what, body=body), what)
        except (LostError, TakenError):
            if self._patiently(lambda: self._api.endpoints(branch.id) or None) is None:
                raise

    def _send_once(
        self,
        path: str,
        what: str,
        look: Callable[[], Branch | Snapshot | None],
        touched: Sequence[Branch],
        *,
        query: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | None = None,
    ) -> Sequence[Operation]:
        """POST and return the operations begun. When the answer is lost, look for the effect instead of repeating.

        `touched` are the branches, beside the new one, that it begins operations on.
        """
        ids = {branch.id for branch in touched}
        before = {operation.id for operation in self._api.operations(ids)}
        try:
            return self._api.change("POST", path, what, query=query, body=body)
        except (LostError, TakenError) as error:
            found = self._patiently(look)
            if found is not None:
                return [each for each in self._api.operations({found.id} | ids) if each.id not in before]
            if isinstance(error, TakenError):
                raise
            raise TransientError(f"{error} No effect is to be seen, but it may come yet.") from error

    def _patiently(self, look: Callable[[], _Found | None]) -> _Found | None:
        for attempt in range(_LOOKS):
            if attempt:
                time.sleep(self._patience.pause_s)
            found = look()
            if found is not None:
                return found
        return None

    def _seen(self, look: Callable[[], _Found | None], what: str) -> _Found:
        found = self._patiently(look)
        if found is None:
            raise TransientError(f"Neon, {what}: it says that this is done, but no list shows it yet.")
        return found

    def _named(self, name: str) -> Branch | None:
        return next((branch for branch in self._api.branches() if branch.name == name), None)

    def _live(self) -> Branch:
        wanted, branches = self._settings.branch, self._api.branches()
        found = [branch for branch in branches if branch.id == wanted] or [b for b in branches if b.name == wanted]
        if not found:
            known = ", ".join(sorted(branch.name for branch in branches)[:20])
            raise RejectedError(
                f"Neon project {self._settings.project_id} has no branch with the name or id {wanted!r}. Mend the "
                f"settings; there are: {known}."
            )
        for branch in branches:
            if branch.restored_as == found[0].id and branch.restore_status != "restored":
                raise RejectedError(
                    f"Branch {found[0].name} ({found[0].id}) was replaced by {branch.name} ({branch.id}) when a "
                    f"snapshot was restored. Put the name {branch.name} into the settings instead of the id."
                )
        return found[0]

    def _source(self, point: RestorePoint) -> Branch | Snapshot | None:
        """Return what the point is in Neon, or None when it is gone."""
        _path(point)
        source: Branch | Snapshot | None
        try:
            if point.kind == _BRANCH:
                source = self._api.branch(point.point_id)
            else:
                source = next((each for each in self._api.snapshots() if each.id == point.point_id), None)
        except MissingError:
            return None
        if source is not None and source.name != point.name:
            raise RejectedError(
                f"Neon has {source.name} under the id {point.point_id}, not {point.name}: this is not the restore "
                "point. Nothing was changed."
            )
        return source

    def _check_kind(self, live: Branch) -> None:
        if self._settings.kind == "snapshot" and live.parent_id is not None:
            raise RejectedError(
                f"Branch {live.name} ({live.id}) has a parent ({live.parent_id}), and Neon makes snapshots only of "
                "branches that have none. Use restore points of the kind `branch`."
            )

    def _check_life(self, keep_for: timedelta | None) -> None:
        longest = _BRANCH_LIFE if self._settings.kind == "branch" else timedelta.max
        if keep_for is not None and not timedelta(seconds=1) <= keep_for <= longest:
            allowed = "a second or more, for a branch up to 30 days; or None, until it is removed"
            raise InvalidInputError("keep_for", str(keep_for), allowed, "For longer, use snapshots.")

    def _check_free(self, name: str) -> None:
        if not 0 < len(name) <= _NAME_MAX or not name.isprintable():
            allowed = f"1 to {_NAME_MAX} printable characters"
            raise InvalidInputError("preserve_as", name, allowed, "Choose another name for the state replaced.")
        if self._named(name) is not None:
            raise InvalidInputError(
                "preserve_as",
                name,
                "a name that no branch has",
                "If an earlier restore made it, look first whether that is what you want; else choose another name.",
            )


def _point(copy: Branch | Snapshot) -> RestorePoint:
    kind, lsn = (_BRANCH, copy.parent_lsn) if isinstance(copy, Branch) else (_SNAPSHOT, copy.lsn)
    return RestorePoint(kind=kind, point_id=copy.id, name=copy.name, lsn=lsn, expires_at=copy.expires_at)


def _path(point: RestorePoint) -> str:
    folders = {_BRANCH: "branches", _SNAPSHOT: "snapshots"}
    if point.kind not in folders or _ID.fullmatch(point.point_id) is None:
        raise RejectedError(f"{point.name} ({point.kind} {point.point_id}) is not a restore point of Neon.")
    return f"/{folders[point.kind]}/{point.point_id}"


def _check_copy(source_id: str | None, live: Branch, name: str) -> None:
    if source_id != live.id:
        raise RejectedError(
            f"Neon has {name} already, and it is a copy of {source_id}, not of {live.name} ({live.id}). Find out who "
            "made it; do not restore from it."
        )


def _in_words(span: timedelta) -> str:
    hours = span / timedelta(hours=1)
    return f"{hours:g} hours" if hours < 48 else f"{hours / 24:g} days"
