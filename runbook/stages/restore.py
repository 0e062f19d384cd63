"""Restoring a backup: beside the live database, compared with its manifest, and only then put in its place.

A restore on top of a live database rolls nothing back and ends with exit code 0; so there is none.
Source: runbook, "Rollback Types".
"""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

import psycopg

from runbook.clients.backup_files import opened
from runbook.clients.client_programs import ClientPrograms
from runbook.clients.database_copies import carry_properties, create_beside, drop, swap
from runbook.clients.database_facts import sequence_values
from runbook.clients.difference_replay import last_renamed, written_since
from runbook.clients.encryption import Identity
from runbook.clients.fingerprint import LARGE_OBJECTS, fingerprint
from runbook.clients.object_store import CHUNK_BYTES
from runbook.clients.work_folder import work_folder
from runbook.clients.write_capture import drop_publications
from runbook.connections import Connections
from runbook.errors import (
    RefusedError,
    RejectedError,
    StageError,
    TransientError,
)
from runbook.manifest import (
    BackupManifest,
    DumpFormat,
    RestorePoint,
    SequenceRange,
    TableFingerprint,
    Verification,
    VerificationLevel,
    VerificationState,
)
from runbook.progress import report
from runbook.reports import Replay
from runbook.rules.drills import duration_in_words
from runbook.rules.restore_by_hand import AGE, DUMP_FILE, DUMP_FOLDER, ZST
from runbook.rules.restore_sample import choose_sample, sample_list
from runbook.settings import ReplayMethod
from runbook.stages.identity import require_identity
from runbook.stages.replay import LastWrites, replay_method

_log = logging.getLogger(__name__)
# Several indexes are built at a time; that each takes several processes, too, made it slower when measured.
_SPEED = {"synchronous_commit": "off", "maintenance_work_mem": "256MB", "max_parallel_maintenance_workers": "0"}
BEFORE_ROLLBACK = "before_rollback"
"""In the name of a database that a swap has replaced."""
UNDONE = "undone"
"""In the name of a restored database whose swap was undone after it had been written to."""
_DEADLOCK = "ERROR:  deadlock detected"
_DISK_FULL = "No space left on device"


@dataclass(frozen=True)
class FreshDatabase:
    """A database beside the live one that is to take its place."""

    name: str


@dataclass(frozen=True)
class RestoredDatabase(FreshDatabase):
    """A backup restored beside the live database and found equal to its manifest; `restore_s` in seconds."""

    backup_id: str
    restore_s: float


@dataclass(frozen=True)
class Swap:
    """A swap that happened: `live` is now the fresh database, `kept` the one that it replaced.

    `transaction` is the number of the one that swapped, where it is known.
    """

    kept: str
    restored: FreshDatabase
    replay: Replay | None = None
    transaction: int | None = None


def restore_beside(connections: Connections, backup_id: str, *, purpose: str) -> RestoredDatabase:
    """Restore a backup into a fresh database beside the live one and compare all of it with the manifest.

    Leaves no database behind when it fails.

    Raises:
        InvalidInputError: the backup id is malformed or unknown, or the key to decrypt it is not at hand.
        RefusedError: the backup is of another environment.
        RejectedError: a file of the backup is missing or changed, or there is no room for it.
        StageError: it cannot be restored, or what came back is not what the manifest says.
        TransientError: the server or the store was gone meanwhile.
    """
    manifest = connections.store.manifest(backup_id)
    name = connections.database.beside(purpose)
    begun = time.monotonic()
    _restore(connections, manifest, name, VerificationLevel.FULL)
    restored = RestoredDatabase(name, backup_id, round(time.monotonic() - begun, 3))
    _log.info("%s restored as %s in %.1f s and found equal to its manifest", backup_id, name, restored.restore_s)
    return restored


def restore_replacement(connections: Connections, backup_id: str, *, purpose: str) -> RestoredDatabase:
    """Restore a backup beside the live database, to take its place.

    Where the provider makes instant copies, that is a branch of the backup's restore point; else as `restore_beside`.

    Raises:
        As `restore_beside`; RefusedError when the restore point is gone.
    """
    points = connections.restore_points
    if points is None:
        return restore_beside(connections, backup_id, purpose=purpose)
    manifest = connections.store.manifest(backup_id)
    point = require_point(connections, manifest)
    name, begun = connections.database.beside(purpose), time.monotonic()
    points.open(point, name)
    try:
        _compare_branch(connections, manifest, name)
    except BaseException:
        _drop_quietly(connections, name)
        raise
    restored = RestoredDatabase(name, backup_id, round(time.monotonic() - begun, 3))
    _log.info("%s opened as branch %s in %.1f s", point.name, name, restored.restore_s)
    return restored


