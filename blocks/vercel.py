"""A project of Vercel as a form: the host that releases of an environment run on."""

from __future__ import annotations

from prefect.blocks.core import Block
from pydantic import Field, HttpUrl, SecretStr

from blocks.naming import name_of
from runbook.clients.vercel import API_URL, VercelHost, VercelSettings

_LOGO = "https://assets.vercel.com/image/upload/front/favicon/vercel/180x180.png"


class VercelProject(Block):
    """The project of Vercel that the application is released on."""

    _block_type_name = "Vercel Project"
    _block_type_slug = "vercel-project"
    _description = "Stages releases on Vercel without traffic, promotes them, and takes them back without a build."
    _logo_url = HttpUrl(_LOGO)
    _documentation_url = HttpUrl("https://vercel.com/docs/instant-rollback")

    token: SecretStr = Field(description="Token with access to the project's team, and to no other one.")
    project: str = Field(description="Id or name of the project, such as prj_... or mantisnxt.")
    team: str | None = Field(
        default=None, description="Id or slug of the team that the project belongs to; empty for a personal account."
    )
    public_url: str = Field(
        description="The production domain as users call it, such as https://mantisnxt.example.com."
    )
    bypass_secret: SecretStr | None = Field(
        default=None,
        description="The secret for automation of the project's Deployment Protection, so that a release can be tested "
        "before it has the traffic; empty when deployments are not protected.",
    )
    api_url: str = Field(default=API_URL, description="Where the API of Vercel is.")

    def get_client(self) -> VercelHost:
        """Return the client of this project; `InvalidInputError` when a field cannot be right."""
        settings = VercelSettings(self.project, self.public_url, self.team, self.api_url, name_of(self))
        return VercelHost(settings, self.token, self.bypass_secret)

    def check(self) -> str:
        """Return what was found there, after reading what a release needs.

        Raises:
            ServiceError: in words a person can act on: which block, and what it lacks.
        """
        client = self.get_client()
        client.check()
        active = client.active()
        live = f"{active.version} ({active.release_id}) has the traffic" if active else "no release has the traffic"
        return f"Vercel project {self.project} at {client.public_url}: {live}"
