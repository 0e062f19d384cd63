"""A real shop under constant traffic whose runs are ended in the middle, and what has to be true afterwards."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil

from deployments.demo.facts import Facts, look
from deployments.demo.repository import build_repository
from deployments.demo.traffic import Traffic
from deployments.local import PROJECT, LocalEnvironment
from runbook.clients.backup_store import BackupStore
from runbook.clients.database_copies import databases_beside, drop
from runbook.clients.folder_store import FolderStore
from runbook.clients.git import Repository
from runbook.clients.local_host import LocalHost
from runbook.clients.postgres import Database
from runbook.clients.write_capture import captures
from runbook.connections import Connections
from runbook.procedures.changing import hold_of, lock_of
from runbook.procedures.database_migrate import MigrateRequest, database_migrate
from runbook.procedures.deploy import DeployRequest, deploy
from runbook.procedures.environment import release_hold
from runbook.procedures.recovery import recover
from runbook.procedures.rollback import rollback
from runbook.reports import DeployReport, FinalState, RollbackReport, RollbackScope
from runbook.settings import ReplayMethod
from runbook.stages.kept import drop_kept, kept_databases
from runbook.stages.preparation import end_preparations
from runbook.stages.rollback import RollbackRequest
from tests.runbook.helpers import commit, execute, git, query

_ANSWERS_WITHIN_S = 60


class Run(StrEnum):
    """A run that is ended in the middle."""

    DEPLOY = "deploy"
    FULL = "full"
    APP_ONLY = "app-only"
    DB_ONLY = "db-only"
    RECOVER = "recover"

    @property
    def procedure(self) -> str:
        """What its journal's name begins with."""
        return "deploy" if self is Run.DEPLOY else "rollback"


@dataclass
class Shop:
    """The environment, with everything that needs no Prefect; `excused` are orders that a report names as elsewhere."""

    local: LocalEnvironment
    method: ReplayMethod = ReplayMethod.AUTO
    excused: set[str] = field(default_factory=set[str])

    def open(self) -> None:
        """Bring it up with a release that has the traffic."""
        build_repository(self.local.repository)
        self.local.up_application()
        with Traffic(self.public_url):  # without any nobody could say that the release is healthy
            self.begin_at("v2")

    def begin_at(self, ref: str) -> None:
        """Release a commit under traffic, on which all further releases are built; or the last of those."""
        if not git(self.local.repository, "branch", "--list", "chaos"):
            git(self.local.repository, "branch", "chaos", ref)
        git(self.local.repository, "switch", "--quiet", "chaos")
        deploy(self.connections(), DeployRequest("chaos", "opening", "chaos"))

    def connections(self) -> Connections:
        """Return what the flows would be given, with short times and no tests of the application."""
        settings = self.local.settings
        settings = settings.model_copy(
            update={
                "tests": (),
                "watch": settings.watch.model_copy(update={"duration_s": 2.0, "interval_s": 0.1}),
                "rollback": settings.rollback.model_copy(update={"watch_s": 2.0, "replay": self.method}),
            }
        )
        host = LocalHost.attach(self.local.root / "host")
        store = BackupStore(FolderStore(self.local.root))
        repository = Repository(Path(settings.repository))
        return Connections(settings, repository, Database(self.local.database_url), host, store, ())

    def release(self) -> str:
        """Commit one more release, with a migration that changes rows, too; return its tag."""
        number = len(git(self.local.repository, "tag", "--list", "c*").splitlines()) + 1
        tag = f"c{number}"
        name = f"migrations/{100 + number:04d}_chaos_{number}"
        files = {
            f"{name}.sql": f"ALTER TABLE orders ADD COLUMN chaos_{number} int;\n"
            f"UPDATE orders SET chaos_{number} = 1 WHERE id <= 50;\n",
            f"{name}_ROLLBACK.sql": f"ALTER TABLE orders DROP COLUMN IF EXISTS chaos_{number};\n",
            "CHANGELOG.md": f"{tag}\n",
        }
        commit(self.local.repository, files, f"feat: chaos {number}")
        git(self.local.repository, "tag", tag)
        return tag

    def prepare(self, run: Run) -> str:
        """Bring the shop where `run` makes sense; return the git ref that it is about."""
        self.settle()
        tag = self.release()
        if run is Run.DB_ONLY:
            database_migrate(self.connections(), MigrateRequest(tag, "to be taken back", "chaos"))
        elif run is not Run.DEPLOY:
            report = deploy(self.connections(), DeployRequest(tag, "to be taken back", "chaos"))
            assert report.state is FinalState.VERIFIED, report.findings
        return tag

    def settle(self) -> None:
        """Release the environment, and drop what earlier rollbacks have replaced."""
        connections = self.connections()
        if hold_of(connections).current() is not None:
            release_hold(connections, reason="the next case", by="chaos")
        for kept in kept_databases(connections):
            drop_kept(connections, kept)

    def start(self, run: Run, ref: str, *, stderr: int | None = None) -> subprocess.Popen[bytes]:
        """Begin a run in a process of its own."""
        argv = [sys.executable, "-m", __name__, str(self.local.root), str(self.local.repository), run, ref, self.method]
        return subprocess.Popen(argv, cwd=PROJECT, start_new_session=True, stderr=stderr)

    @property
    def public_url(self) -> str:
        """Where customers order."""
        return LocalHost.attach(self.local.root / "host").public_url

    def facts(self) -> Facts:
        """Look at application and database, without the runbook's code."""
        return look(self.public_url, self.local.database_url)


