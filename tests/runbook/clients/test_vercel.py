"""Vercel as an application host, on an emulator with the traps of the real one."""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator
from datetime import UTC, datetime, timedelta

import pytest
from pydantic import SecretStr

from runbook.clients.application_host import ApplicationHost, ReleaseState
from runbook.clients.http_api import Patience
from runbook.clients.vercel import BYPASS_HEADER, VercelHost, VercelSettings
from runbook.errors import DivergedError, InvalidInputError, RejectedError, RunbookError, StageError, TransientError
from runbook.rules.variables import Flaw, Variable
from tests.emulators.vercel import PROJECT, TEAM, Nowhere, VercelEmulator, logged, vercel_emulator

TOKEN = "vcp_never_to_be_seen_0123456789"
BYPASS = "bypass_never_to_be_seen_0123456789"
A, B, C = "a" * 40, "b" * 40, "c" * 40
QUICK = Patience(answer_s=5, pause_s=0.002, poll_s=0.002, finish_s=5)


@pytest.fixture(scope="module")
def served() -> Generator[VercelEmulator]:
    with vercel_emulator(token=TOKEN) as emulator:
        yield emulator


@pytest.fixture
def vercel(served: VercelEmulator) -> VercelEmulator:
    served.reset()
    return served


def host(
    vercel: VercelEmulator,
    *,
    project: str = PROJECT,
    team: str | None = TEAM,
    token: str = TOKEN,
    patience: Patience = QUICK,
) -> VercelHost:
    settings = VercelSettings(project, vercel.backend.public_url, team, vercel.url)
    return VercelHost(settings, SecretStr(token), SecretStr(BYPASS), patience)


def sent(vercel: VercelEmulator, method: str = "POST") -> list[str]:
    return [each.call.path for each in vercel.exchanges if each.call.method == method]


def test_it_is_an_application_host(vercel: VercelEmulator) -> None:
    it: ApplicationHost = host(vercel)
    it.check()
    assert it.public_url == "https://shop.example"
    assert it.private_headers[BYPASS_HEADER].get_secret_value() == BYPASS
    assert it.active() is None


# staging


def test_a_release_is_staged_for_production_without_domains_from_exactly_its_commit(vercel: VercelEmulator) -> None:
    live = vercel.add(A, live=True)
    release = host(vercel).stage(B, "v2")
    (body,) = (each.call.body for each in vercel.exchanges if each.call.method == "POST")
    assert body["target"] == "production"
    assert body["autoAssignCustomDomains"] is False
    assert body["gitSource"] == {"type": "github", "ref": B, "sha": B, "repoId": 4711}
    assert (release.git_sha, release.version, release.state, release.promoted_at) == (B, "v2", ReleaseState.READY, None)
    assert release.url.startswith("https://shop-")
    assert vercel.production == live.id


def test_a_commit_that_is_staged_already_is_not_built_again(vercel: VercelEmulator) -> None:
    first = host(vercel).stage(A, "v1")
    assert host(vercel).stage(A, "v1") == first
    assert len(sent(vercel)) == 1


def test_a_build_that_fails_is_told_with_its_step_its_code_and_its_last_lines(vercel: VercelEmulator) -> None:
    vercel.fail_build("BUILD_FAILED", "buildStep")
    with pytest.raises(
        StageError, match=r"ended as ERROR: buildStep, BUILD_FAILED, Command exited with 1\nCloning.*\n"
    ):
        host(vercel).stage(A, "v1")
    assert host(vercel).stage(A, "v1").state is ReleaseState.READY


def test_a_build_that_takes_too_long_is_waited_for_the_next_time(vercel: VercelEmulator) -> None:
    impatient = host(vercel, patience=Patience(answer_s=5, pause_s=0.002, poll_s=0.002, finish_s=0))
    with pytest.raises(TransientError, match=r"still QUEUED after 0 s; it may be ready later"):
        impatient.stage(A, "v1")
    host(vercel).stage(A, "v1")
    assert len(sent(vercel)) == 1


