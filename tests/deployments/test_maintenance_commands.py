from __future__ import annotations

import json
import tomllib
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner

from deployments.cli import cli
from runbook.connections import Connections
from runbook.errors import InvalidInputError
from runbook.rules.maintenance import Freeze, MaintenanceWindow
from runbook.settings import MaintenanceSettings
from tests.runbook.surroundings import surrounded

WEEKLY = MaintenanceWindow.model_validate(
    {
        "name": "night",
        "start": "2026-01-04T02:00:00",
        "duration_s": 7200,
        "rule": "FREQ=WEEKLY",
        "time_zone": "Europe/Berlin",
    }
)


@pytest.fixture
def connections(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Connections:
    now = datetime.now(UTC)
    freeze = Freeze(start=now - timedelta(days=1), end=now + timedelta(days=1), reason="stocktaking")
    planned = MaintenanceSettings(windows=(WEEKLY,), freezes=(freeze,))
    found = surrounded(tmp_path)
    found = replace(found, settings=found.settings.model_copy(update={"maintenance": planned}))

    def connect(_environment: str) -> Connections:
        return found

    monkeypatch.setattr("deployments.maintenance_commands.connect", connect)
    return found


def runbook(*arguments: str) -> str:
    result = CliRunner().invoke(cli, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_changes_are_approved_listed_and_cancelled(connections: Connections) -> None:
    assert runbook("maintenance:list") == "nothing waits\n"
    made = runbook("maintenance:schedule", "vacuum", "--reason=bloat", "--set=table=orders")
    change = made.split()[0]
    assert f"{change}  vacuum table=orders (bloat, " in runbook("maintenance:list")
    assert "about 30 min" in runbook("maintenance:list")
    [about] = json.loads(runbook("maintenance:list", "--json"))
    assert (about["kind"], about["parameters"]) == ("vacuum", {"table": "orders"})
    runbook("maintenance:cancel", change, "--reason=not now")
    assert runbook("maintenance:list") == "nothing waits\n"
    assert "cancelled" in runbook("maintenance:list", "--all")


def test_the_next_window_and_the_freeze_are_shown(connections: Connections) -> None:
    shown = runbook("maintenance:next")
    assert "night: maintenance" in shown
    assert "stocktaking" in shown


def test_a_calendar_goes_out_and_comes_back_as_settings(connections: Connections, tmp_path: Path) -> None:
    path = tmp_path / "team.ics"
    path.write_text(runbook("maintenance:calendar"), encoding="utf-8")
    assert "BEGIN:VTIMEZONE" in path.read_text()
    read = tomllib.loads(runbook("maintenance:calendar", f"--read={path}"))["maintenance"]
    [window] = [MaintenanceWindow.model_validate(one) for one in read["windows"]]
    assert (window.time_zone, window.rule, window.duration_s) == ("Europe/Berlin", "FREQ=WEEKLY", 7200)
    assert [Freeze.model_validate(one).reason for one in read["freezes"]] == ["stocktaking"]


@pytest.mark.parametrize(
    "arguments",
    [
        ["maintenance:schedule", "vacuum", "--reason=x", "--set=table"],
        ["maintenance:schedule", "vacuum", "--reason= "],
        ["maintenance:schedule", "deploy", "--reason=x"],
        ["maintenance:cancel", "nothing", "--reason=x"],
    ],
)
def test_what_cannot_be_meant_is_refused(connections: Connections, arguments: list[str]) -> None:
    assert isinstance(CliRunner().invoke(cli, arguments).exception, InvalidInputError)
