"""An environment as a form: its settings and the blocks of what it is made of."""

from __future__ import annotations

from collections.abc import Callable
from http import HTTPStatus
from pathlib import Path
from typing import cast

from prefect.blocks.core import Block
from prefect.client.orchestration import get_client
from prefect.exceptions import PrefectHTTPStatusError
from prefect.runtime import flow_run
from prefect.utilities.urls import url_for
from pydantic import Field, HttpUrl

from blocks.backup_store import FolderBackupStore
from blocks.github import GitHubRepository
from blocks.local_host import LocalApplicationHost
from blocks.neon import NeonProject
from blocks.pager_duty import PagerDutyService
from blocks.postgres import PostgresDatabase
from blocks.s3_store import S3BackupStore
from blocks.sentry import SentryProject
from blocks.slack import SlackNotifications
from blocks.status_site import StatusSite
from blocks.statuspage import PublicStatusPage
from blocks.vercel import VercelProject
from runbook.clients.channels import Channel, LogChannel
from runbook.clients.git import Repository
from runbook.connections import Connections
from runbook.errors import InvalidInputError, RunbookError, TransientError
from runbook.rules.checklist import Check, Outcome
from runbook.rules.identifiers import check_environment_name
from runbook.settings import Settings


class Environment(Block):
    """An environment that the runbook deploys to: `local`, `staging`, `production`, any other name."""

    _block_type_name = "Runbook Environment"
    _block_type_slug = "runbook-environment"
    _description = "Settings of an environment and the database, application host and backup store it is made of."
    _logo_url = HttpUrl(
        "https://cdn.sanity.io/images/3ugk85nk/production/c771bb53894c877e169c8db158c5598558b8f175-24x24.svg"
    )
    _documentation_url = HttpUrl("https://docs.prefect.io/v3/concepts/blocks")

    settings: Settings = Field(description="What the runbook has to know about this environment.")
    database: PostgresDatabase = Field(description="The application's database.")
    host: LocalApplicationHost | VercelProject = Field(description="What releases run on.")
    store: FolderBackupStore | S3BackupStore = Field(description="Keeps backups, journals and the records of runs.")
    second_store: FolderBackupStore | S3BackupStore | None = Field(
        default=None, description="Keeps a copy of every backup elsewhere; best with another provider."
    )
    restore_points: NeonProject | None = Field(
        default=None, description="Makes an instant restore point beside every backup."
    )
    github: GitHubRepository | None = Field(
        default=None, description="Knows whether CI and reviewers have passed a commit, and shows deployments."
    )
    sentry: SentryProject | None = Field(
        default=None, description="Says which errors are new in a release, and is told of deploys."
    )
    slack: SlackNotifications | None = Field(default=None, description="Tells people of every run, beside the log.")
    pager_duty: PagerDutyService | None = Field(
        default=None, description="Wakes somebody when a run ends badly or an alert is critical."
    )
    status_page: PublicStatusPage | None = Field(default=None, description="What users read about incidents.")
    status_site: StatusSite | None = Field(
        default=None, description="Where the status page of the runbook's own is written for users."
    )

    def connect(self) -> Connections:
        """Return the clients of this environment."""
        points = self.restore_points
        log = LogChannel(Path(self.settings.records) / "logs" / "notifications.log")
        channels: list[Channel] = [log]
        channels += [self.slack.get_client()] if self.slack else []
        channels += [self.pager_duty.get_client(_run_url())] if self.pager_duty else []
        return Connections(
            settings=self.settings,
            repository=Repository(Path(self.settings.repository)),
            database=self.database.get_client(points.get_client() if points else None),
            host=self.host.get_client(),
            store=self.store.get_client(),
            second_store=self.second_store.get_client() if self.second_store else None,
            github=self.github.get_client() if self.github else None,
            sentry=self.sentry.get_client() if self.sentry else None,
            status_page=self.status_page.get_client() if self.status_page else None,
            status_site=self.status_site.get_client() if self.status_site else None,
            channels=tuple(channels),
            run_url=_run_url(),
        )

    def check(self) -> tuple[Check, ...]:
        """Ask everything that the environment is made of whether it can be used; one check for each block."""
        asked: dict[str, Callable[[], str]] = {
            "database": self.database.check,
            "application host": self.host.check,
            "backup store": self.store.check,
        }
        if self.second_store is not None:
            asked["second backup store"] = self.second_store.check
        if self.restore_points is not None:
            asked["restore points"] = self.restore_points.check
        if (github := self.github) is not None:
            asked["GitHub"] = lambda: github.check(self.settings.name)
        if self.sentry is not None:
            asked["Sentry"] = self.sentry.check
        if self.slack is not None:
            asked["Slack"] = self.slack.check
        if self.pager_duty is not None:
            asked["PagerDuty"] = self.pager_duty.check
        if self.status_page is not None:
            asked["status page"] = self.status_page.check
        if self.status_site is not None:
            asked["status site"] = self.status_site.check
        return tuple(_answered(name, question) for name, question in asked.items())


def _answered(name: str, question: Callable[[], str]) -> Check:
    try:
        return Check(name, Outcome.PASSED, question())
    except TransientError as error:
        return Check(name, Outcome.COULD_NOT_RUN, str(error))
    except RunbookError as error:
        return Check(name, Outcome.FAILED, str(error))


def _run_url() -> str | None:
    """Return the page of the flow run in which this is called, where it has one."""
    run_id = flow_run.get_id()
    return url_for("flow-run", obj_id=run_id) if run_id else None


def load_environment(name: str) -> Environment:
    """Load a saved environment.

    Raises:
        InvalidInputError: the name is malformed, or no environment is saved under it; lists those that are.
    """
    check_environment_name(name)
    known = _known_environments()
    if name not in known:
        raise InvalidInputError(
            "environment",
            name,
            ", ".join(known) or "none is registered yet",
            "Mend the name, or register the environment (for `local`: `runbook local:up`).",
        )
    return cast("Environment", Environment.load(name))


def _known_environments() -> list[str]:
    with get_client(sync_client=True) as client:
        try:
            documents = client.read_block_documents_by_type(Environment.get_block_type_slug(), include_secrets=False)
        except PrefectHTTPStatusError as error:
            if error.response.status_code == HTTPStatus.NOT_FOUND:  # a server on which nothing was registered yet
                return []
            raise
    return sorted(document.name for document in documents if document.name)
