from __future__ import annotations

import functools
import time
from collections.abc import Generator

import httpx
import pytest
from pydantic import SecretStr

from runbook.clients.github import API_URL, GitHub, GitHubSettings
from runbook.clients.github_answers import Deployment
from runbook.clients.http_api import LostError, MissingError, Patience, TakenError
from runbook.errors import InvalidInputError, RejectedError, ServiceError, TransientError
from runbook.rules.checklist import Outcome
from runbook.rules.ci import CiResult, judge_ci
from runbook.rules.review import judge_review
from tests.emulators.github import GitHubEmulator, github_emulator

TOKEN = "github_pat_never_to_be_seen_0123456789"
QUICK = Patience(answer_s=5, pause_s=0.005, longest_pause_s=2)
RUN = "deploy_20250104_120000"
NONE_LEFT = {"x-ratelimit-remaining": "0", "x-ratelimit-reset": "{now}"}
SHA, LATER, BESIDE = "a" * 40, "b" * 40, "c" * 40


@pytest.fixture(scope="module")
def server() -> Generator[GitHubEmulator]:
    with github_emulator(token=TOKEN) as emulator:
        yield emulator


@pytest.fixture
def github(server: GitHubEmulator) -> GitHubEmulator:
    server.reset()
    server.commit(SHA)
    return server


def client(github: GitHubEmulator, *, token: str = TOKEN) -> GitHub:
    return _client(github.url, token)


@functools.cache
def _client(url: str, token: str) -> GitHub:
    return GitHub(GitHubSettings("mantisnxt", "shop", "main", url, block="block x"), SecretStr(token), QUICK)


def begin(github: GitHubEmulator, run: str = RUN, environment: str = "production", sha: str = SHA) -> Deployment:
    return client(github).begin_deployment(run, environment, sha, task="deploy", description="deploy v2")


def sent(github: GitHubEmulator, method: str = "POST") -> list[object]:
    return [each.call.body for each in github.exchanges if each.call.method == method]


# what CI says


def test_pending_without_statuses_is_no_status(github: GitHubEmulator) -> None:
    assert (
        httpx.get(
            f"{github.url}/repos/mantisnxt/shop/commits/{SHA}/status", headers={"Authorization": f"Bearer {TOKEN}"}
        ).json()["state"]
        == "pending"
    )
    assert client(github).ci_checks(SHA) == ()
    github.runs[SHA] = [("build", "completed", "success")]
    assert judge_ci(client(github).ci_checks(SHA), ()).outcome is Outcome.PASSED, "nothing is waited for"


def test_zero_check_runs_are_not_green(github: GitHubEmulator) -> None:
    assert judge_ci(client(github).ci_checks(SHA), ()).outcome is Outcome.FAILED


def test_check_runs_and_statuses_are_both_looked_at(github: GitHubEmulator) -> None:
    github.runs[SHA] = [("build", "completed", "success"), ("e2e", "in_progress", None)]
    github.statuses[SHA] = [("ci/legacy", "failure"), ("ci/slow", "pending")]
    found = {check.name: check.result for check in client(github).ci_checks(SHA)}
    assert found == {
        "build": CiResult.PASSED,
        "e2e": CiResult.RUNNING,
        "ci/legacy": CiResult.FAILED,
        "ci/slow": CiResult.RUNNING,
    }


def test_only_the_latest_run_of_a_check_counts(github: GitHubEmulator) -> None:
    client(github).ci_checks(SHA)
    [asked] = [each.call for each in github.exchanges if each.call.path.endswith("/check-runs")]
    assert asked.query == {"filter": "latest", "per_page": "100"}


def test_a_failure_on_the_last_page_is_seen(github: GitHubEmulator) -> None:
    github.page_size = 2
    github.runs[SHA] = [(f"check {number}", "completed", "success") for number in range(4)]
    github.runs[SHA].append(("last", "completed", "failure"))
    github.statuses[SHA] = [(f"status {number}", "success") for number in range(5)]
    found = client(github).ci_checks(SHA)
    assert len(found) == 10
    assert judge_ci(found, ()).detail == "failed: last (failure)"