def test_ready_is_not_live(vercel: VercelEmulator) -> None:
    vercel.add(A, live=True)
    release = host(vercel).stage(B, "v2")
    active = host(vercel).active()
    assert release.state is ReleaseState.READY
    assert active is not None
    assert active.git_sha == A


def test_a_deployment_that_takes_the_traffic_as_soon_as_it_is_built_is_no_staged_one(vercel: VercelEmulator) -> None:
    vercel.add(A, live=True)
    vercel.take_traffic_when_built()
    with pytest.raises(DivergedError, match=r"as soon as it was built\. Turn off the automatic assignment"):
        host(vercel).stage(B, "v2")


def test_a_project_without_a_repository_is_refused_with_where_to_connect_one(vercel: VercelEmulator) -> None:
    vercel.link = None
    for refused in (host(vercel).check, lambda: host(vercel).stage(A, "v1")):
        with pytest.raises(RejectedError, match=r"connected to no git repository.*under Git"):
            refused()
    assert sent(vercel) == []


def test_protected_deployments_need_a_secret_for_automation(vercel: VercelEmulator) -> None:
    vercel.protection = {"deploymentType": "all"}
    settings = VercelSettings(PROJECT, vercel.backend.public_url, TEAM, vercel.url)
    with pytest.raises(RejectedError, match=r"protects its deployments.*under Deployment Protection"):
        VercelHost(settings, SecretStr(TOKEN), None, QUICK).check()
    host(vercel).check()


# promote and rollback


def test_a_promote_moves_the_domain_and_is_waited_for(vercel: VercelEmulator) -> None:
    vercel.add(A, live=True)
    release = host(vercel).stage(B, "v2")
    promoted = host(vercel).promote(release.release_id)
    assert vercel.production == release.release_id
    assert promoted.promoted_at is not None
    assert host(vercel).promote(release.release_id).release_id == release.release_id
    assert sum("/promote/" in path for path in sent(vercel)) == 1


def test_a_preview_is_never_promoted_for_that_would_build_it_anew(vercel: VercelEmulator) -> None:
    preview = vercel.add(A, target=None)
    with pytest.raises(RejectedError, match=r"deployment for preview: to promote it would build it anew"):
        host(vercel).promote(preview.id)
    assert sent(vercel) == []


def test_the_answer_to_a_promote_is_empty_and_means_nothing_yet(vercel: VercelEmulator) -> None:
    release = host(vercel).stage(A, "v1")
    host(vercel).promote(release.release_id)
    answer = next(each.reply for each in vercel.exchanges if "/promote/" in each.call.path)
    assert (answer.status, answer.content) == (201, None)
    assert vercel.production == release.release_id


def test_a_rollback_builds_nothing_and_pins_production_until_the_next_promote(vercel: VercelEmulator) -> None:
    first, second = vercel.add(A, live=True), vercel.add(B, live=True)
    assert host(vercel).roll_back(first.id).git_sha == A
    assert sent(vercel) == [f"/v1/projects/{PROJECT}/rollback/{first.id}"]
    assert (vercel.production, vercel.assigns) == (first.id, False)
    assert "pinned by an instant rollback" in (host(vercel).pin() or "")
    assert host(vercel).promote(second.id).git_sha == B
    assert host(vercel).pin() is None


def test_a_promote_of_what_a_rollback_has_pinned_takes_the_pin_away(vercel: VercelEmulator) -> None:
    first, _ = vercel.add(A, live=True), vercel.add(B, live=True)
    host(vercel).roll_back(first.id)
    host(vercel).promote(first.id)
    assert host(vercel).pin() is None


def test_what_never_had_the_traffic_is_no_target_of_a_rollback(vercel: VercelEmulator) -> None:
    vercel.add(A, live=True)
    staged = host(vercel).stage(B, "v2")
    with pytest.raises(RejectedError, match="never had the traffic"):
        host(vercel).roll_back(staged.release_id)
    assert not any("/rollback/" in path for path in sent(vercel))