@dataclass(frozen=True)
class Beginning:
    """A run that was begun: the process to wait for, and the folder of its journal."""

    process: subprocess.Popen[Any]
    journal: Path


def perform(shop: Shop, run: Run, ref: str) -> None:
    """Do what is then ended in the middle."""
    if run is Run.DEPLOY:
        deploy(shop.connections(), DeployRequest(ref, "a case", "chaos"))
        return
    if run is Run.RECOVER:
        recover(shop.connections(), triggered_by="chaos")
        return
    scope = RollbackScope(run)
    request = RollbackRequest(scope, None, run is not Run.APP_ONLY, "a case", yes=True, triggered_by="chaos")
    rollback(shop.connections(), request)


def wait_for(what: str, holds: Callable[[], bool], *, within_s: float = _ANSWERS_WITHIN_S) -> None:
    """Wait until something holds."""
    deadline = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < deadline, what
        time.sleep(0.002)


def wait_for_entries(shop: Shop, run: Run, entries: int, begin: Callable[[], subprocess.Popen[Any]]) -> Beginning:
    """Begin a run, and wait until its journal has so many entries, or it has ended."""
    folder = shop.local.root / "journal" / "local"
    known = set(folder.glob(f"{run.procedure}_*"))
    process = begin()

    def is_there() -> bool:
        new = set(folder.glob(f"{run.procedure}_*")) - known
        return process.poll() is not None or any(len(list(path.glob("0*.json"))) >= entries for path in new)

    wait_for(f"the journal never had {entries} entries", is_there, within_s=120)
    [journal] = set(folder.glob(f"{run.procedure}_*")) - known
    return Beginning(process, journal)


def recovered(shop: Shop) -> DeployReport | RollbackReport:
    """Recover, and return the report of the run that was ended; there is nothing left for a second recovery."""
    reports = recover(shop.connections(), triggered_by="chaos")
    assert recover(shop.connections(), triggered_by="chaos") == (), "recovering again finds nothing"
    report = reports[0] if reports else list(shop.connections().store.history())[-1]
    assert isinstance(report, DeployReport | RollbackReport)
    return report


def check(shop: Shop, traffic: Traffic, before: Facts, report: DeployReport | RollbackReport) -> None:
    """Application, schema and data are the old ones or the new ones, and nothing is left behind."""
    seen = traffic.counts().writes
    wait_for("nobody can order any more", lambda: traffic.counts().writes > seen + 5)
    traffic.pause_writes()
    after = shop.facts()
    assert report.state is FinalState.VERIFIED, (report.findings, report.error)
    changed = after.version != before.version
    if isinstance(report, DeployReport):
        assert changed is report.success, (before.version, after.version, report)
        stays = "these migrations stay applied" in "".join(report.findings)
        assert (after.migrations != before.migrations) is (report.success or stays)
    else:
        assert changed is (report.success and report.scope is not RollbackScope.DB_ONLY)
        assert (after.migrations != before.migrations) is (report.success and report.backup_id is not None)
    assert (after.schema == before.schema) is (after.migrations == before.migrations)
    _no_write_is_lost(shop, traffic, report)
    _nothing_is_left(shop, report)
    traffic.resume_writes()