def test_the_token_does_not_follow_a_next_page_to_elsewhere(github: GitHubEmulator) -> None:
    github.page_size = 1
    github.next_page = "https://attacker.test/repos/mantisnxt/shop/page"
    github.runs[SHA] = [("build", "completed", "success"), ("e2e", "completed", "success")]
    with pytest.raises(RejectedError, match=r"attacker\.test, where the token is not sent to"):
        client(github).ci_checks(SHA)


def test_pages_that_go_round_in_circles_end(github: GitHubEmulator) -> None:
    github.page_size = 1
    github.next_page = f"{github.url}/repos/mantisnxt/shop/commits/{SHA}/check-runs?per_page=1"
    github.runs[SHA] = [("build", "completed", "success"), ("e2e", "completed", "success")]
    with pytest.raises(LostError, match="round in circles"):
        client(github).ci_checks(SHA)


@pytest.mark.parametrize("kind", ["statuses", "check runs"])
def test_an_answer_about_another_commit_is_no_evidence(github: GitHubEmulator, kind: str) -> None:
    github.answers_about = LATER
    if kind == "check runs":
        github.runs[SHA] = [("build", "completed", "success")]
    with pytest.raises(LostError, match="about commit bbbbbbbbbbbb when it was asked about aaaaaaaaaaaa"):
        client(github).ci_checks(SHA)


def test_a_commit_that_github_does_not_know_has_to_be_pushed(github: GitHubEmulator) -> None:
    with pytest.raises(RejectedError, match=r"No commit found for SHA.*push it first"):
        client(github).ci_checks(LATER)


def test_required_checks_come_from_rulesets_and_from_branch_protection(github: GitHubEmulator) -> None:
    checks = [{"context": "build", "integration_id": 15368}, {"context": "e2e"}]
    parameters = {"required_status_checks": checks, "strict_required_status_checks_policy": True}
    github.rules = [{"type": "deletion"}, {"type": "required_status_checks", "parameters": parameters}]
    github.protected_contexts = ["ci/legacy"]
    assert client(github).required_checks() == {"build", "e2e", "ci/legacy"}


# what reviewers say


def pull_request_rule(count: int) -> dict[str, object]:
    names = ("dismiss_stale_reviews_on_push", "require_code_owner_review", "require_last_push_approval")
    parameters = {**dict.fromkeys(names, False), "required_review_thread_resolution": False}
    return {"type": "pull_request", "parameters": {**parameters, "required_approving_review_count": count}}


def test_as_many_approvals_are_required_as_the_strictest_rule_says(github: GitHubEmulator) -> None:
    assert client(github).required_approvals() == 0
    github.rules = [pull_request_rule(1), {"type": "creation"}, pull_request_rule(2)]
    assert client(github).required_approvals() == 2


def test_a_branch_protected_in_the_old_way_requires_an_approval(github: GitHubEmulator) -> None:
    github.protected_contexts = []
    github.rules = [{"type": "deletion"}]
    assert client(github).required_approvals() == 1


def test_an_approval_of_an_earlier_commit_of_the_pull_request_does_not_count(github: GitHubEmulator) -> None:
    pull = github.add_pull(7, head=SHA)
    pull.reviews = [("ann", "APPROVED", github.first), ("ben", "COMMENTED", SHA)]
    check = judge_review(SHA, client(github).pull_requests(SHA), 1)
    assert (check.outcome, "ann approved an earlier commit" in check.detail) == (Outcome.FAILED, True)
    pull.reviews += [("ann", "APPROVED", SHA), ("ann", "COMMENTED", SHA)]
    assert judge_review(SHA, client(github).pull_requests(SHA), 1).outcome is Outcome.PASSED


