"""A whole rollback of an application under traffic, from pressing return to the end of its verification.

The command is a process of its own, with all that it imports; Prefect is not in it.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from deployments.demo.facts import missing_orders, served_version
from deployments.demo.repository import build_repository
from deployments.demo.traffic import Traffic
from deployments.local import PROJECT, LocalEnvironment
from runbook.clients.backup_store import BackupStore
from runbook.clients.folder_store import FolderStore
from runbook.clients.git import Repository
from runbook.clients.local_host import LocalHost
from runbook.clients.postgres import Database
from runbook.connections import Connections
from runbook.journal import Effect, Entry, EntryKind
from runbook.procedures.deploy import DeployRequest, deploy
from runbook.procedures.environment import release_hold
from runbook.procedures.rollback import rollback
from runbook.reports import RollbackScope
from runbook.stages.rollback import RollbackRequest

SCOPES = (RollbackScope.APP_ONLY, RollbackScope.FULL)
_WATCHED_S = 1.0


@dataclass(frozen=True)
class Result:
    """Medians in seconds: from the command to its first effect, and to VERIFIED, with a second of watching.

    `served_s` is from the switch of the application until the public URL serves the old release; `gap_s` is the longest
    time without an answer. `failed` requests and `lost` orders are of all rounds together.
    """

    scope: RollbackScope
    first_effect_s: float
    served_s: float
    verified_s: float
    gap_s: float
    failed: int
    lost: int


@dataclass(frozen=True)
class _Round:
    first_effect_s: float
    served_s: float
    verified_s: float
    gap_s: float
    failed: int


def measure(rounds: int) -> list[Result]:
    """Deploy and roll back in both scopes; the full one finds its backup restored already."""
    with tempfile.TemporaryDirectory(prefix="runbook-bench-", dir="/var/tmp") as folder:
        local = LocalEnvironment(Path(folder) / "environment", Path(folder) / "repository")
        build_repository(local.repository)
        try:
            public_url = local.up_application().public_url
            with Traffic(public_url) as traffic:
                deploy(_connections(local), DeployRequest("v1", "bench", "bench"))
                return [_result(local, traffic, public_url, scope, rounds) for scope in SCOPES]
        finally:
            local.remove()


def _result(local: LocalEnvironment, traffic: Traffic, public_url: str, scope: RollbackScope, rounds: int) -> Result:
    done = [_round(local, traffic, public_url, scope) for _ in range(rounds)]
    traffic.pause_writes()
    lost = len(missing_orders(local.database_url, traffic.acknowledged_references()))
    traffic.resume_writes()
    return Result(
        scope,
        statistics.median(one.first_effect_s for one in done),
        statistics.median(one.served_s for one in done),
        statistics.median(one.verified_s for one in done),
        statistics.median(one.gap_s for one in done),
        sum(one.failed for one in done),
        lost,
    )


def _round(local: LocalEnvironment, traffic: Traffic, public_url: str, scope: RollbackScope) -> _Round:
    deploy(_connections(local), DeployRequest("v2", "bench", "bench"))
    traffic.mark()
    begun = datetime.now(UTC)
    argv = [sys.executable, "-m", __name__, str(local.root), str(local.repository), scope]
    with subprocess.Popen(argv, cwd=PROJECT, start_new_session=True) as command:
        while served_version(public_url) != "v1" and command.poll() is None:
            time.sleep(0.002)
        served = datetime.now(UTC)
    if command.returncode:
        raise RuntimeError(f"the rollback {scope} ended with {command.returncode}")
    seen = traffic.since_mark()
    entries = _journal(local)
    first, switch = (
        next(entry.at for entry in entries if entry.kind is EntryKind.INTENT and entry.effect in effects)
        for effects in ((Effect.SWAP, Effect.ROLL_BACK_APPLICATION), (Effect.ROLL_BACK_APPLICATION,))
    )
    release_hold(_connections(local), reason="the next round", by="bench")
    return _Round(
        first_effect_s=(first - begun).total_seconds(),
        served_s=(served - switch).total_seconds(),
        verified_s=(entries[-1].at - begun).total_seconds(),
        gap_s=seen.longest_gap_s,
        failed=seen.failures,
    )


def _journal(local: LocalEnvironment) -> Sequence[Entry]:
    newest = max((local.root / "journal" / "local").glob("rollback_*"))
    entries = [Entry.model_validate_json(path.read_text(encoding="utf-8")) for path in sorted(newest.iterdir())]
    if entries[-1].detail.get("state") != "VERIFIED":
        raise RuntimeError(f"the rollback ended {json.dumps(entries[-1].detail)}")
    return entries


def _connections(local: LocalEnvironment) -> Connections:
    settings = local.settings.model_copy(
        update={
            "tests": (),
            "watch": local.settings.watch.model_copy(update={"duration_s": _WATCHED_S}),
            "rollback": local.settings.rollback.model_copy(update={"watch_s": _WATCHED_S}),
        }
    )
    host, store = LocalHost.attach(local.root / "host"), BackupStore(FolderStore(local.root))
    return Connections(settings, Repository(local.repository), Database(local.database_url), host, store, ())


def main() -> None:
    """Roll back, in the process that is measured."""
    root, repository, scope = sys.argv[1:]
    local = LocalEnvironment(Path(root), Path(repository))
    latest = scope != RollbackScope.APP_ONLY
    rollback(_connections(local), RollbackRequest(RollbackScope(scope), None, latest, "bench", True, "bench"))


if __name__ == "__main__":
    main()
