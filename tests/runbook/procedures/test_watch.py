from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import cast

import pytest

from runbook.clients.application_host import ApplicationHost, LogLine, RequestMetrics
from runbook.clients.backup_store import BackupStore
from runbook.clients.folder_store import FolderStore
from runbook.clients.git import Repository
from runbook.clients.postgres import Database
from runbook.connections import Connections
from runbook.errors import RefusedError, RunbookError, StageError, TransientError
from runbook.procedures.watch import WatchRequest, WatchStages, watch
from runbook.reports import FinalState, Legality, RollbackReport, RollbackScope, RollbackVerdict
from runbook.rules.release_watch import Judgement, Verdict
from runbook.rules.thresholds import Action, Severity
from runbook.settings import Settings, WatchSettings
from runbook.stages.rollback import RollbackPlan, RollbackRequest
from runbook.stages.watch import Observation, ReleaseWatch
from runbook.watch_report import WatchReport
from tests.fakes.application_host import MemoryHost

GOOD = (Verdict.HEALTHY, Action.MONITOR)
ASK = (Verdict.DEGRADED, Action.CONSIDER)
BACK = (Verdict.DEGRADED, Action.ROLL_BACK)


@dataclass
class World:
    """A release that is watched: what the looks will find, and what was done about it."""

    connections: Connections
    host: MemoryHost
    looks: list[tuple[Verdict, Action]]
    legality: Legality = Legality.LEGAL
    refuses: list[RunbookError] = field(default_factory=list[RunbookError])
    no_ui: Exception | None = None
    blind: str | None = None
    rolled_back: list[RollbackRequest] = field(default_factory=list[RollbackRequest])
    asked: list[RollbackRequest] = field(default_factory=list[RollbackRequest])
    told: list[tuple[str, str, str]] = field(default_factory=list[tuple[str, str, str]])
    meanwhile: Callable[[], None] = lambda: None

    def look(self, watched: ReleaseWatch) -> Observation:
        self.meanwhile()
        verdict, action = self.looks.pop(0)
        ends = watched.since + timedelta(seconds=watched.duration_s)
        at = ends if not self.looks else datetime.now(UTC)
        judged = Judgement(verdict, action, Severity.SEV2, f"it is {verdict}", 12.0, 1.0)
        return Observation(at, judged, RequestMetrics(100, 12, 0, 0, 0))

    def plan(self, connections: Connections, request: RollbackRequest) -> RollbackPlan:
        scope, active, target = RollbackScope.APP_ONLY, self.host.known["r2"], self.host.known["r1"]
        verdict = RollbackVerdict(scope=scope, legality=self.legality, evidence=("tried",), cost="none")
        return RollbackPlan(scope, active, target, (), None, (), verdict)

    def roll_back(self, connections: Connections, request: RollbackRequest) -> RollbackReport:
        self.rolled_back.append(request)
        if self.refuses:
            raise self.refuses.pop(0)
        return RollbackReport(
            environment="test", timestamp=datetime.now(UTC), scope=request.scope, reason=request.reason,
            triggered_by=request.triggered_by, to_version="v1", duration=1, success=True, state=FinalState.VERIFIED,
            steps=(),
        )  # fmt: skip

    def ask(self, connections: Connections, request: RollbackRequest) -> str:
        self.asked.append(request)
        if self.no_ui:
            raise self.no_ui
        return "consent is waited for in the UI"

    def notify(self, connections: Connections, level: str, title: str, text: str) -> tuple[str, ...]:
        self.told.append((level, title, text))
        return ()

    def run(self, *, act: bool = True) -> WatchReport:
        stages = WatchStages(
            look=self.look,
            unnoticed_loss=lambda *_: self.blind,
            plan_rollback=self.plan,
            roll_back=self.roll_back,
            ask=self.ask,
            notify=self.notify,
            sleep=lambda _: None,
        )
        return watch(self.connections, WatchRequest("after a deploy", "automation", act=act), stages)


@pytest.fixture
def world(repository: Repository, tmp_path: Path) -> World:
    host = MemoryHost()
    host.promote(host.stage("a" * 40, "v1").release_id)
    host.promote(host.stage(repository.resolve("main"), "v2").release_id)
    settings = Settings(name="test", repository=str(repository.path), records=str(tmp_path), database="shop")
    store = BackupStore(FolderStore(tmp_path / "records"))
    nowhere = Database("postgresql://nobody@127.0.0.1:1/shop")
    connections = Connections(settings, repository, nowhere, cast("ApplicationHost", host), store, ())
    return World(connections, host, [GOOD, GOOD, GOOD])


def test_a_healthy_release_is_watched_to_the_end_and_recorded(world: World, tmp_path: Path) -> None:
    report = world.run()
    assert (report.verdict, len(report.looks), report.ended) == (Verdict.HEALTHY, 3, "the time is over")
    assert report.version == "v2"
    assert (world.rolled_back, world.asked) == ([], [])
    assert [(level, title) for level, title, _ in world.told] == [("info", "v2 on test, watched: healthy")]
    [kept] = (tmp_path / "records" / "logs").glob("watch_*.json")
    assert kept.stat().st_mode & 0o077 == 0
    written = json.loads(kept.read_text(encoding="utf-8"))
    assert (written["verdict"], written["triggeredBy"], len(written["looks"])) == ("healthy", "automation", 3)


def test_a_release_is_compared_with_the_one_before_it(world: World) -> None:
    world.host.measured = RequestMetrics(500, 2, 0.1, 0.2, 0.3)
    report = world.run()
    assert report.baseline is not None
    assert (report.baseline.source, report.baseline.requests, report.baseline.p95_s) == ("v1 before it", 500, 0.2)


