from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import cast

import pytest

from runbook.clients.channels import LogChannel
from runbook.clients.environment_hold import Hold
from runbook.connections import Connections
from runbook.errors import RefusedError, RejectedError
from runbook.procedures.changing import hold_of
from runbook.procedures.emergency import (
    EmergencyReport,
    EmergencyRequest,
    EmergencyStages,
    emergency,
    render_report,
)
from runbook.procedures.investigation import Evidence, investigate
from runbook.reports import FinalState, Legality, RollbackReport, RollbackScope, RollbackVerdict
from runbook.rules.checklist import Check, Outcome
from runbook.rules.emergency import Situation
from runbook.rules.incidents import EventKind, Incident, IncidentPhase, IncidentStatus
from runbook.rules.thresholds import Severity, Signals
from runbook.settings import IncidentSettings
from runbook.stages.incidents import note_run, records_of, resolve
from runbook.stages.rollback import RollbackPlan, RollbackRequest
from tests.runbook.surroundings import surrounded

FINE = {"/api/health": "", "/api/auth/health": ""}
BAD = Situation(endpoints=FINE, signals=Signals(25), version="v7", released_ago=timedelta(minutes=5))
MINOR = Situation(endpoints=FINE, signals=Signals(2), version="v7", released_ago=timedelta(minutes=5))
CALM = Situation(endpoints=FINE, signals=Signals(0), version="v7", released_ago=timedelta(days=2))
GONE = Situation(
    endpoints=FINE, signals=Signals(0), version="v7", released_ago=timedelta(days=2), database_trouble="refused"
)


@dataclass
class Plan:
    """As much of a plan as an emergency looks at."""

    legality: Legality = Legality.LEGAL

    @property
    def verdict(self) -> RollbackVerdict:
        return RollbackVerdict(scope=RollbackScope.APP_ONLY, legality=self.legality, cost="none", evidence=("tried",))

    traffic = None

    def render(self) -> str:
        return "Loses 0 rows"


@dataclass
class World:
    """What an emergency acts on."""

    connections: Connections
    situation: Situation = BAD
    plan: Plan | Exception = field(default_factory=Plan)
    fails: Exception | None = None
    calls: list[str] = field(default_factory=list[str])

    def handle(self, **request: object) -> EmergencyReport:
        asked = EmergencyRequest(triggered_by="Ada", **request)  # pyright: ignore[reportArgumentType] - as the test says
        return emergency(self.connections, asked, self.stages())

    def stages(self) -> EmergencyStages:
        return EmergencyStages(
            look=lambda _: self.situation,
            investigate=self._investigate,
            plan_rollback=self._plan,
            roll_back=self._roll_back,
            ask=self._ask,
            verify=lambda _: (Check("GET /api/health", Outcome.PASSED, "200"),),
        )

    def _investigate(self, _: Connections, severity: Severity) -> tuple[Evidence, ...]:
        self.calls.append(f"investigate {severity}")
        return (Evidence("Error rates", "runbook monitoring:errors", ("25 %",)),)

    def _plan(self, _: Connections, request: RollbackRequest) -> RollbackPlan:
        if isinstance(self.plan, Exception):
            raise self.plan
        return cast("RollbackPlan", self.plan)

    def _roll_back(self, _: Connections, request: RollbackRequest) -> RollbackReport:
        self.calls.append(f"roll back {request.scope} {request.severity}")
        if self.fails:
            raise self.fails
        note_run(self.connections, "rolled back", by=request.triggered_by, is_action=True)  # as every real run does
        return RollbackReport.model_construct(scope=request.scope, to_version="v6", state=FinalState.VERIFIED)

    def _ask(self, _: Connections, request: RollbackRequest) -> str:
        self.calls.append(f"ask {request.scope}")
        return "in the UI"


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(surrounded(tmp_path, LogChannel(tmp_path / "log")))


def incident(report: EmergencyReport) -> Incident:
    assert report.incident is not None
    return report.incident


def test_a_bad_release_is_taken_back_and_everything_is_written_down(world: World, tmp_path: Path) -> None:
    report = world.handle(detected_at=datetime.now(UTC) - timedelta(minutes=3))
    assert world.calls == ["investigate SEV2", "roll back app-only SEV2"]
    found = incident(report)
    assert (found.severity, found.status) == (Severity.SEV2, IncidentStatus.MITIGATING)
    assert found.texts(EventKind.ACTION) == ["rolled back"]
    assert report.done == ("rolled back app-only to v6: VERIFIED",)
    assert found.latest(EventKind.CURRENT) == "after the rollback: all that was looked at is well"
    for phase in (IncidentPhase.ASSESSMENT, IncidentPhase.COMMUNICATION, IncidentPhase.MITIGATION):
        assert found.ended(phase) is not None
    text = render_report(report, "production")
    assert "The runbook says: roll back at once." in text
    assert "Loses 0 rows" in text
    assert "first action after 3 min" in text
    assert "## Error rates  (runbook monitoring:errors)\n25 %" in text
    assert "25.00 % errors" in (tmp_path / "log").read_text()


def unproven(world: World) -> None:
    world.plan = Plan(Legality.UNPROVEN)


def only_eight_percent(world: World) -> None:
    world.situation = replace(BAD, signals=Signals(8))


