"""The backup store as a form."""

from __future__ import annotations

from pathlib import Path

from prefect.blocks.core import Block
from pydantic import Field

from runbook.clients.backup_store import BackupStore
from runbook.clients.folder_store import FolderStore


class FolderBackupStore(Block):
    """A folder that holds `database/backups/` and `logs/`."""

    _block_type_name = "Folder Backup Store"
    _block_type_slug = "folder-backup-store"
    _description = "Backups and the records of runs in a folder that every worker sees."

    path: str = Field(description="Absolute path of the folder.")

    def get_client(self) -> BackupStore:
        """Return the client of this store."""
        return BackupStore(FolderStore(Path(self.path)))
