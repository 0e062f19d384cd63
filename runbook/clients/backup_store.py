"""Backups and the records of runs in an object store.

database/backups/<backup_id>/RESERVED        who is making it, since when; written first
database/backups/<backup_id>/...             its files
database/backups/<backup_id>.meta.json       its manifest, written last: without one there is no backup
database/backups/<backup_id>.pin.json        why it is kept for ever, if it is
logs/deploy_*.json, logs/rollback_*.json, logs/drill_*.json, logs/migrate_*.json, logs/watch_*.json
logs/incident_*.md                           with the same time in its name as its rollback's log; people go on with it

Source: runbook, "Deployment Logs".
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import BinaryIO, TypeVar

from pydantic import BaseModel, ValidationError

from runbook.clients.object_store import CHUNK_BYTES, MissingObjectError, ObjectExistsError, ObjectStore
from runbook.errors import DamagedBackupError, InvalidInputError, RefusedError, RejectedError, TransientError
from runbook.manifest import BackupManifest, Pin, StoredFile
from runbook.reports import DeployReport, DrillReport, MigrateReport, RollbackReport
from runbook.rules.identifiers import check_backup_id
from runbook.watch_report import WatchReport

_log = logging.getLogger(__name__)
_BACKUPS = "database/backups/"
_META = ".meta.json"
_PIN = ".pin.json"
_RESERVED = "RESERVED"
_AT_A_TIME = 8
_AnyReport = DeployReport | RollbackReport | DrillReport | MigrateReport | WatchReport
ModelT = TypeVar("ModelT", bound=BaseModel)


class BackupStore:
    """Backups in an object store: nobody lists one that is not whole, nobody reads one that was changed."""

    def __init__(self, objects: ObjectStore) -> None:
        self.objects = objects

    @property
    def place(self) -> str:
        """Where it is, for messages and for commands by hand."""
        return self.objects.place

    def check(self) -> None:
        """Raise `RejectedError`, in words a person can act on, unless the store can be used."""
        self.objects.check()

    def reserve(self, backup_id: str, *, triggered_by: str, at: datetime, run: str = "") -> None:
        """Make an id this run's own, before anything is written under it; `run` is its stamp, if it has one.

        Raises:
            TransientError: the id is taken; the next second gives another.
        """
        note = json.dumps({"triggeredBy": triggered_by, "at": at.isoformat(), "run": run})
        try:
            self.objects.create(_file(backup_id, _RESERVED), note.encode())
        except ObjectExistsError as error:
            raise TransientError(f"{backup_id} is taken by another run; wait a second and try again") from error

    def put(self, backup_id: str, name: str, source: BinaryIO) -> StoredFile:
        """Store one file of a reserved backup."""
        return self.objects.write(_file(backup_id, name), source)

    def publish(self, manifest: BackupManifest) -> None:
        """Make a reserved backup visible, once all its files are found in the store.

        Raises:
            RejectedError: a file is missing or has another size.
        """
        sizes = {found.key: found.size_bytes for found in self.objects.objects(_file(manifest.backup_id, ""))}
        for name, file in manifest.files.items():
            if sizes.get(_file(manifest.backup_id, name)) != file.size_bytes:
                raise RejectedError(f"{manifest.backup_id}: {name} is not in {self.place} as it was written")
        self.objects.create(_meta(manifest.backup_id), _json(manifest.sealed()), protected=True)

    def discard(self, backup_id: str) -> None:
        """Remove a reserved backup that was not published; no error when there is none."""
        if self.has(backup_id):
            return
        self.objects.delete([found.key for found in self.objects.objects(_file(backup_id, ""))])

    def discard_those_of(self, run: str) -> list[str]:
        """Remove the backups that a run reserved and did not publish; return their ids."""
        published = set(self._ids())
        keys = [
            found.key for found in self.objects.objects(f"{_BACKUPS}backup_") if found.key.endswith(f"/{_RESERVED}")
        ]
        left = {key.removeprefix(_BACKUPS).removesuffix(f"/{_RESERVED}"): key for key in keys}
        mine = [
            backup_id
            for backup_id, key in left.items()
            if backup_id not in published and json.loads(self.objects.read(key)).get("run") == run
        ]
        for backup_id in mine:
            self.objects.sweep(_file(backup_id, ""), older_than=timedelta(0))
            self.discard(backup_id)
        return mine

    def newest_id(self) -> str | None:
        """Return the id of the newest published backup; ids sort by time."""
        return max(self._ids(), default=None)

    def manifests(self) -> Sequence[BackupManifest]:
        """Return the manifests of all published backups, newest first.

        One that cannot be read is left out, with a warning, so that the others stay usable.
        """
        with ThreadPoolExecutor(_AT_A_TIME) as pool:
            found = list(pool.map(self._listed, self._ids()))
        return [manifest for manifest in reversed(found) if manifest is not None]

    def has(self, backup_id: str) -> bool:
        """Return whether a backup is published."""
        return any(found.key == _meta(backup_id) for found in self.objects.objects(_meta(backup_id)))

    def manifest(self, backup_id: str) -> BackupManifest:
        """Return one manifest.

        Raises:
            InvalidInputError: the id is malformed or unknown.
            RejectedError: the manifest was changed, cut, or belongs to another backup.
        """
        key = _meta(backup_id)
        try:
            manifest = self._read(key, BackupManifest)
        except MissingObjectError as error:
            newest = sorted(self._ids(), reverse=True)[:5]
            raise InvalidInputError(
                "backup_id",
                backup_id,
                "a backup in the store, newest first: " + (", ".join(newest) or "there is none yet"),
                "List all with `runbook db:backups`.",
            ) from error
        if manifest.backup_id != backup_id:
            raise RejectedError(f"{key} is the manifest of {manifest.backup_id!r}; it was not used")
        if not manifest.is_intact:
            raise RejectedError(
                f"{key} in {self.place} was changed after it was written; it was not used. Choose another backup, or "
                "bring an earlier version of the manifest back."
            )
        return manifest

    def update(self, manifest: BackupManifest) -> None:
        """Replace the manifest of a published backup, for example after its verification."""
        self.objects.replace(_meta(manifest.backup_id), _json(manifest.sealed()))

    @contextmanager
    def open(self, manifest: BackupManifest, name: str) -> Generator[BinaryIO]:
        """Open a file of a backup for reading; what was read is checked against its sha256, at the latest at the end.

        Raises:
            DamagedBackupError: the file is missing, or is not what the manifest says.
        """
        file = manifest.files[name]
        try:
            with self.objects.open(_file(manifest.backup_id, name)) as stream:
                checked = _Checked(stream, file, f"{manifest.backup_id}: {name}")
                yield checked  # pyright: ignore[reportReturnType] - the part of BinaryIO that is used
                checked.drain()
        except MissingObjectError as error:
            raise DamagedBackupError(
                f"{manifest.backup_id}: {name} is missing in {self.place}; choose another backup with "
                "`runbook db:backups`"
            ) from error

    def check_files(self, manifest: BackupManifest) -> None:
        """Read every file of a backup back and compare it with its sha256.

        Raises:
            DamagedBackupError: one is missing or differs.
        """

        def check(name: str) -> None:
            with self.open(manifest, name):
                pass

        with ThreadPoolExecutor(_AT_A_TIME) as pool:
            for done in [pool.submit(check, name) for name in manifest.files]:
                done.result()

    def remove(self, backup_id: str) -> None:
        """Delete a backup, its manifest first: what is interrupted is no backup any more.

        Raises:
            RefusedError: it is pinned.
            ObjectLockedError: it may not be deleted yet; nothing was.
        """
        if backup_id in self.pins():
            raise RefusedError(f"{backup_id} is pinned; unpin it first")
        files = [found.key for found in self.objects.objects(_file(backup_id, ""))]
        reserved = _file(backup_id, _RESERVED)
        self.objects.delete([_meta(backup_id), *sorted(files, key=lambda key: key == reserved)])

    def locked_until(self, manifest: BackupManifest) -> datetime | None:
        """Return until when the store protects a backup from deletion, or None."""
        keys = [_meta(manifest.backup_id), *(_file(manifest.backup_id, name) for name in manifest.files)]
        with ThreadPoolExecutor(_AT_A_TIME) as pool:
            return max((until for until in pool.map(self.objects.locked_until, keys) if until), default=None)

    def pin(self, backup_id: str, pin: Pin) -> None:
        """Keep a backup whatever the retention says; `InvalidInputError` when there is no such backup."""
        self.manifest(backup_id)
        self.objects.replace(_pin(backup_id), _json(pin))

    def unpin(self, backup_id: str) -> None:
        """Let the retention decide about a backup again; no error when it was not pinned."""
        self.objects.delete([_pin(backup_id)])

    def pins(self) -> dict[str, Pin]:
        """Return the pinned backups, and why."""
        keys = [key for key in self._records() if key.endswith(_PIN)]
        return {key.removeprefix(_BACKUPS).removesuffix(_PIN): self._read(key, Pin) for key in keys}

    def sweep(self, *, older_than: timedelta) -> list[str]:
        """Remove what interrupted backups left behind and return what it was.

        Only what is older than `older_than` by the store's own clock: another run may be making a backup.
        """
        removed = [f"{count} unfinished writes"] if (count := self.objects.sweep("", older_than=older_than)) else []
        published, now = set(self._ids()), self.objects.now()
        newest: dict[str, datetime] = {}
        for found in self.objects.objects(_BACKUPS):
            backup_id, inside, _ = found.key.removeprefix(_BACKUPS).partition("/")
            if inside and backup_id not in published:
                newest[backup_id] = max(found.modified_at, newest.get(backup_id, found.modified_at))
        for backup_id, modified_at in newest.items():
            if now - modified_at > older_than:
                self.discard(backup_id)
                removed.append(f"{backup_id}, which was never finished")
        return removed

    def write_deploy(self, report: DeployReport) -> str:
        """Keep the report of a deploy; return where (`logs/deploy_*.json`)."""
        return self._write_report("deploy", report)

    def write_rollback(self, report: RollbackReport) -> str:
        """Keep the report of a rollback; return where (`logs/rollback_*.json`)."""
        return self._write_report("rollback", report)

    def write_drill(self, report: DrillReport) -> str:
        """Keep the report of a restore drill; return where (`logs/drill_*.json`)."""
        return self._write_report("drill", report)

    def write_migrate(self, report: MigrateReport) -> str:
        """Keep the report of a migration of the database alone; return where (`logs/migrate_*.json`)."""
        return self._write_report("migrate", report)

    def write_watch(self, report: WatchReport) -> str:
        """Keep the report of a watch; return where (`logs/watch_*.json`)."""
        return self._write_report("watch", report)

    def incident(self, report: RollbackReport) -> str | None:
        """Return the incident report of a rollback as it is now, with what people wrote; None before it is opened."""
        try:
            return self.objects.read(_log_key("incident", report.timestamp, "md")).decode()
        except MissingObjectError:
            return None

    def write_incident(self, report: RollbackReport, markdown: str) -> str:
        """Keep the incident report of a rollback; return where (`logs/incident_*.md`)."""
        key = _log_key("incident", report.timestamp, "md")
        self.objects.replace(key, markdown.encode())
        return f"{self.place}/{key}"

    def history(self) -> Sequence[DeployReport | RollbackReport]:
        """Return the reports of deploys and rollbacks, oldest first.

        Raises:
            RejectedError: one cannot be read; it may be the one that marks a release bad.
        """
        deploys: list[DeployReport | RollbackReport] = [*self._reports("deploy", DeployReport)]
        rollbacks = self._reports("rollback", RollbackReport)
        return sorted([*deploys, *rollbacks], key=lambda report: report.timestamp)

    def migrates(self) -> Sequence[MigrateReport]:
        """Return the reports of migrations of the database alone, oldest first."""
        return sorted(self._reports("migrate", MigrateReport), key=lambda report: report.timestamp)

    def drills(self) -> Sequence[DrillReport]:
        """Return the reports of restore drills, oldest first."""
        return sorted(self._reports("drill", DrillReport), key=lambda report: report.timestamp)

    def _write_report(self, kind: str, report: _AnyReport) -> str:
        key = _log_key(kind, report.timestamp, "json")
        self.objects.replace(key, _json(report))
        return f"{self.place}/{key}"

    def _reports(self, kind: str, model: type[ModelT]) -> list[ModelT]:
        def read(key: str) -> ModelT:
            return self._read(key, model)

        with ThreadPoolExecutor(_AT_A_TIME) as pool:
            return list(pool.map(read, [found.key for found in self.objects.objects(f"logs/{kind}_")]))

    def _listed(self, backup_id: str) -> BackupManifest | None:
        try:
            return self.manifest(backup_id)
        except (InvalidInputError, RejectedError) as error:
            _log.warning("left out of the list of backups: %s", error)
            return None

    def _ids(self) -> list[str]:
        return [key.removeprefix(_BACKUPS).removesuffix(_META) for key in self._records() if key.endswith(_META)]

    def _records(self) -> Iterator[str]:
        """List what lies beside the folders of backups: manifests and pins."""
        for found in self.objects.objects(f"{_BACKUPS}backup_"):
            if "/" not in found.key.removeprefix(_BACKUPS):
                yield found.key

    def _read(self, key: str, model: type[ModelT]) -> ModelT:
        data = self.objects.read(key)
        try:
            return model.model_validate_json(data)
        except (ValidationError, RefusedError) as error:
            text = str(error) if isinstance(error, RefusedError) else _first(error)
            raise RejectedError(
                f"{key} in {self.place} cannot be read as {model.__name__}: {text}. Mend it, or move it away if it is "
                "not the runbook's."
            ) from error


class _Checked:
    """A stream that raises when what was read is not what the manifest says."""

    def __init__(self, stream: BinaryIO, file: StoredFile, what: str) -> None:
        self._stream, self._file, self._what = stream, file, what
        self._digest, self._size, self._ended = hashlib.sha256(), 0, False

    def read(self, size: int = -1) -> bytes:
        data = self._stream.read(size)
        self._digest.update(data)
        self._size += len(data)
        if self._size > self._file.size_bytes or (not data and size != 0) or size < 0:
            self._end()
        return data

    def drain(self) -> None:
        """Read what is left, so that also what nobody wanted is checked."""
        while not self._ended:
            self.read(CHUNK_BYTES)

    def _end(self) -> None:
        self._ended = True
        if self._size != self._file.size_bytes or self._digest.hexdigest() != self._file.sha256:
            raise DamagedBackupError(
                f"{self._what} is not what its manifest says: changed, cut or swapped. It was not used; choose another "
                "backup with `runbook db:backups`."
            )


def _file(backup_id: str, name: str) -> str:
    return f"{_BACKUPS}{check_backup_id(backup_id)}/{name}"


def _meta(backup_id: str) -> str:
    return f"{_BACKUPS}{check_backup_id(backup_id)}{_META}"


def _pin(backup_id: str) -> str:
    return f"{_BACKUPS}{check_backup_id(backup_id)}{_PIN}"


def _log_key(kind: str, at: datetime, ending: str) -> str:
    return f"logs/{kind}_{at:%Y%m%d_%H%M%S_%f}.{ending}"


def _json(record: BaseModel) -> bytes:
    return (record.model_dump_json(by_alias=True, indent=2) + "\n").encode()


def _first(error: ValidationError) -> str:
    first = error.errors(include_input=False, include_url=False)[0]
    return f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}"
