"""The forms of those who are told when it is bad: PagerDuty, and the page that users read."""

from __future__ import annotations

import pytest
from prefect.blocks.core import Block
from pydantic import SecretStr

from blocks.environment import Environment
from blocks.pager_duty import PagerDutyService
from blocks.statuspage import PublicStatusPage
from runbook.errors import InvalidInputError, RejectedError
from tests.emulators.statuspage import PAGE, statuspage_emulator

KEY = "neverToBeSeen0123456789abcdefghi"


def test_a_filled_in_form_reaches_the_page() -> None:
    with statuspage_emulator(key=KEY) as page:
        block = PublicStatusPage(page=PAGE, api_key=SecretStr(KEY), api_url=page.url)
        assert block.check() == "Statuspage Mantis"
        wrong = block.model_copy(update={"api_key": SecretStr("of yesterday")})
        wrong._block_document_name = "users"  # pyright: ignore[reportPrivateUsage] - as a saved block has it
        with pytest.raises(RejectedError, match="into the block runbook-status-page/users"):
            wrong.check()


def test_a_form_with_a_key_of_the_wrong_shape_says_so_when_it_is_checked() -> None:
    assert PagerDutyService(routing_key=SecretStr(KEY)).check().startswith("PagerDuty: a key of the right shape")
    with pytest.raises(InvalidInputError, match="32 letters and digits"):
        PagerDutyService(routing_key=SecretStr("short")).check()


@pytest.mark.parametrize(
    ("block", "slug", "secret"),
    [
        (PagerDutyService, "runbook-pagerduty-service", "routing_key"),
        (PublicStatusPage, "runbook-status-page", "api_key"),
    ],
)
def test_the_block_is_presented_as_what_it_is(block: type[Block], slug: str, secret: str) -> None:
    made = block._to_block_type()  # pyright: ignore[reportPrivateUsage] - what is registered
    assert made.slug == slug
    assert str(made.logo_url).startswith("https://")
    assert str(made.documentation_url).startswith("https://")
    schema = block.model_json_schema()
    assert all(field["description"] for field in schema["properties"].values())
    assert schema["secret_fields"] == [secret]


@pytest.mark.parametrize("field", ["pager_duty", "status_page"])
def test_an_environment_needs_neither(field: str) -> None:
    assert Environment.model_fields[field].default is None
