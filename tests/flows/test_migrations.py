"""Migrations as runs: as a person starts them in the terminal and as CI starts the deployment."""

from __future__ import annotations

import json
from collections.abc import Generator
from pathlib import Path

import pytest

from tests.flows.conftest import Platform
from tests.flows.test_backups import artifact
from tests.runbook.helpers import commit, execute, git, query


@pytest.fixture(scope="module")
def branch(released: Platform) -> Generator[str]:
    """A branch with one more migration than the releases so far."""
    path = Path(released.local.settings.repository)
    before = git(path, "rev-parse", "--abbrev-ref", "HEAD")
    applied = query(released.local.database_url, "SELECT count(*) FROM schema_migrations")
    git(path, "checkout", "--quiet", "-b", "parcels", "v1" if applied == [(2,)] else "v2")
    commit(
        path,
        {
            "migrations/0099_parcel_kinds.sql": "CREATE TABLE parcel_kinds (id int PRIMARY KEY);\n",
            "migrations/0099_parcel_kinds_ROLLBACK.sql": "DROP TABLE parcel_kinds;\n",
        },
    )
    yield "parcels"
    git(path, "checkout", "--quiet", before)
    execute(
        released.local.database_url,
        "DROP TABLE IF EXISTS parcel_kinds",
        "DELETE FROM schema_migrations WHERE migration_name = '0099_parcel_kinds'",
    )


def exists(released: Platform) -> bool:
    return query(released.local.database_url, "SELECT to_regclass('parcel_kinds') IS NOT NULL") == [(True,)]


def test_a_dry_run_changes_nothing_then_the_migration_is_applied_then_it_is_a_baseline(
    released: Platform, branch: str
) -> None:
    assert released.runbook("db:backup").returncode == 0
    dry = released.runbook("db:migrate", "--dry-run", f"--git-ref={branch}")
    assert dry.returncode == 0, dry.stderr
    assert "migrations/0099_parcel_kinds.sql:1  CREATE TABLE parcel_kinds" in dry.stdout
    assert "- down scripts: restores" in dry.stdout
    assert "the running release works with the new schema" in dry.stdout
    assert "nothing was changed: " in dry.stdout
    assert not exists(released)
    rows = json.loads(artifact(released, "migration-plan-local")["data"])
    assert rows[-1]["file"] == "migrations/0099_parcel_kinds.sql:1"
    assert set(rows[-1]) >= {"statement", "locks", "rewrites", "predicted (s)"}
    listed = released.runbook("db:migrations", f"--git-ref={branch}")
    assert "0099_parcel_kinds                        pending" in listed.stdout
    done = released.runbook("db:migrate", f"--git-ref={branch}", "--reason=more kinds")
    assert done.returncode == 0, done.stderr
    assert "applied: " in done.stdout
    assert exists(released)
    states = {
        row["name"]: row["state"]
        for row in json.loads(released.runbook("db:migrations", f"--git-ref={branch}", "--json").stdout)
    }
    assert states["0099_parcel_kinds"] == "applied"
    assert "# Database migrated, VERIFIED" in artifact(released, "migrate-summary-local")["data"]
    assert "nothing is pending" in released.runbook("db:migrate", f"--git-ref={branch}").stdout
    execute(released.local.database_url, "DELETE FROM schema_migrations WHERE migration_name = '0099_parcel_kinds'")
    shown = released.runbook("db:baseline", "--migration=0099_parcel_kinds", f"--git-ref={branch}")
    assert "Nothing was written" in shown.stdout
    said = released.runbook("db:baseline", "--migration=0099_parcel_kinds", f"--git-ref={branch}", "--yes")
    assert "1 marked as applied" in said.stdout, said.stderr
    assert "nothing is pending" in released.runbook("db:migrate", f"--git-ref={branch}").stdout


def test_an_unknown_migration_is_refused_with_3(released: Platform, branch: str) -> None:
    done = released.runbook("db:migrate", "--migration=0100_gone", f"--git-ref={branch}")
    assert (done.returncode, "migration: '0100_gone' is not acceptable" in done.stderr) == (3, True)
