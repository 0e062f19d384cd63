"""The flows on a real server, worker, Postgres and application host, started as CI starts them."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from deployments.demo.facts import Facts, look, served_version

if TYPE_CHECKING:
    from tests.flows.conftest import Platform


@dataclass(frozen=True)
class Whole:
    """Everything a refused run must leave as it was."""

    facts: Facts
    backups: tuple[str, ...]
    logs: tuple[str, ...]
    releases: tuple[str, ...]


def whole(platform: Platform) -> Whole:
    root = platform.local.root
    return Whole(
        facts=look(platform.host.public_url, platform.local.database_url),
        backups=tuple(sorted(path.name for path in (root / "database" / "backups").iterdir())),
        logs=tuple(sorted(path.name for path in (root / "logs").iterdir())),
        releases=tuple(release.release_id for release in platform.host.releases()),
    )


BAD_INPUT = {
    "unknown environment": ("deploy", {"environment": "atlantis", "git_ref": "v2"}, "environment: 'atlantis'"),
    "malformed environment": ("deploy", {"environment": "../local", "git_ref": "v2"}, "environment: '../local'"),
    "unknown git ref": ("deploy", {"git_ref": "v99"}, "newest tags"),
    "git ref that is an option": ("deploy", {"git_ref": "--upload-pack=touch x"}, "git_ref"),
    "unknown backup id": (
        "rollback",
        {"scope": "db-only", "backup_id": "backup_20250104_120000", "yes": True},
        "a backup in the store",
    ),
    "malformed backup id": ("rollback", {"scope": "db-only", "backup_id": "latest", "yes": True}, "backup_id"),
    "backup id that leaves the store": (
        "rollback",
        {"scope": "full", "backup_id": "../../etc/passwd", "yes": True},
        "backup_id",
    ),
    "backup id without a database": (
        "rollback",
        {"scope": "app-only", "backup_id": "backup_20250104_120000", "yes": True},
        "nothing together with the scope app-only",
    ),
    "nobody said which backup": ("rollback", {"scope": "full", "yes": True}, "--latest or --backup-id"),
}


@pytest.mark.parametrize(("flow", "parameters", "message"), BAD_INPUT.values(), ids=BAD_INPUT.keys())
def test_bad_input_is_refused_before_the_first_side_effect(
    released: Platform,
    inline: Callable[..., str],
    flow: str,
    parameters: dict[str, object],
    message: str,
) -> None:
    before = whole(released)
    given = {"environment": "local", **parameters}
    if flow == "rollback":
        given["reason"] = "a test"
    assert message in inline(flow, **given)
    assert whole(released) == before


def test_a_dirty_checkout_is_refused(released: Platform, inline: Callable[..., str]) -> None:
    changed = released.local.repository / "smoke.toml"
    original = changed.read_text()
    before = whole(released)
    changed.write_text(original + "\n# not committed\n")
    try:
        assert "without uncommitted changes" in inline("deploy", environment="local", git_ref="v2")
    finally:
        changed.write_text(original)
    assert whole(released) == before


def test_missing_required_variables_are_refused_by_name(released: Platform, inline: Callable[..., str]) -> None:
    path = released.local.root / "host" / "app.env"
    original = path.read_text()
    before = whole(released)
    path.write_text("".join(line for line in original.splitlines(keepends=True) if not line.startswith("JWT_SECRET")))
    try:
        assert "JWT_SECRET" in inline("deploy", environment="local", git_ref="v2")
    finally:
        path.write_text(original)
    assert whole(released) == before


def test_an_unreachable_database_is_refused(released: Platform, inline: Callable[..., str]) -> None:
    before = whole(released)
    released.local.postgres.stop()
    try:
        message = inline("deploy", environment="local", git_ref="v2")
    finally:
        released.local.postgres.start()
    assert "does not answer" in message
    assert whole(released) == before


def test_the_exit_code_under_watch_says_that_the_flow_failed(released: Platform) -> None:
    before = whole(released)
    outcome = released.run("deploy/local", git_ref="v99")
    assert (outcome.exit_code, outcome.state) == (1, "FAILED")
    assert "newest tags: v" in outcome.state_message
    assert whole(released) == before


def test_the_checklist_answers_without_changing_anything(released: Platform, inline: Callable[..., str]) -> None:
    before = whole(released)
    outcome = released.run("pre-deployment-checklist/local", git_ref="v2")
    assert outcome.exit_code == 0, outcome.output
    asked = released.runbook("deploy:checklist", "--git-ref=v2", "--json")
    answers = json.loads(asked.stdout)
    assert (asked.returncode, answers["passed"], answers["version"], len(answers["manual"])) == (0, True, "v2", 8)
    strict = released.runbook("deploy:checklist", "--git-ref=v2", "--strict")
    assert strict.returncode == 3, strict.stdout
    assert "- ANTHROPIC_API_KEY: AI features: not set" in strict.stdout
    refused = inline("pre_deployment_checklist", environment="local", git_ref="v2", strict=True)
    assert "ANTHROPIC_API_KEY" in refused, "strict turns warnings into refusals"
    artifacts = released.api("artifacts/latest/filter", {"artifacts": {"key": {"any_": ["checklist-local"]}}})
    assert {row["check"] for row in json.loads(artifacts[0]["data"])} >= {"database", "backup store", "DATABASE_URL"}
    looked = released.runbook("deploy:verify", "--json")
    checks = {check["name"]: check["outcome"] for check in json.loads(looked.stdout)}
    assert looked.returncode in (0, 5), looked.stdout
    assert (checks["served version"], checks["schema"]) == ("passed", "passed")
    assert any(name.startswith("smoke: ") for name in checks)
    assert whole(released) == before


def test_a_rollback_without_yes_waits_for_a_person_and_takes_only_the_right_words(
    released: Platform, inline: Callable[..., str]
) -> None:
    deployed = released.run("deploy/local", git_ref="v2", triggered_by="tests")
    assert deployed.exit_code == 0, deployed.output
    for typed, state, served in (("prod", "FAILED", "v2"), ("local", "COMPLETED", "v1")):
        found = _consent(released, "rollback/local", typed, scope="app-only", reason="a test")
        assert found == ("v2", state), "nothing happens before consent"
        assert served_version(released.host.public_url) == served
    newest = max((released.local.root / "logs").glob("rollback_*.json"))
    written = json.loads(newest.read_text())
    assert written["approvedBy"] == "Ada: seen it"
    incident = Path(written["incidentReport"])
    assert incident == newest.with_name(newest.name.replace("rollback_", "incident_")).with_suffix(".md")
    artifacts = released.api("artifacts/latest/filter", {"artifacts": {"key": {"any_": ["incident-local"]}}})
    assert artifacts[0]["data"] == incident.read_text()
    assert "approved by Ada: seen it" in incident.read_text()
    assert "after v2 was taken back: a test" in released.runbook("deploy:status").stdout
    assert "is held since" in inline("deploy", environment="local", git_ref="v2")
    assert released.runbook("deploy:release", "--reason=mended").returncode == 0
    assert "held: no" in released.runbook("deploy:status").stdout
    assert "nothing to recover" in released.runbook("recover").stdout
    assert _consent(released, "undo-rollback/local", "local", reason="too soon") == ("v1", "COMPLETED")
    assert served_version(released.host.public_url) == "v2"
    status = released.runbook("deploy:status").stdout
    assert "undo of rollback app-only" in status
    assert "was undone: too soon" in status
    assert released.runbook("deploy:release", "--reason=it stays").returncode == 0


def test_a_sev1_that_nobody_answers_is_announced_and_takes_the_application_back(released: Platform) -> None:
    deployed = released.run("deploy/local", git_ref="v2", triggered_by="tests")
    assert deployed.exit_code == 0, deployed.output
    _register_hasty(released)
    outcome = released.run(
        "rollback/local", environment="hasty", severity="SEV1", scope="full", latest=True, triggered_by="tests"
    )
    assert (outcome.exit_code, outcome.state) == (0, "COMPLETED"), outcome.output
    assert served_version(released.host.public_url) == "v1"
    newest = json.loads(max((released.local.root / "logs").glob("rollback_*.json")).read_text())
    assert (newest["scope"], newest["severity"], newest["reason"]) == ("app-only", "SEV1", "no reason given")
    assert newest["approvedBy"].startswith("policy for an unattended SEV1: nobody answered for 3 s (asked for: full)")
    announced = (released.local.root / "logs" / "notifications.log").read_text()
    assert "rollback full on local waits for consent: no reason given" in announced
    assert "UTC, the application alone goes back to v1" in announced
    assert released.runbook("deploy:release", "--reason=mended").returncode == 0


def test_tests_of_a_commit_run_once_and_backups_every_time(released: Platform) -> None:
    newest = released.host.releases()[0].version  # the database may have a migration that older ones do not know
    again = released.run("deploy/local", git_ref=newest, triggered_by="tests")
    assert again.exit_code == 0, again.output
    [state] = released.api(
        "task_runs/filter",
        {"task_runs": {"name": {"any_": ["Stage 2: Test Suite"]}}, "sort": "EXPECTED_START_TIME_DESC", "limit": 1},
    )
    assert state["state_name"] == "Cached"
    [results] = released.api("artifacts/latest/filter", {"artifacts": {"key": {"any_": ["test-suite-local"]}}})
    rows = {row["command"]: row for row in json.loads(results["data"])}
    assert (rows["unit and integration tests"]["outcome"], rows["unit and integration tests"]["last line"]) == (
        "passed",
        "OK",
    ), "no test was left out for want of a database"
    backups = sorted((released.local.root / "database" / "backups").glob("*.meta.json"))
    assert len({json.loads(path.read_text())["created_at"] for path in backups[-2:]}) == 2


def test_no_secret_is_in_logs_artifacts_parameters_or_files(released: Platform) -> None:
    variables = dict(line.split("=", 1) for line in (released.local.root / "host" / "app.env").read_text().splitlines())
    password = (released.local.root / "postgres" / "password").read_text().strip()
    secrets = {password, variables["NEXTAUTH_SECRET"], variables["JWT_SECRET"]}
    told = json.dumps(released.api("artifacts/filter", {"limit": 200}))
    told += json.dumps(released.api("logs/filter", {"limit": 200, "sort": "TIMESTAMP_DESC"}))
    told += json.dumps(released.api("flow_runs/filter", {"limit": 200}))
    for path in [*(released.local.root / "logs").iterdir(), *(released.local.root / "prefect").glob("*.log")]:
        told += path.read_text(errors="replace")
    assert not [secret for secret in secrets if secret in told]


def _consent(platform: Platform, deployment: str, typed: str, **parameters: object) -> tuple[str | None, str]:
    """Answer the form of a run that waits; return which version was served meanwhile, and how the run ended."""
    with platform.start(deployment, **parameters) as waiting:
        try:
            run_id = _paused_run(platform)
            served = served_version(platform.host.public_url)
            consent = {"environment": typed, "approver": "Ada", "note": "seen it"}
            platform.api(f"flow_runs/{run_id}/resume", {"run_input": consent})
            waiting.communicate(timeout=60)
        finally:
            waiting.kill()
    run = platform.api("flow_runs/filter", {"flow_runs": {"id": {"any_": [run_id]}}})[0]
    return served, str(run["state_type"])


def _paused_run(platform: Platform) -> str:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        runs = platform.api("flow_runs/filter", {"flow_runs": {"state": {"type": {"any_": ["PAUSED"]}}}})
        if runs:
            return str(runs[0]["id"])
        time.sleep(0.3)
    pytest.fail("the run never paused")


def _register_hasty(platform: Platform) -> None:
    """Save the environment `local` once more, under a name of its own, with a policy that does not wait long."""
    [local] = [
        one for one in platform.api("block_documents/filter", {}) if one["name"] == "local" and _is_environment(one)
    ]
    data = local["data"]
    for name, reference in local["block_document_references"].items():
        data[name] = {"$ref": {"block_document_id": reference["block_document"]["id"]}}
    data["settings"]["rollback"]["unattended_sev1_after_s"] = 3.0
    ids = {name: local[name] for name in ("block_schema_id", "block_type_id")}
    platform.api("block_documents/", {"name": "hasty", "data": data, **ids})


def _is_environment(block: dict[str, Any]) -> bool:
    return block["block_type"]["slug"] == "runbook-environment"