def test_a_squashed_commit_is_found_by_its_merged_pull_request(github: GitHubEmulator) -> None:
    pull = github.add_pull(7, head=LATER, merged=True, commits={SHA})
    pull.reviews = [("ann", "APPROVED", LATER)]
    [found] = client(github).pull_requests(SHA)
    assert (found.number, found.head_sha, found.is_merged) == (7, LATER, True)
    assert judge_review(SHA, [found], 1).outcome is Outcome.PASSED


def test_the_last_word_on_the_last_page_counts(github: GitHubEmulator) -> None:
    github.page_size = 2
    pull = github.add_pull(7, head=SHA)
    pull.reviews = [("ann", "APPROVED", SHA)] * 4 + [("ann", "CHANGES_REQUESTED", SHA)]
    assert "changes requested by ann" in judge_review(SHA, client(github).pull_requests(SHA), 1).detail


@pytest.mark.parametrize(
    ("base", "head", "expected"),
    [
        pytest.param(SHA, LATER, ("ahead", 1, 0), id="ahead"),
        pytest.param(LATER, SHA, ("behind", 0, 1), id="behind"),
        pytest.param(LATER, BESIDE, ("diverged", 1, 1), id="diverged"),
        pytest.param(SHA, SHA, ("identical", 0, 0), id="identical"),
    ],
)
def test_how_a_commit_stands_to_another(
    github: GitHubEmulator, base: str, head: str, expected: tuple[str, int, int]
) -> None:
    github.commit(LATER, SHA)
    github.commit(BESIDE, SHA)
    found = client(github).compare(base, head)
    assert (found.status, found.ahead_by, found.behind_by) == expected


# deployments


def test_a_deployment_merges_nothing_and_waits_for_no_check(github: GitHubEmulator) -> None:
    github.commit(LATER)
    github.statuses[SHA] = [("ci/slow", "pending")]
    headers = {"Authorization": f"token {TOKEN}"}
    raw = [{"ref": SHA}, {"ref": SHA, "auto_merge": False}]
    answers = [httpx.post(f"{github.url}/repos/mantisnxt/shop/deployments", json=body, headers=headers) for body in raw]
    assert [answer.status_code for answer in answers] == [202, 409], "what GitHub does unless it is told otherwise"
    github.merged_base_into.clear()
    made = begin(github)
    assert (made.sha, made.environment, github.merged_base_into) == (SHA, "production", [])
    assert sent(github)[-1] == {
        "ref": SHA,
        "environment": "production",
        "task": "deploy",
        "description": "deploy v2",
        "payload": {"runbook": RUN},
        "auto_merge": False,
        "required_contexts": [],
    }


def test_a_merge_instead_of_a_deployment_is_no_deployment(github: GitHubEmulator) -> None:
    github.refuse("POST", "/deployments$", 202, message="Auto-merged main into topic on deployment.")
    with pytest.raises(RejectedError, match=r"it merged the base branch instead \(Auto-merged main into topic"):
        begin(github)


def test_a_conflict_is_said_in_githubs_words(github: GitHubEmulator) -> None:
    github.refuse("POST", "/deployments$", 409, message="Conflict merging main into topic.")
    with pytest.raises(TakenError, match="HTTP 409: Conflict merging main into topic"):
        begin(github)


def test_a_deployment_of_a_commit_that_was_not_pushed_is_refused(github: GitHubEmulator) -> None:
    with pytest.raises(RejectedError, match=r"No ref found for: b{40}.*push it first"):
        begin(github, sha=LATER)


def test_a_run_finds_its_deployment_again(github: GitHubEmulator) -> None:
    made = begin(github)
    begin(github, "deploy_20250104_130000")
    begin(github, RUN, "staging")
    assert client(github).deployment(RUN, "production", SHA) == made
    assert client(github).deployment("deploy_20250104_140000", "production", SHA) is None


def test_a_payload_that_comes_back_as_text_is_understood(github: GitHubEmulator) -> None:
    made = begin(github)
    github.payload_as_text = True
    found = client(github).deployment(RUN, "production", SHA)
    assert found is not None
    assert found.id == made.id