def require_point(connections: Connections, manifest: BackupManifest) -> RestorePoint:
    """Return the restore point beside a backup, which is still there.

    Raises:
        RefusedError: it has expired, was removed or never made; the message says how far back the provider goes.
        ServiceError: the provider does not say.
    """
    points, point = connections.restore_points, manifest.restore_point
    assert points is not None  # noqa: S101 - asked only where there are some
    if point is not None and (found := points.find(point.name)) is not None and found.point_id == point.point_id:
        return point
    why = "was made without a restore point"
    if point is not None:
        kept = f"kept until {point.expires_at:%Y-%m-%d %H:%M} UTC" if point.expires_at else "not to expire"
        why = f"had the restore point {point.name} ({kept}), which is gone"
    history = duration_in_words(points.horizon().total_seconds())
    raise RefusedError(
        f"{manifest.backup_id} {why}; the provider's own history goes back {history}. "
        "What is left: another backup (`runbook db:backups`), or the dump of this one, restored by hand as its "
        "manifest says."
    )


def restore_and_compare(
    connections: Connections, manifest: BackupManifest, *, level: VerificationLevel
) -> Verification:
    """Restore a backup, or a sample of it, into a scratch database, compare it, and drop it.

    A dump made as one stream is always restored in full: it cannot be read in parts.

    Raises:
        As `restore_beside`.
    """
    if manifest.dump_format is DumpFormat.STREAM:
        level = VerificationLevel.FULL
    name = connections.database.beside("verify")
    begun = time.monotonic()
    tables = _restore(connections, manifest, name, level)
    drop(connections.database, name)
    compared = manifest.fingerprint.only(tables).tables
    return Verification(
        state=VerificationState.VERIFIED,
        level=level,
        at=datetime.now(UTC),
        restore_s=round(time.monotonic() - begun, 3),
        detail=restored_in_words(compared, len(manifest.fingerprint.tables)),
    )


def restored_in_words(compared: Mapping[str, TableFingerprint], tables: int) -> str:
    """Say what a restore has proven: which of so many tables were compared, with how many rows."""
    rows = sum(table.rows for table in compared.values())
    what = f"{len(compared)} tables, {rows} rows"
    return f"restored into a scratch database; schema, row counts and checksums are equal ({what})" + (
        f" of {tables} tables" if len(compared) < tables else ""
    )


def fill_database(
    connections: Connections,
    manifest: BackupManifest,
    name: str,
    level: VerificationLevel = VerificationLevel.FULL,
    *,
    jobs: int | None = None,
) -> Collection[str]:
    """Restore a backup into an empty database, without comparing it; return the tables whose rows were restored.

    `jobs` tables are restored at a time, as many as the settings say when None.

    Raises:
        As `restore_beside`.
    """
    identities = require_identity(connections, manifest)
    programs = connections.database.programs()
    if manifest.dump_format is DumpFormat.STREAM:
        with opened(connections.store, manifest, f"{DUMP_FILE}{ZST}", identities) as source:
            _run_restore(connections, manifest, programs, name, [], source=source)
        return manifest.fingerprint.tables
    with work_folder(connections.work_directory, manifest.backup_id) as folder:
        _fetch(connections, manifest, identities, folder)
        tables, chosen = _chosen(connections, manifest, programs, level, folder)
        _run_restore(
            connections,
            manifest,
            programs,
            name,
            [f"--jobs={jobs or connections.settings.backup.jobs}", *chosen, str(folder / DUMP_FOLDER)],
        )
    return tables


def name_to_keep(connections: Connections) -> str:
    """Return the name under which a swap keeps the database that it replaces."""
    return connections.database.beside(BEFORE_ROLLBACK)


def swap_in(connections: Connections, restored: RestoredDatabase) -> Swap:
    """Put a restored database in the live one's place; the live one is kept, closed, under a name with the time.

    The last writes are replayed while nobody can write, unless the settings say that they are to be lost.

    Raises:
        StageError: the names did not change; the live database takes connections as before.
    """
    carry_properties(connections.database, restored.name)
    kept = name_to_keep(connections)
    method = replay_method(connections, restored.backup_id)
    if method is ReplayMethod.NONE:
        return Swap(kept, restored, transaction=swap(connections.database, restored.name, kept))
    with LastWrites.opened(connections, restored.backup_id, restored.name, method) as last:
        transaction = swap(connections.database, restored.name, kept, last=last)
    _log.info("%s took the place of %s, which is kept as %s", restored.name, connections.database.name, kept)
    return Swap(kept, restored, last.replay, transaction)


