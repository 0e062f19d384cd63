"""Everything outside that a run on one environment talks to."""

from __future__ import annotations

from dataclasses import dataclass

from runbook.clients.application_host import ApplicationHost
from runbook.clients.backup_store import BackupStore
from runbook.clients.channels import Channel
from runbook.clients.git import Repository
from runbook.clients.postgres import Database
from runbook.settings import Settings


@dataclass(frozen=True)
class Connections:
    """The settings of an environment and the clients they lead to."""

    settings: Settings
    repository: Repository
    database: Database
    host: ApplicationHost
    store: BackupStore
    channels: tuple[Channel, ...]
