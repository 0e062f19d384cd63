"""Runs that are killed at a step of their journal, on a real Postgres: what is left is finished or taken back."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import psycopg
import pytest
from _pytest.mark import ParameterSet

from runbook.clients.backup_store import BackupStore
from runbook.clients.database_copies import allow_sessions, drop
from runbook.clients.environment_hold import Hold
from runbook.clients.fingerprint import fingerprint
from runbook.clients.folder_store import FolderStore
from runbook.clients.git import Repository
from runbook.clients.migration_history import MigrationHistory
from runbook.clients.migration_run import Script, run_together
from runbook.clients.postgres import Database
from runbook.connections import Connections
from runbook.errors import RefusedError
from runbook.journal import EntryKind
from runbook.procedures.changing import changing, hold_of, lock_of
from runbook.procedures.environment import force_unlock, release_hold
from runbook.procedures.recovery import recover
from runbook.procedures.rollback import RollbackFailedError, rollback
from runbook.procedures.undo_rollback import undo_rollback
from runbook.reports import FinalState, RollbackReport, RollbackScope
from runbook.settings import ReplayMethod, RollbackSettings, Settings
from runbook.stages.backup import create_backup, verify_backup
from runbook.stages.kept import kept_databases
from runbook.stages.preparation import end_preparations
from runbook.stages.rollback import RollbackRequest
from runbook.stages.undo_rollback import UndoRequest
from tests.fakes.application_host import MemoryHost
from tests.runbook.helpers import commit, execute, query

PROJECT = Path(__file__).parents[3]


def sampled(steps: list[int], chosen: set[int]) -> list[ParameterSet]:
    """All steps, of which only some are in `make test`; the others are in `make chaos`."""
    return [pytest.param(step, marks=[] if step in chosen else [pytest.mark.chaos]) for step in steps]


CHILD = """
import json, os, sys
from tests.runbook.procedures.test_recovery import child
child(json.loads(os.environ["CHILD"]))
"""


def child(given: dict[str, str]) -> None:
    """What the process does that is killed: roll back the database, undo that, or migrate it."""
    from runbook.procedures.database_migrate import MigrateRequest, database_migrate
    from runbook.procedures.rollback import rollback
    from runbook.procedures.undo_rollback import undo_rollback
    from runbook.reports import RollbackScope
    from runbook.stages.rollback import RollbackRequest
    from runbook.stages.undo_rollback import UndoRequest

    settings = Settings.model_validate_json(given["settings"])
    repository = Repository(Path(settings.repository))
    host = host_of(repository)
    store = BackupStore(FolderStore(Path(settings.records)))
    connections = Connections(settings, repository, Database(given["url"]), host, store, ())
    if given["procedure"] == "rollback":
        discard = given["discard"] == "yes"
        request = RollbackRequest(RollbackScope.DB_ONLY, None, True, "a test", True, "tests", discard_writes=discard)
        rollback(connections, request)
    elif given["procedure"] == "undo-rollback":
        undo_rollback(connections, UndoRequest("a test", True, "tests"))
    else:
        database_migrate(connections, MigrateRequest("main", "a test", "tests"))


def host_of(repository: Repository) -> MemoryHost:
    host = MemoryHost()
    host.promote(host.stage(repository.resolve("v1"), "v1").release_id)
    return host


def run_until(
    connections: Connections, procedure: str, entries: int, *, end: int = signal.SIGKILL, discard: bool = True
) -> None:
    """Run a procedure in a process of its own and end it by a signal once its journal has so many entries."""
    given = {
        "procedure": procedure,
        "discard": "yes" if discard else "no",
        "url": connections.database.url,
        "settings": connections.settings.model_dump_json(),
    }
    process = subprocess.Popen(
        [sys.executable, "-c", CHILD],
        env=os.environ | {"CHILD": json.dumps(given)},
        cwd=PROJECT,
        start_new_session=True,
    )
    folder = Path(connections.settings.records) / "journal" / "test"
    deadline = time.monotonic() + 60
    try:
        while process.poll() is None and len(list(folder.glob(f"{procedure}_*/0*.json"))) < entries:
            assert time.monotonic() < deadline, "the journal never came so far"
            time.sleep(0.002)
        assert process.poll() is None, "it ended before it could be killed"
        process.send_signal(end)
        process.wait(60)
    finally:
        process.kill()
        process.wait(30)


@pytest.fixture
def shop(connections: Connections, repository: Repository) -> Connections:
    """A database with orders, a verified backup of it, and 50 orders since."""
    commit(repository.path, {"smoke.toml": '[[request]]\nname = "home"\npath = "/"\n'})
    subprocess.run(["git", "tag", "v1"], cwd=repository.path, check=True)
    execute(
        connections.database.url,
        "CREATE TABLE orders (id int PRIMARY KEY)",
        "INSERT INTO orders SELECT generate_series(1, 1000)",
    )
    made = create_backup(connections, reason="a test", triggered_by="tests")
    verify_backup(connections, made.backup_id)
    execute(connections.database.url, "INSERT INTO orders SELECT generate_series(1001, 1050)")
    return replace(connections, host=host_of(repository))


def orders(connections: Connections) -> int:
    [(count,)] = query(connections.database.url, "SELECT count(*) FROM orders")
    return int(str(count))


def columns(connections: Connections) -> int:
    counted = "SELECT count(*) FROM information_schema.columns WHERE table_name = 'orders'"
    [(count,)] = query(connections.database.url, counted)
    return int(str(count))


def all_is_at_rest(connections: Connections, beside: list[str]) -> None:
    assert lock_of(connections).holder() is None, "the lock is free"
    assert recover(connections, triggered_by="tests") == (), "recovering again finds nothing"
    others = [name for name in beside if "_before_rollback_" not in name]
    assert others == [], "no database of the dead run is left"
    keys = [found.key for found in connections.store.objects.objects("database/backups/backup_")]
    published = {manifest.backup_id for manifest in connections.store.manifests()}
    assert {key.split("/")[2].removesuffix(".meta.json") for key in keys} == published, "no half backup"


# 1 begun, 2 copy, 3 done, 4 swap, 5 done, 6 passed, 7 hold, 8 done, 9 ended
@pytest.mark.parametrize("entries", sampled([2, 3, 4, 5, 7], {3, 5}))
def test_a_rollback_of_the_database_that_is_killed(
    shop: Connections, beside: Callable[[], list[str]], entries: int
) -> None:
    run_until(shop, "rollback", entries)
    [report] = recover(shop, triggered_by="tests")
    assert isinstance(report, RollbackReport)
    kept = [name for name in beside() if "_before_rollback_" in name]
    assert orders(shop) == (1000 if kept else 1050), "the old state or the new one"
    assert bool(kept) is (entries > 4), "what was swapped is finished, all else taken back"
    assert report.kept_database == (kept[0] if kept else None)
    assert report.state is FinalState.DIVERGED, "nothing answers at the address of this host"
    assert hold_of(shop).current() is not None
    [incident] = (Path(shop.settings.records) / "logs").glob("incident_*.md")
    assert report.incident_report == str(incident), "the run that died and the one that went on have one between them"
    assert "The run had died; recover_" in incident.read_text()
    all_is_at_rest(shop, beside())


@contextmanager
def ordering(url: str) -> Generator[list[int]]:
    """Clients that order all the time and come back whenever they lose their connection; give what was acknowledged."""
    acknowledged: list[int] = []
    stopped = threading.Event()

    def work(first: int) -> None:
        number = first
        while not stopped.is_set():
            try:
                with psycopg.connect(url, autocommit=True, connect_timeout=5) as connection:
                    while not stopped.is_set():
                        number += 3
                        connection.execute("INSERT INTO orders VALUES (%s)", [number])
                        acknowledged.append(number)
                        time.sleep(0.002)
            except psycopg.OperationalError:
                time.sleep(0.01)

    threads = [threading.Thread(target=work, args=(10_000 + first,)) for first in range(3)]
    for thread in threads:
        thread.start()
    try:
        yield acknowledged
    finally:
        stopped.set()
        for thread in threads:
            thread.join()


@pytest.mark.parametrize(
    ("method", "end"),
    [
        (ReplayMethod.SLOT, signal.SIGINT),
        (ReplayMethod.DIFFERENCE, signal.SIGKILL),
        pytest.param(ReplayMethod.SLOT, signal.SIGKILL, marks=pytest.mark.chaos),
        pytest.param(ReplayMethod.DIFFERENCE, signal.SIGINT, marks=pytest.mark.chaos),
    ],
)
@pytest.mark.parametrize("entries", sampled([2, 3, 4, 5], {4}))
def test_a_rollback_that_is_ended_in_the_middle_loses_no_acknowledged_order(
    shop: Connections, beside: Callable[[], list[str]], entries: int, method: ReplayMethod, end: signal.Signals
) -> None:
    rollback_settings = RollbackSettings(replay=method, watch_s=0)
    settings = shop.settings.model_copy(update={"rollback": rollback_settings})
    connections = replace(shop, settings=settings)
    url = shop.database.url
    with ordering(url) as acknowledged:
        time.sleep(1)  # a backup is named by its second
        made = create_backup(connections, reason="a test", triggered_by="tests", capture=True)
        verify_backup(connections, made.backup_id)
        history = MigrationHistory(shop.database, settings.migrations)
        with history.locked():
            run_together(history, [Script("0001_note", "0001_note.sql", "ALTER TABLE orders ADD COLUMN note text")])
        run_until(connections, "rollback", entries, end=end, discard=False)
        recover(connections, triggered_by="tests")
        soon = len(acknowledged) + 20
        deadline = time.monotonic() + 20
        while len(acknowledged) < soon:
            assert time.monotonic() < deadline, "nobody can order any more"
            time.sleep(0.01)
    held = {int(str(row[0])) for row in query(url, "SELECT id FROM orders")}
    undone = [name for name in beside() if "_undone_" in name]
    said = "".join(path.read_text() for path in (Path(settings.records) / "logs").glob("rollback_*.json"))
    for name in undone:  # the swap was undone after somebody had written: nothing is gone, and the report says where
        execute(shop.database.url_of("postgres"), f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
        held |= {int(str(row[0])) for row in query(shop.database.url_of(name), "SELECT id FROM orders")}
        assert f"are only in {name}, which is kept: public.orders" in said
        drop(shop.database, name)
    assert not set(acknowledged) - held
    swapped = [name for name in beside() if "_before_rollback_" in name]
    assert columns(shop) == (1 if swapped else 2), "the old schema, or the new one"
    end_preparations(connections)
    for name in swapped:
        end_preparations(connections, name=name)
    slots = "SELECT slot_name FROM pg_replication_slots WHERE starts_with(database, %s)"
    assert query(url, slots, shop.database.name) == []
    all_is_at_rest(connections, beside())


# 1 begun, 2 backup, 3 done, 4 copy, 5 done, 6 migrate, 7 done, 8 passed, 9 ended
@pytest.mark.parametrize("entries", sampled([2, 4, 6, 7], {6}))
def test_a_migration_that_is_killed(
    shop: Connections, repository: Repository, beside: Callable[[], list[str]], entries: int
) -> None:
    commit(
        repository.path,
        {
            "migrations/0001_parcels.sql": "CREATE TABLE parcels (id int);\nSELECT pg_sleep(0.2);\n",
            "migrations/0001_parcels_ROLLBACK.sql": "DROP TABLE parcels;\n",
        },
    )
    before = fingerprint(shop.database, "schema_migrations").schema_sha256
    run_until(shop, "migrate", entries)
    [report] = recover(shop, triggered_by="tests")
    there = query(shop.database.url, "SELECT to_regclass('parcels') IS NOT NULL") == [(True,)]
    assert there is report.success, report
    if not report.success:
        assert fingerprint(shop.database, "schema_migrations").schema_sha256 == before
    assert orders(shop) == 1050
    all_is_at_rest(shop, beside())


# 1 begun, 2 swap, 3 done, 4 passed, 5 hold, 6 done, 7 ended
@pytest.mark.parametrize("entries", sampled([1, 2, 3, 4, 5], {2, 4}))
def test_an_undoing_of_a_rollback_that_is_killed(
    rolled_back: Connections, beside: Callable[[], list[str]], entries: int
) -> None:
    [before] = kept_databases(rolled_back)
    run_until(rolled_back, "undo-rollback", entries)
    [report] = recover(rolled_back, triggered_by="tests")
    assert isinstance(report, RollbackReport)
    assert before.report is not None
    assert report.undoes == before.report.timestamp
    [kept] = kept_databases(rolled_back)
    came_back = columns(rolled_back) == 2
    assert came_back is (kept.name != before.name) is (report.kept_database == kept.name)
    assert orders(rolled_back) == 1051, "no order is lost either way"
    assert came_back is (entries > 2) or entries == 2, "what was swapped is finished, all else left as it was"
    assert query(rolled_back.database.url, "SELECT datallowconn FROM pg_database WHERE datname = %s", kept.name) == [
        (False,)
    ]
    all_is_at_rest(rolled_back, beside())
    undone = undo_stopped_short(rolled_back) if not came_back else report
    assert (columns(rolled_back), orders(rolled_back)) == (2, 1051), "another attempt finds what the first one left"
    assert undone.kept_database == kept_databases(rolled_back)[0].name


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGINT])
@pytest.mark.parametrize("entries", sampled([2, 3], {3}))
def test_an_undoing_that_is_ended_in_the_middle_loses_no_acknowledged_order(
    rolled_back: Connections, beside: Callable[[], list[str]], entries: int, end: signal.Signals
) -> None:
    with ordering(rolled_back.database.url) as acknowledged:
        time.sleep(0.3)
        run_until(rolled_back, "undo-rollback", entries, end=end)
        recover(rolled_back, triggered_by="tests")
        soon = len(acknowledged) + 20
        deadline = time.monotonic() + 20
        while len(acknowledged) < soon:
            assert time.monotonic() < deadline, "nobody can order any more"
            time.sleep(0.01)
    held = {int(str(row[0])) for row in query(rolled_back.database.url, "SELECT id FROM orders")}
    for kept in kept_databases(rolled_back):  # a swap that was undone after somebody had written
        allow_sessions(rolled_back.database, kept.name, allowed=True)
        held |= {int(str(row[0])) for row in query(rolled_back.database.url_of(kept.name), "SELECT id FROM orders")}
    assert not set(acknowledged) - held
    all_is_at_rest(rolled_back, beside())


@pytest.fixture
def rolled_back(shop: Connections) -> Connections:
    """The database is rolled back to before a migration; one order came in since."""
    history = MigrationHistory(shop.database, shop.settings.migrations)
    with history.locked():
        run_together(history, [Script("0001_note", "0001_note.sql", "ALTER TABLE orders ADD COLUMN note text")])
    with pytest.raises(RollbackFailedError):  # nothing answers at the address of this host
        rollback(shop, RollbackRequest(RollbackScope.DB_ONLY, None, True, "a test", True, "tests"))
    execute(shop.database.url, "INSERT INTO orders VALUES (2000)")
    return shop


def undo_stopped_short(connections: Connections) -> RollbackReport:
    with pytest.raises(RollbackFailedError) as caught:  # as above
        undo_rollback(connections, UndoRequest("a test", True, "tests"))
    return caught.value.report


def test_the_next_run_is_refused_until_what_a_dead_one_left_is_recovered(shop: Connections) -> None:
    run_until(shop, "rollback", 2)
    with (
        pytest.raises(RefusedError, match=r"rollback_\S+ ended in the middle; first `runbook recover"),
        changing(shop, "deploy", reason="v2", triggered_by="tests"),
    ):
        pass
    assert len(recover(shop, triggered_by="tests")) == 1, "which run it was is not forgotten"


def test_a_run_whose_lock_is_forced_open_stops_and_is_taken_back(shop: Connections) -> None:
    with changing(shop, "deploy", reason="v2", triggered_by="tests") as change:
        assert force_unlock(shop, reason="it hangs", by="ada").owner.run == change.held.owner.run
        with pytest.raises(Exception, match="was lost while deploy ran"):
            change.held.require()
    journals = sorted(path.name for path in (Path(shop.settings.records) / "journal" / "test").iterdir())
    assert [name.split("_")[0] for name in journals] == ["unlock"]


def test_after_a_rollback_nothing_is_deployed_until_somebody_releases_the_environment(shop: Connections) -> None:
    run_until(shop, "rollback", 8)
    recover(shop, triggered_by="tests")
    with pytest.raises(RefusedError, match="is held since"):
        hold_of(shop).require_none()
    assert release_hold(shop, reason="mended in v7", by="ada").reason == "a test"
    hold_of(shop).require_none()
    [written] = (Path(shop.settings.records) / "journal" / "test").glob("release_*/0001.json")
    assert json.loads(written.read_text())["detail"]["reason"] == "mended in v7"


@pytest.mark.parametrize(
    ("procedure", "end"), [("release", "released"), ("confirm", "confirmed"), ("expire", "expired")]
)
def test_a_decision_that_was_killed_once_it_was_written_down_is_carried_out(
    shop: Connections, procedure: str, end: str
) -> None:
    hold = Hold(reason="v6 is bad", by="ada", since=datetime.now(UTC), run="rollback_1")
    hold_of(shop).place(hold)
    with suppress(KeyboardInterrupt), changing(shop, procedure, reason="a test", triggered_by="ada") as change:
        change.journal.write(EntryKind.BEGUN)
        raise KeyboardInterrupt
    assert recover(shop, triggered_by="tests") == ()
    assert (hold_of(shop).current() is None) is (procedure == "release")
    folder = Path(shop.settings.records) / "journal" / "test" / change.journal.run
    last = json.loads(max(folder.glob("*.json")).read_text())
    assert (last["kind"], last["detail"]) == ("ended", {"state": end})
    with changing(shop, "deploy", reason="the next one", triggered_by="tests"):
        pass
