"""Stage 3: a backup of the database, and the proof that it can be restored.

Source: runbook, "Stage 3: Database Backup"; PostgreSQL manual, "pg_dump".
"""

from __future__ import annotations

import io
import logging
import threading
import time
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager, suppress
from contextvars import copy_context
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import BinaryIO

from runbook.clients.backup_files import sealed, stored_name
from runbook.clients.backup_store import BackupStore
from runbook.clients.database_facts import globals_sql, read_facts, sequence_values
from runbook.clients.dump import dump_files, dump_stream, is_compressible
from runbook.clients.fingerprint import exported_snapshot, fingerprint
from runbook.clients.restore_points import point_name
from runbook.clients.table_layout import read_layout
from runbook.clients.work_folder import work_folder
from runbook.clients.write_capture import capturing, end_capture
from runbook.connections import Connections
from runbook.errors import (
    DamagedBackupError,
    RefusedError,
    RejectedError,
    RunbookError,
    ServiceError,
    StageError,
    TransientError,
)
from runbook.manifest import (
    BackupManifest,
    DatabaseFacts,
    DumpFormat,
    Fingerprint,
    RestorePoint,
    SequenceRange,
    StoredFile,
    Verification,
    VerificationLevel,
    VerificationState,
)
from runbook.progress import report
from runbook.rules.identifiers import backup_taken_at, new_backup_id
from runbook.rules.restore_by_hand import DUMP_FILE, DUMP_FOLDER, GLOBALS, LAYOUT, ZST, restore_by_hand
from runbook.settings import ReplayMethod
from runbook.stages.restore import RestoredDatabase, restore_and_compare, restore_beside, restored_in_words

_log = logging.getLogger(__name__)
_CLOCK_TOLERANCE = timedelta(minutes=1)
_POINT_KEPT_FOR = 2  # times the rollback deadline


@dataclass(frozen=True)
class _Contents:
    """What one snapshot gave: the files of the dump as stored, and what the database held."""

    files: dict[str, StoredFile]
    fingerprint: Fingerprint
    facts: DatabaseFacts


def create_backup(connections: Connections, *, reason: str, triggered_by: str, capture: bool = False) -> BackupManifest:
    """Dump the database and fingerprint it in the same snapshot, then publish both.

    A dump that fails, or is interrupted, leaves nothing in the store. Never safe to take from a cache: an hour-old
    backup is another backup.

    Args:
        connections: the environment.
        reason: why it is made.
        triggered_by: who or what asked.
        capture: capture the writes from this very moment on, so that a rollback can replay them; where the server
            does not allow that they are found by comparing.

    Raises:
        RefusedError: this machine's clock is behind the newest backup.
        TransientError: the server or the store does not answer, or a backup was made in this very second.
        RejectedError: the store or the work folder cannot be written to, or no client program fits the server.
        StageError: `pg_dump` failed.
    """
    now = datetime.now(UTC)
    begun = time.monotonic()
    database, store, settings = connections.database, connections.store, connections.settings
    client = f"pg_dump {database.programs().version}"
    backup_id = new_backup_id(now)
    _check_clock(connections, now)
    active = connections.host.active()
    store.reserve(backup_id, triggered_by=triggered_by, at=now, run=database.stamp)
    point: RestorePoint | None = None
    try:
        point = _restore_point(connections, backup_id)
        contents = _dump(connections, backup_id, capture=capture)
        manifest = BackupManifest(
            backup_id=backup_id,
            environment=settings.name,
            database=database.name,
            created_at=now,
            duration_s=round(time.monotonic() - begun, 3),
            reason=reason,
            triggered_by=triggered_by,
            active_git_sha=active.git_sha if active else None,
            client=client,
            dump_format=settings.backup.dump_format,
            recipients=settings.backup.recipients,
            files=contents.files,
            facts=contents.facts,
            fingerprint=contents.fingerprint,
            restore_point=point,
            restore_by_hand=restore_by_hand(
                backup_id,
                place=store.place,
                database=database.name,
                dump_format=settings.backup.dump_format,
                is_encrypted=bool(settings.backup.recipients),
            ),
        )
        store.publish(manifest)
    except BaseException:
        _clean_up(connections, backup_id, point)
        raise
    _log.info("%s: %d bytes in %.1f s", backup_id, manifest.size_bytes, manifest.duration_s)
    return store.manifest(backup_id)


