from __future__ import annotations

from pathlib import Path

import pytest
from prefect.settings import PREFECT_UI_URL, temporary_settings
from pydantic import SecretStr

from blocks.backup_store import FolderBackupStore
from blocks.environment import Environment
from blocks.github import GitHubRepository
from blocks.local_host import LocalApplicationHost
from blocks.postgres import PostgresDatabase
from runbook.settings import Settings
from tests.fakes.application_host import MemoryHost

RUN_ID = "0f2fcc5a-1b8f-4a5a-9d0e-3f1d1f8f5f10"


@pytest.fixture
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Environment:
    def host(_: LocalApplicationHost) -> MemoryHost:
        return MemoryHost()

    monkeypatch.setattr(LocalApplicationHost, "get_client", host)  # it would look for a process
    return Environment(
        settings=Settings(name="production", repository=str(tmp_path), database="shop"),
        database=PostgresDatabase(url=SecretStr("postgresql://127.0.0.1:1/shop")),
        host=LocalApplicationHost(folder=str(tmp_path)),
        store=FolderBackupStore(path=str(tmp_path)),
        github=GitHubRepository(owner="mantisnxt", repository="shop", token=SecretStr("ghp_x")),
    )


def test_a_run_knows_its_repository_and_where_people_see_it(
    environment: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFECT__FLOW_RUN_ID", RUN_ID)
    with temporary_settings({PREFECT_UI_URL: "https://prefect.example"}):
        connections = environment.connect()
    assert connections.run_url == f"https://prefect.example/runs/flow-run/{RUN_ID}"
    assert connections.github is not None
    assert connections.github.repository == "mantisnxt/shop"


def test_outside_of_a_run_there_is_nothing_to_see(environment: Environment, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PREFECT__FLOW_RUN_ID", raising=False)
    assert environment.connect().run_url is None
