from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runbook.delivery_plot import deploy_durations
from runbook.manifest import VerificationLevel
from runbook.reports import (
    DeployReport,
    DrillReport,
    FinalState,
    RollbackReport,
    RollbackScope,
    Step,
    StepStatus,
)
from runbook.rules.delivery import DeliveryReport, delivery_report
from runbook.rules.incidents import EventKind, Incident, IncidentEvent, IncidentStatus
from runbook.rules.thresholds import Severity

SINCE = datetime(2026, 1, 1, tzinfo=UTC)
UNTIL = SINCE + timedelta(weeks=4)


def at(hours: float) -> datetime:
    return SINCE + timedelta(hours=hours)


def step(name: str, seconds: float, error: str | None = None) -> Step:
    return Step(step=name, status=StepStatus.FAILED if error else StepStatus.COMPLETED, duration=seconds, error=error)


def deploy(
    hours: float, sha: str = "a", *, success: bool = True, undone: tuple[str, ...] = (), s: float = 600
) -> DeployReport:
    return DeployReport(
        environment="production",
        timestamp=at(hours),
        git_ref="main",
        git_sha=sha * 40,
        version=sha,
        undone=undone,
        reason="why",
        triggered_by="ci",
        duration=s,
        success=success,
        state=FinalState.VERIFIED,
        steps=(step("Stage 2: Test Suite", s / 2), step("Stage 5: Promotion", s / 4), step("Stage 6: Watch", s / 4)),
    )


def rollback(hours: float, sha: str = "a", *, success: bool = True) -> RollbackReport:
    return RollbackReport(
        environment="production",
        timestamp=at(hours),
        scope=RollbackScope.APP_ONLY,
        reason="bad",
        triggered_by="Ada",
        from_git_sha=sha * 40,
        duration=60,
        success=success,
        state=FinalState.VERIFIED,
        steps=(),
    )


def drill(hours: float, rto_s: float | None) -> DrillReport:
    return DrillReport(
        environment="production",
        timestamp=at(hours),
        backup_id="backup_20250104_120000",
        triggered_by="ci",
        level=VerificationLevel.FULL,
        rto_s=rto_s,
        rpo_s=None,
        size_bytes=1,
        rows=1,
        duration=1,
        success=rto_s is not None,
    )


def incident(hours: float, *, acknowledged_min: float | None = None, resolved_min: float | None = None) -> Incident:
    def event(minutes: float, kind: EventKind, status: IncidentStatus | None = None) -> IncidentEvent:
        moment = at(hours) + timedelta(minutes=minutes)
        severity = Severity.SEV2 if kind is EventKind.OPENED else None
        return IncidentEvent(at=moment, by="Ada", kind=kind, status=status, severity=severity, began=at(hours))

    events = [event(2, EventKind.OPENED)]
    events += [event(2 + acknowledged_min, EventKind.ACKNOWLEDGED)] if acknowledged_min is not None else []
    events += [event(resolved_min, EventKind.RESOLVED, IncidentStatus.RESOLVED)] if resolved_min is not None else []
    return Incident(id="inc_20260101_000000_000000", environment="production", events=tuple(events))


def report(
    *history: DeployReport | RollbackReport,
    commits: dict[str, list[datetime]] | None = None,
    incidents: tuple[Incident, ...] = (),
    drills: tuple[DrillReport, ...] = (),
) -> DeliveryReport:
    ordered = sorted(history, key=lambda one: one.timestamp)
    return delivery_report(
        "production", SINCE, UNTIL, history=ordered, commits=commits or {}, incidents=incidents, drills=drills
    )


def test_deploys_are_counted_by_the_week_and_only_those_that_released() -> None:
    found = report(deploy(1), deploy(2, "b"), deploy(3, "c", success=False), deploy(-1), deploy(28 * 24))
    assert (found.deploys, found.failed_deploys, found.deploys_per_week) == (2, 1, 0.5)
    other = deploy(1).model_copy(update={"environment": "staging"})
    assert report(other).deploys == 0


def test_the_lead_time_is_the_median_of_all_commits_until_the_deploy_has_ended() -> None:
    made = {"a" * 40: [at(0), at(9)], "b" * 40: [at(19)]}
    found = report(deploy(10, s=3600), deploy(20, "b", s=3600), commits=made)
    assert found.lead_time_s == 2 * 3600
    assert report(deploy(10)).lead_time_s is None


def test_a_release_that_was_taken_back_has_failed_and_the_time_until_then_is_the_recovery() -> None:
    found = report(deploy(10), deploy(20, "b"), deploy(30, "c"), deploy(40, "d"), rollback(22, "b"))
    assert found.change_fail_pct == 25
    assert found.recovery_s == 2 * 3600 + 60 - 600, "from the end of the deploy to the end of the rollback"
    failed = report(deploy(10), rollback(12, success=False), rollback(5))
    assert failed.change_fail_pct == 0, "neither a rollback that failed nor one before counts"


def test_a_deploy_that_took_its_release_back_by_itself_counts_and_one_that_never_promoted_does_not() -> None:
    back = deploy(10, success=False, undone=("the traffic went back to v1",))
    never = deploy(20, "b", success=False, undone=("the migration was undone",))
    found = report(back, never, deploy(30, "c"))
    assert found.change_fail_pct == 50
    assert found.recovery_s == 300, "from the promotion on"
    assert report(never).change_fail_pct is None


def test_incidents_are_timed_from_where_the_definitions_begin() -> None:
    found = report(
        incidents=(incident(5, acknowledged_min=4, resolved_min=30), incident(6, resolved_min=60), incident(-5))
    )
    assert (found.incidents, found.mtta_s, found.mttr_s) == (2, 240, 45 * 60)
    assert report(incidents=(incident(5),)).mttr_s is None


def test_the_last_drill_that_worked_says_how_long_a_restore_takes() -> None:
    found = report(drills=(drill(1, 30), drill(2, 40), drill(3, None)))
    assert (found.drills, found.drill_rto_s) == (3, 40)


def test_stages_have_their_median_and_95th_percentile_in_the_order_of_the_deploy() -> None:
    deploys = [deploy(hours, s=float(4 * hours)) for hours in range(1, 101)]
    tests, promotion, _ = report(*deploys).stages
    assert (tests.stage, tests.runs, tests.p50_s, tests.p95_s) == ("Stage 2: Test Suite", 100, 101, 190)
    assert promotion.p95_s == 95
    assert "95" not in report().lines()[-1]


@given(st.lists(st.sampled_from("abcd"), max_size=10), st.sampled_from("abcd"))
def test_one_more_rollback_never_lowers_the_change_fail_rate(shas: list[str], sha: str) -> None:
    deploys = [deploy(1 + number, one) for number, one in enumerate(shas)]
    before, after = report(*deploys).change_fail_pct, report(*deploys, rollback(100, sha)).change_fail_pct
    assert (before is None and after is None) or (after or 0) >= (before or 0)


@pytest.mark.parametrize("history", [(), (deploy(1), deploy(2, "b"))])
def test_the_plot_has_each_stage_in_words(history: tuple[DeployReport, ...]) -> None:
    found = report(*history)
    drawn = deploy_durations(found)
    assert drawn == deploy_durations(found), "the same numbers, the same bytes"
    for one in found.stages:
        assert one.stage in drawn
    assert ("nothing was deployed" in drawn) is not bool(history)
