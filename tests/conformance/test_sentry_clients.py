"""Sentry's own command line and its client in TypeScript, pointed at the emulator."""

from __future__ import annotations

from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest

from tests.conformance.deviations import unexpected
from tests.conformance.installed import Calls, Outcome, call_npm, run_node
from tests.emulators.recording import record_of
from tests.emulators.sentry import ORGANIZATION, PROJECT, PROJECT_ID, SentryEmulator, sentry_emulator

pytestmark = pytest.mark.conformance

TOKEN = "sntrys_never_to_be_seen_0123456789"
OF_ORGANIZATION = {"path": {"organization_id_or_slug": ORGANIZATION}}


@pytest.fixture
def sentry() -> Generator[SentryEmulator]:
    """Serve a project; all answers have to be as documented. The command line sends more than the document admits."""
    with sentry_emulator(token=TOKEN) as emulator:
        yield emulator
        said = [record_of(emulator, exchange) for exchange in emulator.exchanges]
    assert said
    found = [(each.method, each.path, line) for each in said for line in unexpected(each)]
    assert [violation for violation in found if violation[2].startswith("answer")] == []


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "shop"
    made.mkdir()
    return made


@pytest.fixture
def cli(sentry: SentryEmulator, folder: Path) -> Callable[..., Outcome]:
    """Run the program on the project."""

    def run(*arguments: str, token: str = TOKEN) -> Outcome:
        about = {"SENTRY_URL": sentry.url.removesuffix(sentry.root), "SENTRY_AUTH_TOKEN": token}
        about |= {"SENTRY_ORG": ORGANIZATION, "SENTRY_PROJECT": PROJECT}
        return run_node("sentry-cli", *arguments, cwd=folder, **about)

    return run


def call(sentry: SentryEmulator, calls: Calls, folder: Path) -> list[Any]:
    return call_npm("sentry", sentry.url.removesuffix(sentry.root), TOKEN, calls, cwd=folder)


def test_a_release_is_made_deployed_and_finalized(sentry: SentryEmulator, cli: Callable[..., Outcome]) -> None:
    for arguments in (
        ("releases", "new", "v2"),
        ("deploys", "new", "--release", "v2", "-e", "production", "-n", "deploy_1", "-u", "https://shop.example"),
        ("releases", "finalize", "v2"),
    ):
        done = cli(*arguments)
        assert done.exit_code == 0, done.errors
    release = sentry.releases["v2"]
    assert release.released is not None
    assert [(each.environment, each.name, each.url) for each in release.deploys] == [
        ("production", "deploy_1", "https://shop.example")
    ]
    assert [f"{each.call.method} {each.call.path.partition(ORGANIZATION)[2]}" for each in sentry.exchanges] == [
        "POST /releases/",
        "POST /releases/v2/deploys/",
        "PUT /releases/v2/",
    ]
    assert "production" in cli("deploys", "list", "--release", "v2").output
    assert "v2" in cli("releases", "list").output


def test_a_release_that_is_there_is_made_again_without_an_error(
    sentry: SentryEmulator, cli: Callable[..., Outcome]
) -> None:
    assert [cli("releases", "new", "v2").exit_code for _ in range(2)] == [0, 0]
    assert [each.reply.status for each in sentry.exchanges] == [201, 208]
    assert len(sentry.releases) == 1


def test_a_deploy_of_an_unknown_release_and_a_wrong_token_are_refused(
    sentry: SentryEmulator, cli: Callable[..., Outcome]
) -> None:
    assert cli("deploys", "new", "--release", "v9", "-e", "production").exit_code == 1
    refused = cli("releases", "new", "v2", token="sntrys_wrong")
    assert refused.exit_code == 1
    assert "Invalid token" in refused.errors
    assert sentry.releases == {}


def test_new_issues_of_a_release_are_listed(sentry: SentryEmulator, folder: Path) -> None:
    sentry.add_issue("old", "v1")
    sentry.add_issue("solved", "v2", status="resolved")
    new = sentry.add_issue("new", "v2")
    query = {"query": "is:unresolved firstRelease:v2", "project": [PROJECT_ID]}
    (listed,) = call(sentry, [("listAnOrganization_sIssues", {**OF_ORGANIZATION, "query": query})], folder)
    assert [(each["id"], each["title"]) for each in listed["value"]] == [(str(new.id), "new")]


def test_errors_are_counted_by_the_minute_and_the_last_one_is_incomplete(sentry: SentryEmulator, folder: Path) -> None:
    sentry.add_errors(3, "v2", ago_s=150)
    sentry.add_errors(5, "v1", ago_s=150)
    query = {"dataset": "spans", "yAxis": "count()", "interval": 60_000, "statsPeriod": "5m"}
    query |= {"query": "release:v2", "project": [PROJECT_ID], "environment": ["production"]}
    (series,) = call(sentry, [("queryExploreEventsInTimeseriesFormat", {**OF_ORGANIZATION, "query": query})], folder)
    values = series["value"]["timeSeries"][0]["values"]
    assert sum(each["value"] for each in values) == 3
    assert [each["incomplete"] for each in values][-2:] == [False, True]


def test_session_statistics_have_no_interval_below_an_hour(sentry: SentryEmulator, folder: Path) -> None:
    query = {"field": ["sum(session)"], "groupBy": ["release"], "statsPeriod": "1h"}
    name = "retrieveReleaseHealthSessionStatistics"
    hourly, by_minute = call(
        sentry,
        [
            (name, {**OF_ORGANIZATION, "query": query}),
            (name, {**OF_ORGANIZATION, "query": {**query, "interval": "1m"}}),
        ],
        folder,
    )
    assert "value" in hourly
    assert by_minute["error"]["status"] == 400
