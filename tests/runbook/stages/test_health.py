from __future__ import annotations

import json
import threading
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import cast

import pytest

from runbook.clients.application_host import ApplicationHost, LogLine, Release, ReleaseState, RequestMetrics
from runbook.clients.embedded_postgres import EmbeddedPostgres
from runbook.clients.postgres import Database
from runbook.connections import Connections
from runbook.errors import DivergedError, StageError, TransientError
from runbook.reports import FinalState, RollbackScope
from runbook.rules.checklist import Check, Outcome
from runbook.rules.release_watch import Verdict
from runbook.rules.smoke import SmokeTest, parse_smoke_tests
from runbook.rules.thresholds import Action
from runbook.settings import WatchSettings
from runbook.stages.application import confirm_served, promote_release, smoke_release
from runbook.stages.checklist import ReleasePlan
from runbook.stages.health import (
    WatchResult,
    check_health,
    probe_state,
    run_smoke_tests,
    state_of,
    validate_release,
    verify_rollback,
    watch_release,
)
from runbook.stages.migration_plan import MigrationPlan
from runbook.stages.rollback import RollbackPlan
from runbook.stages.watch import ReleaseWatch
from tests.fakes.application_host import MemoryHost
from tests.runbook.helpers import commit, execute

AT = datetime(2025, 1, 4, 12, tzinfo=UTC)
SMOKE = parse_smoke_tests(
    """
[[request]]
name = "products"
path = "/products"
json = { count = 3 }

[[request]]
name = "an order"
method = "POST"
path = "/orders"
body = { sku = "A1" }
status = 201
""",
    "smoke.toml",
)


@dataclass
class Application:
    """An HTTP server that answers what it is told to; everything asked of it is written down."""

    url: str = ""
    sha: str = ""
    answers: dict[str, tuple[int, str]] = field(
        default_factory=lambda: {
            "/api/health": (200, "ok"),
            "/api/health/database": (200, "ok"),
            "/api/auth/health": (200, "ok"),
            "/products": (200, '{"count": 3}'),
            "/orders": (201, "{}"),
        }
    )
    requests: list[str] = field(default_factory=list[str])
    hangs: threading.Event = field(default_factory=threading.Event)

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        self.requests.append(f"{request.command} {request.path}")
        request.rfile.read(int(request.headers.get("content-length", 0)))
        status, text = self.answers.get(request.path, (404, "no such page"))
        if status == 0:
            self.hangs.wait(60)
            return
        request.send_response(status)
        if self.sha:
            request.send_header("X-Release-Sha", self.sha)
        if status == 302:
            request.send_header("Location", "/products")
        request.send_header("Content-Length", str(len(text)))
        request.end_headers()
        request.wfile.write(text.encode())


@pytest.fixture
def application() -> Generator[Application]:
    state = Application()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            state.answer(self)

        def do_POST(self) -> None:
            state.answer(self)

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        state.url = f"http://127.0.0.1:{server.server_port}"
        yield state
        state.hangs.set()
        server.shutdown()


@dataclass
class Host(MemoryHost):
    """A host in memory whose public URL is the application, and whose numbers and log the test makes up."""

    url: str = ""
    counted: Callable[[], RequestMetrics] = lambda: counts(0, 0)
    log: Sequence[LogLine] | Exception = ()

    @property
    def public_url(self) -> str:
        return self.url

    def metrics(self, release_id: str, *, since: datetime) -> RequestMetrics:
        return self.counted()

    def logs(self, release_id: str, *, since: datetime | None = None, limit: int = 100) -> Sequence[LogLine]:
        if isinstance(self.log, Exception):
            raise self.log
        return self.log


@dataclass
class Shop:
    """A release that runs, and the environment around it."""

    connections: Connections
    host: Host
    application: Application
    release: Release

    @property
    def plan(self) -> ReleasePlan:
        none = MigrationPlan(self.release.git_sha, (), (), (), (), {})
        return ReleasePlan("main", self.release.git_sha, "v1", None, none, SMOKE)

    def health(self) -> dict[str, Check]:
        checks = check_health(self.connections, self.application.url, self.release.git_sha)
        return {check.name: check for check in checks}

    def watch(self, duration_s: float = 0.3) -> WatchResult:
        settings = self.connections.settings.model_copy(
            update={"watch": WatchSettings(duration_s=duration_s, interval_s=0.05, page_paths=())}
        )
        return watch_release(replace(self.connections, settings=settings), self.plan, self.release, AT)

    def validate(self) -> dict[str, Check]:
        return {check.name: check for check in validate_release(self.connections, self.plan, self.release, AT)}


