"""Who has the traffic: host, public URL and records, compared before anything is changed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import cast

import pytest

from runbook.clients.embedded_postgres import EmbeddedPostgres
from runbook.clients.http_probe import Answer
from runbook.clients.postgres import Database
from runbook.connections import Connections
from runbook.errors import RefusedError, TransientError
from runbook.reports import DeployReport, FinalState, Legality, RollbackScope, RollbackVerdict
from runbook.rules.checklist import Outcome
from runbook.rules.thresholds import Severity
from runbook.settings import RollbackSettings, WatchSettings
from runbook.stages.rollback import RollbackPlan, RollbackRequest, plan_rollback
from runbook.stages.traffic import check_active, check_traffic
from tests.fakes.application_host import MemoryHost
from tests.runbook.helpers import commit, execute

APP_ONLY = RollbackScope.APP_ONLY
AT = datetime(2025, 1, 4, 12, tzinfo=UTC)
SMOKE = '[[request]]\nname = "home"\npath = "/"\n'


@dataclass
class Shop:
    """An environment whose public URL answers what a test says."""

    connections: Connections
    host: MemoryHost
    answers: list[Answer] = field(default_factory=list[Answer])
    minutes: int = 0

    def probe(self, url: str) -> Answer:
        assert url == "http://shop.invalid/api/health"
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]

    def serves(self, *shas: str, status: int = 200) -> None:
        self.answers[:] = [Answer(status, {"x-release-sha": sha} if sha else {}) for sha in shas]

    def deploy(self, version: str, *, recorded: bool = True, legality: Legality = Legality.LEGAL) -> str:
        """Give the traffic to a new release; a deploy is recorded, a promotion by hand is not."""
        sha = commit(self.connections.repository.path, {"smoke.toml": SMOKE, "version.txt": version}, version)
        release = self.host.promote(self.host.stage(sha, version).release_id)
        self.serves(sha)
        if recorded:
            self.minutes += 1
            verdict = RollbackVerdict(scope=APP_ONLY, legality=legality, evidence=("as seen",), cost="no data")
            report = DeployReport(
                environment="test",
                timestamp=AT + timedelta(minutes=self.minutes),
                git_ref=version,
                git_sha=sha,
                version=version,
                release_id=release.release_id,
                verdict=(verdict,),
                reason="test",
                triggered_by="test",
                duration=1,
                success=True,
                state=FinalState.VERIFIED,
                steps=(),
            )
            self.connections.store.write_deploy(report)
        return sha

    def by_hand(self, version: str) -> None:
        """Give the traffic to a known release in the host's console."""
        [release] = [release for release in self.host.releases() if release.version == version]
        self.host.promote(release.release_id)
        self.serves(release.git_sha)

    def plan(self, *, severity: Severity | None = None, yes: bool = False) -> RollbackPlan:
        return plan_rollback(
            self.connections, RollbackRequest(APP_ONLY, None, False, "slow", yes, "mira", severity=severity)
        )


@pytest.fixture(scope="module")
def shared(postgres: EmbeddedPostgres) -> Database:
    execute(postgres.url(), "CREATE DATABASE traffic")
    return Database(postgres.url("traffic"))


@pytest.fixture
def database(shared: Database) -> Database:
    """The same database for every test of this file, emptied: nothing here makes another one beside it."""
    execute(shared.url, "DROP SCHEMA public CASCADE", "CREATE SCHEMA public")
    return shared


@pytest.fixture
def shop(connections: Connections, monkeypatch: pytest.MonkeyPatch) -> Shop:
    host = cast("MemoryHost", connections.host)
    host.known.clear()
    host.active_id = None
    connections.store.check()
    policy = RollbackSettings(watch_s=0, unattended_sev1_after_s=300)
    settings = connections.settings.model_copy(update={"watch": WatchSettings(served_within_s=0.3), "rollback": policy})
    found = Shop(replace(connections, settings=settings), host)
    monkeypatch.setattr("runbook.stages.traffic.probe", found.probe)
    found.deploy("v1")
    found.deploy("v2")
    return found


def test_when_all_three_agree_the_plan_has_nothing_to_say_about_it(shop: Shop) -> None:
    shown = shop.plan().render()
    assert "back to v1" in shown
    assert not any(word in shown for word in ("OUTAGE", "DRIFT"))
    assert check_traffic(shop.connections).outcome is Outcome.PASSED


@pytest.mark.parametrize("status", [200, 404, 503])
def test_another_release_behind_the_public_url_stops_a_rollback_and_a_deploy(shop: Shop, status: int) -> None:
    shop.serves("c" * 40, status=status)
    with pytest.raises(RefusedError, match=r"nobody knows.*host says v2 .*answered by cccc.*records say v2 .*console"):
        shop.plan()
    assert check_traffic(shop.connections).outcome is Outcome.FAILED


@pytest.mark.parametrize("status", [200, 302, 404])
def test_an_answer_that_names_no_release_stops_a_rollback(shop: Shop, status: int) -> None:
    shop.serves("", status=status)
    with pytest.raises(RefusedError, match=f"answers {status} and does not name a release"):
        shop.plan()


