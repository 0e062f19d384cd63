"""Bad input: each a clear error that names the file, before anything ran."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from runbook.clients.git import Repository
from runbook.clients.postgres import Database
from runbook.connections import Connections
from runbook.errors import RunbookError
from runbook.rules.lint import Severity
from runbook.stages.checklist import ChecklistFailedError, plan_database
from tests.runbook.helpers import commit, execute
from tests.runbook.stages.migrations import apply, now, plan_of, with_settings

GOOD = "CREATE TABLE items (id int);\n"


def refused(connections: Connections, files: Mapping[str, str | bytes | None]) -> str:
    """Commit files, None for one that is removed, and return why their migration is refused; nothing has changed."""
    path = connections.repository.path
    for name in [name for name, text in files.items() if text is None]:
        (path / "migrations" / f"{name}.sql").unlink()
    commit(path, {f"migrations/{name}.sql": text for name, text in files.items() if text is not None})
    before = now(connections)
    with pytest.raises(RunbookError) as raised:
        plan_database(connections, "main", only=None, phase=None)
    assert now(connections) == before
    return str(raised.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        pytest.param("", "migrations/0002_bad.sql", id="empty file"),
        pytest.param("-- nothing\n", "at least one statement", id="comments alone"),
        pytest.param(b"SELECT 1;\nSELECT '\xe9';\n", "migrations/0002_bad.sql:2 ", id="not UTF-8"),
        pytest.param("SELECT 1;\nSELECT 'open;\n", "line 2", id="unbalanced quotes"),
        pytest.param("BEGIN;\nSELECT 1;\n", "0002_bad.sql:1", id="a transaction that never ends"),
        pytest.param("SELECT 1;\n\\! rm -rf /\n", "not \\!", id="a shell"),
        pytest.param("\\i other.sql\nSELECT 1;\n", "not \\i", id="another file"),
        pytest.param("\\c other\nSELECT 1;\n", "not \\c", id="another database"),
        pytest.param("\\copy items from 'x.csv'\n", "not \\copy", id="a file of this machine"),
        pytest.param("SELECT 'SELECT 1' \\gexec\n", "not \\gexec", id="statements that a query makes"),
        pytest.param("\\set ON_ERROR_STOP off\nSELECT 1;\n", "not \\set ON_ERROR_STOP", id="going on after errors"),
    ],
)
def test_a_file_that_cannot_run_is_refused_by_name(connections: Connections, text: str | bytes, said: str) -> None:
    assert said in refused(connections, {"0001_good": GOOD, "0002_bad": text})


def test_a_file_of_ten_megabytes_is_data(connections: Connections) -> None:
    big = "INSERT INTO items VALUES (1);\n" * (10_000_000 // 30 + 1)
    said = refused(connections, {"0001_good": GOOD, "0002_data": big})
    assert "migrations/0002_data.sql (10.0 MB)" in said
    assert "maximum_file_mb" in said


def test_a_file_removed_after_it_was_applied_is_missed(connections: Connections) -> None:
    apply(connections, {"0001_good": GOOD})
    said = refused(connections, {"0001_good": None, "0002_next": "SELECT 1;"})
    assert "applied, but not in this commit: 0001_good" in said
    assert "missing-file" in said


def test_a_file_edited_after_it_was_applied_is_told_from_a_new_comment(connections: Connections) -> None:
    apply(connections, {"0001_good": GOOD})
    plan = plan_of(connections, {"0001_good": f"-- the items\n{GOOD}"})
    assert any("only comments or white space changed" in check.detail for check in plan.checks)
    said = refused(connections, {"0001_good": GOOD.replace("int", "bigint")})
    assert "edited after being applied: 0001_good" in said


def test_a_directory_that_the_commit_does_not_have_is_named(connections: Connections) -> None:
    said = refused(with_settings(connections, directory="db/changes"), {})
    assert "migrations.directory: 'db/changes'" in said


def test_a_role_that_may_not_change_the_schema_is_told_so(connections: Connections) -> None:
    url = urlsplit(connections.database.url)
    execute(
        connections.database.url,
        "DO $$ BEGIN CREATE ROLE migration_reader LOGIN PASSWORD 'reader'; EXCEPTION WHEN duplicate_object THEN END $$",
        "REVOKE CREATE ON SCHEMA public FROM PUBLIC",
    )
    reader = Database(f"postgresql://migration_reader:reader@{url.hostname}:{url.port}{url.path}")
    commit(connections.repository.path, {"migrations/0001_good.sql": GOOD})
    with pytest.raises(RunbookError, match="role migration_reader may not create tables in schema public"):
        plan_database(replace(connections, database=reader), "main", only=None, phase=None)


def test_a_folder_that_is_no_repository_is_named(connections: Connections, tmp_path: Path) -> None:
    with pytest.raises(RunbookError, match="not a git repository"):
        plan_database(replace(connections, repository=Repository(tmp_path)), "main", only=None, phase=None)


def test_settings_that_name_what_there_is_not_are_refused(connections: Connections) -> None:
    said = refused(with_settings(connections, left_out=("0009_gone",)), {"0001_good": GOOD})
    assert "left_out: '0009_gone'" in said
    said = refused(with_settings(connections, lint={"drop-tabel": Severity.OFF}), {"0001_good": GOOD})
    assert "migrations.lint: 'drop-tabel'" in said
    assert "drop-table" in said


@pytest.mark.parametrize("name", ["setup", "0001", "README_first"])
def test_a_file_that_fits_no_layout_is_named(connections: Connections, name: str) -> None:
    if name == "0001":
        assert plan_of(connections, {name: GOOD}).pending == ("0001",)
    else:
        assert f"migrations/{name}.sql" in refused(connections, {name: GOOD})


def test_one_that_is_not_pending_is_refused_by_name(connections: Connections) -> None:
    plan_of(connections, {"0001_good": GOOD, "0002_next": "SELECT 1;"})
    with pytest.raises(RunbookError, match=r"one that is pending: 0001_good, 0002_next"):
        plan_database(connections, "main", only="0003_gone", phase=None)
    with pytest.raises(RunbookError, match=r"out-of-order.*0001_good\.sql comes before 0002_next"):
        plan_database(connections, "main", only="migrations/0002_next.sql", phase=None)
    plan, _ = plan_database(connections, "main", only="0001_good", phase=None)
    assert plan.pending == ("0001_good",)


def test_lint_that_is_an_error_refuses(connections: Connections) -> None:
    execute(connections.database.url, "CREATE TABLE old (id int)")
    strict = with_settings(connections, lint={"drop-table": Severity.ERROR})
    commit(connections.repository.path, {"migrations/0001_drop.sql": "DROP TABLE old;\n"})
    with pytest.raises(ChecklistFailedError, match=r"lint: drop-table: migrations/0001_drop\.sql:1: drops table old"):
        plan_database(strict, "main", only=None, phase=None)
    plan, warnings = plan_database(connections, "main", only=None, phase=None)
    assert plan.pending == ("0001_drop",)
    assert any("drops table old" in warning for warning in warnings)
