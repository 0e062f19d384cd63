"""What can break a backup from outside: afterwards nothing half is listed, and earlier backups are as they were."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psutil
import psycopg
import pytest

from runbook.clients.backup_store import BackupStore
from runbook.clients.embedded_postgres import EmbeddedPostgres
from runbook.clients.folder_store import FolderStore
from runbook.clients.postgres import Database
from runbook.connections import Connections
from runbook.errors import RefusedError, RejectedError, RunbookError, StageError
from runbook.manifest import BackupManifest, DumpFormat
from runbook.rules.identifiers import new_backup_id
from runbook.stages.backup import create_backup, verify_backup
from tests.runbook.helpers import execute, no_file_bigger_than, query
from tests.runbook.manifests import manifest

ROWS = "CREATE TABLE items AS SELECT n, repeat(md5(n::text), 20) AS text FROM generate_series(1, 2000) n"


def backup(connections: Connections) -> BackupManifest:
    return create_backup(connections, reason="test", triggered_by="somebody")


@pytest.fixture
def earlier(connections: Connections) -> BackupManifest:
    """A backup that was made and verified an hour ago."""
    execute(connections.database.url, ROWS)
    made = backup(connections)
    path = Path(connections.settings.records) / "database" / "backups"
    back_then = new_backup_id(datetime.now(UTC) - timedelta(hours=1))
    (path / made.backup_id).rename(path / back_then)
    (path / f"{made.backup_id}.meta.json").unlink()
    connections.store.update(made.model_copy(update={"backup_id": back_then}))
    return verify_backup(connections, back_then)


def check_nothing_is_left(connections: Connections, earlier: BackupManifest) -> None:
    """The earlier backup is all there is, whole; no file lies about; and the next backup works."""
    assert connections.store.manifests() == [earlier]
    connections.store.check_files(earlier)
    keys = {found.key.split("/")[2].split(".")[0] for found in connections.store.objects.objects("database/backups/")}
    assert keys == {earlier.backup_id}
    assert list(connections.work_directory.iterdir()) == []


@contextmanager
def waiting_dump(connections: Connections) -> Generator[Callable[[], None]]:
    """Make a backup that waits in the middle for a locked table; yield what waits for its error."""
    failure: list[BaseException] = []

    def make() -> None:
        try:
            backup(connections)
        except BaseException as error:  # noqa: BLE001 - looked at below
            failure.append(error)

    def ended() -> None:
        with suppress(psycopg.OperationalError):  # the server is gone
            holder.execute("ROLLBACK")
        thread.join()
        assert len(failure) == 1
        assert isinstance(failure[0], RunbookError), failure

    execute(connections.database.url, "CREATE TABLE busy (id int)")
    thread = threading.Thread(target=make)
    with psycopg.connect(connections.database.url, autocommit=True) as holder:
        holder.execute("BEGIN; LOCK TABLE busy IN ACCESS EXCLUSIVE MODE")
        thread.start()
        asked = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'pg_dump' AND wait_event_type = 'Lock'"
        while query(connections.database.url, asked) == [(0,)]:
            time.sleep(0.05)
        yield ended


def test_a_server_that_goes_in_the_middle_of_a_dump(
    connections: Connections, earlier: BackupManifest, tmp_path: Path
) -> None:
    server = EmbeddedPostgres(tmp_path / "postgres")
    server.start()
    try:
        execute(server.url(), "CREATE DATABASE shop")
        own = replace(connections, database=Database(server.url("shop")))
        execute(own.database.url, ROWS)
        with waiting_dump(own) as ended:
            postmaster = int((server.root / "data" / "postmaster.pid").read_text().split()[0])
            os.kill(postmaster, signal.SIGQUIT)  # an immediate shutdown, as after a crash
            ended()
    finally:
        server.remove()
    check_nothing_is_left(connections, earlier)


def test_a_pg_dump_that_is_killed(connections: Connections, earlier: BackupManifest) -> None:
    with waiting_dump(connections) as ended:
        for child in psutil.Process().children(recursive=True):
            if child.name() == "pg_dump":
                child.kill()
        ended()
    check_nothing_is_left(connections, earlier)
    assert verify_backup(connections, backup(connections).backup_id).is_verified


def test_no_room_for_the_dump(connections: Connections, earlier: BackupManifest) -> None:
    with no_file_bigger_than(50_000), pytest.raises(StageError, match="pg_dump ended with 1"):
        backup(connections)
    check_nothing_is_left(connections, earlier)


def test_no_room_in_the_store(connections: Connections, earlier: BackupManifest) -> None:
    execute(connections.database.url, "CREATE TABLE noise AS SELECT random() FROM generate_series(1, 30000)")
    stream = connections.settings.backup.model_copy(update={"dump_format": DumpFormat.STREAM})
    streaming = replace(connections, settings=connections.settings.model_copy(update={"backup": stream}))
    with no_file_bigger_than(50_000), pytest.raises(RejectedError, match="File too large"):
        backup(streaming)
    check_nothing_is_left(connections, earlier)


def test_no_room_to_fetch_a_backup_is_not_the_backups_fault(connections: Connections, earlier: BackupManifest) -> None:
    with no_file_bigger_than(50_000), pytest.raises(RejectedError, match="File too large"):
        verify_backup(connections, earlier.backup_id)
    check_nothing_is_left(connections, earlier)


def test_a_clock_that_was_set_back(connections: Connections, earlier: BackupManifest) -> None:
    ahead = new_backup_id(datetime.now(UTC) + timedelta(hours=2))
    connections.store.reserve(ahead, triggered_by="test", at=datetime.now(UTC))
    connections.store.publish(manifest(ahead))
    with pytest.raises(RefusedError, match=f"clock says .* and {ahead} was made after that"):
        backup(connections)
    connections.store.remove(ahead)
    check_nothing_is_left(connections, earlier)


# A store that kills its own process right before, or right after, its n-th change.
KILLED = """
import os, signal, sys, time
from pathlib import Path
from runbook.clients.backup_store import BackupStore
from runbook.clients.folder_store import FolderStore
from runbook.clients.git import Repository
from runbook.clients.postgres import Database
from runbook.connections import Connections
from runbook.settings import Settings
from runbook.stages.backup import create_backup, verify_backup
from tests.fakes.application_host import MemoryHost