def undo_swap(connections: Connections, swapped: Swap) -> str | None:
    """Put the kept database back in its place; return what was written to the restored one meanwhile, if anything was.

    The restored one is dropped then only when nothing was; otherwise it is kept, closed, under the name that is said.

    Raises:
        StageError: the names did not change.
    """
    undone = connections.database.beside(UNDONE)
    said = swap_out(connections, swapped.kept, undone)
    if said is None:
        drop(connections.database, undone)
    return said


def swap_out(connections: Connections, name: str, aside: str) -> str | None:
    """Put a database back in the live one's place, which gets the name `aside`, closed.

    Returns what was written to it since it was swapped in, if anything was.

    Raises:
        StageError: the names did not change.
    """
    with connections.database.connect() as live:
        written = _WrittenSince(live)
        swap(connections.database, name, aside, last=written)
    if not written.rows:
        return None
    tables = ", ".join(f"{table} {rows}" for table, rows in written.rows.items())
    return f"rows written between the swap and its undoing are only in {aside}, which is kept: {tables}"


class _WrittenSince:
    """Counts the rows that were written to the live database since it was swapped in, before it is swapped out."""

    def __init__(self, live: psycopg.Connection) -> None:
        self._live = live
        self.sessions = (live.info.backend_pid,)
        self._swap = last_renamed(live, live.info.dbname)  # before the fence changes the database, too
        self.rows: dict[str, int] = {}

    def carry(self) -> None:
        self.rows = {one.table: one.rows for one in written_since(self._live, self._swap).values()}
        self._live.close()


def drop_restored(connections: Connections, restored: FreshDatabase) -> None:
    """Drop a restored database that did not take the live one's place."""
    drop(connections.database, restored.name)


def _restore(
    connections: Connections, manifest: BackupManifest, name: str, level: VerificationLevel
) -> Collection[str]:
    """Restore into a fresh database and compare; return the tables whose content was compared."""
    if manifest.environment != connections.settings.name:
        raise RefusedError(
            f"{manifest.backup_id} is of environment {manifest.environment}, not of {connections.settings.name}"
        )
    require_identity(connections, manifest)
    create_beside(connections.database, name)
    try:
        tables = _filled(connections, manifest, name, level)
        drop_publications(connections.database, name)
        _compare(connections, manifest, name, tables)
    except BaseException:
        _drop_quietly(connections, name)
        raise
    return tables


def _filled(connections: Connections, manifest: BackupManifest, name: str, level: VerificationLevel) -> Collection[str]:
    """Restore into a fresh database; one table at a time when the jobs of `pg_restore` stood in each other's way.

    Attaching the indexes of partitions in parallel can deadlock, which says nothing about the backup.
    """
    try:
        return fill_database(connections, manifest, name, level)
    except _DeadlockError:
        _log.warning("%s: the jobs of pg_restore blocked each other; restoring with one job", manifest.backup_id)
    drop(connections.database, name)
    create_beside(connections.database, name)
    return fill_database(connections, manifest, name, level, jobs=1)


class _DeadlockError(StageError):
    """Two sessions of `pg_restore` waited for each other."""


def _fetch(connections: Connections, manifest: BackupManifest, identities: list[Identity], folder: Path) -> None:
    """Bring the files of a dump into a folder, plain, several at a time."""
    (folder / DUMP_FOLDER).mkdir(mode=0o700)
    names = [name.removesuffix(AGE) for name in manifest.files if name.startswith(f"{DUMP_FOLDER}/")]

    def fetch(name: str) -> None:
        try:
            with (
                opened(connections.store, manifest, name, identities) as source,
                (folder / name.removesuffix(ZST)).open("xb") as target,
            ):
                shutil.copyfileobj(source, target, CHUNK_BYTES)
        except OSError as error:
            raise RejectedError(f"{name} cannot be written to the work folder: {error}") from error

    with ThreadPoolExecutor(connections.settings.backup.jobs) as pool:
        fetched = [pool.submit(fetch, name) for name in names]
        try:
            for number, done in enumerate(fetched, 1):
                done.result()
                report("fetch", number / len(fetched))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _chosen(
    connections: Connections,
    manifest: BackupManifest,
    programs: ClientPrograms,
    level: VerificationLevel,
    folder: Path,
) -> tuple[Collection[str], list[str]]:
    """Return the tables to restore, and the arguments that tell `pg_restore`."""
    if level is not VerificationLevel.SAMPLE:
        return manifest.fingerprint.tables, []
    # Large objects hang together with every table that names them, and with none by a foreign key.
    tables = choose_sample(
        {name: table for name, table in manifest.fingerprint.tables.items() if name != LARGE_OBJECTS},
        manifest.facts.references,
        percent=connections.settings.backup.sample_pct,
        seed=manifest.backup_id,
    )
    argv = programs.argv("pg_restore", "--list", str(folder / DUMP_FOLDER))
    listing = connections.database.run(argv, what=f"contents of {manifest.backup_id}").stdout
    chosen = folder / "list"
    chosen.write_text(sample_list(listing, tables), encoding="utf-8", errors="surrogateescape")
    return tables, [f"--use-list={chosen}"]


