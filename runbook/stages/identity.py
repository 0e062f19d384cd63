"""The keys that decrypt a backup, wherever one is read."""

from __future__ import annotations

from pathlib import Path

from runbook.clients.encryption import Identity, read_identities
from runbook.connections import Connections
from runbook.errors import InvalidInputError
from runbook.manifest import BackupManifest


def require_identity(connections: Connections, manifest: BackupManifest) -> list[Identity]:
    """Return the keys that decrypt a backup; none for one that is not encrypted.

    Raises:
        InvalidInputError: it is encrypted, and no file with keys is named or the file cannot be used.
    """
    if not manifest.recipients:
        return []
    file = connections.settings.backup.identity_file
    if file is None:
        raise InvalidInputError(
            "identity_file",
            None,
            f"a file with the age secret key of one of {', '.join(manifest.recipients)}",
            f"{manifest.backup_id} is encrypted: name the file with --identity-file, or in the settings.",
        )
    return read_identities(Path(file))