@pytest.mark.parametrize("kind", ["promote", "rollback"])
def test_domains_that_were_not_moved_are_named(vercel: VercelEmulator, kind: str) -> None:
    first, _ = vercel.add(A, live=True), vercel.add(B, live=True)
    vercel.fail_domains("shop.example", "www.shop.example")
    with pytest.raises(StageError, match=r"not moved: shop\.example, www\.shop\.example"):
        host(vercel).promote(first.id) if kind == "promote" else host(vercel).roll_back(first.id)


def test_another_deployment_behind_the_domain_than_vercel_says_is_found(vercel: VercelEmulator) -> None:
    first, second = vercel.add(A, live=True), vercel.add(B, live=True)
    vercel.serve_something_else(second.id)
    with pytest.raises(StageError, match=rf"says that {first.id} has the traffic, but the domain leads to {second.id}"):
        host(vercel).roll_back(first.id)


def test_a_promote_behind_a_rolling_release_waits_and_says_so(vercel: VercelEmulator) -> None:
    vercel.stages = [10, 100]
    vercel.add(A, live=True)
    canary, later = host(vercel).stage(B, "v2"), host(vercel).stage(C, "v3")
    host(vercel).start_rolling(canary.release_id)
    with pytest.raises(TransientError, match=r"waits behind a rolling release\. Complete or abort"):
        host(vercel).promote(later.release_id)


def test_a_promote_while_another_one_goes_on_is_rejected(vercel: VercelEmulator) -> None:
    release = host(vercel).stage(A, "v1")
    vercel.refuse("POST", "/promote/", 409, message="Another promote is in progress")
    with pytest.raises(RejectedError, match="Another promote is in progress"):
        host(vercel).promote(release.release_id)


# answers that are lost


def stage(it: VercelHost) -> None:
    it.stage(A, "v1")


@pytest.mark.parametrize("status", [None, 502], ids=["cut", "502"])
def test_a_deployment_whose_answer_is_lost_is_created_once(vercel: VercelEmulator, status: int | None) -> None:
    vercel.hide_new_deployments(reads=1)
    vercel.lose("POST", "/deployments$", status=status)
    stage(host(vercel))
    assert (len(vercel.deployments), len(sent(vercel))) == (1, 1)


@pytest.mark.parametrize("status", [None, 502], ids=["cut", "502"])
@pytest.mark.parametrize("kind", ["promote", "rollback"])
def test_a_switch_whose_answer_is_lost_is_asked_for_once(vercel: VercelEmulator, kind: str, status: int | None) -> None:
    first, _ = vercel.add(A, live=True), vercel.add(B, live=True)
    vercel.lose("POST", f"/{kind}/", status=status)
    host(vercel).promote(first.id) if kind == "promote" else host(vercel).roll_back(first.id)
    assert vercel.production == first.id
    assert len(sent(vercel)) == 1


@pytest.mark.parametrize("status", [None, 502], ids=["cut", "502"])
def test_a_stage_of_a_rolling_release_whose_answer_is_lost_is_asked_for_once(
    vercel: VercelEmulator, status: int | None
) -> None:
    vercel.stages = [10, 50, 100]
    vercel.add(A, live=True)
    canary = host(vercel).stage(B, "v2")
    for path in ("/start$", "/approve-stage$", "/complete$"):
        vercel.lose("POST", path, status=status)
    host(vercel).start_rolling(canary.release_id)
    assert [host(vercel).advance_rolling(canary.release_id) for _ in range(2)] == [False, True]
    assert len([path for path in sent(vercel) if "rolling-release" in path]) == 3
    assert vercel.production == canary.release_id


