from __future__ import annotations

import pytest
from pydantic import SecretStr

from blocks.environment import Environment
from blocks.github import GitHubRepository
from runbook.clients.github import API_URL
from runbook.errors import InvalidInputError, RejectedError
from tests.emulators.github import github_emulator

TOKEN = "github_pat_never_to_be_seen_0123456789"


def test_a_filled_in_form_reaches_the_repository() -> None:
    with github_emulator(token=TOKEN) as github:
        block = GitHubRepository(owner="mantisnxt", repository="shop", token=SecretStr(TOKEN), api_url=github.url)
        assert block.check().startswith("mantisnxt/shop, branch main; environment production")
        github.permissions["checks"] = "none"
        words = "block Runbook GitHub Repository"
        with pytest.raises(
            RejectedError, match=rf"needs the permission checks=read.*Put one that may into the {words}"
        ):
            block.check()
        wrong = block.model_copy(update={"token": SecretStr("ghp_of_yesterday")})
        wrong._block_document_name = "production"  # pyright: ignore[reportPrivateUsage] - as a saved block has it
        with pytest.raises(RejectedError, match="a valid one into the block runbook-github-repository/production"):
            wrong.check()


def test_the_form_asks_for_no_more_than_repository_and_token() -> None:
    block = GitHubRepository(owner="mantisnxt", repository="shop", token=SecretStr(TOKEN))
    assert (block.branch, block.api_url) == ("main", API_URL)


def test_the_block_is_presented_as_what_it_is() -> None:
    made = GitHubRepository._to_block_type()  # pyright: ignore[reportPrivateUsage] - what is registered
    assert (made.name, made.slug) == ("Runbook GitHub Repository", "runbook-github-repository")
    assert str(made.logo_url).startswith("https://")
    assert str(made.documentation_url).startswith("https://docs.github.com/")
    assert made.description
    fields = GitHubRepository.model_json_schema()["properties"]
    assert all(fields[name]["description"] for name in ("owner", "repository", "token", "branch", "api_url"))


def test_the_token_is_a_secret_of_the_form() -> None:
    block = GitHubRepository(owner="mantisnxt", repository="shop", token=SecretStr(TOKEN))
    assert GitHubRepository.model_json_schema()["secret_fields"] == ["token"]
    assert TOKEN not in f"{block!r} {block} {block.model_dump_json()} {block.get_client()!r}"


def test_a_form_with_an_address_in_clear_gives_no_client() -> None:
    block = GitHubRepository(
        owner="mantisnxt", repository="shop", token=SecretStr(TOKEN), api_url="http://github.example/api/v3"
    )
    with pytest.raises(InvalidInputError, match="api_url"):
        block.get_client()


def test_an_environment_needs_no_github() -> None:
    assert not Environment.model_fields["github"].is_required()