def _run_restore(
    connections: Connections,
    manifest: BackupManifest,
    programs: ClientPrograms,
    name: str,
    arguments: list[str],
    source: BinaryIO | None = None,
) -> None:
    database = connections.database
    argv = programs.argv("pg_restore", "--exit-on-error", "--verbose", f"--dbname={name}", *arguments)
    expected = 3 * len(manifest.fingerprint.tables) + 1
    seen, deadlocked = 0, False

    def count(line: str) -> None:
        nonlocal seen, deadlocked
        seen += 1
        deadlocked = deadlocked or _DEADLOCK in line
        report("restore", min(0.99, seen / expected))

    try:
        database.run(
            argv, what=f"restore of {manifest.backup_id}", database=name, source=source, settings=_SPEED, on_line=count
        )
    except StageError as error:
        if deadlocked:
            raise _DeadlockError(str(error)) from error
        _blame_the_server(connections, name, error)
        raise
    report("restore", 1)


def _blame_the_server(connections: Connections, name: str, error: StageError) -> None:
    """Raise another error when the backup is not to blame: the server is gone, or its disk is full."""
    if _DISK_FULL in str(error):
        raise RejectedError(f"the database server has no room for the restored copy: {error}") from error
    try:
        with connections.database.connect(name) as connection:
            connection.execute("SELECT 1")
    except TransientError as gone:
        raise TransientError(f"the database server was gone during the restore: {gone}") from error


def _compare(connections: Connections, manifest: BackupManifest, name: str, tables: Collection[str]) -> None:
    found = fingerprint(
        connections.database,
        connections.settings.migrations.history_table,
        name=name,
        tables=None if len(tables) == len(manifest.fingerprint.tables) else tables,
        progress=lambda fraction: report("compare", fraction),
    )
    expected = manifest.fingerprint.only(tables)
    if expected.tables.keys() != manifest.fingerprint.tables.keys():  # the history may be a table left out
        expected = expected.model_copy(update={"migrations": found.migrations})
    differences = expected.differences(found)
    with connections.database.connect(name) as connection:
        differences += _sequence_differences(connection, manifest.facts.sequences)
    if differences:
        raise StageError(f"{manifest.backup_id} came back different: " + "; ".join(differences[:10]))


def _compare_branch(connections: Connections, manifest: BackupManifest, name: str) -> None:
    """Compare a branch with the manifest of the dump that was begun right after its restore point was made.

    What was written in between is in the dump alone: rows may differ where there were writes, the schema may not.
    """
    found = fingerprint(connections.database, connections.settings.migrations.history_table, name=name)
    expected = manifest.fingerprint
    changed = {table for table, known in expected.tables.items() if found.tables.get(table, known) != known}
    equal = expected.tables.keys() - changed
    if differences := expected.only(equal).differences(found.only(found.tables.keys() - changed)):
        raise StageError(f"{manifest.backup_id} came back different: " + "; ".join(differences[:10]))
    _log.info("%d of %d tables are as in the dump, which was made seconds later", len(equal), len(expected.tables))


def _sequence_differences(connection: psycopg.Connection, expected: dict[str, SequenceRange]) -> list[str]:
    """A sequence has to come back between its values before and after the dump, whichever way it counts."""
    found = sequence_values(connection)
    lines: list[str] = []
    for name, known in expected.items():
        if name not in found:
            lines.append(f"sequence {name} is missing")
        elif not known.admits(found[name]):
            lines.append(f"sequence {name}: {known.before} became {found[name]}")
    return lines


def _drop_quietly(connections: Connections, name: str) -> None:
    """Drop what a failed restore left; that it cannot be dropped hides no error."""
    try:
        drop(connections.database, name)
    except Exception as error:  # noqa: BLE001 - the error that brought us here is the one to be seen
        _log.warning("the scratch database %s could not be dropped: %s", name, error)