def _no_write_is_lost(shop: Shop, traffic: Traffic, report: DeployReport | RollbackReport) -> None:
    url = shop.local.database_url
    held = {str(row[0]) for row in query(url, "SELECT reference FROM orders WHERE reference IS NOT NULL")}
    missing = set(traffic.acknowledged_references()) - held - shop.excused
    for name in _beside(shop, "_undone_"):  # the swap was undone after somebody had written: the report says where
        assert any(f"are only in {name}, which is kept" in finding for finding in report.findings)
        database = shop.connections().database
        execute(database.url_of("postgres"), f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
        elsewhere = {str(row[0]) for row in query(database.url_of(name), "SELECT reference FROM orders")}
        shop.excused |= missing & elsewhere
        missing -= elsewhere
        drop(database, name)
    assert not missing, f"{len(missing)} acknowledged orders are lost, {sorted(missing)[:3]}"
    sold = "SELECT coalesce(sum(quantity), 0) FROM order_items JOIN orders ON id = order_id WHERE reference IS NOT NULL"
    assert query(url, "SELECT sum(1000000 - stock) FROM products") == query(url, sold), "stock and orders disagree"
    events = "SELECT count(*) FROM order_events"
    assert query(url, events) == query(url, "SELECT count(*) FROM orders"), "an order without its event"


def _nothing_is_left(shop: Shop, report: DeployReport | RollbackReport) -> None:
    connections = shop.connections()
    assert lock_of(connections).holder() is None, "the lock is free"
    kept = _beside(shop, "_before_rollback_")
    for name in kept:
        end_preparations(connections, name=name)
        drop(connections.database, name)
    assert len(kept) <= 1, kept
    expected = {report.backup_id} if isinstance(report, DeployReport) and report.success else None
    slots = {capture.backup_id for capture in captures(connections.database)}
    prepared = {f"backup_{name.split('_prepared_')[1]}" for name in _beside(shop, "_prepared_")}
    if expected is not None:
        assert slots <= expected, "only what belongs to the deploy is captured"
        assert prepared <= expected, "only what belongs to the deploy is prepared"
    others = [name for name in _beside(shop, "_") if "_prepared_" not in name]
    assert others == [], "no database of a dead run is left"
    keys = [found.key for found in connections.store.objects.objects("database/backups/backup_")]
    published = {manifest.backup_id for manifest in connections.store.manifests()}
    assert {key.split("/")[2].removesuffix(".meta.json") for key in keys} == published, "no half backup"
    assert _processes_of(shop) == [], "no process of a dead run is left"


def _beside(shop: Shop, part: str) -> list[str]:
    connections = shop.connections()
    return [name for name in databases_beside(connections.database, connections.database.name) if part in name]


def _processes_of(shop: Shop) -> list[str]:
    """Return client programs that still talk to the server, and releases that run against another database."""
    live = shop.local.database_url
    port = str(urlsplit(live).port)
    found: list[str] = []
    for process in psutil.process_iter(["name", "cmdline"]):
        try:
            environment = process.environ()
        except psutil.Error:
            continue
        if process.info["name"] in ("psql", "pg_dump", "pg_restore") and environment.get("PGPORT") == port:
            found.append(" ".join(process.info["cmdline"]))
        url = environment.get("DATABASE_URL", live)
        if url != live and f":{port}/" in url:
            found.append(" ".join(process.info["cmdline"]))
    return found


def main() -> None:
    """Do one run, in the process that is going to be ended."""
    root, repository, run, ref, method = sys.argv[1:]
    shop = Shop(LocalEnvironment(Path(root), Path(repository)), ReplayMethod(method))
    perform(shop, Run(run), ref)


if __name__ == "__main__":
    main()