def test_a_past_with_too_few_requests_is_none(world: World) -> None:
    world.host.measured = RequestMetrics(99, 2, 0.1, 0.2, 0.3)
    assert world.run().baseline is None


def test_one_that_has_run_for_hours_is_compared_with_itself_and_watched_from_now_on(world: World) -> None:
    long_ago = datetime.now(UTC) - timedelta(hours=5)
    world.host.known["r2"] = replace(world.host.known["r2"], promoted_at=long_ago)
    world.host.measured = RequestMetrics(500, 2, 0.1, 0.2, 0.3)
    report = world.run()
    assert report.since > long_ago + timedelta(hours=4)
    assert report.baseline is not None
    assert report.baseline.source.startswith("v2")


def test_above_ten_percent_the_application_alone_goes_back_and_the_watch_ends(world: World) -> None:
    world.looks = [GOOD, BACK, GOOD]
    report = world.run()
    [request] = world.rolled_back
    assert (request.scope, request.yes, request.severity) == (RollbackScope.APP_ONLY, True, Severity.SEV2)
    assert "it is degraded" in request.reason
    assert report.acted == ("v2 was taken back to v1: VERIFIED",)
    assert (len(report.looks), report.ended) == (2, "v2 was taken back")
    assert world.asked == []


@pytest.mark.parametrize(
    ("legality", "roll_back", "why"),
    [
        (Legality.UNPROVEN, True, "unproven"),
        (Legality.ILLEGAL, True, "illegal"),
        (Legality.LEGAL, False, "the settings leave that to a person"),
    ],
)
def test_where_it_is_not_proven_or_not_allowed_a_person_is_asked_once(
    world: World, legality: Legality, roll_back: bool, why: str
) -> None:
    settings = world.connections.settings.model_copy(update={"watch": WatchSettings(roll_back=roll_back)})
    world.connections = replace(world.connections, settings=settings)
    world.looks, world.legality = [BACK, BACK, BACK], legality
    report = world.run()
    assert world.rolled_back == []
    assert len(world.asked) == 1
    level, title, text = world.told[0]
    assert (level, title) == ("error", "v2 on test is degraded, SEV2")
    assert why in text
    assert "runbook deploy:rollback --app-only --environment=test --severity=SEV2" in text
    assert report.ended == "the time is over", "it goes on being watched"


def test_between_five_and_ten_percent_a_person_is_asked_and_it_goes_on_being_watched(world: World) -> None:
    world.looks = [ASK, ASK, BACK, GOOD]
    report = world.run()
    assert len(world.asked) == 1
    assert len(world.rolled_back) == 1, "it has become worse, and goes back by itself"
    assert len(report.looks) == 3


def test_a_person_who_cannot_be_asked_in_the_ui_is_told_all_the_same(world: World) -> None:
    world.looks, world.no_ui = [ASK], RuntimeError("no server")
    report = world.run()
    assert "nobody could be asked in the UI: no server" in world.told[0][2]
    assert report.verdict is Verdict.DEGRADED


def test_a_refused_rollback_is_tried_again_and_then_left_to_a_person(world: World) -> None:
    world.looks = [BACK] * 5
    world.refuses = [RefusedError("another run holds the lock") for _ in range(9)]
    report = world.run()
    assert len(world.rolled_back) == 3
    assert len(world.asked) == 1
    assert report.findings.count("the rollback was refused: another run holds the lock") == 3


def test_a_rollback_that_failed_is_never_repeated(world: World) -> None:
    world.looks, world.refuses = [BACK, BACK], [StageError("the traffic did not move")]
    report = world.run()
    assert len(world.rolled_back) == 1
    assert report.ended == "the rollback failed; a person has to look"
    assert "the traffic did not move" in report.findings[-1]


def test_who_only_looks_does_nothing(world: World) -> None:
    world.looks = [BACK, ASK]
    report = world.run(act=False)
    assert (world.rolled_back, world.asked, report.acted) == ([], [], ())


def test_the_watch_ends_when_another_release_gets_the_traffic(world: World) -> None:
    def deploy() -> None:
        world.host.promote(world.host.stage("c" * 40, "v3").release_id)

    world.looks, world.meanwhile = [BACK, GOOD], deploy
    report = world.run()
    assert report.ended == "v3 has the traffic now"
    assert world.rolled_back == [], "what is not served any more is not taken back"


def test_a_watch_that_would_not_notice_a_lost_database_calls_nothing_healthy(world: World) -> None:
    world.blind = "nothing that is asked touches the database"
    report = world.run()
    assert report.verdict is Verdict.INCONCLUSIVE
    assert "nothing that is asked touches the database" in report.detail
    assert world.blind in report.findings


def test_errors_in_the_log_are_grouped_by_what_they_are_about(world: World) -> None:
    now = datetime.now(UTC) + timedelta(seconds=5)
    world.host.lines = [LogLine(now, "error", f"psycopg.OperationalError: order {number}") for number in range(3)]
    report = world.run()
    [error] = report.errors
    assert (error.kind, error.count, error.is_new) == ("database", 3, False)
    world.looks = [GOOD]
    world.host.breaks["logs"] = TransientError("no answer")
    assert "the log could not be read: no answer" in world.run().findings


def test_without_a_release_there_is_nothing_to_watch(world: World) -> None:
    world.host.active_id = None
    with pytest.raises(RefusedError, match="nothing to watch"):
        world.run()


def test_a_report_that_cannot_be_kept_is_told_all_the_same(world: World, tmp_path: Path) -> None:
    (tmp_path / "records").mkdir()
    (tmp_path / "records" / "logs").write_text("where the folder would be")
    report = world.run()
    assert report.verdict is Verdict.HEALTHY
    assert "the report could not be kept: " in world.told[-1][2]
