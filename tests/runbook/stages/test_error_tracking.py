from __future__ import annotations

from collections.abc import Generator
from dataclasses import replace
from pathlib import Path

import pytest
from pydantic import SecretStr

from runbook.clients.application_host import Release
from runbook.clients.http_api import Patience
from runbook.clients.sentry import Sentry, SentrySettings
from runbook.connections import Connections
from runbook.rules.checklist import Outcome
from runbook.stages.error_tracking import check_new_issues, mark_deploy
from tests.emulators.sentry import ORGANIZATION, PROJECT, SentryEmulator, sentry_emulator
from tests.fakes.application_host import MemoryHost
from tests.runbook.surroundings import surrounded

TOKEN = "sntrys_never_to_be_seen_0123456789"
SHA = "a" * 40


@pytest.fixture(scope="module")
def server() -> Generator[SentryEmulator]:
    with sentry_emulator(token=TOKEN) as emulator:
        yield emulator


@pytest.fixture
def emulator(server: SentryEmulator) -> SentryEmulator:
    server.reset()
    return server


@pytest.fixture
def connections(emulator: SentryEmulator, tmp_path: Path) -> Connections:
    return surrounded(tmp_path, sentry=reaching(emulator.url), run_url="https://prefect.example/runs/flow-run/1")


def reaching(url: str) -> Sentry:
    patience = Patience(answer_s=2, pause_s=0.005, longest_pause_s=1)
    return Sentry(SentrySettings(ORGANIZATION, PROJECT, url), SecretStr(TOKEN), patience)


@pytest.fixture
def release() -> Release:
    return MemoryHost().stage(SHA, "v2")


def test_sentry_shows_the_deploy_with_the_link_to_its_run(
    emulator: SentryEmulator, connections: Connections, release: Release
) -> None:
    assert mark_deploy(connections, release, "deploy_1") is None
    [deploy] = emulator.releases[SHA].deploys
    assert (deploy.environment, deploy.name, deploy.url) == ("production", "deploy_1", connections.run_url)


def test_issues_that_are_new_are_a_warning_with_their_words(
    emulator: SentryEmulator, connections: Connections, release: Release
) -> None:
    check = check_new_issues(connections, release)
    assert check is not None
    assert (check.outcome, check.detail) == (Outcome.PASSED, "none in v2")
    for number in range(5):
        emulator.add_issue(f"TypeError {number}", SHA, count=3)
    check = check_new_issues(connections, release)
    assert check is not None
    assert check.outcome is Outcome.WARNING
    assert check.detail.startswith("SHOP-")
    assert "TypeError 4 (3x)" in check.detail
    assert check.detail.endswith(" and 2 more")


def test_a_sentry_that_is_down_is_a_finding_and_no_more(connections: Connections, release: Release) -> None:
    down = replace(connections, sentry=reaching("http://127.0.0.1:1"))
    trouble = mark_deploy(down, release, "deploy_1")
    assert trouble is not None
    assert trouble.startswith("Sentry does not know of this deploy: Sentry, tell of")
    check = check_new_issues(down, release)
    assert check is not None
    assert check.outcome is Outcome.COULD_NOT_RUN


def test_without_sentry_nothing_happens(connections: Connections, release: Release) -> None:
    without = replace(connections, sentry=None)
    assert (mark_deploy(without, release, "deploy_1"), check_new_issues(without, release)) == (None, None)
