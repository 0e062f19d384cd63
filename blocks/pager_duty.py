"""A service of PagerDuty as a form: somebody is woken when a run ends badly or an alert is critical."""

from __future__ import annotations

from prefect.blocks.core import Block
from pydantic import Field, HttpUrl, SecretStr

from blocks.naming import name_of
from runbook.clients.pager_duty import API_URL, PagerDuty, pager_duty

_LOGO = "https://www.pagerduty.com/wp-content/uploads/2020/08/PagerDuty-PD-Green.png"


class PagerDutyService(Block):
    """The service of PagerDuty that is alerted."""

    _block_type_name = "Runbook PagerDuty Service"
    _block_type_slug = "runbook-pagerduty-service"
    _description = "Wakes somebody when a run ends badly or an alert is critical; all else it leaves to other channels."
    _logo_url = HttpUrl(_LOGO)
    _documentation_url = HttpUrl("https://developer.pagerduty.com/docs/events-api-v2-overview")

    routing_key: SecretStr = Field(
        description="Integration key of an integration of the kind Events API v2: 32 letters and digits."
    )
    api_url: str = Field(default=API_URL, description="Where the Events API is; events.eu.pagerduty.com in the EU.")

    def get_client(self, run_url: str | None = None) -> PagerDuty:
        """Return the client, which links to `run_url`; `InvalidInputError` when a field cannot be right."""
        return pager_duty(self.routing_key, url=self.api_url, run_url=run_url, block=name_of(self))

    def check(self) -> str:
        """Return what is known without waking anybody."""
        return self.get_client().check()
