"""A project of Sentry as a form: which errors a release brought, and where Sentry shows that it was released."""

from __future__ import annotations

from typing import Literal

from prefect.blocks.core import Block
from pydantic import Field, HttpUrl, SecretStr

from blocks.naming import name_of
from runbook.clients.sentry import API_URL, Sentry, SentrySettings

_LOGO = "https://sentry-brand.storage.googleapis.com/sentry-glyph-black.png"


class SentryProject(Block):
    """The project of Sentry that the application reports its errors to."""

    _block_type_name = "Runbook Sentry Project"
    _block_type_slug = "runbook-sentry-project"
    _description = "Asks Sentry which issues are new in a release, and tells it of releases and deploys."
    _logo_url = HttpUrl(_LOGO)
    _documentation_url = HttpUrl("https://docs.sentry.io/api/releases/")

    organization: str = Field(description="Slug of the organization, such as mantisnxt.")
    project: str = Field(description="Slug of the project, such as shop.")
    token: SecretStr = Field(description="Token with the scopes org:read, event:read and project:releases.")
    named_by: Literal["sha", "version"] = Field(
        default="sha",
        description="What the application reports as its release: the commit (as Sentry's plugins do), or the version.",
    )
    api_url: str = Field(default=API_URL, description="Where the API is: https://us.sentry.io/api/0 or de.sentry.io.")

    def get_client(self) -> Sentry:
        """Return the client of this project; `InvalidInputError` when a field cannot be right."""
        return Sentry(
            SentrySettings(self.organization, self.project, self.api_url, self.named_by, name_of(self)), self.token
        )

    def check(self) -> str:
        """Return what was found there, after reading all that the runbook reads.

        Raises:
            ServiceError: in words a person can act on: which block, and which scopes.
        """
        return self.get_client().check()