def test_a_deployment_of_which_nothing_is_to_be_seen_may_come_yet(vercel: VercelEmulator) -> None:
    vercel.refuse("POST", "/deployments$", 502)
    with pytest.raises(TransientError, match=r"No deployment of aaaaaaaaaaaa is to be seen, but it may come yet"):
        stage(host(vercel))


# rolling releases


def test_a_rollback_ends_a_rolling_release_though_the_domain_leads_to_the_old_deployment_already(
    vercel: VercelEmulator,
) -> None:
    vercel.stages = [10, 100]
    base = vercel.add(A, live=True)
    canary = host(vercel).stage(B, "v2")
    host(vercel).start_rolling(canary.release_id)
    host(vercel).start_rolling(canary.release_id)
    assert len([path for path in sent(vercel) if path.endswith("/start")]) == 1, "it is under way already"
    assert vercel.production == base.id, "the domain leads to the old one all the while"
    assert host(vercel).roll_back(base.id).release_id == base.id
    assert vercel.production == base.id
    with pytest.raises(RejectedError, match="no rolling release"):
        host(vercel).advance_rolling(canary.release_id)


def test_a_plan_without_rolling_releases_says_so(vercel: VercelEmulator) -> None:
    vercel.add(A, live=True)
    canary = host(vercel).stage(B, "v2")
    with pytest.raises(RejectedError, match="Rolling releases are not configured"):
        host(vercel).start_rolling(canary.release_id)


# looking


def test_all_pages_of_the_releases_are_read_newest_first(vercel: VercelEmulator) -> None:
    made = [vercel.add(f"{number:040x}").id for number in range(7)]
    vercel.add(A, target=None)
    vercel.page_size(3)
    assert [release.release_id for release in host(vercel).releases()] == made[::-1]


def test_the_variables_of_production_are_named_and_what_is_encrypted_is_not_told(vercel: VercelEmulator) -> None:
    assert host(vercel).variables() == {"DATABASE_URL": Variable(None)}


def test_values_that_everybody_can_read_are_examined_and_secrets_among_them_are_a_flaw(vercel: VercelEmulator) -> None:
    vercel.variables |= {"NEXTAUTH_URL": ["production"], "JWT_SECRET": ["production"]}
    vercel.plain_values |= {"NEXTAUTH_URL": "https://shop.acme.io", "JWT_SECRET": "changeme"}
    assert host(vercel).variables() == {
        "DATABASE_URL": Variable(None),
        "NEXTAUTH_URL": Variable(20),
        "JWT_SECRET": Variable(8, (Flaw.PLACEHOLDER, Flaw.READABLE)),
    }


def test_the_newest_lines_of_the_log_are_read_from_a_stream_oldest_first() -> None:
    at = datetime(2025, 1, 4, 12, tzinfo=UTC)
    lines = [logged(n, at + timedelta(seconds=n), "fatal" if n == 2 else "info", f"line {n}") for n in (2, 0, 1)]
    with vercel_emulator(token=TOKEN, backend=Nowhere(lines=lines)) as vercel:
        release = host(vercel).stage(A, "v1")
        found = host(vercel).logs(release.release_id, limit=2)
    assert [(line.at, line.level, line.message) for line in found] == [
        (at + timedelta(seconds=1), "info", "line 1"),
        (at + timedelta(seconds=2), "critical", "line 2"),
    ]


def test_requests_and_errors_are_counted_by_status() -> None:
    with vercel_emulator(token=TOKEN, backend=Nowhere(counts={"200": 7, "404": 2, "503": 1})) as vercel:
        release = host(vercel).stage(A, "v1")
        found = host(vercel).metrics(release.release_id, since=datetime.now(UTC) - timedelta(minutes=5))
    assert (found.requests, found.errors) == (10, 1)


def test_metrics_that_the_plan_does_not_have_are_rejected_not_guessed(vercel: VercelEmulator) -> None:
    release = vercel.add(A, live=True)
    vercel.metrics = []
    with pytest.raises(RejectedError, match="no count of requests by status and deployment"):
        host(vercel).metrics(release.id, since=datetime.now(UTC) - timedelta(minutes=5))


