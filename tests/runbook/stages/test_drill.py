"""The restore drill: what it measures, what it marks, and what a deploy makes of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from runbook.connections import Connections
from runbook.errors import RefusedError, StageError
from runbook.manifest import VerificationLevel, VerificationState
from runbook.procedures.restore_drill import restore_drill
from runbook.reports import DrillReport
from runbook.settings import BackupSettings, DrillSettings
from runbook.stages.backup import create_backup
from runbook.stages.checklist import run_checklist
from runbook.stages.drill import last_drill, run_drill
from tests.runbook.helpers import execute


def drilled(connections: Connections, **settings: float) -> Connections:
    backup = BackupSettings(drill=DrillSettings(**settings))
    return replace(connections, settings=connections.settings.model_copy(update={"backup": backup}))


@pytest.fixture
def backup_id(connections: Connections) -> str:
    execute(connections.database.url, "CREATE TABLE items AS SELECT generate_series(1, 300) AS n")
    return create_backup(connections, reason="test", triggered_by="somebody").backup_id


def drill_check(connections: Connections) -> tuple[str, str]:
    answers = run_checklist(connections, "main", strict=False)
    (check,) = [check for check in answers.checks if check.name == "restore drill"]
    return check.outcome, check.detail


def test_a_drill_restores_the_newest_backup_and_reports_what_it_took(
    connections: Connections, backup_id: str, beside: Callable[[], list[str]]
) -> None:
    report = restore_drill(connections, backup_id=None, triggered_by="somebody")
    assert (report.backup_id, report.success, report.level) == (backup_id, True, VerificationLevel.FULL)
    assert report.rto_s is not None
    assert 0 < report.rto_s <= report.duration
    assert report.rpo_s is not None
    assert report.rpo_s >= 0
    assert (report.rows, report.triggered_by) == (300, "somebody")
    assert last_drill(connections) == report
    assert connections.store.manifest(backup_id).is_verified
    assert beside() == []


def test_a_drill_of_a_bad_backup_is_a_report_that_says_so_and_a_loud_failure(
    connections: Connections, backup_id: str
) -> None:
    folder = Path(connections.settings.records) / "database" / "backups" / backup_id / "dump"
    next(folder.glob("*.dat.zst")).write_bytes(b"rotten")
    with pytest.raises(StageError, match=r"dump/\d+\.dat\.zst cannot be decompressed"):
        restore_drill(connections, backup_id=backup_id, triggered_by="somebody")
    report = last_drill(connections)
    assert report is not None
    assert (report.success, report.rto_s, report.rpo_s) == (False, None, None)
    assert connections.store.manifest(backup_id).verification.state is VerificationState.FAILED


def test_a_drill_over_its_budget_is_reported_and_fails(connections: Connections, backup_id: str) -> None:
    with pytest.raises(StageError, match=r"time to restore \(RTO\).*more than the budget of 1 ms"):
        restore_drill(drilled(connections, rto_budget_s=0.001), backup_id=None, triggered_by="somebody")
    report = last_drill(connections)
    assert report is not None
    assert report.success


def test_there_is_nothing_to_drill_without_a_backup(connections: Connections) -> None:
    with pytest.raises(RefusedError, match="no backup yet"):
        run_drill(connections, backup_id=None, triggered_by="somebody")
    assert last_drill(connections) is None


def test_the_checklist_asks_for_a_drill_only_where_the_settings_do(connections: Connections, backup_id: str) -> None:
    checks = run_checklist(connections, "main", strict=False).checks
    assert "restore drill" not in [check.name for check in checks]
    weekly = drilled(connections, maximum_age_days=7)
    outcome, detail = drill_check(weekly)
    assert outcome == "failed"
    assert "no restore drill yet" in detail
    assert "runbook db:drill" in detail
    report = restore_drill(weekly, backup_id=None, triggered_by="somebody")
    assert drill_check(weekly) == ("passed", f"last one {report.timestamp:%Y-%m-%d %H:%M} UTC, {backup_id}")


@pytest.mark.parametrize(
    ("changes", "settings", "said"),
    [
        pytest.param({"age_days": 8.0}, {"maximum_age_days": 7}, "is 8 d old", id="too old"),
        pytest.param({"success": False, "error": "rotten"}, {"maximum_age_days": 7}, "failed: rotten", id="failed"),
        pytest.param({"rto_s": 61.0}, {"rto_budget_s": 60}, "RTO", id="restore took too long"),
        pytest.param({"rpo_s": 3601.0}, {"rpo_budget_s": 3600}, "RPO", id="too much at stake"),
    ],
)
def test_a_deploy_is_refused_when_the_last_drill_does_not_do(
    connections: Connections, changes: dict[str, object], settings: dict[str, float], said: str
) -> None:
    age = changes.pop("age_days", 1.0)
    assert isinstance(age, float)
    values: dict[str, object] = {
        "environment": "test",
        "timestamp": datetime.now(UTC) - timedelta(days=age),
        "backup_id": "backup_20250104_120000",
        "triggered_by": "somebody",
        "level": "full",
        "rto_s": 10.0,
        "rpo_s": 10.0,
        "size_bytes": 1,
        "rows": 1,
        "duration": 1,
        "success": True,
    }
    connections.store.write_drill(DrillReport.model_validate(values | changes))
    outcome, detail = drill_check(drilled(connections, **settings))
    assert outcome == "failed"
    assert said in detail