def test_a_status_has_the_link_to_the_run_and_the_environment(github: GitHubEmulator) -> None:
    made = begin(github)
    client(github).set_status(
        made.id,
        "success",
        "deploy v2: done",
        log_url="http://127.0.0.1:4200/runs/1",
        environment_url="https://shop.test",
    )
    [status] = github.deployments[0].statuses
    assert (status.state, status.description) == ("success", "deploy v2: done")
    assert (status.log_url, status.environment_url) == ("http://127.0.0.1:4200/runs/1", "https://shop.test")


def test_a_description_is_one_line_of_at_most_140_characters(github: GitHubEmulator) -> None:
    made = client(github).begin_deployment(RUN, "production", SHA, task="deploy", description="long\n" * 100)
    client(github).set_status(made.id, "failure", "x" * 141)
    assert github.deployments[0].description.startswith("long long")
    assert [
        len(text) for text in (github.deployments[0].description, github.deployments[0].statuses[0].description)
    ] == [
        140,
        140,
    ]


def test_earlier_deployments_to_production_are_retired_by_us_because_github_does_not(github: GitHubEmulator) -> None:
    first, killed, failed = begin(github, "deploy_1"), begin(github, "deploy_2"), begin(github, "deploy_3")
    client(github).set_status(first.id, "success", "done")
    client(github).set_status(killed.id, "in_progress", "Stage 4")
    client(github).set_status(failed.id, "failure", "not done")
    other = github.deploy_elsewise(SHA, "production", "success")
    staging = begin(github, "deploy_4", "staging")
    client(github).set_status(staging.id, "success", "done")
    last = begin(github)
    client(github).set_status(last.id, "success", "done")
    assert github.deployments[0].state == "success", "GitHub leaves those to production as they are"
    client(github).retire_earlier(last, "v2 has the traffic")
    states = [made.state for made in github.deployments]
    assert states == ["inactive", "inactive", "failure", "success", "success", "success"]
    assert other.state == "success", "what others deploy is theirs"


def test_retiring_stops_at_what_is_inactive_already(github: GitHubEmulator) -> None:
    for number in range(4):
        made = begin(github, f"deploy_{number}")
        client(github).set_status(made.id, "success", "done")
        client(github).retire_earlier(made, "newer")
    assert [made.state for made in github.deployments] == ["inactive", "inactive", "inactive", "success"]
    before = len(github.exchanges)
    client(github).retire_earlier(begin(github), "newer")
    asked = [each.call.method for each in github.exchanges[before:]]
    assert asked == ["POST", "GET", "GET", "GET", "POST"], "the newest and the first inactive one, and no further"


def test_retiring_that_was_cut_off_is_made_up_for_by_the_next_one(github: GitHubEmulator) -> None:
    for number in range(3):
        client(github).set_status(begin(github, f"deploy_{number}").id, "success", "done")
    github.refuse("POST", "/deployments/2/statuses$|/deployments/3/statuses$", 422, times=1)
    last = begin(github)
    with pytest.raises(RejectedError):
        client(github).retire_earlier(last, "newer")
    client(github).retire_earlier(last, "newer")
    assert [made.state for made in github.deployments] == ["inactive", "inactive", "inactive", "pending"]


# answers that are lost after the effect


@pytest.mark.parametrize("status", [None, 500, 502, 504], ids=lambda status: f"{status or 'connection closed'}")
def test_a_lost_answer_makes_no_second_deployment(github: GitHubEmulator, status: int | None) -> None:
    github.lose("POST", "/deployments$", status=status)
    made = begin(github)
    assert [each.id for each in github.deployments] == [made.id]


def test_a_deployment_that_lists_show_late_is_waited_for(github: GitHubEmulator) -> None:
    github.lose("POST", "/deployments$")
    github.hide_new_deployments(reads=2)
    made = begin(github)
    assert [each.id for each in github.deployments] == [made.id]