def copy_backup(connections: Connections, backup_id: str) -> str | None:
    """Copy a backup to the second store and return where it is; None when the environment has no second store.

    Safe to repeat: one that is there already is left as it is.

    Raises:
        ServiceError: a store does not answer, or cannot be used; the backup itself is untouched.
    """
    second = connections.second_store
    if second is None:
        return None
    manifest = connections.store.manifest(backup_id)
    if second.has(backup_id):
        return second.place
    with suppress(TransientError):  # an earlier attempt was interrupted
        second.reserve(backup_id, triggered_by=manifest.triggered_by, at=datetime.now(UTC))
    for name, file in manifest.files.items():
        with connections.store.open(manifest, name) as source:
            if second.put(backup_id, name, source) != file:
                raise RejectedError(f"{backup_id}: {name} arrived changed in {second.place}")
    second.publish(manifest)
    _log.info("%s copied to %s", backup_id, second.place)
    return second.place


def verify_backup(
    connections: Connections, backup_id: str, *, level: VerificationLevel | None = None
) -> BackupManifest:
    """Prove a backup and record the result in its manifest.

    Args:
        connections: the environment.
        backup_id: the backup.
        level: how; the environment's setting when None.

    Raises:
        InvalidInputError: the backup id is malformed or unknown, or the key to decrypt it is not at hand.
        RejectedError: no client program can restore it, or there is no room.
        DamagedBackupError: a file of it is missing or changed; recorded as failed.
        StageError: it cannot be restored or is not what its manifest says; recorded as failed.
    """
    level = level or connections.settings.backup.verification
    manifest = connections.store.manifest(backup_id)
    connections.database.programs()  # without them nothing is known about the backup
    with _failure_recorded(connections, backup_id, level):
        verification = _verify(connections, manifest, level)
    return _proven(connections, backup_id, verification)


def prove_by_copy(connections: Connections, backup_id: str) -> RestoredDatabase:
    """Prove a backup in full and keep the copy that it was restored to, for a rehearsal; the caller drops it.

    Raises:
        As `verify_backup`.
    """
    connections.database.programs()
    with _failure_recorded(connections, backup_id, VerificationLevel.FULL):
        copy = restore_beside(connections, backup_id, purpose="rehearsal")
    tables = connections.store.manifest(backup_id).fingerprint.tables
    verification = Verification(
        state=VerificationState.VERIFIED,
        level=VerificationLevel.FULL,
        at=datetime.now(UTC),
        restore_s=copy.restore_s,
        detail=restored_in_words(tables, len(tables)),
    )
    _proven(connections, backup_id, verification)
    return copy


def newest_backup(connections: Connections) -> BackupManifest:
    """Return the newest backup of the environment, whatever is known about it.

    Raises:
        RefusedError: there is none.
    """
    for manifest in connections.store.manifests():
        if manifest.environment == connections.settings.name:
            return manifest
    raise RefusedError(f"{connections.settings.name} has no backup yet; make one with `runbook db:backup`")


def newest_verified_backup(connections: Connections) -> BackupManifest:
    """Return the newest backup of the environment that was restored and found equal.

    Raises:
        RefusedError: there is none.
    """
    for manifest in connections.store.manifests():
        if manifest.is_verified and manifest.environment == connections.settings.name:
            return manifest
    raise RefusedError(f"{connections.settings.name} has no verified backup yet; make one with `runbook db:backup`")


def _check_clock(connections: Connections, now: datetime) -> None:
    """Refuse a backup that would be listed before one made earlier: `--latest` would take the wrong one."""
    newest = connections.store.newest_id()
    if newest is not None and backup_taken_at(newest) > now + _CLOCK_TOLERANCE:
        raise RefusedError(
            f"this machine's clock says {now:%Y-%m-%d %H:%M:%S} UTC, and {newest} was made after that. Set the clock "
            "right; until then the newest backup could not be told from an older one."
        )


