"""Vercel's own command line, pointed at the emulator."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Generator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.conformance.installed import Outcome, run_node
from tests.conformance.services import contract_of
from tests.emulators.recording import record_of
from tests.emulators.vercel import PROJECT, TEAM, Nowhere, VercelEmulator, logged, vercel_emulator

pytestmark = pytest.mark.conformance

TOKEN = "vcp_never_to_be_seen_0123456789"
A, B = "a" * 40, "b" * 40
AT = datetime(2025, 1, 4, 12, tzinfo=UTC)


@pytest.fixture
def vercel() -> Generator[VercelEmulator]:
    """Serve a project; all answers to a documented operation have to be as documented.

    The command line asks for more than the public document admits: its requests are no violations.
    """
    with vercel_emulator(token=TOKEN, backend=Nowhere(lines=[logged(1, AT, "error", "it broke")])) as emulator:
        yield emulator
        said = [record_of(emulator, exchange) for exchange in emulator.exchanges]
    found = [(each.method, each.path, line) for each in said for line in contract_of("vercel").violations(each)]
    assert [violation for violation in found if violation[2].startswith("answer")] == []


@pytest.fixture
def cli(vercel: VercelEmulator, tmp_path: Path) -> Callable[..., Outcome]:
    """Run the program in a folder that is linked to the project and holds what was built."""
    folder = tmp_path / "shop"
    output = folder / ".vercel/output"
    (output / "static").mkdir(parents=True)
    (output / "static/index.html").write_text("hello")
    (output / "config.json").write_text('{"version": 3}')
    link = {"projectId": PROJECT, "orgId": TEAM, "projectName": "shop"}
    (folder / ".vercel/project.json").write_text(json.dumps(link))

    def run(*arguments: str, token: str = TOKEN) -> Outcome:
        options = ("--api", vercel.url, "--global-config", str(tmp_path / "settings"))
        return run_node("vercel", *arguments, *options, cwd=folder, VERCEL_TOKEN=token)

    return run


def changes(vercel: VercelEmulator) -> list[str]:
    return [f"{each.call.method} {each.call.path}" for each in vercel.exchanges if each.call.method != "GET"]


def test_production_deployments_are_listed(vercel: VercelEmulator, cli: Callable[..., Outcome]) -> None:
    live, staged = vercel.add(A, live=True), vercel.add(B)
    vercel.add("c" * 40, target=None)
    listed = cli("ls", "--prod", "--status", "READY", "--yes")
    assert listed.exit_code == 0, listed.errors
    assert listed.output.split() == [f"https://{staged.url}", f"https://{live.url}"]
    assert changes(vercel) == []


def test_a_deployment_and_its_build_log_are_shown(vercel: VercelEmulator, cli: Callable[..., Outcome]) -> None:
    deployment = vercel.add(A, live=True)
    shown = cli("inspect", deployment.url)
    assert shown.exit_code == 0, shown.errors
    assert deployment.id in shown.errors
    assert "Ready" in shown.errors
    logged = cli("inspect", deployment.id, "--logs")
    assert logged.exit_code == 0, logged.errors
    assert "Running build" in logged.errors


@pytest.mark.parametrize("skips", [True, False], ids=["without domains", "with domains"])
def test_what_was_built_here_is_deployed_to_production(
    vercel: VercelEmulator, cli: Callable[..., Outcome], skips: bool
) -> None:
    live = vercel.add(A, live=True)
    deployed = cli("deploy", "--prebuilt", "--prod", *(["--skip-domain"] if skips else []))
    assert deployed.exit_code == 0, deployed.errors
    made = vercel.deployments[-1]
    assert deployed.output.strip() == f"https://{made.url}"
    assert changes(vercel) == ["POST /v13/deployments", *["POST /v2/files"] * 2, "POST /v13/deployments"]
    assert (made.target, made.state) == ("production", "READY")
    assert vercel.production == (live.id if skips else made.id)
    bodies = [each.call.body for each in vercel.exchanges if each.call.path == "/v13/deployments"]
    assert [body.get("autoAssignCustomDomains") for body in bodies] == [False if skips else None] * 2
    digests = {each.call.headers["x-now-digest"] for each in vercel.exchanges if each.call.path == "/v2/files"}
    assert hashlib.sha1(b"hello", usedforsecurity=False).hexdigest() in digests


def test_a_staged_deployment_is_promoted_without_a_build(vercel: VercelEmulator, cli: Callable[..., Outcome]) -> None:
    vercel.add(A, live=True)
    staged = vercel.add(B)
    promoted = cli("promote", staged.id, "--yes")
    assert promoted.exit_code == 0, promoted.errors
    assert changes(vercel) == [f"POST /v10/projects/{PROJECT}/promote/{staged.id}"]
    assert (vercel.production, vercel.assigns, len(vercel.deployments)) == (staged.id, True, 2)


def test_promoting_a_preview_builds_it_anew(vercel: VercelEmulator, cli: Callable[..., Outcome]) -> None:
    vercel.add(A, live=True)
    preview = vercel.add(B, target=None)
    promoted = cli("promote", preview.id, "--yes")
    assert promoted.exit_code == 0, promoted.errors
    assert changes(vercel) == ["POST /v13/deployments"]
    made = vercel.deployments[-1]
    assert (made.target, made.sha, made.meta["action"]) == ("production", B, "promote")
    assert made.id != preview.id


def test_a_rollback_is_instant_and_pins_the_project(vercel: VercelEmulator, cli: Callable[..., Outcome]) -> None:
    old = vercel.add(A, live=True)
    vercel.add(B, live=True)
    rolled = cli("rollback", old.id)
    assert rolled.exit_code == 0, rolled.errors
    assert changes(vercel) == [f"POST /v9/projects/{PROJECT}/rollback/{old.id}"]
    assert (vercel.production, vercel.assigns, len(vercel.deployments)) == (old.id, False, 2)
    status = cli("rollback", "status")
    assert status.exit_code == 0, status.errors
    assert old.id in status.errors


def test_a_rollback_that_leaves_a_domain_behind_fails(vercel: VercelEmulator, cli: Callable[..., Outcome]) -> None:
    old = vercel.add(A, live=True)
    live = vercel.add(B, live=True)
    vercel.fail_domains("www.shop.example")
    rolled = cli("rollback", old.id)
    assert rolled.exit_code == 1
    assert "www.shop.example" in rolled.errors
    assert vercel.production == live.id


def test_aliases_are_assigned_listed_and_removed(vercel: VercelEmulator, cli: Callable[..., Outcome]) -> None:
    vercel.add(A, live=True)
    staged = vercel.add(B)
    assert cli("alias", "set", staged.url, "blue.vercel.app").exit_code == 0
    assert vercel.aliases == {"blue.vercel.app": staged.id}
    listed = cli("alias", "ls")
    assert listed.exit_code == 0, listed.errors
    assert [line.split()[:2] for line in listed.output.splitlines() if staged.url in line] == [
        [staged.url, "blue.vercel.app"]
    ]
    assert cli("alias", "rm", "blue.vercel.app", "--yes").exit_code == 0
    assert vercel.aliases == {}


def test_what_a_release_logs_is_shown(vercel: VercelEmulator, cli: Callable[..., Outcome]) -> None:
    live = vercel.add(A, live=True)
    shown = cli("logs", live.id, "--json", "--no-follow", "--limit", "100")
    assert shown.exit_code == 0, shown.errors
    (line,) = (json.loads(line) for line in shown.output.splitlines())
    assert (line["message"], line["level"]) == ("it broke", "error")


def test_variables_of_production_are_listed(vercel: VercelEmulator, cli: Callable[..., Outcome]) -> None:
    listed = cli("env", "ls", "production")
    assert listed.exit_code == 0, listed.errors
    assert "DATABASE_URL" in listed.output
    assert "PREVIEW_ONLY" not in listed.output


def test_a_wrong_token_is_refused(vercel: VercelEmulator, cli: Callable[..., Outcome]) -> None:
    refused = cli("ls", token="vcp_wrong")
    assert refused.exit_code == 1
    assert {each.reply.status for each in vercel.exchanges} == {403}
