from __future__ import annotations

from collections.abc import Generator

import pytest
from pydantic import SecretStr

from runbook.clients.http_api import LostError, Patience
from runbook.clients.sentry import Sentry, SentrySettings
from runbook.errors import InvalidInputError, RejectedError, TransientError
from tests.emulators.sentry import ORGANIZATION, PROJECT, SentryEmulator, sentry_emulator

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
def sentry(emulator: SentryEmulator) -> Sentry:
    return reaching(emulator.url)


def reaching(url: str, token: str = TOKEN, project: str = PROJECT) -> Sentry:
    settings = SentrySettings(ORGANIZATION, project, url, block="block sentry/shop")
    return Sentry(settings, SecretStr(token), Patience(answer_s=2, pause_s=0.005, longest_pause_s=2))


def test_errors_are_counted_by_the_minute_and_the_one_that_is_not_over_is_left_out(
    emulator: SentryEmulator, sentry: Sentry
) -> None:
    emulator.add_errors(7, "v2", ago_s=120)
    emulator.add_errors(5, "v1", ago_s=120)
    emulator.add_errors(100, "v2", ago_s=0)
    emulator.add_errors(11, "v2", ago_s=120, environment="staging")
    assert sum(minute.count for minute in sentry.errors(minutes=10, environment="production")) == 12
    assert sum(minute.count for minute in sentry.errors(minutes=10, release="v2", environment="production")) == 7
    assert sum(minute.count for minute in sentry.errors(minutes=10, release="v3")) == 0


def test_issues_that_are_new_in_a_release_are_listed_to_the_last_page(emulator: SentryEmulator, sentry: Sentry) -> None:
    emulator.page_size = 2
    made = [emulator.add_issue(f"TypeError {number}", "v2").title for number in range(5)]
    emulator.add_issue("old", "v1")
    emulator.add_issue("mended", "v2", status="resolved")
    assert [issue.title for issue in sentry.new_issues("v2")] == made[::-1]


def test_a_release_that_sentry_knows_is_answered_with_208_and_stays(emulator: SentryEmulator, sentry: Sentry) -> None:
    sentry.mark_release("v2", SHA)
    sentry.mark_release("v2", SHA)
    assert [each.reply.status for each in emulator.exchanges] == [201, 208]
    assert emulator.releases["v2"].ref == SHA


def test_a_deploy_is_told_once_however_often_it_is_tried(emulator: SentryEmulator, sentry: Sentry) -> None:
    sentry.mark_release("v2", SHA)
    for _ in range(2):
        sentry.mark_deploy("v2", "production", "deploy_1", url="https://prefect.example/runs/1")
    sentry.mark_deploy("v2", "production", "deploy_2")
    made = [(deploy.name, deploy.environment, deploy.url) for deploy in emulator.releases["v2"].deploys]
    assert made == [("deploy_1", "production", "https://prefect.example/runs/1"), ("deploy_2", "production", None)]


@pytest.mark.parametrize("path", ["/releases/$", "/deploys/$"])
def test_a_lost_answer_has_its_effect_once(emulator: SentryEmulator, sentry: Sentry, path: str) -> None:
    emulator.lose("POST", path)
    sentry.mark_release("v2", SHA)
    sentry.mark_deploy("v2", "production", "deploy_1")
    assert len(emulator.releases) == len(emulator.releases["v2"].deploys) == 1


def test_a_deploy_that_never_came_is_said_to_be_lost(emulator: SentryEmulator, sentry: Sentry) -> None:
    sentry.mark_release("v2", SHA)
    emulator.refuse("POST", "/deploys/$", 503)
    with pytest.raises(LostError):
        sentry.mark_deploy("v2", "production", "deploy_1")
    assert emulator.releases["v2"].deploys == []


def test_every_path_ends_in_a_slash(emulator: SentryEmulator, sentry: Sentry) -> None:
    sentry.check()
    sentry.mark_release("feature/v2", SHA)
    sentry.mark_deploy("feature/v2", "production", "deploy_1")
    assert all(each.call.path.endswith("/") and each.reply.status < 400 for each in emulator.exchanges)


def test_a_wrong_token_and_a_scope_that_is_missing_name_the_block_and_the_scopes(
    emulator: SentryEmulator, sentry: Sentry
) -> None:
    with pytest.raises(
        RejectedError, match=r"Invalid token.*event:read and project:releases into the block sentry/shop"
    ):
        reaching(emulator.url, "sntrys_of_yesterday").check()
    emulator.scopes.discard("project:releases")
    with pytest.raises(RejectedError, match=r"do not have permission.*project:releases into the block sentry/shop"):
        sentry.check()


def test_a_project_that_is_not_there_is_named(emulator: SentryEmulator) -> None:
    with pytest.raises(RejectedError, match="HTTP 400"):
        reaching(emulator.url, project="gone").mark_release("v2", SHA)


def test_who_asks_too_often_waits_as_long_as_sentry_says(emulator: SentryEmulator, sentry: Sentry) -> None:
    emulator.refuse("GET", "/issues/$", 429, headers={"Retry-After": "1"})
    assert sentry.new_issues("v2") == []
    assert emulator.too_early == 0


def test_a_release_is_called_as_the_application_reports_it() -> None:
    by_version = Sentry(SentrySettings("o", "p", named_by="version"), SecretStr(TOKEN))
    assert Sentry(SentrySettings("o", "p"), SecretStr(TOKEN)).release_name(SHA, "v2") == SHA
    assert by_version.release_name(SHA, "v2") == "v2"


def test_no_message_shows_the_token(emulator: SentryEmulator, sentry: Sentry) -> None:
    said = [repr(sentry)]
    for status in (400, 401, 403, 404, 429, 500):
        headers = {"Retry-After": "9999"} if status == 429 else {}
        emulator.refuse("POST", "/releases/$", status, message=f"no: {TOKEN}", headers=headers, times=3)
        with pytest.raises((RejectedError, TransientError)) as raised:
            sentry.mark_release("v2", SHA)
        said.append(str(raised.value))
        emulator.faults.clear()
    with pytest.raises(InvalidInputError) as clear:
        reaching("http://sentry.example/api/0")
    assert TOKEN not in "".join([*said, str(clear.value)])