def test_a_switch_that_is_not_everywhere_yet_is_waited_for(shop: Shop) -> None:
    active = shop.host.active()
    assert active is not None
    shop.serves("c" * 40, active.git_sha)
    assert shop.plan().target is not None


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (Answer(None, problem="no answer within 5 s"), "does not answer (no answer within 5 s)"),
        (Answer(502, {}), "answers 502 and does not name a release"),
    ],
)
def test_an_outage_is_said_and_no_reason_to_refuse(shop: Shop, answer: Answer, said: str) -> None:
    shop.answers[:] = [answer]
    shown = shop.plan().render()
    assert f"OUTAGE: http://shop.invalid/api/health {said}" in shown
    assert "back to v1" in shown
    assert check_traffic(shop.connections).outcome is Outcome.PASSED, "a deploy may mend it"


def test_a_release_rolled_back_by_hand_is_shown_and_gone_back_from(shop: Shop) -> None:
    shop.deploy("v3")
    shop.by_hand("v2")
    shown = shop.plan().render()
    assert "DRIFT: somebody changed the traffic by hand; the host says v2" in shown
    assert "the records say v3" in shown
    assert "back to v1" in shown
    check = check_traffic(shop.connections)
    assert check.outcome is Outcome.WARNING
    assert "the host says v2" in check.detail


def test_before_a_release_promoted_by_hand_was_the_one_recorded_last(shop: Shop) -> None:
    shop.deploy("hotfix", recorded=False)
    shown = shop.plan().render()
    assert "DRIFT" in shown
    assert "back to v2" in shown


def test_a_release_promoted_by_hand_over_one_nobody_verified_is_not_gone_back_from(shop: Shop) -> None:
    newest = shop.connections.store.history()[-1]
    assert isinstance(newest, DeployReport)
    unverified = {
        "state": FinalState.UNVERIFIED,
        "timestamp": newest.timestamp + timedelta(hours=1),
        "git_sha": "d" * 40,
    }
    shop.connections.store.write_deploy(newest.model_copy(update=unverified))
    shop.deploy("hotfix", recorded=False)
    with pytest.raises(RefusedError, match=r"DRIFT.*not recorded VERIFIED.*host's console, or deploy"):
        shop.plan()


def test_a_host_that_does_not_answer_is_an_error_of_its_own(shop: Shop) -> None:
    shop.host.breaks["active"] = TransientError("the host is down")
    with pytest.raises(TransientError, match="the host is down"):
        check_traffic(shop.connections)


def test_after_a_switch_the_host_has_to_say_the_target(shop: Shop) -> None:
    expected = shop.host.active()
    assert expected is not None
    assert check_active(shop.connections, expected).outcome is Outcome.PASSED
    shop.by_hand("v1")
    check = check_active(shop.connections, expected)
    assert (check.outcome, check.detail) == (Outcome.FAILED, "the host says v1 (r1), expected v2 (r2)")


def test_an_unattended_sev1_goes_back_to_what_the_deploy_has_shown_to_work(shop: Shop) -> None:
    plan = shop.plan(severity=Severity.SEV1)
    assert plan.unattended is not None
    assert plan.unattended.announce(AT) == (
        "if nobody answers until 12:05:00 UTC, the application alone goes back to v1"
    )
    assert "Unattended: if nobody answers within 5 min, the application alone goes back to v1" in plan.render()
    assert shop.plan(severity=Severity.SEV1, yes=True).unattended is None, "somebody has answered"


def with_an_unproven_verdict(shop: Shop) -> None:
    shop.deploy("v3", legality=Legality.UNPROVEN)


def with_a_migration_since(shop: Shop) -> None:
    execute(
        shop.connections.database.url,
        "CREATE TABLE schema_migrations (migration_name text, status text)",
        "INSERT INTO schema_migrations VALUES ('0009_by_hand', 'completed')",
    )


def with_traffic_changed_by_hand(shop: Shop) -> None:
    shop.deploy("v3")
    shop.by_hand("v2")


def with_a_database_that_does_not_answer(shop: Shop) -> None:
    shop.connections = replace(shop.connections, database=Database("postgresql://127.0.0.1:1/shop"))


@pytest.mark.parametrize(
    ("prepare", "said"),
    [
        (with_an_unproven_verdict, "is unproven: as seen"),
        (with_a_migration_since, "0009_by_hand"),
        (with_traffic_changed_by_hand, "changed by hand"),
        (with_a_database_that_does_not_answer, "does not answer"),
    ],
)
def test_nothing_happens_unattended_that_was_not_shown_to_work(
    shop: Shop, prepare: Callable[[Shop], None], said: str
) -> None:
    prepare(shop)
    plan = shop.plan(severity=Severity.SEV1)
    assert plan.unattended is not None
    assert plan.unattended.plan is None
    assert said in plan.unattended.objection
    assert "if nobody consents, nothing happens" in plan.render()
