"""Every block presents itself: a name, what it is for, a logo, where to read on, a form that explains its fields."""

from __future__ import annotations

from pathlib import Path

import pytest
from prefect.blocks.core import Block
from pydantic import SecretStr

from blocks.backup_store import FolderBackupStore
from blocks.environment import Environment
from blocks.github import GitHubRepository
from blocks.local_host import LocalApplicationHost
from blocks.neon import NeonProject
from blocks.pager_duty import PagerDutyService
from blocks.postgres import PostgresDatabase
from blocks.s3_store import S3BackupStore
from blocks.sentry import SentryProject
from blocks.slack import SlackNotifications
from blocks.statuspage import PublicStatusPage
from blocks.vercel import VercelProject
from runbook.rules.checklist import Outcome
from runbook.settings import Settings
from tests.emulators.vercel import PROJECT, TEAM, vercel_emulator

BLOCKS: list[type[Block]] = [
    *(Environment, PostgresDatabase, FolderBackupStore, S3BackupStore),
    *(LocalApplicationHost, VercelProject, NeonProject, GitHubRepository, SentryProject),
    *(SlackNotifications, PagerDutyService, PublicStatusPage),
]


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.__name__)
def test_a_block_presents_itself_and_explains_its_fields(block: type[Block]) -> None:
    made = block._to_block_type()  # pyright: ignore[reportPrivateUsage] - what is registered
    assert made.name
    assert made.description
    assert str(made.logo_url).startswith("https://")
    assert str(made.documentation_url).startswith("https://")
    fields = block.model_json_schema()["properties"]
    assert [name for name, field in fields.items() if not field.get("description")] == []


@pytest.mark.parametrize(
    ("block", "secrets"),
    [
        (SentryProject, ["token"]),
        (SlackNotifications, ["token", "webhook_url"]),
        (PagerDutyService, ["routing_key"]),
        (PublicStatusPage, ["api_key"]),
    ],
)
def test_the_secrets_of_a_form_are_kept_as_such(block: type[Block], secrets: list[str]) -> None:
    assert sorted(block.model_json_schema()["secret_fields"]) == secrets


@pytest.mark.parametrize("field", ["sentry", "slack", "pager_duty", "status_page"])
def test_an_environment_needs_none_of_those_who_are_told(field: str) -> None:
    assert Environment.model_fields[field].default is None


def test_an_environment_is_asked_block_by_block_and_one_that_fails_hides_none(tmp_path: Path) -> None:
    with vercel_emulator(token="token") as vercel:
        host = VercelProject(
            token=SecretStr("wrong"),
            project=PROJECT,
            team=TEAM,
            public_url=vercel.backend.public_url,
            api_url=vercel.url,
        )
        environment = Environment(
            settings=Settings(name="test", repository=str(tmp_path), database="shop"),
            database=PostgresDatabase(url=SecretStr("postgresql://u:secret_0123456789@127.0.0.1:1/shop")),
            host=host,
            store=FolderBackupStore(path=str(tmp_path)),
        )
        checks = {check.name: check for check in environment.check()}
    assert [check.outcome for check in checks.values()] == [
        Outcome.COULD_NOT_RUN,
        Outcome.FAILED,
        Outcome.PASSED,
    ]
    assert "does not answer" in checks["database"].detail
    assert "token of the block Vercel Project may not do this" in checks["application host"].detail
    assert "secret_0123456789" not in str(checks)