@pytest.fixture(scope="module")
def shared(postgres: EmbeddedPostgres) -> Database:
    execute(postgres.url(), "CREATE DATABASE health")
    return Database(postgres.url("health"))


@pytest.fixture
def database(shared: Database) -> Database:
    """The same database for every test of this file, emptied: nothing here makes another one beside it."""
    execute(shared.url, "DROP SCHEMA public CASCADE", "CREATE SCHEMA public")
    return shared


@pytest.fixture
def shop(connections: Connections, application: Application) -> Shop:
    sha = connections.repository.resolve("main")
    application.sha = sha
    host = Host(url=application.url)
    release = host.promote(host.stage(sha, "v1").release_id)
    return Shop(replace(connections, host=cast("ApplicationHost", host)), host, application, release)


def counts(requests: int, errors: int) -> RequestMetrics:
    return RequestMetrics(requests, errors, 0.01, 0.02, 0.03)


def failed(checks: Sequence[Check]) -> list[str]:
    return [check.name for check in checks if check.outcome is not Outcome.PASSED]


def test_a_healthy_release_passes(shop: Shop) -> None:
    assert failed(list(shop.health().values())) == []
    assert shop.application.requests == ["GET /api/health", "GET /api/health/database", "GET /api/auth/health"]


@pytest.mark.parametrize("header", ["x-release-sha", "X-Release-SHA"])
def test_the_release_header_is_found_however_the_settings_write_it(shop: Shop, header: str) -> None:
    described = {**shop.connections.settings.model_dump(), "release_header": header}
    settings = type(shop.connections.settings).model_validate(described)
    shop.connections = replace(shop.connections, settings=settings)
    assert shop.health()["served version"].outcome is Outcome.PASSED


@pytest.mark.parametrize(
    ("status", "said"),
    [(503, "answered 503: sorry"), (404, "answered 404: sorry"), (302, "answered 302"), (204, "answered 204")],
)
def test_an_endpoint_that_answers_otherwise_fails(shop: Shop, status: int, said: str) -> None:
    shop.application.answers["/api/health/database"] = (status, "" if status == 204 else "sorry")
    health = shop.health()
    assert failed(list(health.values())) == ["GET /api/health/database"]
    assert health["GET /api/health/database"].detail.startswith(said)


def test_a_long_error_page_is_cut_short(shop: Shop) -> None:
    shop.application.answers["/api/health"] = (500, "x" * 100_000)
    assert len(shop.health()["GET /api/health"].detail) < 300


@pytest.mark.parametrize(("sha", "said"), [("c" * 40, "c" * 40), ("", "no release header")])
def test_another_commit_behind_a_good_answer_is_found_out(shop: Shop, sha: str, said: str) -> None:
    shop.application.sha = sha
    health = shop.health()
    assert failed(list(health.values())) == ["served version"]
    assert health["served version"].detail.startswith(said)
    assert shop.release.git_sha in health["served version"].detail


def test_nobody_listening_fails_every_endpoint(shop: Shop) -> None:
    checks = check_health(shop.connections, "http://127.0.0.1:1", shop.release.git_sha)
    assert len(failed(checks)) == len(checks) == 4


def test_an_endpoint_that_hangs_fails_in_time(shop: Shop) -> None:
    shop.application.answers["/api/health"] = (0, "")
    assert failed(list(shop.health().values())) == ["GET /api/health", "served version"]
    assert shop.application.requests.count("GET /api/health") == 1, "asked once, though two answers come of it"


def test_smoke_tests_compare_what_comes_back(shop: Shop) -> None:
    assert failed(run_smoke_tests(shop.application.url, SMOKE)) == []
    assert shop.application.requests == ["GET /products", "POST /orders"]


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        pytest.param((500, ""), "answered 500, expected 200", id="an error"),
        pytest.param((200, "<html>Maintenance</html>"), "the answer is not JSON", id="an error page with 200"),
        pytest.param((200, '{"count": 4}'), "other values than expected for count", id="another value"),
        pytest.param((200, "[3]"), "the answer is not a JSON object", id="a list"),
        pytest.param((200, "[" * 100_000), "the answer is not JSON", id="nested without end"),
        pytest.param((200, '"' + "x" * 2_000_000 + '"'), "the answer is larger than", id="too large"),
    ],
)
def test_a_smoke_test_says_what_is_wrong(shop: Shop, answer: tuple[int, str], said: str) -> None:
    shop.application.answers["/products"] = answer
    products, orders = run_smoke_tests(shop.application.url, SMOKE)
    assert (products.outcome, orders.outcome) == (Outcome.FAILED, Outcome.PASSED)
    assert products.detail.startswith(said)


