from __future__ import annotations

import pytest
from pydantic import SecretStr

from blocks.sentry import SentryProject
from runbook.errors import InvalidInputError, RejectedError
from tests.emulators.sentry import ORGANIZATION, PROJECT, sentry_emulator

TOKEN = "sntrys_never_to_be_seen_0123456789"


def test_a_filled_in_form_reaches_the_project() -> None:
    with sentry_emulator(token=TOKEN) as sentry:
        block = SentryProject(organization=ORGANIZATION, project=PROJECT, token=SecretStr(TOKEN), api_url=sentry.url)
        assert block.check() == "Sentry project mantis/shop: 0 errors in the last minutes"
        wrong = block.model_copy(update={"token": SecretStr("sntrys_of_yesterday")})
        wrong._block_document_name = "shop"  # pyright: ignore[reportPrivateUsage] - as a saved block has it
        with pytest.raises(RejectedError, match="into the block runbook-sentry-project/shop"):
            wrong.check()


def test_an_address_in_clear_gives_no_client() -> None:
    block = SentryProject(organization="o", project="p", token=SecretStr(TOKEN), api_url="http://sentry.example/api/0")
    with pytest.raises(InvalidInputError, match="api_url"):
        block.get_client()