def without_policy(world: World) -> None:
    settings = world.connections.settings.model_copy(update={"incidents": IncidentSettings(roll_back=False)})
    world.connections = replace(world.connections, settings=settings)


def held(world: World) -> None:
    hold = Hold(reason="v8 was bad", by="Ada", since=datetime.now(UTC), run="rollback_1")
    hold_of(world.connections).place(hold)


@pytest.mark.parametrize(
    ("change", "objection"),
    [
        (unproven, "is unproven"),
        (only_eight_percent, "consider a rollback"),
        (without_policy, "the settings leave that to a person"),
    ],
)
def test_what_no_policy_allows_is_asked_about_and_done_with_a_persons_consent(
    world: World, change: Callable[[World], None], objection: str
) -> None:
    change(world)
    report = world.handle()
    assert world.calls == ["investigate SEV2", "ask app-only"]
    assert objection in report.done[0]
    assert incident(report).acted_at is None
    world.handle(yes=True)
    assert world.calls[-1] == "roll back app-only SEV2"
    assert len(records_of(world.connections).incidents()) == 1


def test_an_incident_is_rolled_back_once_by_itself(world: World) -> None:
    """The release that has the traffic by then is the good one; nobody is even asked about that."""
    world.handle(key="error-rate-critical")
    report = world.handle(key="p95-critical")
    assert [call for call in world.calls if "investigate" not in call] == ["roll back app-only SEV2"]
    assert "something was rolled back already" in report.done[0]


def test_after_a_rollback_by_hand_nothing_is_taken_back_by_itself(world: World) -> None:
    held(world)
    assert "something was rolled back already" in world.handle().done[0]
    assert world.calls == ["investigate SEV2"]


def test_nothing_wrong_opens_no_incident_unless_somebody_says_so(world: World) -> None:
    world.situation = CALM
    assert world.handle().incident is None
    assert world.calls == []
    report = world.handle(severity=Severity.SEV3, reason="the logo is gone")
    assert incident(report).title == "the logo is gone"
    assert world.calls == ["investigate SEV3"]


def test_what_people_say_joins_the_incident_that_is_open_and_opens_another_one_later(world: World) -> None:
    first = world.handle(severity=Severity.SEV3, reason="the shop is slow")
    second = world.handle(severity=Severity.SEV3, reason="nobody can pay")
    assert incident(first).id == incident(second).id
    resolve(world.connections, incident(first).id, by="Ada", note="over")
    third = world.handle(severity=Severity.SEV3, reason="the logo is gone")
    assert incident(third).id != incident(first).id
    assert incident(third).title == "the logo is gone"


def test_two_alerts_make_one_incident_and_the_higher_severity_wins(world: World) -> None:
    world.situation = MINOR
    first = world.handle(key="p95-warning", severity=Severity.SEV3)
    world.situation = BAD
    second = world.handle(key="error-rate-critical", severity=Severity.SEV2)
    assert incident(first).id == incident(second).id
    assert incident(second).severity is Severity.SEV2
    assert world.calls.count("roll back app-only SEV2") == 1


def test_a_database_that_is_gone_is_never_restored_without_a_person(world: World) -> None:
    world.situation = GONE
    report = world.handle()
    assert world.calls == ["investigate SEV1", "ask db-only"]
    assert "runbook db:status --environment=production" in render_report(report, "production")
    world.plan = RejectedError("database shop does not answer")
    world.calls.clear()
    report = world.handle(yes=True)
    assert world.calls == ["investigate SEV1"], "what cannot be planned is neither done nor asked about"
    assert "no rollback db-only: database shop does not answer" in report.quote


@pytest.mark.parametrize(
    ("error", "said"),
    [(RefusedError("held"), "the rollback refused: held"), (RejectedError("no"), "the rollback failed: no")],
)
def test_a_rollback_that_does_not_work_is_in_the_record(world: World, error: Exception, said: str) -> None:
    world.fails = error
    report = world.handle()
    assert report.done == (said,)
    assert said in incident(report).texts(EventKind.NOTE)
    assert incident(report).status is IncidentStatus.INVESTIGATING


def test_to_look_only_does_nothing_but_tell(world: World) -> None:
    report = world.handle(act=False)
    assert report.done == ()
    assert world.calls == ["investigate SEV2"]
    assert incident(report).ended(IncidentPhase.COMMUNICATION) is not None


@pytest.mark.parametrize(
    ("severity", "titles"),
    [
        ("SEV1", ["System status", "Recent deployments", "Database connectivity", "Error logs"]),
        ("SEV2", ["Error rates", "Recent changes", "Database health", "Response times"]),
        ("SEV3", ["Query performance", "Connection pool", "Application metrics"]),
        ("SEV4", []),
    ],
)
def test_the_investigation_is_that_of_the_runbook_in_its_order(
    connections: Connections, severity: str, titles: list[str]
) -> None:
    evidence = investigate(connections, Severity(severity))
    assert [one.title for one in evidence] == titles
    for one in evidence:
        assert "could not be looked at" not in one.lines[0], one


def test_what_cannot_be_looked_at_is_evidence_too(tmp_path: Path) -> None:
    """Database, host and repository are gone; the store is there."""
    evidence = investigate(surrounded(tmp_path), Severity.SEV1)
    assert len(evidence) == 4
    assert "does not answer" in "\n".join(line for one in evidence for line in one.lines)
    assert evidence[3].lines == ("could not be looked at: no release has the traffic",)
