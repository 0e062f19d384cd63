"""How long clients that retry wait for a rollback of the database, beside a restore in place, at several sizes."""

from __future__ import annotations

import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psycopg

from benchmarks.databases import connect, fill, program, psql, running_server, shell
from runbook.clients.postgres import Database
from runbook.stages.backup import create_backup, prove_by_copy
from runbook.stages.preparation import end_preparations, prepare_rollback, take_prepared
from runbook.stages.replay import replay_writes
from runbook.stages.restore import restore_beside, swap_in

SIZES = (20_000, 100_000, 400_000)
_WRITTEN_FOR_S = 3


@dataclass(frozen=True)
class Result:
    """One size: seconds from the command to the swapped database, and the longest wait of a client meanwhile.

    `prepared_s` is from the command when the backup was kept restored. `lost` are acknowledged writes.
    """

    database_bytes: int
    in_place_s: float
    rollback_s: float
    wait_s: float
    prepared_s: float
    prepared_wait_s: float
    lost: int


@dataclass
class Clients:
    """What clients have seen: ids that were acknowledged, and the longest time between two answers."""

    acknowledged: list[int] = field(default_factory=list[int])
    longest_wait_s: float = 0


def measure(folder: Path) -> list[Result]:
    """Roll back under a load of writes, first with a restore, then prepared, and restore in place, at each size."""
    with running_server(folder / "postgres") as server:
        return [_measure(fill(server, f"shop_{orders}", orders=orders), folder / str(orders)) for orders in SIZES]


def _measure(database: Database, folder: Path) -> Result:
    connections = connect(database, folder / "records")
    folder.mkdir()
    plain = folder / "plain.sql.gz"
    with psycopg.connect(database.url, autocommit=True) as connection:
        connection.execute("CREATE TABLE written (id bigint PRIMARY KEY, at timestamptz DEFAULT now())")
    shell(database, f"{program(database, 'pg_dump')} --clean --if-exists | gzip > {plain}")
    timed: list[tuple[float, float, int, int]] = []
    for prepared in (False, True):
        with _writing(database) as clients:
            made = create_backup(connections, reason="bench", triggered_by="bench", capture=True)
            if prepared:
                prepare_rollback(connections, prove_by_copy(connections, made.backup_id), keep=False)
            time.sleep(_WRITTEN_FOR_S)
            clients.longest_wait_s = 0
            begun = time.monotonic()
            restored = take_prepared(connections, made.backup_id, purpose="restored")
            restored = restored or restore_beside(connections, made.backup_id, purpose="restored")
            replay_writes(connections, made.backup_id, restored.name)
            swapped = swap_in(connections, restored)
            took_s = time.monotonic() - begun
            time.sleep(1)
        with psycopg.connect(database.url) as connection:
            held = {row[0] for row in connection.execute("SELECT id FROM written").fetchall()}
        timed.append((took_s, clients.longest_wait_s, len(set(clients.acknowledged) - held), made.facts.size_bytes))
        end_preparations(connections, name=swapped.kept)
    begun = time.monotonic()
    psql(database, plain, database.name)
    in_place_s = time.monotonic() - begun
    (rollback_s, wait_s, lost, size), (prepared_s, prepared_wait_s, also_lost, _) = timed
    return Result(size, in_place_s, rollback_s, wait_s, prepared_s, prepared_wait_s, lost + also_lost)


@contextmanager
def _writing(database: Database) -> Generator[Clients]:
    """Write 200 times a second beside the body of a `with`, and come back whenever the connection is lost."""
    clients, stopped = Clients(), threading.Event()

    def work() -> None:
        answered = time.monotonic()
        number = time.time_ns()
        while not stopped.is_set():
            try:
                with psycopg.connect(database.url, autocommit=True, connect_timeout=2) as connection:
                    while not stopped.wait(0.005):
                        number += 1
                        connection.execute("INSERT INTO written VALUES (%s)", [number])
                        clients.acknowledged.append(number)
                        clients.longest_wait_s = max(clients.longest_wait_s, time.monotonic() - answered)
                        answered = time.monotonic()
            except psycopg.OperationalError:
                time.sleep(0.01)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield clients
    finally:
        stopped.set()
        thread.join()
