from __future__ import annotations

import pytest
from pydantic import SecretStr

from blocks.vercel import VercelProject
from runbook.clients.vercel import API_URL
from runbook.errors import InvalidInputError, RejectedError
from tests.emulators.vercel import PROJECT, TEAM, vercel_emulator

TOKEN = "vcp_never_to_be_seen_0123456789"
DOMAIN = "https://shop.example"


def test_a_filled_in_form_reaches_the_project() -> None:
    with vercel_emulator(token=TOKEN) as vercel:
        vercel.add("a" * 40, version="v1", live=True)
        block = VercelProject(token=SecretStr(TOKEN), project=PROJECT, team=TEAM, public_url=DOMAIN, api_url=vercel.url)
        assert block.check() == f"Vercel project {PROJECT} at {DOMAIN}: aaaaaaaaaaaa (dpl_0001) has the traffic"
        wrong = block.model_copy(update={"token": SecretStr("vcp_of_yesterday")})
        wrong._block_document_name = "production"  # pyright: ignore[reportPrivateUsage] - as a saved block has it
        with pytest.raises(RejectedError, match="The token of the block vercel-project/production may not do this"):
            wrong.check()


def test_the_form_asks_for_no_more_than_token_project_and_domain() -> None:
    block = VercelProject(token=SecretStr(TOKEN), project="shop", public_url=DOMAIN)
    assert (block.team, block.bypass_secret, block.api_url) == (None, None, API_URL)


def test_the_block_is_presented_as_what_it_is() -> None:
    made = VercelProject._to_block_type()  # pyright: ignore[reportPrivateUsage] - what is registered
    assert (made.name, made.slug) == ("Vercel Project", "vercel-project")
    assert str(made.logo_url).startswith("https://")
    assert str(made.documentation_url).startswith("https://vercel.com/docs/")
    fields = VercelProject.model_json_schema()["properties"]
    assert all(field["description"] for field in fields.values())


def test_token_and_secret_are_secrets_of_the_form() -> None:
    block = VercelProject(
        token=SecretStr(TOKEN), project="shop", public_url=DOMAIN, bypass_secret=SecretStr("bypass_0123456789")
    )
    assert set(VercelProject.model_json_schema()["secret_fields"]) == {"token", "bypass_secret"}
    shown = f"{block!r} {block} {block.model_dump_json()} {block.get_client()!r}"
    assert TOKEN not in shown
    assert "bypass_0123456789" not in shown


def test_a_form_with_an_address_in_clear_gives_no_client() -> None:
    block = VercelProject(token=SecretStr(TOKEN), project="shop", public_url="http://shop.example")
    with pytest.raises(InvalidInputError, match="public_url"):
        block.get_client()
