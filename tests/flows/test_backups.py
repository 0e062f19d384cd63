"""Backups, drills and retention as runs: started as CI and as a person would, seen in the server's records."""

from __future__ import annotations

import base64
import json
import re
from typing import Any

import pytest

from tests.flows.conftest import Platform
from tests.runbook.helpers import execute


@pytest.fixture(scope="module")
def shop(platform: Platform) -> Platform:
    execute(platform.local.database_url, "CREATE TABLE IF NOT EXISTS parcels AS SELECT generate_series(1, 40) AS n")
    return platform


def artifact(platform: Platform, key: str) -> dict[str, Any]:
    found = platform.api("artifacts/latest/filter", {"artifacts": {"key": {"any_": [key]}}})
    assert len(found) == 1, f"no artifact {key}"
    return found[0]


def progress(platform: Platform, of: str) -> list[float]:
    found = platform.api("artifacts/filter", {"artifacts": {"type": {"any_": ["progress"]}}})
    return [float(one["data"]) for one in found if one["description"].startswith(of)]


def back_up(platform: Platform) -> str:
    """Make a backup with `runbook db:backup`; return its id."""
    done = platform.runbook("db:backup", "--reason=before the big change")
    assert done.returncode == 0, done.stderr
    match = re.fullmatch(
        r"(backup_\d{8}_\d{6})  verified +[\d,]+ bytes  restored in \d+\.\d s +before the big change\n", done.stdout
    )
    assert match is not None, done.stdout
    return match[1]


@pytest.fixture(scope="module")
def backup_id(shop: Platform) -> str:
    return back_up(shop)


def test_a_backup_in_the_terminal_is_in_the_servers_records_too(shop: Platform) -> None:
    backup_id = back_up(shop)
    runs = shop.api("flow_runs/filter", {"flow_runs": {"name": {"any_": ["backup-local"]}}})
    assert "COMPLETED" in [run["state_type"] for run in runs]
    (row, *_) = [
        row for row in json.loads(artifact(shop, "backup-catalogue-local")["data"]) if row["backup"] == backup_id
    ]
    assert (row["state"], row["level"], row["reason"], row["encrypted"]) == (
        "verified",
        "full",
        "before the big change",
        "no",
    )
    text = artifact(shop, "backup-local")["data"]
    assert "public.parcels | 40" in text
    assert f"pg_restore --jobs=4 --exit-on-error --dbname=mantisnxt_restored {backup_id}/dump" in text
    assert 100 in progress(shop, "backup of local")
    assert 100 in progress(shop, f"verification of {backup_id}")


def test_the_backups_are_listed_verified_and_pinned_in_the_terminal(shop: Platform, backup_id: str) -> None:
    proven = shop.runbook("db:backup:verify", f"--backup-id={backup_id}", "--level=sample")
    assert proven.returncode == 0, proven.stderr
    assert "restored into a scratch database; schema, row counts and checksums are equal" in proven.stdout
    assert shop.runbook("db:backup:pin", f"--backup-id={backup_id}", "--reason=keep it").returncode == 0
    assert "pinned: keep it" in shop.runbook("db:backups").stdout
    manifests = json.loads(shop.runbook("db:backups", "--json").stdout)
    assert [one["verification"]["level"] for one in manifests if one["backup_id"] == backup_id] == ["sample"]
    plan = shop.runbook("db:backup:prune")
    assert plan.returncode == 0
    assert "pinned: keep it" in plan.stdout
    assert "Nothing was removed. Pass --yes" in plan.stdout


def test_an_unknown_backup_is_refused_with_3(shop: Platform) -> None:
    done = shop.runbook("db:backup:verify", "--backup-id=backup_20010101_000000")
    assert done.returncode == 3
    assert "backup_id: 'backup_20010101_000000' is not acceptable" in done.stderr


def test_a_backup_started_as_a_deployment(shop: Platform) -> None:
    outcome = shop.run("database-backup/local", reason="nightly", level="checksums")
    assert (outcome.exit_code, outcome.state) == (0, "COMPLETED"), outcome.output
    assert "unverified: every file was read back" in outcome.logs


def test_a_drill_leaves_a_table_and_a_plot(shop: Platform, backup_id: str) -> None:
    outcome = shop.run("restore-drill/local", backup_id=backup_id)
    assert (outcome.exit_code, outcome.state) == (0, "COMPLETED"), outcome.output
    newest = json.loads(artifact(shop, "restore-drills-local")["data"])[0]
    assert (newest["backup"], newest["result"]) == (backup_id, "restored and equal")
    assert newest["RTO (s)"] > 0
    kind, _, data = artifact(shop, "restore-drills-plot-local")["data"].partition(",")
    assert kind == "data:image/svg+xml;base64"
    assert b"RTO" in base64.b64decode(data)
    assert 100 in progress(shop, "restore drill of local")


def test_retention_is_planned_by_default_and_removes_nothing(shop: Platform, backup_id: str) -> None:
    outcome = shop.run("backup-retention/local")
    assert (outcome.exit_code, outcome.state) == (0, "COMPLETED"), outcome.output
    rows = json.loads(artifact(shop, "backup-retention-local")["data"])
    assert backup_id in [row["backup"] for row in rows if row["decision"] == "keep"]
    assert f"{backup_id}  " in shop.runbook("db:backups").stdout
