"""A run that is killed on a real platform, and the automation that takes it back."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from deployments.demo.facts import Facts, look
from deployments.processes import Service
from tests.flows.conftest import Platform
from tests.runbook.helpers import query

DIED = "the run died; another one took it back"
KILL, TERMINATE, CANCEL = "killed", "told to end", "cancelled in the UI"


def wait_for_entries(journal: Path, run: str, entries: int) -> None:
    deadline = time.monotonic() + 90
    while len(list(journal.glob(f"{run}/*.json"))) < entries:
        assert time.monotonic() < deadline, f"the journal of {run} never had {entries} entries"
        time.sleep(0.05)


@contextmanager
def deploying(platform: Platform) -> Generator[tuple[Path, dict[str, Any]]]:
    """Deploy for the body of a `with`, which begins while the backup is being restored; yield journal and lock."""
    root = platform.local.root
    tokens, journal = root / "locks" / "local", root / "journal" / "local"
    last = max(tokens.glob("????????.json")).name
    newest = platform.host.releases()[0].version
    with platform.start("deploy/local", git_ref=newest, triggered_by="tests") as run:
        deadline = time.monotonic() + 60
        while max(tokens.glob("????????.json")).name == last:
            assert time.monotonic() < deadline, "the deploy never got the lock"
            time.sleep(0.05)
        owner = json.loads(max(tokens.glob("????????.json")).read_text())
        wait_for_entries(journal, owner["run"], 4)  # begun, backup, done, copy: the backup is being restored
        try:
            yield journal / owner["run"], owner
            run.communicate(timeout=90)
        finally:
            run.kill()


def require_taken_back(platform: Platform, journal: Path, before: Facts, *, error: str) -> None:
    wait_until_ended(journal)
    assert look(platform.host.public_url, platform.local.database_url) == before
    kinds = [json.loads(path.read_text())["kind"] for path in sorted(journal.iterdir())]
    assert ("taken-over" in kinds) is (error == DIED), "who is only told to end takes it back itself"
    report = json.loads(max((platform.local.root / "logs").glob("deploy_*.json")).read_text())
    assert (report["success"], report["error"]) == (False, error)
    copies = query(platform.local.database_url, "SELECT datname FROM pg_database WHERE datname LIKE '%verify%'")
    assert copies == []


@pytest.mark.timeout(240)
@pytest.mark.parametrize("how", [KILL, TERMINATE, CANCEL])
def test_a_deploy_that_is_stopped_is_taken_back_by_itself_or_by_an_automation(released: Platform, how: str) -> None:
    before = look(released.host.public_url, released.local.database_url)
    with deploying(released) as (journal, owner):
        stop(released, owner["pid"], how)
    require_taken_back(released, journal, before, error=DIED if how == KILL else "TerminationSignal")


@pytest.mark.chaos
@pytest.mark.timeout(600)
def test_a_deploy_that_dies_with_its_worker_is_taken_back_when_its_heartbeat_is_missed(released: Platform) -> None:
    before = look(released.host.public_url, released.local.database_url)
    with deploying(released) as (journal, owner):
        worker = Service("worker", released.local.root / "prefect").process()
        assert worker is not None
        worker.kill()  # first: a worker that sees its run end says that it crashed
        os.kill(owner["pid"], signal.SIGKILL)
        released.local.up()  # what supervises the worker starts it again; nobody tells it of the run
        wait_until_ended(journal, within_s=300)  # until then the run watched is said to have crashed, and is left alone
    require_taken_back(released, journal, before, error=DIED)


def stop(platform: Platform, pid: int, how: str) -> None:
    """End the process of the newest run, or cancel the run as the UI does."""
    if how != CANCEL:
        os.kill(pid, signal.SIGKILL if how == KILL else signal.SIGTERM)
        return
    newest = {"sort": "EXPECTED_START_TIME_DESC", "limit": 1}
    [run] = platform.api("flow_runs/filter", {"flow_runs": {"state": {"type": {"any_": ["RUNNING"]}}}, **newest})
    platform.api(f"flow_runs/{run['id']}/set_state", {"state": {"type": "CANCELLING", "name": "Cancelling"}})


def wait_until_ended(folder: Path, *, within_s: float = 90) -> None:
    deadline = time.monotonic() + within_s
    while json.loads(max(folder.glob("*.json")).read_text())["kind"] != "ended":
        assert time.monotonic() < deadline, "nobody recovered it"
        time.sleep(0.2)
