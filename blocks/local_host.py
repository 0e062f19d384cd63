"""The local application host as a form."""

from __future__ import annotations

from pathlib import Path

from prefect.blocks.core import Block
from prefect.filesystems import LocalFileSystem
from pydantic import Field, HttpUrl

from runbook.clients.local_host import LocalHost


class LocalApplicationHost(Block):
    """A local application host; `runbook local:up` starts it and fills this in."""

    _block_type_name = "Local Application Host"
    _block_type_slug = "local-application-host"
    _description = "Runs releases as processes on this machine; `runbook local:up` starts it."
    _logo_url = LocalFileSystem._logo_url  # pyright: ignore[reportPrivateUsage] - how a block is presented
    _documentation_url = HttpUrl("https://docs.prefect.io/v3/concepts/blocks")

    folder: str = Field(description="Absolute path of the host's folder; how to reach it stands in there.")

    def get_client(self) -> LocalHost:
        """Return the client of this host; `RejectedError` when it does not run."""
        return LocalHost.attach(Path(self.folder))

    def check(self) -> str:
        """Return what runs there.

        Raises:
            ServiceError: in words a person can act on.
        """
        host = self.get_client()
        host.check()
        active = host.active()
        return f"{host.public_url}: {f'{active.version} has the traffic' if active else 'no release has the traffic'}"
