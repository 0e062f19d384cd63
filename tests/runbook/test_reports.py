from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from pydantic import ValidationError

from runbook.errors import StageError
from runbook.reports import (
    DeployReport,
    FinalState,
    RollbackReport,
    RollbackScope,
    Step,
    StepLog,
    StepStatus,
    TableLoss,
)

AT = datetime(2025, 1, 4, 12, 30, 15, 123456, tzinfo=UTC)
STEPS = (
    Step(step="Stage 2: Test Suite", status=StepStatus.COMPLETED, duration=12.5),
    Step(step="Stage 3: Database Backup", status=StepStatus.FAILED, duration=0.25, error="disk full"),
)
# What reads the logs of the scripts in use today must be able to read these.
FIELDS = {"timestamp", "backupId", "reason", "triggeredBy", "duration", "success", "steps"}
STEP_FIELDS = {"step", "status", "duration", "error"}


def deploy_report() -> DeployReport:
    return DeployReport(
        environment="production",
        timestamp=AT,
        git_ref="main",
        git_sha="b" * 40,
        version="v2",
        backup_id="backup_20250104_123015",
        migrations=("0001_a",),
        undone=("migrations undone: 0001_a",),
        reason="scheduled release",
        triggered_by="ci",
        duration=61.5,
        success=False,
        state=FinalState.VERIFIED,
        findings=("watch: too few requests",),
        error="disk full",
        steps=STEPS,
    )


def rollback_report() -> RollbackReport:
    return RollbackReport(
        environment="production",
        timestamp=AT,
        scope=RollbackScope.FULL,
        backup_id="backup_20250104_123015",
        reason="SEV1: outage",
        triggered_by="mira",
        approved_by="mira (--yes)",
        from_git_sha="b" * 40,
        to_git_sha="a" * 40,
        to_version="v1",
        data_loss=(TableLoss(table="public.orders", rows_now=107, rows_restored=100),),
        kept_database="shop_before_rollback",
        incident_report="logs/incident_20250104_123015_123456.md",
        duration=8.25,
        success=True,
        state=FinalState.VERIFIED,
        steps=STEPS,
    )


REPORTS = [deploy_report, rollback_report]


@pytest.mark.parametrize("make", REPORTS)
def test_a_report_has_all_fields_of_the_logs_in_use_today(make: Callable[[], DeployReport | RollbackReport]) -> None:
    report = make()
    written = json.loads(report.model_dump_json(by_alias=True))
    assert written.keys() >= FIELDS
    assert not [key for key in written if "_" in key]
    assert written["timestamp"] == "2025-01-04T12:30:15.123456Z"
    assert (written["backupId"], written["triggeredBy"]) == ("backup_20250104_123015", report.triggered_by)
    assert (written["success"], written["duration"]) == (report.success, report.duration)
    assert [step.keys() for step in written["steps"]] == [STEP_FIELDS, STEP_FIELDS]
    assert written["steps"] == [
        {"step": "Stage 2: Test Suite", "status": "completed", "duration": 12.5, "error": None},
        {"step": "Stage 3: Database Backup", "status": "failed", "duration": 0.25, "error": "disk full"},
    ]


@pytest.mark.parametrize("make", REPORTS)
@pytest.mark.parametrize("by_alias", [True, False])
def test_a_report_is_read_back_as_it_was(make: Callable[[], DeployReport | RollbackReport], by_alias: bool) -> None:
    report = make()
    assert type(report).model_validate_json(report.model_dump_json(by_alias=by_alias)) == report


def test_a_report_needs_a_time_with_a_time_zone() -> None:
    described = deploy_report().model_dump() | {"timestamp": datetime(2025, 1, 4)}  # noqa: DTZ001 - that is the point
    with pytest.raises(ValidationError, match="timezone"):
        DeployReport.model_validate(described)


def test_steps_are_kept_in_order_with_how_they_ended() -> None:
    log = StepLog()
    assert log.run("divide", divmod, 7, 2) == (3, 1)
    with pytest.raises(StageError, match="tests failed"):
        log.run("fail", fail_with, StageError("tests failed"))
    with pytest.raises(KeyboardInterrupt):
        log.run("cancel", fail_with, KeyboardInterrupt())
    assert [(step.step, step.status, step.error) for step in log.steps] == [
        ("divide", StepStatus.COMPLETED, None),
        ("fail", StepStatus.FAILED, "tests failed"),
        ("cancel", StepStatus.FAILED, "KeyboardInterrupt"),
    ]
    assert all(step.duration >= 0 for step in log.steps)


def test_the_duration_of_a_run_covers_what_lies_between_its_steps() -> None:
    log = StepLog()
    log.started -= timedelta(seconds=5).total_seconds()
    log.run("quick", int)
    assert log.duration_s >= 5 > log.steps[0].duration


def fail_with(error: BaseException) -> None:
    raise error


def test_a_cancellation_stays_one_when_whoever_runs_the_stage_falls_over_it() -> None:
    def cancelled() -> None:
        try:
            raise KeyboardInterrupt
        finally:
            raise ValueError("Task run is not set")

    log = StepLog()
    with pytest.raises(KeyboardInterrupt):
        log.run("backup", cancelled)
    assert [(step.status, step.error) for step in log.steps] == [(StepStatus.FAILED, "KeyboardInterrupt")]


def test_an_error_over_an_error_stays_itself() -> None:
    def fails() -> None:
        try:
            raise KeyError("first")
        except KeyError as error:
            raise ValueError("second") from error

    with pytest.raises(ValueError, match="second"):
        StepLog().run("backup", fails)


def test_an_error_of_what_undoes_a_cancelled_run_stays_itself() -> None:
    log = StepLog()
    try:
        log.run("deploy", fail_with, KeyboardInterrupt())
    except KeyboardInterrupt:
        with pytest.raises(StageError, match="the host is stuck"):
            log.run("undo", fail_with, StageError("the host is stuck"))
    assert [step.error for step in log.steps] == ["KeyboardInterrupt", "the host is stuck"]