def test_a_release_that_fails_in_private_says_all_that_is_wrong(shop: Shop) -> None:
    smoke_release(shop.connections, replace(shop.release, url=shop.application.url), SMOKE)
    shop.application.answers |= {"/api/auth/health": (500, "no key"), "/orders": (500, "")}
    with pytest.raises(StageError, match="fails on its private URL and gets no traffic") as caught:
        smoke_release(shop.connections, replace(shop.release, url=shop.application.url), SMOKE)
    assert "GET /api/auth/health: answered 500: no key" in str(caught.value)
    assert "smoke: an order: answered 500, expected 201" in str(caught.value)


def test_a_promotion_is_done_when_the_commit_is_served(shop: Shop) -> None:
    other = shop.host.stage("c" * 40, "v2")
    shop.application.sha = ""
    threading.Timer(0.3, lambda: setattr(shop.application, "sha", "c" * 40)).start()
    assert promote_release(shop.connections, other).git_sha == "c" * 40
    assert len(shop.application.requests) > 1


def test_a_promotion_that_changes_nothing_is_found_out(shop: Shop) -> None:
    settings = shop.connections.settings.model_copy(update={"watch": WatchSettings(served_within_s=0.2)})
    shop.connections = replace(shop.connections, settings=settings)
    with pytest.raises(DivergedError, match=f"was to serve cccccccccccc, but serves {shop.release.git_sha}"):
        promote_release(shop.connections, shop.host.stage("c" * 40, "v2"))
    shop.application.sha = ""
    with pytest.raises(DivergedError, match="no x-release-sha header"):
        confirm_served(shop.connections, shop.release.git_sha)


def test_a_release_with_everything_in_order_is_validated(shop: Shop) -> None:
    commit(shop.connections.repository.path, {"other.txt": "the release does not bring this"})
    shop.host.log = [LogLine(AT, "info", "started"), LogLine(AT, "warning", "slow")]
    checks = shop.validate()
    assert failed(list(checks.values())) == []
    assert checks["error log"].detail == "no error since the release got the traffic"
    assert checks["schema"].detail.startswith("all 0 migrations")


def test_errors_in_the_log_are_counted_and_named(shop: Shop) -> None:
    shop.host.log = [
        *[LogLine(AT, "error", "no such table")] * 3,
        LogLine(AT, "critical", "out of memory"),
        LogLine(AT, "info", "started"),
    ]
    check = shop.validate()["error log"]
    assert (check.outcome, check.detail) == (Outcome.WARNING, "3x no such table; 1x out of memory")


def test_a_log_that_cannot_be_read_could_not_be_checked(shop: Shop) -> None:
    shop.host.log = TransientError("no answer")
    assert shop.validate()["error log"].outcome is Outcome.COULD_NOT_RUN


def test_a_migration_that_is_not_applied_fails_the_schema(shop: Shop) -> None:
    sha = commit(shop.connections.repository.path, {"migrations/0001_a.sql": "SELECT 1;"})
    shop.application.sha = sha
    shop.release = replace(shop.release, git_sha=sha)
    assert shop.validate()["schema"] == Check("schema", Outcome.FAILED, "not applied: 0001_a")
    execute(
        shop.connections.database.url,
        "CREATE TABLE schema_migrations (migration_name text, status text)",
        "INSERT INTO schema_migrations VALUES ('0001_a', 'completed')",
    )
    assert shop.validate()["schema"].outcome is Outcome.PASSED


@pytest.mark.parametrize("what", ["unreachable", "unreadable"])
def test_a_schema_that_cannot_be_read_could_not_be_checked(shop: Shop, what: str) -> None:
    if what == "unreachable":
        shop.connections = replace(shop.connections, database=Database("postgresql://127.0.0.1:1/shop"))
    else:
        execute(shop.connections.database.url, "CREATE TABLE schema_migrations (migration_name text, status int)")
    checks = probe_state(shop.connections, shop.release.git_sha)
    assert failed(checks) == ["schema"]
    assert state_of(checks) is FinalState.UNVERIFIED