records, database, number, after = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), sys.argv[4] == "after"
changes = 0

class Killing(FolderStore):
    def _changed(self, change, *arguments):
        global changes
        changes += 1
        mine = changes == number
        if mine and not after:
            os.kill(os.getpid(), signal.SIGKILL)
        result = change(*arguments)
        if mine:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    def write(self, key, source):
        return self._changed(super().write, key, source)

    def create(self, key, data, *, protected=False):
        return self._changed(super().create, key, data)

    def replace(self, key, data):
        return self._changed(super().replace, key, data)

time.sleep(1 - time.time() % 1)  # of the runs before this one none has the same id
settings = Settings(name="test", repository=str(records), records=str(records), database=database)
connections = Connections(
    settings, Repository(records), Database(os.environ["TEST_URL"]), MemoryHost(), BackupStore(Killing(records)), ()
)
made = create_backup(connections, reason="test", triggered_by="somebody")
verify_backup(connections, made.backup_id)
print(changes)
"""


def run_killed(connections: Connections, number: int, when: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-c", KILLED, connections.settings.records, connections.database.name, str(number), when]
    environment = os.environ | {"TEST_URL": connections.database.url, "PYTHONPATH": str(Path(__file__).parents[3])}
    return subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=60, check=False)


def test_a_run_that_is_killed_at_any_step_leaves_no_half_backup(
    connections: Connections, earlier: BackupManifest
) -> None:
    unharmed = run_killed(connections, 0, "never")
    assert unharmed.returncode == 0, unharmed.stderr
    steps = int(unharmed.stdout)
    assert steps >= 5, "reservation, two files and globals, manifest, verification"
    whole = len(connections.store.manifests())
    for number in range(1, steps + 1):
        when = "after" if number % 2 else "before"
        assert run_killed(connections, number, when).returncode == -signal.SIGKILL
        listed = connections.store.manifests()
        assert earlier in listed
        for known in listed:
            connections.store.check_files(known)
        assert len(listed) - whole in {0, 1}
        whole = len(listed)
    swept = connections.store.sweep(older_than=timedelta(seconds=-60))
    assert any("never finished" in line for line in swept)
    listed = connections.store.manifests()
    assert len(listed) == whole
    assert verify_backup(connections, listed[0].backup_id).is_verified
    with_files = {found.key.split("/")[2] for found in connections.store.objects.objects("database/backups/backup_")}
    assert {name for name in with_files if not name.endswith(".json")} == {known.backup_id for known in listed}


def test_a_store_in_which_a_file_vanishes_before_it_is_published(
    connections: Connections, earlier: BackupManifest
) -> None:
    class Losing(FolderStore):
        def create(self, key: str, data: bytes, *, protected: bool = False) -> None:
            if key.endswith(".meta.json"):
                raise AssertionError("a manifest of what is not there")
            super().create(key, data, protected=protected)

        def write(self, key: str, source: object) -> object:  # pyright: ignore[reportIncompatibleMethodOverride]
            stored = super().write(key, source)  # pyright: ignore[reportArgumentType]
            if key.endswith("toc.dat"):
                self.delete([key])
            return stored

    losing = BackupStore(Losing(Path(connections.settings.records)))  # pyright: ignore[reportArgumentType]
    with pytest.raises(RejectedError, match=r"dump/toc\.dat is not in .* as it was written"):
        backup(replace(connections, store=losing))
    check_nothing_is_left(connections, earlier)
