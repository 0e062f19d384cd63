"""Everything outside that a run on one environment talks to."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from runbook.clients.application_host import ApplicationHost
from runbook.clients.backup_store import BackupStore
from runbook.clients.channels import Channel
from runbook.clients.git import Repository
from runbook.clients.github import GitHub
from runbook.clients.postgres import Database
from runbook.clients.restore_points import RestorePoints
from runbook.clients.sentry import Sentry
from runbook.clients.site_target import SiteTarget
from runbook.clients.statuspage import Statuspage
from runbook.settings import ReplayMethod, Settings


@dataclass(frozen=True)
class Connections:
    """The settings of an environment and the clients they lead to.

    `second_store` keeps a copy of every backup elsewhere; `github` is the repository that releases come from, `sentry`
    the project that they report errors to; `status_page` and `status_site` are what users read. `run_url` is where
    people see the run that uses them.
    """

    settings: Settings
    repository: Repository
    database: Database
    host: ApplicationHost
    store: BackupStore
    channels: tuple[Channel, ...]
    second_store: BackupStore | None = None
    github: GitHub | None = None
    sentry: Sentry | None = None
    status_page: Statuspage | None = None
    status_site: SiteTarget | None = None
    run_url: str | None = None

    @property
    def restore_points(self) -> RestorePoints | None:
        """What makes instant copies of the database; None on a server that has nothing of the kind."""
        return self.database.restore_points

    def with_identity(self, identity_file: str | None) -> Connections:
        """Return these connections with another file of keys to decrypt backups with; the same ones for None."""
        if identity_file is None:
            return self
        backup = self.settings.backup.model_copy(update={"identity_file": identity_file})
        return replace(self, settings=self.settings.model_copy(update={"backup": backup}))

    def discarding_writes(self) -> Connections:
        """Return these connections with settings by which a restore loses what was written since the backup."""
        rollback = self.settings.rollback.model_copy(update={"replay": ReplayMethod.NONE})
        return replace(self, settings=self.settings.model_copy(update={"rollback": rollback}))

    @property
    def work_directory(self) -> Path:
        """Folder for dumps on their way to or from the store."""
        return Path(self.settings.backup.work_directory or Path(self.settings.records) / "work")