def test_a_deployment_can_not_be_tried_on_another_database(vercel: VercelEmulator) -> None:
    release = vercel.add(A, live=True)
    with pytest.raises(RejectedError, match="cannot run"), host(vercel).trial(release.id, "postgresql://other"):
        pass


def test_a_release_that_vercel_does_not_know_is_rejected(vercel: VercelEmulator) -> None:
    with pytest.raises(
        RejectedError, match="read deployment dpl_9999: HTTP 404: not_found The deployment was not found"
    ):
        host(vercel).release("dpl_9999")


# tokens, teams, limits


def test_a_wrong_token_says_which_block_and_what_it_needs(vercel: VercelEmulator) -> None:
    with pytest.raises(RejectedError, match=rf"HTTP 403.*token of the block Vercel Project.*project {PROJECT} of team"):
        host(vercel, token="vcp_wrong").check()


def test_another_team_is_refused_and_the_block_is_named(vercel: VercelEmulator) -> None:
    with pytest.raises(RejectedError, match=r"permission to access this team.*team_other"):
        host(vercel, team="team_other").check()


def test_every_request_names_the_team(vercel: VercelEmulator) -> None:
    host(vercel).stage(A, "v1")
    host(vercel, team="mantis").check()
    scopes = {each.call.query.get("teamId", each.call.query.get("slug")) for each in vercel.exchanges}
    assert scopes == {TEAM, "mantis"}


def test_a_token_that_expires_while_a_promote_goes_on_is_said_and_nothing_is_repeated(
    vercel: VercelEmulator,
) -> None:
    first = vercel.add(A, live=True)
    vercel.add(B, live=True)
    vercel.exchanges.clear()
    vercel.expire_token(after=4)  # deployment, project, domain, promote
    with pytest.raises(RejectedError, match=r"read project .*HTTP 403"):
        host(vercel).promote(first.id)
    assert len(sent(vercel)) == 1


@pytest.mark.parametrize("headers", [{}, {"Retry-After": "0"}], ids=["without", "with"])
def test_a_limit_of_requests_is_waited_for(vercel: VercelEmulator, headers: dict[str, str]) -> None:
    vercel.refuse("POST", "/deployments$", 429, times=2, headers=headers)
    stage(host(vercel))
    assert len(vercel.deployments) == 1


def test_a_slow_answer_is_lost_and_looked_for(vercel: VercelEmulator) -> None:
    vercel.delay("POST", "/deployments$", 0.3)
    stage(host(vercel, patience=Patience(answer_s=0.15, pause_s=0.05, poll_s=0.002, finish_s=5)))
    assert len(vercel.deployments) == 1


@pytest.mark.parametrize(
    ("field", "make"),
    [
        ("project", lambda: VercelSettings("../other", "https://shop.example")),
        ("team", lambda: VercelSettings("shop", "https://shop.example", "a b")),
        ("public_url", lambda: VercelSettings("shop", "http://shop.example")),
        ("api_url", lambda: VercelSettings("shop", "https://shop.example", api_url="http://api.vercel.com")),
    ],
)
def test_settings_that_cannot_be_right_are_refused(field: str, make: Callable[[], VercelSettings]) -> None:
    with pytest.raises(InvalidInputError, match=field):
        make()


def test_token_and_secret_are_in_no_message_and_no_log(
    vercel: VercelEmulator, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    vercel.refuse("GET", "/projects/", 400, message=f"bad token {TOKEN}")
    said: list[str] = [repr(host(vercel))]
    for call in (host(vercel).check, lambda: host(vercel, token="x").check()):
        with pytest.raises(RunbookError) as caught:
            call()
        said.append(str(caught.value))
    assert TOKEN not in "".join(said) + caplog.text
    assert BYPASS not in "".join(said) + caplog.text
    assert "**********" in said[1]
