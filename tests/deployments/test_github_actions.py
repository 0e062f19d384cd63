"""The workflows in docs/examples/github-actions, run as a runner runs them, up to the command that they start."""

from __future__ import annotations

import inspect
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any, cast

import pytest
import yaml

from blocks.github import GitHubRepository
from flows.deploy import deploy
from flows.rollback import rollback
from runbook.reports import RollbackScope
from runbook.rules.thresholds import Severity

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples" / "github-actions"
needs_jq = pytest.mark.skipif(shutil.which("jq") is None, reason="the scripts of the workflows need jq")
BACKUP = "backup_20250104_120000"


def workflow(name: str) -> dict[str, Any]:
    # In YAML 1.1 the key `on` is a truth value.
    text = (EXAMPLES / f"{name}.yml").read_text(encoding="utf-8").replace("\non:\n", '\n"on":\n')
    return cast("dict[str, Any]", yaml.safe_load(text))


def started(
    tmp_path: Path, name: str, given: dict[str, str], *, code: int = 0
) -> tuple[list[str], dict[str, Any], int]:
    """Run the step of a workflow; return the command it started, its parameters, and how the step ended."""
    program = tmp_path / "pipx"
    program.write_text(f'#!/bin/sh\nprintf "%s\\0" "$@" > "{tmp_path}/argv"\nexit {code}\n', encoding="utf-8")
    program.chmod(0o755)
    [step] = workflow(name)["jobs"]["runbook"]["steps"]
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", **given}
    assert set(given) < set(step["env"]), "the step hands in what its script uses"
    # `bash -e` is what a runner starts when no shell is named.
    done = subprocess.run(["bash", "-e", "-c", step["run"]], env=environment, check=False)
    argv = (tmp_path / "argv").read_text(encoding="utf-8").split("\0")[:-1]
    return argv, json.loads(argv[argv.index("--params") + 1]), done.returncode


@needs_jq
def test_a_deploy_is_started_with_the_parameters_of_the_flow(tmp_path: Path) -> None:
    reason = 'tag "v2"; $(touch injected) `id`'
    argv, parameters, code = started(
        tmp_path,
        "deploy",
        {"TARGET": "production", "GIT_REF": "v2", "REASON": reason, "TRIGGERED_BY": "mira, https://github.com"},
    )
    assert argv[:6] == ["run", "--spec", "prefect>=3.8,<3.9", "prefect", "deployment", "run"]
    assert argv[6] == "deploy/production"
    assert argv[-1] == "--watch"
    assert parameters == {"git_ref": "v2", "reason": reason, "triggered_by": "mira, https://github.com"}
    assert set(parameters) < set(inspect.signature(deploy.fn).parameters)
    assert code == 0


@needs_jq
@pytest.mark.parametrize(
    ("scope", "backup_id", "chosen"),
    [
        ("app-only", BACKUP, {}),
        ("full", "", {"latest": True}),
        ("full", BACKUP, {"backup_id": BACKUP}),
        ("db-only", "", {"latest": True}),
    ],
)
def test_a_rollback_is_started_with_what_its_scope_takes(
    tmp_path: Path, scope: str, backup_id: str, chosen: dict[str, object]
) -> None:
    given = {"SCOPE": scope, "BACKUP_ID": backup_id, "SEVERITY": "SEV1", "REASON": "outage", "TRIGGERED_BY": "mira"}
    argv, parameters, _ = started(tmp_path, "rollback", {"TARGET": "production", **given})
    assert argv[6] == "rollback/production"
    said = {"scope": scope, "severity": "SEV1", "reason": "outage", "triggered_by": "mira", "yes": True}
    assert parameters == said | chosen
    assert set(parameters) < set(inspect.signature(rollback.fn).parameters)


@needs_jq
@pytest.mark.parametrize("name", ["deploy", "rollback"])
def test_a_run_that_fails_fails_the_job(tmp_path: Path, name: str) -> None:
    given = {"TARGET": "production", "REASON": "outage", "TRIGGERED_BY": "mira"}
    more = {"GIT_REF": "v2"} if name == "deploy" else {"SCOPE": "app-only", "BACKUP_ID": "", "SEVERITY": "SEV1"}
    assert started(tmp_path, name, given | more, code=1)[2] == 1


def test_what_a_person_can_choose_is_what_the_flow_knows() -> None:
    inputs = workflow("rollback")["on"]["workflow_dispatch"]["inputs"]
    assert set(inputs["scope"]["options"]) == set(RollbackScope)
    assert set(inputs["severity"]["options"]) < set(Severity)


@pytest.mark.parametrize("name", ["deploy", "rollback"])
def test_nothing_a_person_types_becomes_part_of_a_script(name: str) -> None:
    [step] = workflow(name)["jobs"]["runbook"]["steps"]
    assert "${{" not in step["run"]
    assert workflow(name)["permissions"] == {}


def test_the_job_is_the_one_that_the_checklist_ignores() -> None:
    ignored = GitHubRepository.model_fields["ignored_checks"].default
    assert {next(iter(workflow(name)["jobs"])) for name in ("deploy", "rollback")} == set(ignored)