def test_the_watch_passes_a_release_with_few_errors(shop: Shop) -> None:
    shop.host.counted = lambda: counts(100, 1)
    result = shop.watch()
    assert result.verdict is Verdict.HEALTHY
    assert result.detail.startswith("1 of 100 requests failed (1.0 %), p95 20 ms")
    assert {request.split()[0] for request in shop.application.requests} == {"GET"}, "its own requests change nothing"
    assert "GET /products" in shop.application.requests


@pytest.mark.timeout(30)
def test_the_watch_ends_at_once_above_ten_percent(shop: Shop) -> None:
    shop.host.counted = lambda: counts(100, 11)
    result = shop.watch(duration_s=60)
    assert (result.verdict, result.action) == (Verdict.DEGRADED, Action.ROLL_BACK)
    assert "11 of 100 requests failed" in result.detail
    assert "the runbook says to roll back" in result.detail


def test_the_watch_finds_a_release_that_degrades_later(shop: Shop) -> None:
    shop.host.counted = lambda: counts(1000, 0 if shop.application.requests.count("GET /products") < 3 else 300)
    result = shop.watch(duration_s=60)
    assert (result.verdict, result.metrics.errors) == (Verdict.DEGRADED, 300)


@pytest.mark.parametrize("errors", [50, 100])
def test_the_watch_does_not_decide_between_five_and_ten_percent(shop: Shop, errors: int) -> None:
    shop.host.counted = lambda: counts(1000, errors)
    result = shop.watch()
    assert (result.verdict, result.action) == (Verdict.DEGRADED, Action.CONSIDER)
    assert result.outcome is Outcome.COULD_NOT_RUN
    assert "consider a rollback" in result.detail


@pytest.mark.parametrize(("requests", "errors"), [(19, 0), (19, 1), (4, 1), (10, 2)])
def test_too_few_requests_say_nothing(shop: Shop, requests: int, errors: int) -> None:
    shop.host.counted = lambda: counts(requests, errors)
    result = shop.watch()
    assert (result.verdict, result.action) == (Verdict.INCONCLUSIVE, Action.MONITOR)


@pytest.mark.timeout(30)
def test_few_requests_of_which_nearly_all_fail_say_enough(shop: Shop) -> None:
    shop.host.counted = lambda: counts(8, 7)
    assert shop.watch(duration_s=60).action is Action.ROLL_BACK


@pytest.mark.timeout(30)
def test_a_release_in_which_nobody_can_log_in_is_taken_back_though_no_request_of_users_fails(shop: Shop) -> None:
    shop.host.counted = lambda: counts(1000, 0)
    shop.application.answers["/login"] = (401, "")
    watch = WatchSettings(duration_s=60, interval_s=0.02, page_paths=(), login_paths=("/login",))
    settings = shop.connections.settings.model_copy(update={"watch": watch})
    result = watch_release(replace(shop.connections, settings=settings), shop.plan, shop.release, AT)
    assert result.action is Action.ROLL_BACK
    assert "nobody can log in" in result.detail


def test_a_page_that_says_200_and_shows_an_error_is_no_reason_to_call_a_release_healthy(shop: Shop) -> None:
    shop.host.counted = lambda: counts(1000, 0)
    shop.application.answers["/products"] = (200, "<html>Something went wrong</html>")
    watch = ReleaseWatch(shop.connections, shop.release, AT, shop.plan.smoke_tests, None, duration_s=60)
    judged = [watch.look().judgement for _ in range(12)][-1]
    assert (judged.verdict, judged.action) == (Verdict.DEGRADED, Action.CONSIDER)
    assert "smoke tests fail" in judged.detail


def test_numbers_that_cannot_be_read_say_nothing(shop: Shop) -> None:
    def fail() -> RequestMetrics:
        raise TransientError("no answer")

    shop.host.counted = fail
    result = shop.watch()
    assert (result.verdict, result.outcome) == (Verdict.NO_DATA, Outcome.COULD_NOT_RUN)
    assert result.detail == "the requests could not be counted: no answer"