def _verify(connections: Connections, manifest: BackupManifest, level: VerificationLevel) -> Verification:
    if level is VerificationLevel.CHECKSUMS:
        connections.store.check_files(manifest)
        detail = "every file was read back and is what was written; never restored"
        known = manifest.verification
        if known.state is VerificationState.VERIFIED:  # what a restore has proven is not taken back by a weaker proof
            return known
        return Verification(state=VerificationState.UNVERIFIED, level=level, at=datetime.now(UTC), detail=detail)
    return restore_and_compare(connections, manifest, level=level)


@contextmanager
def _failure_recorded(connections: Connections, backup_id: str, level: VerificationLevel) -> Generator[None]:
    """Write into the manifest that a backup cannot be restored, when the body of a `with` finds that out."""
    try:
        yield
    except (DamagedBackupError, StageError) as error:
        failed = Verification(state=VerificationState.FAILED, level=level, at=datetime.now(UTC), detail=str(error))
        _record(connections.store, backup_id, failed)
        raise


def _proven(connections: Connections, backup_id: str, verification: Verification) -> BackupManifest:
    _record(connections.store, backup_id, verification)
    _log.info("%s is %s: %s", backup_id, verification.state, verification.detail)
    return connections.store.manifest(backup_id)


def _record(store: BackupStore, backup_id: str, verification: Verification) -> None:
    """Write the outcome into the manifest as it is now: somebody else may have verified it meanwhile, too."""
    store.update(store.manifest(backup_id).with_verification(verification))


def _restore_point(connections: Connections, backup_id: str) -> RestorePoint | None:
    if connections.restore_points is None:
        return None
    keep_for = _POINT_KEPT_FOR * connections.settings.backup.rollback_deadline
    with connections.database.connect() as live:
        row = live.execute("SELECT pg_current_snapshot()::text").fetchone()
    point = connections.restore_points.create(point_name(backup_id), keep_for=keep_for)
    return point.model_copy(update={"snapshot": row[0] if row else None})


def _clean_up(connections: Connections, backup_id: str, point: RestorePoint | None) -> None:
    """Remove what a failed backup left; what cannot be removed now is swept later, and hides no error."""
    left: list[Callable[[], None]] = [
        lambda: connections.store.discard(backup_id),
        lambda: end_capture(connections.database, backup_id),
    ]
    if point is not None and connections.restore_points is not None:
        left.append(partial(connections.restore_points.remove, point))
    for remove in left:
        try:
            remove()
        except Exception as error:  # noqa: BLE001 - the error that brought us here is the one to be seen
            _log.warning("%s was not finished, and not all of it could be removed: %s", backup_id, error)


@contextmanager
def _capturing(connections: Connections, backup_id: str, *, wanted: bool) -> Generator[str | None]:
    """Begin to capture writes where that is possible; give the snapshot that the dump then has to be made of."""
    with ExitStack() as stack:
        snapshot_id = None
        is_read = connections.restore_points is None
        if wanted and is_read and connections.settings.rollback.replay in (ReplayMethod.AUTO, ReplayMethod.SLOT):
            try:
                snapshot_id = stack.enter_context(capturing(connections.database, backup_id))
            except (RefusedError, ServiceError) as error:
                _log.warning("%s; a rollback will find them by comparing, which takes longer", error)
        yield snapshot_id


def _dump(connections: Connections, backup_id: str, *, capture: bool) -> _Contents:
    database, settings = connections.database, connections.settings
    failed = threading.Event()

    def go_on(_fraction: float) -> None:
        if failed.is_set():
            raise RunbookError("the dump failed meanwhile")

    with (
        _capturing(connections, backup_id, wanted=capture) as captured,
        exported_snapshot(database, adopted=captured) as snapshot,
        ThreadPoolExecutor(max_workers=1) as beside,
    ):
        connection, snapshot_id = snapshot
        facts = read_facts(connection, database.server_version())
        globals_script = globals_sql(connection)
        layout = read_layout(connection)
        history = settings.migrations.history_table
        found = beside.submit(fingerprint, database, history, snapshot=snapshot, progress=go_on)
        try:
            files = store_dump(connections, backup_id, snapshot_id, expected_bytes=facts.size_bytes, beside=found)
        except BaseException:
            failed.set()
            raise
        fingerprinted = found.result()
    with database.connect() as connection:
        after = sequence_values(connection)
    for name, text in ((GLOBALS, globals_script), (f"{LAYOUT}{ZST}", layout.model_dump_json())):
        stored = _put(connections, backup_id, name, io.BytesIO(text.encode()))
        files[stored_name(name, settings.backup.recipients)] = stored
    sequences = {
        name: SequenceRange(before=known.before, after=after.get(name)) for name, known in facts.sequences.items()
    }
    return _Contents(files, fingerprinted, facts.model_copy(update={"sequences": sequences}))


