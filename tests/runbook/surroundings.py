"""An environment of which only the services around it matter."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from runbook.clients.backup_store import BackupStore
from runbook.clients.channels import Channel
from runbook.clients.folder_store import FolderStore
from runbook.clients.git import Repository
from runbook.clients.postgres import Database
from runbook.connections import Connections
from runbook.settings import Settings
from tests.fakes.application_host import MemoryHost


def surrounded(folder: Path, *channels: Channel, **services: Any) -> Connections:  # noqa: ANN401 - as the field says
    """Return the environment `production` with a store in a folder, a database that nobody reaches, and services."""
    return Connections(
        settings=Settings(name="production", repository="", database="shop"),
        repository=Repository(folder),
        database=Database("postgresql://127.0.0.1:1/shop"),
        host=MemoryHost(),
        store=BackupStore(FolderStore(folder)),
        channels=channels,
        **services,
    )
