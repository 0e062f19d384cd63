"""A run that is killed on a real platform, and the automation that takes it back."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import pytest

from deployments.demo.facts import look
from tests.flows.conftest import Platform
from tests.runbook.helpers import query

KILL, TERMINATE, CANCEL = "killed", "told to end", "cancelled in the UI"


def wait_for_entries(journal: Path, run: str, entries: int) -> None:
    deadline = time.monotonic() + 90
    while len(list(journal.glob(f"{run}/*.json"))) < entries:
        assert time.monotonic() < deadline, f"the journal of {run} never had {entries} entries"
        time.sleep(0.05)


@pytest.mark.timeout(240)
@pytest.mark.parametrize("how", [KILL, TERMINATE, CANCEL])
def test_a_deploy_that_is_stopped_is_taken_back_by_itself_or_by_an_automation(released: Platform, how: str) -> None:
    root = released.local.root
    before = look(released.host.public_url, released.local.database_url)
    tokens = root / "locks" / "local"
    last = max(tokens.glob("????????.json")).name
    newest = released.host.releases()[0].version
    with released.start("deploy/local", git_ref=newest, triggered_by="tests") as deploying:
        deadline = time.monotonic() + 60
        while max(tokens.glob("????????.json")).name == last:
            assert time.monotonic() < deadline, "the deploy never got the lock"
            time.sleep(0.05)
        owner = json.loads(max(tokens.glob("????????.json")).read_text())
        journal = root / "journal" / "local"
        wait_for_entries(journal, owner["run"], 4)  # begun, backup, done, copy: the backup is being restored
        stop(released, owner["pid"], how)
        deploying.communicate(timeout=90)
    wait_until_ended(journal / owner["run"])
    assert look(released.host.public_url, released.local.database_url) == before
    kinds = [json.loads(path.read_text())["kind"] for path in sorted((journal / owner["run"]).iterdir())]
    assert ("taken-over" in kinds) is (how == KILL), "who is only told to end takes it back itself"
    report = json.loads(max((root / "logs").glob("deploy_*.json")).read_text())
    error = "the run died; another one took it back" if how == KILL else "TerminationSignal"
    assert (report["success"], report["error"]) == (False, error)
    copies = query(released.local.database_url, "SELECT datname FROM pg_database WHERE datname LIKE '%verify%'")
    assert copies == []


def stop(platform: Platform, pid: int, how: str) -> None:
    """End the process of the newest run, or cancel the run as the UI does."""
    if how != CANCEL:
        os.kill(pid, signal.SIGKILL if how == KILL else signal.SIGTERM)
        return
    newest = {"sort": "EXPECTED_START_TIME_DESC", "limit": 1}
    [run] = platform.api("flow_runs/filter", {"flow_runs": {"state": {"type": {"any_": ["RUNNING"]}}}, **newest})
    platform.api(f"flow_runs/{run['id']}/set_state", {"state": {"type": "CANCELLING", "name": "Cancelling"}})


def wait_until_ended(folder: Path) -> None:
    deadline = time.monotonic() + 90
    while json.loads(max(folder.glob("*.json")).read_text())["kind"] != "ended":
        assert time.monotonic() < deadline, "nobody recovered it"
        time.sleep(0.2)
