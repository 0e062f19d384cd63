"""A project of Neon as a form: the source of instant restore points."""

from __future__ import annotations

from typing import Literal

from prefect.blocks.core import Block
from pydantic import Field, HttpUrl, SecretStr

from blocks.naming import name_of
from runbook.clients.neon import API_URL, NeonRestorePoints, NeonSettings


class NeonProject(Block):
    """The branch of a Neon project that the application's database lives on."""

    _block_type_name = "Neon Project"
    _block_type_slug = "neon-project"
    _description = "Makes an instant restore point, a branch or a snapshot of Neon, beside every backup."
    _logo_url = HttpUrl("https://neon.com/favicon/favicon.png")
    _documentation_url = HttpUrl("https://neon.com/docs/introduction/branch-restore")

    api_key: SecretStr = Field(description="API key of Neon that may change this project.")
    project_id: str = Field(description="Id of the project, such as shiny-wind-028834.")
    branch: str = Field(
        default="main", description="The branch with the live database. Prefer its name: restoring a snapshot keeps it."
    )
    kind: Literal["branch", "snapshot"] = Field(
        default="branch", description="What a restore point is. Snapshots need a branch that has no parent."
    )
    api_url: str = Field(default=API_URL, description="Where the API of Neon is.")

    def get_client(self) -> NeonRestorePoints:
        """Return the client of this project; `InvalidInputError` when a field cannot be right."""
        settings = NeonSettings(self.project_id, self.branch, self.kind, self.api_url, name_of(self))
        return NeonRestorePoints(settings, self.api_key)

    def check(self) -> str:
        """Return what was found there: project, branch, how far back it can be restored.

        Raises:
            ServiceError: in words a person can act on: which block, and what it lacks.
        """
        return self.get_client().check()
