"""The local application host as a form."""

from __future__ import annotations

from pathlib import Path

from prefect.blocks.core import Block
from pydantic import Field

from runbook.clients.local_host import LocalHost


class LocalApplicationHost(Block):
    """A local application host; `runbook local:up` starts it and fills this in."""

    _block_type_name = "Local Application Host"
    _block_type_slug = "local-application-host"
    _description = "Runs releases as processes on this machine; `runbook local:up` starts it."

    folder: str = Field(description="Absolute path of the host's folder; how to reach it stands in there.")

    def get_client(self) -> LocalHost:
        """Return the client of this host; `RejectedError` when it does not run."""
        return LocalHost.attach(Path(self.folder))
