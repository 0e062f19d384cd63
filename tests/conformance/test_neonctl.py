"""Neon's own command line, pointed at the emulator."""

from __future__ import annotations

from collections.abc import Callable, Generator
from pathlib import Path

import pytest

from tests.conformance.deviations import unexpected
from tests.conformance.installed import Outcome, run_node
from tests.emulators.neon import MAIN, NeonEmulator, neon_emulator
from tests.emulators.recording import record_of

pytestmark = pytest.mark.conformance

TOKEN = "napi_never_to_be_seen_0123456789"


@pytest.fixture
def neon() -> Generator[NeonEmulator]:
    """Serve a project; what was said during a test has to be as Neon's document says."""
    with neon_emulator(token=TOKEN, polls=0) as emulator:
        emulator.write("before")
        yield emulator
        said = [record_of(emulator, exchange) for exchange in emulator.exchanges]
    assert said
    assert [(each.method, each.path, line) for each in said for line in unexpected(each)] == []


@pytest.fixture
def neonctl(neon: NeonEmulator, tmp_path: Path) -> Callable[..., Outcome]:
    """Run the program on the project."""

    folder = tmp_path / "shop"
    folder.mkdir()

    def run(*arguments: str, token: str = TOKEN) -> Outcome:
        options = ("--project-id", neon.project_id, "--api-host", neon.url, "--no-analytics", "--output", "json")
        return run_node("neonctl", *arguments, *options, cwd=folder, NEON_API_KEY=token)

    return run


def sent(neon: NeonEmulator) -> list[str]:
    """Return what was asked, without the project."""
    prefix = f"/projects/{neon.project_id}"
    return [f"{each.call.method} {each.call.path.removeprefix(prefix)}" for each in neon.exchanges]


def test_branches_are_created_listed_and_deleted(neon: NeonEmulator, neonctl: Callable[..., Outcome]) -> None:
    created = neonctl("branches", "create", "--name", "kept", "--no-compute")
    assert created.exit_code == 0, created.errors
    branch = neon.named("kept")[0]
    assert (branch.parent, branch.content, branch.endpoint) == (MAIN, "before", None)
    listed = neonctl("branches", "list")
    assert [each["name"] for each in listed.printed] == ["main", "kept"]
    assert neonctl("branches", "delete", "kept").exit_code == 0
    assert neon.named("kept") == []
    assert sent(neon) == [
        *("GET /branches", "POST /branches"),
        "GET /branches",
        *("GET /branches", f"DELETE /branches/{branch.id}"),
    ]


def test_a_branch_of_an_earlier_point_is_created_with_an_endpoint(
    neon: NeonEmulator, neonctl: Callable[..., Outcome]
) -> None:
    point = f"0/{neon.branches[MAIN].states[-1][0]:X}"
    neon.write("after")
    created = neonctl("branches", "create", "--name", "past", "--parent", point)
    assert created.exit_code == 0, created.errors
    branch = neon.named("past")[0]
    assert branch.content == "before"
    assert branch.endpoint is not None


def test_the_live_branch_is_restored_to_an_earlier_point_and_what_it_held_is_preserved(
    neon: NeonEmulator, neonctl: Callable[..., Outcome]
) -> None:
    point = f"0/{neon.branches[MAIN].states[-1][0]:X}"
    neon.write("after")
    restored = neonctl("branches", "restore", "main", f"^self@{point}", "--preserve-under-name", "replaced")
    assert restored.exit_code == 0, restored.errors
    assert neon.connect() == "before"
    assert [branch.content for branch in neon.named("replaced")] == ["after"]


def test_the_live_branch_is_restored_from_another(neon: NeonEmulator, neonctl: Callable[..., Outcome]) -> None:
    other = neon.add_branch("other")
    neon.write("after")
    restored = neonctl("branches", "restore", "main", "other", "--preserve-under-name", "replaced")
    assert restored.exit_code == 0, restored.errors
    assert neon.connect() == "before"
    changes = [each.call for each in neon.exchanges if each.call.method == "POST"]
    assert [(each.path.rpartition("/branches")[2], each.body["source_branch_id"]) for each in changes] == [
        (f"/{MAIN}/restore", other.id)
    ]


def test_restoring_from_itself_without_a_name_to_preserve_is_refused(
    neon: NeonEmulator, neonctl: Callable[..., Outcome]
) -> None:
    refused = neonctl("branches", "restore", "main", f"^self@0/{neon.branches[MAIN].states[-1][0]:X}")
    assert refused.exit_code == 1
    assert "preserve_under_name is required" in refused.errors
    assert neon.connect() == "before"


def test_snapshots_are_created_listed_restored_and_deleted(neon: NeonEmulator, neonctl: Callable[..., Outcome]) -> None:
    assert neonctl("snapshots", "create", "--branch", "main", "--name", "point").exit_code == 0
    assert [each["name"] for each in neonctl("snapshots", "list").printed] == ["point"]
    neon.write("after")
    restored = neonctl("snapshots", "restore", "point", "--target-branch", "main", "--finalize")
    assert restored.exit_code == 0, restored.errors
    assert neon.connect() == "before"
    deleted = neonctl("snapshots", "delete", "point")
    assert deleted.exit_code == 0, deleted.errors
    assert neon.snapshots == {}


def test_a_project_that_is_locked_is_asked_again(neon: NeonEmulator, neonctl: Callable[..., Outcome]) -> None:
    neon.refuse("POST", "/branches$", 423)
    assert neonctl("branches", "create", "--name", "kept", "--no-compute").exit_code == 0
    assert [each.reply.status for each in neon.exchanges if each.call.method == "POST"] == [423, 201]
    assert len(neon.named("kept")) == 1


def test_a_wrong_key_is_refused(neon: NeonEmulator, neonctl: Callable[..., Outcome]) -> None:
    refused = neonctl("branches", "list", token="napi_wrong")
    assert refused.exit_code == 1
    assert {each.reply.status for each in neon.exchanges} == {401}
