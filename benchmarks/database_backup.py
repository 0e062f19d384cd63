"""Backup and restore beside `pg_dump | gzip` and `gunzip | psql`, on one database in one run."""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from benchmarks.databases import connect, fill, program, psql, running_server, shell
from runbook.clients.database_copies import create_beside, drop
from runbook.clients.fingerprint import exported_snapshot
from runbook.clients.postgres import Database
from runbook.connections import Connections
from runbook.manifest import BackupManifest
from runbook.rules.identifiers import new_backup_id
from runbook.stages.backup import create_backup, store_dump
from runbook.stages.restore import drop_restored, fill_database, restore_beside

ORDERS = 1_000_000
_PEAK = "import sys; from benchmarks.database_backup import print_peak; print_peak(sys.argv[1])"


@dataclass(frozen=True)
class Result:
    """Medians, in seconds, bytes and KiB of resident memory."""

    database_bytes: int
    gzip_s: float
    gzip_bytes: int
    limit_s: float
    dump_s: float
    dump_bytes: int
    backup_s: float
    psql_s: float
    restore_s: float
    verified_s: float
    peak_1x_kib: int
    peak_4x_kib: int


def measure(rounds: int, folder: Path) -> Result:
    """Take turns between all ways on one database, so that all see the same machine."""
    with running_server(folder / "postgres") as server:
        database = fill(server, "shop", orders=ORDERS)
        connections = connect(database, folder / "records")
        ids = _ids()
        plain, raw = folder / "plain.sql.gz", folder / "raw"
        gzip_s: list[float] = []
        limit_s: list[float] = []
        dump_s: list[float] = []
        backup_s: list[float] = []
        psql_s: list[float] = []
        restore_s: list[float] = []
        verified_s: list[float] = []
        dump_bytes = 0
        made: BackupManifest | None = None
        for number in range(rounds):
            gzip_s.append(_timed(lambda: shell(database, f"{program(database, 'pg_dump')} | gzip > {plain}")))
            limit_s.append(_timed(lambda: _parallel_dump(database, raw)))
            shutil.rmtree(raw)
            with exported_snapshot(database) as (_, snapshot_id):
                backup_id = next(ids)
                connections.store.reserve(backup_id, triggered_by="bench", at=datetime.now(UTC))
                begun = time.monotonic()
                files = store_dump(connections, backup_id, snapshot_id)
                dump_s.append(time.monotonic() - begun)
                dump_bytes = sum(file.size_bytes for file in files.values())
                connections.store.discard(backup_id)
            begun = time.monotonic()
            made = create_backup(connections, reason="bench", triggered_by="bench")
            backup_s.append(time.monotonic() - begun)
            psql_s.append(_restore(database, f"theirs_{number}", lambda name: psql(database, plain, name)))
            restore_s.append(_restore(database, f"ours_{number}", _filler(connections, made)))
            begun = time.monotonic()
            restored = restore_beside(connections, made.backup_id, purpose="restored")
            verified_s.append(time.monotonic() - begun)
            drop_restored(connections, restored)
        peaks = [_peak(fill(server, f"size_{size}", orders=size * ORDERS // 8)) for size in (1, 4)]
        return Result(
            database_bytes=made.facts.size_bytes if made else 0,
            gzip_s=statistics.median(gzip_s),
            gzip_bytes=plain.stat().st_size,
            limit_s=statistics.median(limit_s),
            dump_s=statistics.median(dump_s),
            dump_bytes=dump_bytes,
            backup_s=statistics.median(backup_s),
            psql_s=statistics.median(psql_s),
            restore_s=statistics.median(restore_s),
            verified_s=statistics.median(verified_s),
            peak_1x_kib=peaks[0],
            peak_4x_kib=peaks[1],
        )


def print_peak(records: str) -> None:
    """Make a backup of the database in `BENCH_URL` and print the greatest memory of this process, in KiB."""
    import resource

    connections = connect(Database(os.environ["BENCH_URL"]), Path(records))
    create_backup(connections, reason="bench", triggered_by="bench")
    own, children = (resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    print(own + children)


def _ids() -> Iterator[str]:
    at = datetime.now(UTC) - timedelta(days=1)
    while True:
        yield new_backup_id(at)
        at += timedelta(seconds=1)


def _timed(act: Callable[[], object]) -> float:
    begun = time.monotonic()
    act()
    return time.monotonic() - begun


def _restore(database: Database, name: str, act: Callable[[str], object]) -> float:
    create_beside(database, name)
    took_s = _timed(lambda: act(name))
    drop(database, name)
    return took_s


def _filler(connections: Connections, made: BackupManifest) -> Callable[[str], object]:
    return lambda name: fill_database(connections, made, name)


def _parallel_dump(database: Database, folder: Path) -> None:
    options = ("--format=directory", "--jobs=2", "--compress=none", f"--file={folder}")
    database.run(database.programs().argv("pg_dump", *options), what="uncompressed dump")


def _peak(database: Database) -> int:
    records = Path(database.name + "_records").absolute()
    environment = os.environ | {"BENCH_URL": database.url}
    try:
        argv = [sys.executable, "-c", _PEAK, str(records)]
        return int(subprocess.run(argv, env=environment, capture_output=True, text=True, check=True).stdout)
    finally:
        shutil.rmtree(records, ignore_errors=True)
