"""Whole deploys and rollbacks, as a channel of Slack shows them."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest
from pydantic import SecretStr

from runbook.clients.application_host import ApplicationHost
from runbook.clients.backup_store import BackupStore
from runbook.clients.folder_store import FolderStore
from runbook.clients.http_api import Patience
from runbook.clients.postgres import Database
from runbook.clients.slack import SlackChannel, slack_channel
from runbook.connections import Connections
from runbook.errors import StageError
from runbook.reports import FinalState, RollbackScope
from runbook.settings import MigrationSettings, Settings
from tests.emulators.slack import SlackEmulator, slack_emulator
from tests.runbook.procedures import test_deploy as deploying
from tests.runbook.procedures import test_rollback as rolling
from tests.runbook.procedures.test_github_deployments import OLD, Files, Host, deployed, rolled_back

TOKEN = "xoxb-never_to_be_seen_0123456789"


@pytest.fixture(scope="module")
def server() -> Generator[SlackEmulator]:
    with slack_emulator(token=TOKEN, webhook_secret="hook_never_to_be_seen") as emulator:
        yield emulator


@pytest.fixture
def slack(server: SlackEmulator) -> SlackEmulator:
    server.reset()
    return server


@pytest.fixture
def connections(slack: SlackEmulator, tmp_path: Path) -> Connections:
    return Connections(
        settings=Settings(
            name="production", repository="", database="shop", migrations=MigrationSettings(directory="")
        ),
        repository=Files(tmp_path),
        database=Database("postgresql://nobody@127.0.0.1:1/shop"),
        host=cast("ApplicationHost", Host(OLD)),
        store=BackupStore(FolderStore(tmp_path)),
        channels=(reaching(slack),),
    )


def reaching(slack: SlackEmulator, url: str | None = None) -> SlackChannel:
    patience = Patience(answer_s=2, pause_s=0.005, longest_pause_s=1)
    return slack_channel(SecretStr(TOKEN), slack.posted_to.id, url=f"{url or slack.url}/api", patience=patience)


def anew(connections: Connections, slack: SlackEmulator) -> Connections:
    """The same environment, as another process connects to it."""
    return replace(connections, channels=(reaching(slack),))


def texts(slack: SlackEmulator) -> list[str]:
    return [message.text for message in slack.posted_to.messages]


def test_a_deploy_and_the_rollback_of_it_have_a_message_each(slack: SlackEmulator, connections: Connections) -> None:
    assert deployed(connections, deploying.World()) is None
    assert rolled_back(anew(connections, slack), rolling.World(), RollbackScope.FULL) is None
    assert texts(slack) == [
        ":white_check_mark: *deploy v-b* on production: done, VERIFIED",
        ":white_check_mark: *rollback v-a* on production: done, VERIFIED",
    ]


def test_a_rollback_of_the_database_alone_is_told_as_well(slack: SlackEmulator, connections: Connections) -> None:
    assert rolled_back(connections, rolling.World(), RollbackScope.DB_ONLY) is None
    assert texts(slack) == [":white_check_mark: *rollback of the database* on production: done, VERIFIED"]


def test_a_deploy_that_fails_says_so_without_its_reason(slack: SlackEmulator, connections: Connections) -> None:
    world = deploying.World()
    world.breaks_before["smoke tests"] = StageError("HTTP 500 from hunter2")
    assert deployed(connections, world) is not None
    assert texts(slack) == [":warning: *deploy v-b* on production: not done, VERIFIED"]


def test_a_slack_that_is_down_stops_nothing(slack: SlackEmulator, connections: Connections) -> None:
    down = replace(connections, channels=(reaching(slack, "http://127.0.0.1:1"),))
    assert deployed(down, deploying.World()) is None
    [report] = connections.store.history()
    assert (report.success, report.state) == (True, FinalState.VERIFIED)
    [finding] = report.findings
    assert finding.startswith("Slack does not show how this ended: Slack, ")
