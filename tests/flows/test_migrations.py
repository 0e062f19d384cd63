"""Migrations as runs: as a person starts them in the terminal and as CI starts the deployment."""

from __future__ import annotations

import json
from collections.abc import Generator
from pathlib import Path

import psycopg
import pytest

from tests.flows.conftest import Platform
from tests.flows.test_backups import artifact, runbook
from tests.runbook.helpers import commit, git, query


@pytest.fixture(scope="module")
def branch(platform: Platform) -> Generator[str]:
    """A branch with one more migration than the release that may be running."""
    path = Path(platform.local.settings.repository)
    before = git(path, "rev-parse", "--abbrev-ref", "HEAD")
    git(path, "checkout", "--quiet", "-b", "parcels")
    commit(
        path,
        {
            "migrations/0099_parcel_kinds.sql": "CREATE TABLE parcel_kinds (id int PRIMARY KEY);\n",
            "migrations/0099_parcel_kinds_ROLLBACK.sql": "DROP TABLE parcel_kinds;\n",
        },
    )
    yield "parcels"
    git(path, "checkout", "--quiet", before)


def exists(platform: Platform) -> bool:
    return query(platform.local.database_url, "SELECT to_regclass('parcel_kinds') IS NOT NULL") == [(True,)]


def test_a_dry_run_shows_costs_and_changes_nothing_then_the_migration_is_applied(
    platform: Platform, branch: str
) -> None:
    assert runbook(platform, "db:backup").returncode == 0
    dry = runbook(platform, "db:migrate", "--dry-run", f"--git-ref={branch}")
    assert dry.returncode == 0, dry.stderr
    assert "migrations/0099_parcel_kinds.sql:1  CREATE TABLE parcel_kinds" in dry.stdout
    assert "down scripts: restores" in dry.stdout
    assert "nothing was changed: " in dry.stdout
    assert not exists(platform)
    rows = json.loads(artifact(platform, "migration-plan-local")["data"])
    assert rows[-1]["file"] == "migrations/0099_parcel_kinds.sql:1"
    assert set(rows[-1]) >= {"statement", "locks", "rewrites", "predicted (s)"}
    listed = runbook(platform, "db:migrations", f"--git-ref={branch}")
    assert "0099_parcel_kinds                        pending" in listed.stdout
    done = runbook(platform, "db:migrate", f"--git-ref={branch}", "--reason=more kinds")
    assert done.returncode == 0, done.stderr
    assert "applied: " in done.stdout
    assert exists(platform)
    states = {
        row["name"]: row["state"]
        for row in json.loads(runbook(platform, "db:migrations", f"--git-ref={branch}", "--json").stdout)
    }
    assert states["0099_parcel_kinds"] == "applied"
    assert "# Database migrated, VERIFIED" in artifact(platform, "migrate-summary-local")["data"]
    assert "nothing is pending" in runbook(platform, "db:migrate", f"--git-ref={branch}").stdout


def test_an_unknown_migration_is_refused_with_3(platform: Platform, branch: str) -> None:
    done = runbook(platform, "db:migrate", "--migration=0100_gone", f"--git-ref={branch}")
    assert (done.returncode, "migration: '0100_gone' is not acceptable" in done.stderr) == (3, True)


def test_a_baseline_is_shown_before_it_is_written(platform: Platform, branch: str) -> None:
    with psycopg.connect(platform.local.database_url, autocommit=True) as connection:
        connection.execute("DELETE FROM schema_migrations WHERE migration_name = '0099_parcel_kinds'")
    shown = runbook(platform, "db:baseline", "--migration=0099_parcel_kinds", f"--git-ref={branch}")
    assert "Nothing was written" in shown.stdout
    done = runbook(platform, "db:baseline", "--migration=0099_parcel_kinds", f"--git-ref={branch}", "--yes")
    assert "1 marked as applied" in done.stdout, done.stderr
    assert "nothing is pending" in runbook(platform, "db:migrate", f"--git-ref={branch}").stdout