def store_dump(
    connections: Connections,
    backup_id: str,
    snapshot_id: str,
    *,
    expected_bytes: int = 1,
    beside: Future[Fingerprint] | None = None,
) -> dict[str, StoredFile]:
    """Dump a snapshot into the files of a reserved backup and return them by name.

    Args:
        connections: the environment.
        backup_id: the backup.
        snapshot_id: the exported snapshot.
        expected_bytes: about so much is to be dumped, for the progress of a stream.
        beside: work that goes on at the same time; when it fails the dump is given up.

    Raises:
        StageError: `pg_dump` failed.
        ServiceError: the store does not answer, or cannot be written to.
    """
    if connections.settings.backup.dump_format is DumpFormat.STREAM:
        name = f"{DUMP_FILE}{ZST}"
        with dump_stream(connections.database, snapshot_id) as stream:
            source = _Counted(stream, expected_bytes)
            stored = _put(connections, backup_id, name, source)  # pyright: ignore[reportArgumentType]
        return {stored_name(name, connections.settings.backup.recipients): stored}
    return _store_files(connections, backup_id, snapshot_id, beside)


def _store_files(
    connections: Connections, backup_id: str, snapshot_id: str, beside: Future[Fingerprint] | None
) -> dict[str, StoredFile]:
    """Store the files of a parallel dump while it goes on; the disk holds only those on their way."""
    jobs = connections.settings.backup.jobs
    stored: dict[str, Future[StoredFile]] = {}
    watched: list[Future[Fingerprint]] = [beside] if beside else []
    with work_folder(connections.work_directory, backup_id) as folder, ThreadPoolExecutor(jobs) as pool:
        dump = dump_files(connections.database, snapshot_id, folder / DUMP_FOLDER, jobs=jobs)
        try:
            for finished in dump:
                for path in finished:
                    name = f"{DUMP_FOLDER}/{path.name}" + (ZST if is_compressible(path.name) else "")
                    stored[stored_name(name, connections.settings.backup.recipients)] = pool.submit(
                        _put_file, connections, backup_id, name, path
                    )
                _raise_first([*watched, *stored.values()])
                report("backup", sum(put.done() for put in stored.values()) / (len(stored) + 1))
            done, _ = wait(stored.values(), return_when=FIRST_EXCEPTION)
            _raise_first(done)
        except BaseException:
            dump.close()
            pool.shutdown(wait=True, cancel_futures=True)
            raise
    report("backup", 1)
    return {name: put.result() for name, put in stored.items()}


def _raise_first(futures: Iterable[Future[Fingerprint] | Future[StoredFile]]) -> None:
    for future in futures:
        if future.done() and not future.cancelled() and (error := future.exception()):
            raise error


def _put_file(connections: Connections, backup_id: str, name: str, path: Path) -> StoredFile:
    with path.open("rb") as source:
        stored = _put(connections, backup_id, name, source)
    path.unlink()
    return stored


def _put(connections: Connections, backup_id: str, name: str, source: BinaryIO) -> StoredFile:
    """Store one file of a backup, compressed when its name ends so, and encrypted where configured."""
    recipients = connections.settings.backup.recipients
    with sealed(source, name, recipients) as stream:
        return connections.store.put(backup_id, stored_name(name, recipients), stream)


class _Counted:
    """A stream that reports how far it has been read, of a size that is only known roughly."""

    def __init__(self, stream: BinaryIO, expected_bytes: int) -> None:
        self._stream, self._expected_bytes, self._bytes = stream, expected_bytes, 0
        self._context = copy_context()  # whoever reads may be a thread of its own

    def read(self, size: int = -1) -> bytes:
        data = self._stream.read(size)
        self._bytes += len(data)
        fraction = min(0.99, self._bytes / max(self._expected_bytes, 1)) if data else 1
        self._context.run(report, "backup", fraction)
        return data