def test_one_missing_number_does_not_end_the_watch(shop: Shop) -> None:
    answers = iter([True])

    def fail_once() -> RequestMetrics:
        if next(answers, False):
            raise TransientError("no answer")
        return counts(100, 0)

    shop.host.counted = fail_once
    assert shop.watch().verdict is Verdict.HEALTHY


@pytest.mark.timeout(30)
def test_a_long_pause_between_looks_does_not_prolong_the_watch(shop: Shop) -> None:
    settings = shop.connections.settings.model_copy(update={"watch": WatchSettings(duration_s=0.2, interval_s=60)})
    watched = watch_release(replace(shop.connections, settings=settings), shop.plan, shop.release, AT)
    assert watched.verdict is Verdict.INCONCLUSIVE, "it ended, though it saw no traffic but its own"


@pytest.mark.parametrize(
    ("outcomes", "state"),
    [
        ([], FinalState.VERIFIED),
        ([Outcome.PASSED, Outcome.WARNING], FinalState.VERIFIED),
        ([Outcome.PASSED, Outcome.COULD_NOT_RUN], FinalState.UNVERIFIED),
        ([Outcome.FAILED, Outcome.COULD_NOT_RUN], FinalState.DIVERGED),
    ],
)
def test_what_probes_amount_to(outcomes: list[Outcome], state: FinalState) -> None:
    assert state_of(tuple(Check("probe", outcome, "") for outcome in outcomes)) is state


def test_without_an_expected_release_nothing_may_have_the_traffic(shop: Shop) -> None:
    assert state_of(probe_state(shop.connections, None)) is FinalState.DIVERGED
    shop.host.active_id = None
    assert state_of(probe_state(shop.connections, None)) is FinalState.VERIFIED


def test_a_host_that_does_not_answer_leaves_the_state_unverified(shop: Shop) -> None:
    shop.host.breaks["active"] = TransientError("no answer")
    assert state_of(probe_state(shop.connections, None)) is FinalState.UNVERIFIED


def rollback_plan(active: Release, target: Release | None, smoke_tests: tuple[SmokeTest, ...]) -> RollbackPlan:
    scope = RollbackScope.APP_ONLY if target else RollbackScope.DB_ONLY
    return RollbackPlan(scope, active, target, smoke_tests, None, ())


def test_a_rollback_is_verified_against_the_release_that_has_to_run(shop: Shop) -> None:
    shop.host.counted = lambda: counts(100, 0)
    other = Release("r9", "c" * 40, "v9", "", ReleaseState.READY, AT, None)
    to_this = rollback_plan(other, shop.release, SMOKE)
    assert state_of(verify_rollback(shop.connections, to_this)) is FinalState.VERIFIED
    database_alone = rollback_plan(shop.release, None, SMOKE)
    assert state_of(verify_rollback(shop.connections, database_alone)) is FinalState.VERIFIED
    by_hand = rollback_plan(other, replace(shop.release, release_id="r8"), SMOKE)
    assert state_of(verify_rollback(shop.connections, by_hand)) is FinalState.DIVERGED, "served, and not active"
    still_the_bad_one = rollback_plan(shop.release, replace(shop.release, git_sha="c" * 40), ())
    assert state_of(verify_rollback(shop.connections, still_the_bad_one)) is FinalState.DIVERGED
    shop.application.answers["/orders"] = (500, json.dumps({"error": "no table"}))
    assert state_of(verify_rollback(shop.connections, to_this)) is FinalState.DIVERGED


def test_a_host_that_does_not_say_what_is_active_leaves_a_rollback_unverified(shop: Shop) -> None:
    shop.host.counted = lambda: counts(100, 0)
    shop.host.breaks["active"] = TransientError("no answer")
    checks = verify_rollback(shop.connections, rollback_plan(shop.release, None, SMOKE))
    assert state_of(checks) is FinalState.UNVERIFIED


@pytest.mark.parametrize(
    ("errors", "state"), [(0, FinalState.VERIFIED), (7, FinalState.UNVERIFIED), (11, FinalState.DIVERGED)]
)
def test_the_error_rate_after_a_rollback_decides_with(shop: Shop, errors: int, state: FinalState) -> None:
    shop.host.counted = lambda: counts(100, errors)
    checks = verify_rollback(shop.connections, rollback_plan(shop.release, None, SMOKE))
    assert checks[-1].name == "error rate"
    assert f"{errors} of 100 requests failed" in checks[-1].detail
    assert state_of(checks) is state
