"""The backup store as a form."""

from __future__ import annotations

from pathlib import Path

from prefect.blocks.core import Block
from prefect.filesystems import LocalFileSystem
from pydantic import Field, HttpUrl

from runbook.clients.backup_store import BackupStore
from runbook.clients.folder_store import FolderStore


class FolderBackupStore(Block):
    """A folder that holds `database/backups/` and `logs/`."""

    _block_type_name = "Folder Backup Store"
    _block_type_slug = "folder-backup-store"
    _description = "Backups and the records of runs in a folder that every worker sees."
    _logo_url = LocalFileSystem._logo_url  # pyright: ignore[reportPrivateUsage] - how a block is presented
    _documentation_url = HttpUrl("https://docs.prefect.io/v3/concepts/blocks")

    path: str = Field(description="Absolute path of the folder.")

    def get_client(self) -> BackupStore:
        """Return the client of this store."""
        return BackupStore(FolderStore(Path(self.path)))

    def check(self) -> str:
        """Return where the backups are, after writing there and reading it back.

        Raises:
            ServiceError: in words a person can act on.
        """
        store = self.get_client()
        store.check()
        return f"{store.place} can be written and read"