@pytest.mark.parametrize("status", [None, 500, 502, 504], ids=lambda status: f"{status or 'connection closed'}")
def test_a_lost_answer_makes_no_second_status(github: GitHubEmulator, status: int | None) -> None:
    made = begin(github)
    client(github).set_status(made.id, "queued", "deploy v2")
    github.lose("POST", "/statuses$", status=status)
    client(github).set_status(made.id, "in_progress", "Stage 5: Promotion")
    assert github.deployments[0].states == ["queued", "in_progress"]


def test_without_an_effect_to_be_seen_nothing_is_sent_again(github: GitHubEmulator) -> None:
    github.refuse("POST", "/deployments$", 500)
    with pytest.raises(LostError, match="No effect is to be seen, but it may come yet"):
        begin(github)
    made = begin(github)
    github.refuse("POST", "/statuses$", 500)
    with pytest.raises(LostError, match="No effect is to be seen, but it may come yet"):
        client(github).set_status(made.id, "queued", "deploy v2")
    assert [each.reply.status for each in github.exchanges if each.call.method == "POST"] == [500, 201, 500]


# limits, refusals, addresses


@pytest.mark.parametrize(
    ("method", "path", "status", "headers"),
    [
        pytest.param("POST", "/deployments$", 429, {"Retry-After": "1"}, id="429 with Retry-After"),
        pytest.param("GET", "/check-runs$", 403, {"Retry-After": "0"}, id="403 with Retry-After"),
        pytest.param("GET", "/check-runs$", 403, NONE_LEFT, id="403 with none remaining"),
        pytest.param("POST", "/deployments$", 429, {}, id="429 that says nothing"),
    ],
)
def test_a_rate_limit_is_waited_for(
    github: GitHubEmulator, method: str, path: str, status: int, headers: dict[str, str]
) -> None:
    github.runs[SHA] = [("build", "completed", "success")]
    headers = {name: value.format(now=int(time.time()) - 1) for name, value in headers.items()}
    github.refuse(method, path, status, message="API rate limit exceeded", headers=headers)
    if method == "GET":
        assert len(client(github).ci_checks(SHA)) == 1
    else:
        begin(github)
        assert len(github.deployments) == 1
    assert github.too_early == 0


@pytest.mark.parametrize(
    "headers",
    [
        pytest.param({"Retry-After": "60"}, id="longer than we wait"),
        pytest.param({"x-ratelimit-remaining": "0", "x-ratelimit-reset": "{soon}"}, id="until the reset"),
        pytest.param({}, id="a secondary limit that says nothing"),
    ],
)
def test_a_rate_limit_that_takes_too_long_is_no_missing_permission(
    github: GitHubEmulator, headers: dict[str, str]
) -> None:
    headers = {name: value.format(soon=int(time.time()) + 1800) for name, value in headers.items()}
    github.refuse("GET", "/check-runs$", 403, message="You have exceeded a secondary rate limit.", headers=headers)
    with pytest.raises(TransientError, match="secondary rate limit") as caught:
        client(github).ci_checks(SHA)
    assert "may not" not in str(caught.value)
    assert len(github.exchanges) == 1


def test_a_server_error_of_a_question_is_asked_again(github: GitHubEmulator) -> None:
    github.refuse("GET", "/check-runs$", 502, times=2)
    assert client(github).ci_checks(SHA) == ()


@pytest.mark.parametrize("missing", ["checks=read", "statuses=read", "pull_requests=read", "deployments=write"])
def test_a_missing_permission_is_named_with_the_block(github: GitHubEmulator, missing: str) -> None:
    github.permissions[missing.split("=")[0]] = "none"

    def ask() -> None:
        client(github).ci_checks(SHA)
        client(github).pull_requests(SHA)
        begin(github)

    with pytest.raises(RejectedError) as caught:
        ask()
    said = str(caught.value)
    assert f"needs the permission {missing}" in said
    assert "block x" in said
    assert "request C0DE:" in said


