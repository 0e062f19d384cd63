from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from deployments.cli import cli
from runbook.errors import InvalidInputError

PROJECT = Path(__file__).parents[2]
COMMANDS = (
    "app:deploy",
    "app:logs",
    "app:ls",
    "deploy",
    "deploy:checklist",
    "deploy:rollback",
    "deploy:rollback:undo",
    "deploy:status",
    "environment:check",
    "db:backup",
    "db:backup:production",
    "db:backup:verify",
    "db:backup:prune",
    "db:backup:pin",
    "db:backup:unpin",
    "db:backups",
    "db:drill",
    "db:kept",
    "db:kept:drop",
    "db:migrate",
    "db:migrate:production",
    "db:migrations",
    "db:rehearse",
    "db:baseline",
    "db:health",
    "db:status",
    "db:slow-queries",
    "db:connections",
    "monitoring:errors",
    "monitoring:performance",
    "monitoring:metrics",
    "local:up",
    "local:down",
)


def runbook(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    argv = [sys.executable, "-m", "deployments.cli", *arguments]
    return subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=60, check=False)


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[list[str]]:
    """Collect the programs that the command line would start, in a folder without an environment."""
    monkeypatch.chdir(tmp_path)
    seen: list[list[str]] = []

    def run(argv: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        seen.append(argv)
        return subprocess.CompletedProcess(argv, 7)

    monkeypatch.setattr("deployments.runs.subprocess.run", run)
    return seen


def test_importing_the_command_line_imports_no_prefect() -> None:
    script = "import sys, deployments.cli; print([m for m in ('prefect', 'psycopg', 'httpx') if m in sys.modules])"
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_help_lists_every_command() -> None:
    done = runbook("--help")
    assert done.returncode == 0
    assert all(f"  {command} " in done.stdout for command in COMMANDS)


@pytest.mark.parametrize("separator", [(), ("--",)], ids=["directly", "as npm passes it"])
def test_options_are_read_with_and_without_the_separator_of_npm(separator: tuple[str, ...]) -> None:
    done = runbook("deploy:rollback", *separator, "--reason=x", "--app-only", "--db-only")
    assert done.returncode == 2
    assert "--app-only and --db-only exclude each other" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["deploy:rollback", "--latest", "--severity=SEV5", "--yes"], "SEV5"),
        (["deploy:rollback", "--latest", "--yes", "--ask-in-ui"], "exclude each other"),
        (["deploy:rollback", "--reason=x", "--app-only", "--db-only"], "exclude each other"),
        (["deploy:rollback", "--reason=x", "--backup=y"], "--backup"),
        (["deploy:rollback:undo", "--yes"], "--reason"),
        (["db:kept:drop", "--yes"], "--name"),
        (["deploy", "--strict"], "--strict"),
        (["deploy:everything"], "deploy:everything"),
        (["local:up"], "--repository"),
        (["local:up", "--repository=/no/such/folder"], "/no/such/folder"),
    ],
)
def test_wrong_usage_ends_with_2_and_starts_nothing(started: list[list[str]], arguments: list[str], said: str) -> None:
    result = CliRunner().invoke(cli, arguments)
    assert result.exit_code == 2
    assert said in result.output
    assert started == []


@pytest.mark.parametrize(
    ("arguments", "deployment", "parameters"),
    [
        (["deploy"], "deploy/local", {"git_ref": "HEAD", "reason": "scheduled release"}),
        (["deploy", "--environment=production", "--git-ref=v2"], "deploy/production", {"git_ref": "v2"}),
        (["deploy", "--skip-tests=CI has passed"], "deploy/local", {"skip_tests": "CI has passed"}),
        (
            ["deploy:rollback", "--latest", "--reason=SEV1: outage", "--yes"],
            "rollback/local",
            {"scope": "full", "latest": True, "backup_id": None, "reason": "SEV1: outage", "yes": True},
        ),
        (["deploy:rollback", "--app-only", "--reason=bug", "--yes"], "rollback/local", {"scope": "app-only"}),
        (
            ["deploy:rollback", "--db-only", "--latest", "--yes"],
            "rollback/local",
            {"scope": "db-only", "latest": True, "reason": "", "severity": None, "yes": True},
        ),
        (
            ["deploy:rollback", "--latest", "--severity=SEV1", "--ask-in-ui"],
            "rollback/local",
            {"scope": "full", "severity": "SEV1", "yes": False},
        ),
        (
            ["deploy:rollback", "--db-only", "--backup-id=backup_20250104_120000", "--reason=bug", "--yes"],
            "rollback/local",
            {"scope": "db-only", "backup_id": "backup_20250104_120000", "latest": False},
        ),
        (["deploy:rollback:undo", "--reason=too soon", "--yes"], "undo-rollback/local", {"reason": "too soon"}),
    ],
)
def test_a_command_of_the_runbook_starts_its_deployment(
    started: list[list[str]], arguments: list[str], deployment: str, parameters: dict[str, object]
) -> None:
    result = CliRunner().invoke(cli, arguments)
    assert result.exit_code == 7, "the exit code is that of the run"
    [argv] = started
    assert deployment in argv
    assert "--watch" in argv
    passed = json.loads(argv[argv.index("--params") + 1])
    assert {name: passed[name] for name in parameters} == parameters


def test_the_test_suite_is_not_skipped_without_a_reason(started: list[list[str]]) -> None:
    refused = CliRunner().invoke(cli, ["deploy", "--skip-tests= "])
    assert isinstance(refused.exception, InvalidInputError)
    assert started == []
