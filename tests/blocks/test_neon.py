from __future__ import annotations

import pytest
from pydantic import SecretStr, ValidationError

from blocks.neon import NeonProject
from runbook.clients.neon import API_URL
from runbook.errors import InvalidInputError
from tests.emulators.neon import neon_emulator

KEY = "napi_never_to_be_seen_0123456789"


def test_a_filled_in_form_reaches_the_project() -> None:
    with neon_emulator(token=KEY) as neon:
        block = NeonProject(
            api_key=SecretStr(KEY), project_id=neon.project_id, branch="main", kind="snapshot", api_url=neon.url
        )
        assert "restore points are snapshots" in block.get_client().check()


def test_the_form_asks_for_no_more_than_key_and_project() -> None:
    block = NeonProject(api_key=SecretStr(KEY), project_id="shiny-wind-028834")
    assert (block.branch, block.kind, block.api_url) == ("main", "branch", API_URL)
    assert API_URL == "https://console.neon.tech/api/v2"


def test_the_key_is_a_secret_of_the_form() -> None:
    block = NeonProject(api_key=SecretStr(KEY), project_id="shiny-wind-028834")
    assert NeonProject.get_block_type_slug() == "neon-project"
    assert NeonProject.model_json_schema()["secret_fields"] == ["api_key"]
    assert KEY not in f"{block!r} {block} {block.model_dump_json()} {block.get_client()!r}"


def test_a_kind_that_neon_does_not_have_is_refused() -> None:
    with pytest.raises(ValidationError, match="kind"):
        NeonProject.model_validate({"api_key": KEY, "project_id": "shiny-wind-028834", "kind": "dump"})


def test_a_form_with_an_address_in_clear_gives_no_client() -> None:
    block = NeonProject(
        api_key=SecretStr(KEY), project_id="shiny-wind-028834", api_url="http://console.neon.tech/api/v2"
    )
    with pytest.raises(InvalidInputError, match="api_url"):
        block.get_client()