@pytest.mark.parametrize("kind", ["statuses", "checks", "pull_requests", "contents", "deployments"])
def test_the_check_of_a_block_finds_every_missing_permission(github: GitHubEmulator, kind: str) -> None:
    github.permissions[kind] = "none"
    with pytest.raises(RejectedError, match=f"needs the permission {kind}=read"):
        client(github).check("production")


def test_the_check_of_a_block_says_what_it_found(github: GitHubEmulator) -> None:
    words = client(github).check("production")
    assert words == "mantisnxt/shop, branch main; environment production is made by the first deployment"
    github.protection_rules["production"] = ["required_reviewers", "wait_timer"]
    assert (
        client(github)
        .check("production")
        .endswith("in environment production a job of GitHub Actions waits for required_reviewers, wait_timer")
    )


def test_a_wrong_token_says_which_block(github: GitHubEmulator) -> None:
    with pytest.raises(RejectedError, match=r"HTTP 401: Bad credentials.*put a valid one into the block x"):
        client(github, token="ghp_of_yesterday").check("production")


def test_a_branch_that_is_not_there_is_named(github: GitHubEmulator) -> None:
    settings = GitHubSettings("mantisnxt", "shop", "release/1.0", github.url)
    with pytest.raises(MissingError, match=r"read branch release/1\.0: HTTP 404: Branch not found"):
        GitHub(settings, SecretStr(TOKEN), QUICK).check("production")
    assert github.exchanges[-1].call.path.endswith("/branches/release%2F1.0")


def test_a_repository_that_was_renamed_has_to_be_named_anew(github: GitHubEmulator) -> None:
    github.moved_to = "mantisnxt/store"
    with pytest.raises(RejectedError, match="mantisnxt/shop was renamed or moved: mend owner and name in the block x"):
        client(github).check("production")


def test_a_repository_that_the_token_does_not_see_is_no_mystery(github: GitHubEmulator) -> None:
    settings = GitHubSettings("mantisnxt", "other", "main", github.url)
    with pytest.raises(MissingError, match="no such thing in mantisnxt/other, or the token does not see it"):
        GitHub(settings, SecretStr(TOKEN), QUICK).check("production")


def test_every_request_names_the_version_of_the_api(github: GitHubEmulator) -> None:
    begin(github)
    client(github).check("production")
    client(github).ci_checks(SHA)
    for each in github.exchanges:
        assert each.call.headers["x-github-api-version"] == "2022-11-28"
        assert each.call.headers["accept"] == "application/vnd.github+json"
        assert each.call.headers["user-agent"] == "mantis-runbook"


def test_the_token_is_in_no_message_and_in_no_record(github: GitHubEmulator) -> None:
    github.refuse("GET", "/branches/main$", 403, message=f"what is {TOKEN}?")
    with pytest.raises(ServiceError) as caught:
        client(github).check("production")
    assert TOKEN not in f"{caught.value!r} {client(github)!r} {[each.call for each in github.exchanges]!r}"


@pytest.mark.parametrize(
    ("field", "settings"),
    [
        ("owner", GitHubSettings("mantisnxt/shop", "shop")),
        ("owner", GitHubSettings("", "shop")),
        ("name", GitHubSettings("mantisnxt", "..")),
        ("name", GitHubSettings("mantisnxt", "shop/deployments")),
        ("branch", GitHubSettings("mantisnxt", "shop", "a branch")),
        ("api_url", GitHubSettings("mantisnxt", "shop", api_url="http://api.github.com")),
        ("api_url", GitHubSettings("mantisnxt", "shop", api_url="api.github.com")),
    ],
)
def test_what_cannot_be_right_is_refused(field: str, settings: GitHubSettings) -> None:
    with pytest.raises(InvalidInputError) as caught:
        GitHub(settings, SecretStr(TOKEN))
    assert caught.value.field == field


def test_the_address_is_that_of_github_or_of_an_enterprise_server(github: GitHubEmulator) -> None:
    assert API_URL == "https://api.github.com"
    GitHub(GitHubSettings("mantisnxt", "shop", api_url="https://github.example/api/v3"), SecretStr(TOKEN))
