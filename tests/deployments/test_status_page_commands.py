from __future__ import annotations

from collections.abc import Generator

import pytest
from click.testing import CliRunner
from pydantic import SecretStr

from deployments import status_page_commands
from runbook.clients.statuspage import Statuspage
from runbook.errors import InvalidInputError, RefusedError
from tests.emulators.statuspage import PAGE, StatuspageEmulator, statuspage_emulator

KEY = "never_to_be_seen_0123456789"
PUBLISH = ["--name=Orders fail", "--body=We look into it.", "--component=web=major_outage"]


class Connected:
    def __init__(self, status_page: Statuspage | None) -> None:
        self.status_page = status_page


def connect_to(monkeypatch: pytest.MonkeyPatch, status_page: Statuspage | None) -> None:
    def connect(_environment: str) -> Connected:
        return Connected(status_page)

    monkeypatch.setattr(status_page_commands, "connect", connect)


@pytest.fixture
def page(monkeypatch: pytest.MonkeyPatch) -> Generator[StatuspageEmulator]:
    with statuspage_emulator(key=KEY) as emulator:
        client = Statuspage(PAGE, SecretStr(KEY), url=emulator.url, pause_s=0)
        connect_to(monkeypatch, client)
        yield emulator


def test_what_users_will_read_is_shown_and_published_on_consent_only(page: StatuspageEmulator) -> None:
    refused = CliRunner().invoke(status_page_commands.publish, PUBLISH, input="n\n")
    assert (refused.exit_code, page.incidents) == (1, [])
    assert "Users will read:\n  Orders fail\n  We look into it.\n  web=major_outage" in refused.output
    done = CliRunner().invoke(status_page_commands.publish, PUBLISH, input="y\n")
    assert done.exit_code == 0, done.output
    assert page.components["web"] == "major_outage"
    arguments = ["--incident=i0", "--body=It is over.", "--status=resolved", "--component=web=operational", "--yes"]
    over = CliRunner().invoke(status_page_commands.update, arguments)
    assert "i0  resolved  Orders fail" in over.output
    assert page.components["web"] == "operational"


def test_a_component_that_is_no_component_is_refused_before_anything_is_published(page: StatuspageEmulator) -> None:
    arguments = [*PUBLISH[:2], "--component=web=down", "--yes"]
    refused = CliRunner().invoke(status_page_commands.publish, arguments)
    assert isinstance(refused.exception, InvalidInputError)
    assert "major_outage" in str(refused.exception)
    assert page.exchanges == []


def test_an_environment_without_a_page_says_which_block_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    connect_to(monkeypatch, None)
    refused = CliRunner().invoke(status_page_commands.publish, [*PUBLISH, "--yes"])
    assert isinstance(refused.exception, RefusedError)
    assert "runbook-status-page" in str(refused.exception)
