"""What was written since a backup, brought into the database restored from it: no write is lost by a rollback.

Through the old schema: what a migration has added is left out, and its own changes of data are not among the writes.
Source: runbook, "Rollback Types"; docs/decisions/0014-replay.md.
"""

from __future__ import annotations

import io
import json
import logging
import time
from collections.abc import Collection, Generator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

import psycopg

from runbook.clients.backup_files import opened, sealed, stored_name
from runbook.clients.database_facts import sequence_values
from runbook.clients.difference_replay import DifferenceReplay, match_rows, reading, shared_tables, touched_by
from runbook.clients.migration_history import MigrationHistory
from runbook.clients.replay_target import Quarantined, ReplayTarget, replay_target
from runbook.clients.slot_replay import CapturedWrites, SlotReplay
from runbook.clients.table_layout import Layout, OldNames, Table, read_layout
from runbook.clients.write_capture import Capture, capture_of
from runbook.connections import Connections
from runbook.errors import RefusedError
from runbook.manifest import BackupManifest
from runbook.reports import Replay
from runbook.rules.identifiers import time_stamp
from runbook.rules.restore_by_hand import LAYOUT, ZST
from runbook.settings import ReplayMethod
from runbook.stages.identity import require_identity

_log = logging.getLogger(__name__)
_FEW = 500
_PASSES = 10
# Counters begin anew with a reset and with a crash; then nothing is known.
_CHANGED = """
SELECT s.n_tup_upd + s.n_tup_del > 0 OR greatest(d.stats_reset, pg_postmaster_start_time()) > %s
FROM pg_stat_all_tables s, pg_stat_database d
WHERE s.schemaname = %s AND s.relname = %s AND d.datname = current_database()
"""


def replay_method(connections: Connections, backup_id: str) -> ReplayMethod:
    """Return how the writes since a backup would be replayed now.

    Raises:
        RefusedError: the settings ask for the slot, and there is none for this backup.
        TransientError: the server does not answer.
    """
    wanted = connections.settings.rollback.replay
    if wanted in (ReplayMethod.NONE, ReplayMethod.DIFFERENCE):
        return wanted
    if connections.restore_points is not None:
        if wanted is ReplayMethod.SLOT:
            raise RefusedError("`replay = slot` finds no writes where branches are restored; `auto` compares")
        return ReplayMethod.DIFFERENCE  # a branch is older than the dump, with which a capture begins
    if capture_of(connections.database, backup_id) is not None:
        return ReplayMethod.SLOT
    if wanted is ReplayMethod.SLOT:
        raise RefusedError(
            f"the writes since {backup_id} were not captured, or the server has given up keeping them, and the "
            "settings say `replay = slot`. `auto` finds them by comparing."
        )
    return ReplayMethod.DIFFERENCE


def replay_writes(connections: Connections, backup_id: str, name: str) -> None:
    """Replay the writes since a backup to the database restored from it, until few are left, while the live one works.

    Safe to repeat, and to go on with after it was killed: how far it has come is in the restored database.

    Raises:
        RefusedError: as `replay_method`.
        TransientError: the server does not answer, or ended a session.
    """
    method = replay_method(connections, backup_id)
    if method is ReplayMethod.NONE:
        return
    begun = time.monotonic()
    left = 0
    with LastWrites.opened(connections, backup_id, name, method) as writes:
        for _ in range(_PASSES):
            if (left := writes.catch_up()) < _FEW:
                break
        else:
            _log.warning(
                "the application writes almost as fast as is replayed: the swap will wait for %d changes", left
            )
    _log.info("the writes since %s replayed in %.1f s, but for the last", backup_id, time.monotonic() - begun)


