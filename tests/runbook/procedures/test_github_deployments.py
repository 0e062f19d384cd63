"""Whole deploys and rollbacks, as GitHub shows them."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import pytest
from pydantic import SecretStr

from runbook.clients.application_host import ApplicationHost, Release
from runbook.clients.backup_store import BackupStore
from runbook.clients.folder_store import FolderStore
from runbook.clients.git import Repository
from runbook.clients.github import GitHub, GitHubSettings
from runbook.clients.http_api import Patience
from runbook.clients.postgres import Database
from runbook.connections import Connections
from runbook.errors import LostLockError, StageError
from runbook.procedures.changing import Change, holding_lock, unfinished
from runbook.procedures.deploy import DeployFailedError, DeployRequest, deploy, recover_deploy
from runbook.procedures.rollback import recover_rollback, rollback
from runbook.reports import FinalState, RollbackScope
from runbook.settings import MigrationSettings, Settings
from tests.emulators.github import Deployment, GitHubEmulator, github_emulator
from tests.runbook.procedures import test_deploy as deploying
from tests.runbook.procedures import test_rollback as rolling

TOKEN = "github_pat_never_to_be_seen_0123456789"
OLD, NEW = "a" * 40, "b" * 40
RELEASES = {sha: deploying.release(sha) for sha in (OLD, NEW)}


@dataclass
class Host:
    """Gives what the recovery asks for, and the address that GitHub links to."""

    served: str
    public_url: str = "https://shop.test"

    def active(self) -> Release:
        return RELEASES[self.served]

    def release(self, release_id: str) -> Release:
        return next(each for each in RELEASES.values() if each.release_id == release_id)


class Files(Repository):
    """A repository in which every commit has smoke tests and no migrations."""

    def text(self, git_sha: str, path: str) -> str | None:
        return '[[request]]\nname = "home"\npath = "/"\n'


@pytest.fixture(scope="module")
def server() -> Generator[GitHubEmulator]:
    with github_emulator(token=TOKEN) as emulator:
        yield emulator


@pytest.fixture
def github(server: GitHubEmulator) -> GitHubEmulator:
    server.reset()
    server.commit(OLD)
    server.commit(NEW)
    return server


@pytest.fixture
def connections(github: GitHubEmulator, tmp_path: Path) -> Connections:
    return Connections(
        settings=Settings(
            name="production", repository="", database="shop", migrations=MigrationSettings(directory="")
        ),
        repository=Files(tmp_path),
        database=Database("postgresql://nobody@127.0.0.1:1/shop"),
        host=cast("ApplicationHost", Host(OLD)),
        store=BackupStore(FolderStore(tmp_path)),
        channels=(),
        github=reaching(github.url),
        run_url="http://127.0.0.1:4200/runs/flow-run/1",
    )


def reaching(url: str) -> GitHub:
    settings = GitHubSettings("mantisnxt", "shop", api_url=url)
    return GitHub(settings, SecretStr(TOKEN), Patience(answer_s=2, pause_s=0.005, longest_pause_s=2))


def deployed(connections: Connections, world: deploying.World) -> BaseException | None:
    try:
        deploy(connections, DeployRequest("main", "secret plans", "ci"), deploying.Stages(world).all())
    except BaseException as error:  # noqa: BLE001 - a cancellation is one of the endings looked at
        return error
    return None


def rolled_back(connections: Connections, world: rolling.World, scope: RollbackScope) -> BaseException | None:
    try:
        rollback(connections, rolling.request_of(scope), rolling.Stages(world).all())
    except BaseException as error:  # noqa: BLE001 - a cancellation is one of the endings looked at
        return error
    return None


def taken_over(connections: Connections) -> Change:
    """Go on with the run that ended in the middle, as the recovery does."""
    with holding_lock(connections, "recover", reason="a run died", triggered_by="tests") as (held, _):
        [journal] = unfinished(connections, held)
        return Change(connections, held, journal)


def settled(made: Deployment) -> tuple[str, str]:
    """Return how it began and how it ended; in between it was in progress."""
    first, *between, last = made.states
    assert set(between) <= {"in_progress"}
    return first, last


def test_a_deploy_is_a_deployment_with_the_link_to_its_run(github: GitHubEmulator, connections: Connections) -> None:
    assert deployed(connections, deploying.World()) is None
    [made] = github.deployments
    assert (made.sha, made.environment, made.task) == (NEW, "production", "deploy")
    assert settled(made) == ("queued", "success")
    assert {status.log_url for status in made.statuses} == {connections.run_url}
    assert made.statuses[-1].environment_url == "https://shop.test"
    assert connections.store.history()[0].findings == ()


@pytest.mark.parametrize("cancelled", [False, True])
def test_a_deploy_that_is_undone_is_a_failure_and_the_one_before_it_stays(
    github: GitHubEmulator, connections: Connections, cancelled: bool
) -> None:
    assert deployed(connections, deploying.World()) is None
    world = deploying.World()
    world.breaks_before["smoke tests"] = KeyboardInterrupt() if cancelled else StageError("HTTP 500 from hunter2")
    assert isinstance(deployed(connections, world), KeyboardInterrupt if cancelled else DeployFailedError)
    assert [settled(made)[1] for made in github.deployments] == ["success", "failure"]
    said = f"{[(made.description, made.statuses) for made in github.deployments]}"
    assert "hunter2" not in said
    assert "secret plans" not in said


def test_what_the_checklist_refuses_is_no_deployment(github: GitHubEmulator, connections: Connections) -> None:
    world = deploying.World()
    world.breaks_before["checklist"] = StageError("refused")
    assert deployed(connections, world) is not None
    assert github.deployments == []


def test_an_undo_that_fails_is_an_error(github: GitHubEmulator, connections: Connections) -> None:
    world = deploying.World()
    world.breaks_before |= {"validation": StageError("bad"), "undo promotion": StageError("worse")}
    deployed(connections, world)
    assert github.deployments[0].state == "error"


@pytest.mark.parametrize("scope", [RollbackScope.FULL, RollbackScope.APP_ONLY])
def test_after_a_rollback_the_old_release_is_active_and_the_bad_one_is_not(
    github: GitHubEmulator, connections: Connections, scope: RollbackScope
) -> None:
    assert deployed(connections, deploying.World()) is None
    assert rolled_back(connections, rolling.World(), scope) is None
    bad, back = github.deployments
    assert (bad.sha, bad.state) == (NEW, "inactive")
    assert (back.sha, back.task, settled(back)) == (OLD, "rollback", ("queued", "success"))
    assert github.merged_base_into == [], "an older commit is behind its base branch: GitHub would merge"


def test_a_rollback_of_the_database_alone_is_no_deployment(github: GitHubEmulator, connections: Connections) -> None:
    assert rolled_back(connections, rolling.World(), RollbackScope.DB_ONLY) is None
    assert github.exchanges == []


def test_a_rollback_that_fails_leaves_the_bad_release_active(github: GitHubEmulator, connections: Connections) -> None:
    assert deployed(connections, deploying.World()) is None
    world = rolling.World()
    world.breaks_before["switch"] = StageError("the host is stuck")
    assert rolled_back(connections, world, RollbackScope.FULL) is not None
    assert [made.state for made in github.deployments] == ["success", "failure"]


@pytest.mark.parametrize("procedure", ["deploy", "rollback"])
def test_a_github_that_is_down_stops_nothing(connections: Connections, procedure: str) -> None:
    connections = replace(connections, github=reaching("http://127.0.0.1:1"))
    if procedure == "deploy":
        assert deployed(connections, world := deploying.World()) is None
    else:
        assert rolled_back(connections, world := rolling.World(), RollbackScope.FULL) is None
    assert world.served == (NEW if procedure == "deploy" else OLD)
    [report] = connections.store.history()
    assert (report.success, report.state) == (True, FinalState.VERIFIED)
    [finding] = report.findings
    assert finding.startswith("GitHub does not show how this ended: GitHub, ")
    assert [level for level, _, _ in world.messages] == ["info" if procedure == "deploy" else "warning"]


def test_a_deploy_that_died_gets_its_final_status_from_the_recovery(
    github: GitHubEmulator, connections: Connections
) -> None:
    world = deploying.World(pending=())
    world.breaks_after["promotion"] = LostLockError("another run took over")
    deployed(connections, world)
    assert github.deployments[0].state in {"queued", "in_progress"}
    report = recover_deploy(taken_over(connections), deploying.Stages(world).all())
    assert (report.success, report.state, world.served) == (False, FinalState.VERIFIED, OLD)
    [made] = github.deployments
    assert settled(made) == ("queued", "failure")


def test_a_rollback_that_died_when_all_was_done_is_finished_at_github_too(
    github: GitHubEmulator, connections: Connections
) -> None:
    assert deployed(connections, deploying.World()) is None
    world = rolling.World()
    world.breaks_before["verification"] = KeyboardInterrupt()
    assert isinstance(rolled_back(connections, world, RollbackScope.APP_ONLY), KeyboardInterrupt)
    assert github.deployments[1].state in {"queued", "in_progress"}
    world.breaks_before.clear()
    assert recover_rollback(taken_over(connections), rolling.Stages(world).all()).success
    assert [made.state for made in github.deployments] == ["inactive", "success"]
