"""The forms of those who are told when it is bad: PagerDuty, and the page that users read."""

from __future__ import annotations

import pytest
from pydantic import SecretStr

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