class LastWrites:
    """The writes that are still to be replayed, and the sessions that do it."""

    def __init__(
        self,
        connections: Connections,
        manifest: BackupManifest,
        live: psycopg.Connection,
        target: ReplayTarget,
        capture: Capture | None,
        stack: ExitStack,
    ) -> None:
        self._connections, self._manifest = connections, manifest
        self._live, self._target, self._stack = live, target, stack
        self._history = MigrationHistory(connections.database, connections.settings.migrations)
        self._names = old_names(connections, manifest, live)
        if capture is not None:
            captured = CapturedWrites(live, capture, self._names, left_out=own_tables(connections), place=target.place)
            self._reader = SlotReplay(captured, target, skipped=self._skipped)
        else:
            self._reader = DifferenceReplay(
                live,
                restored_snapshot(connections, manifest),
                target,
                self._names,
                skipped=self._skipped,
                emptied=self._emptied,
                left_out=own_tables(connections),
            )
        self._method = ReplayMethod.SLOT if capture is not None else ReplayMethod.DIFFERENCE
        self.replay: Replay | None = None

    @classmethod
    @contextmanager
    def opened(cls, connections: Connections, backup_id: str, name: str, method: ReplayMethod) -> Generator[LastWrites]:
        """Open the sessions for the body of a `with`."""
        manifest = connections.store.manifest(backup_id)
        capture = capture_of(connections.database, backup_id) if method is ReplayMethod.SLOT else None
        with ExitStack() as stack:
            live = stack.enter_context(connections.database.connect())
            target = stack.enter_context(replay_target(connections.database, name))
            yield cls(connections, manifest, live, target, capture, stack)

    @property
    def sessions(self) -> Sequence[int]:
        """Process ids of the sessions."""
        return self._live.info.backend_pid, self._target.connection.info.backend_pid

    def catch_up(self) -> int:
        """Replay what was written until now; return how many changes that was."""
        return self._reader.catch_up()

    def carry(self) -> None:
        """Replay the last writes, now that nobody writes any more; then sequences, and what no key finds."""
        self.catch_up()
        is_captured = self._method is ReplayMethod.SLOT
        left = self._match_keyless() if is_captured else self._left_behind()
        revived = () if is_captured else self._revived(left)
        replay = finished(self._connections, self._live, self._target, self._method, left)
        self.replay = replay.model_copy(update={"revived": revived})
        self._stack.close()

    def _revived(self, left: Collection[str]) -> tuple[str, ...]:
        """Return the tables in which no deletion was replayed, because migrations have deleted rows as well."""
        own = own_tables(self._connections)
        emptied = {self._names.table(one) for one in self._emptied() if one not in own}
        names = sorted(self._target.name_of(one) for one in emptied if one in self._target.columns)
        return tuple(name for name in names if name not in left)

    def _skipped(self) -> frozenset[int]:
        return self._history.transactions(self._live, self._manifest.fingerprint.migrations)

    def _emptied(self) -> frozenset[Table]:
        return self._history.deleted_from(self._live, self._manifest.fingerprint.migrations)

    def _match_keyless(self) -> tuple[str, ...]:
        """Carry what was updated and deleted in tables without a key, which the slot does not tell."""
        left: list[str] = []
        skipped = self._skipped()
        with reading(self._live), self._target.connection.transaction():
            for one in shared_tables(self._live, self._target, self._names):
                if one.key or one.table in own_tables(self._connections) or not self._has_changed(one.live):
                    continue
                if touched_by(self._live, one.live, skipped):
                    left.append(self._target.name_of(one.table))
                else:
                    match_rows(self._live, self._target, one)
        return tuple(left)

    def _left_behind(self) -> tuple[str, ...]:
        """Return the tables without a key that a migration changed: they are as they were in the backup."""
        skipped, emptied = self._skipped(), self._emptied()
        with reading(self._live):
            return tuple(
                self._target.name_of(one.table)
                for one in shared_tables(self._live, self._target, self._names)
                if not one.key
                and one.table not in own_tables(self._connections)
                and (one.live in emptied or touched_by(self._live, one.live, skipped))
            )

    def _has_changed(self, table: Table) -> bool:
        row = self._live.execute(_CHANGED, [self._manifest.created_at, *table]).fetchone()
        return row is None or row[0] is not False


def restored_snapshot(connections: Connections, manifest: BackupManifest) -> str:
    """Return the snapshot of which all is in what a backup is restored to: the dump's, or its restore point's."""
    point = manifest.restore_point
    if connections.restore_points is None or point is None or point.snapshot is None:
        return manifest.facts.snapshot
    return point.snapshot


def finished(
    connections: Connections,
    live: psycopg.Connection,
    target: ReplayTarget,
    method: ReplayMethod,
    left_behind: tuple[str, ...],
) -> Replay:
    """End a replay: carry the sequences, write what did not fit into a file, and forget how far it had come."""
    known = sequence_values(target.connection)
    for name, value in sequence_values(live).items():
        if name in known and value is not None and value != known[name]:
            target.connection.execute("SELECT setval(%s::regclass, %s)", [name, value])
    tables, quarantine = target.counted(), target.quarantined()
    file = _write_quarantine(connections, quarantine) if quarantine else None
    target.finish()
    return Replay(
        method=method, tables=tables, quarantined=len(quarantine), quarantine_file=file, left_behind=left_behind
    )


def in_words(replay: Replay | None, *, since: str = "the backup") -> str:
    """Say what became of the writes since the backup, or `since` something else."""
    if replay is None:
        return f"what was written since {since} is lost"
    rows = sum(table.inserted + table.updated + table.deleted for table in replay.tables)
    words = f"{rows} rows written since {since} were replayed"
    if replay.quarantined:
        words += f", {replay.quarantined} did not fit and are in {replay.quarantine_file}"
    if replay.revived:
        words += (
            f"; rows that were deleted since came back, because a migration has deleted some, too: "
            f"{', '.join(replay.revived)}"
        )
    if replay.left_behind:
        words += f"; as before, because nothing tells their rows apart: {', '.join(replay.left_behind)}"
    return words


def own_tables(connections: Connections) -> Collection[Table]:
    """Return the tables that no application writes: the history of migrations, and how far an unfinished one came."""
    name = connections.settings.migrations.history_table
    return {("public", name), ("public", f"{name}_progress")}


def old_names(connections: Connections, manifest: BackupManifest, live: psycopg.Connection) -> OldNames:
    """Return what tables and columns were called when the backup was made; as now when it does not say."""
    now = read_layout(live)
    if stored_name(f"{LAYOUT}{ZST}", manifest.recipients) not in manifest.files:
        return OldNames(now, now)
    identities = require_identity(connections, manifest)
    with opened(connections.store, manifest, f"{LAYOUT}{ZST}", identities) as source:
        return OldNames(Layout.model_validate_json(source.read()), now)


def _write_quarantine(connections: Connections, rows: Sequence[Quarantined]) -> str:
    """Write what did not fit into a file, a JSON object a line, readable by its owner alone; return its path."""
    folder = Path(connections.settings.records) / "logs"
    folder.mkdir(parents=True, exist_ok=True)
    stamp = connections.database.stamp or time_stamp(datetime.now(UTC))
    recipients = connections.settings.backup.recipients
    path = folder / stored_name(f"quarantine_{stamp}.jsonl", recipients)
    lines = (json.dumps(asdict(row), ensure_ascii=False) for row in rows)
    source = io.BytesIO("".join(f"{line}\n" for line in lines).encode())
    with sealed(source, path.name, recipients) as data, path.open("wb") as target:
        path.chmod(0o600)
        target.write(data.read())
    return str(path)
