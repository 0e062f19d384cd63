"""A page of Statuspage as a form: what users are told of an incident."""

from __future__ import annotations

from prefect.blocks.core import Block
from pydantic import Field, HttpUrl, SecretStr

from blocks.naming import name_of
from runbook.clients.statuspage import API_URL, Statuspage

_LOGO = "https://wac-cdn.atlassian.com/assets/img/favicons/statuspage/favicon-32x32.png"


class PublicStatusPage(Block):
    """The page on which users see how the application does."""

    _block_type_name = "Runbook Status Page"
    _block_type_slug = "runbook-status-page"
    _description = "Tells users on a page of Statuspage how an incident goes on and which components it affects."
    _logo_url = HttpUrl(_LOGO)
    _documentation_url = HttpUrl("https://developer.statuspage.io")

    page: str = Field(description="Id of the page, at the end of the address of its settings.")
    api_key: SecretStr = Field(description="API key of a user who may manage the page.")
    api_url: str = Field(default=API_URL, description="Where the API is.")

    def get_client(self) -> Statuspage:
        """Return the client of this page; `InvalidInputError` when a field cannot be right."""
        return Statuspage(self.page, self.api_key, url=self.api_url, block=name_of(self))

    def check(self) -> str:
        """Return the name of the page.

        Raises:
            ServiceError: in words a person can act on.
        """
        return self.get_client().check()
