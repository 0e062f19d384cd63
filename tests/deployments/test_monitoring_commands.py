"""The commands on a real database; what they are connected to is given, so that no server has to know it."""

from __future__ import annotations

import json
from contextlib import closing
from datetime import datetime

import psycopg
import pytest
from click.testing import CliRunner, Result

from deployments.cli import cli
from runbook.clients.application_host import RequestMetrics
from runbook.clients.postgres import Database
from runbook.connections import Connections
from runbook.errors import InvalidInputError
from runbook.rules.samples import sample
from runbook.stages.monitoring import history_of
from tests.fakes.application_host import MemoryHost
from tests.runbook.helpers import execute

SECRET = "hunter2"


@pytest.fixture(autouse=True)
def connected(monkeypatch: pytest.MonkeyPatch, connections: Connections) -> None:
    def connect(_environment: str) -> Connections:
        return connections

    monkeypatch.setattr("deployments.monitoring_commands.connect", connect)
    use(monkeypatch, connections.database)


def use(monkeypatch: pytest.MonkeyPatch, database: Database) -> None:
    def connect(_environment: str) -> Database:
        return database

    monkeypatch.setattr("deployments.monitoring_commands.connect_database", connect)


def run(*arguments: str) -> Result:
    result = CliRunner().invoke(cli, arguments)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


@pytest.mark.parametrize("command", ["db:health", "db:status", "db:slow-queries", "db:connections"])
def test_a_calm_database_is_fine_for_people_and_for_machines(command: str, database: Database) -> None:
    execute(database.url, "CREATE TABLE orders AS SELECT 1 AS id", "ANALYZE orders")
    shown, written = run(command), run(command, "--json")
    assert (shown.exit_code, written.exit_code) == (0, 0), shown.output
    assert "fine" in shown.output
    record = json.loads(written.stdout)
    assert record["health"] == "fine"
    assert record["state"]["database"] == database.name


def test_an_idle_transaction_in_the_way_of_others_is_named(database: Database) -> None:
    execute(database.url, "CREATE TABLE orders (note text)")
    with closing(psycopg.connect(database.url, application_name="report")) as idle:
        pid = idle.info.backend_pid
        idle.execute("SELECT * FROM orders WHERE note = %s", [SECRET])
        with closing(psycopg.connect(database.url)) as waiting:
            waiting.pgconn.send_query(b"DROP TABLE orders")
            shown = ""
            while "at the front" not in shown:
                shown = run("db:connections").output
    assert f"session {pid} of postgres (report, idle in transaction) blocks 1" in shown
    assert SECRET not in shown


def test_a_database_that_does_not_answer_is_critical(monkeypatch: pytest.MonkeyPatch) -> None:
    gone = Database("postgresql://nobody:hunter2@127.0.0.1:1/shop")
    use(monkeypatch, gone)
    shown, written = run("db:health"), run("db:health", "--json")
    assert (shown.exit_code, written.exit_code) == (7, 7)
    assert "does not answer" in shown.output
    assert SECRET not in shown.output + written.output
    assert json.loads(written.stdout)["state"] is None


@pytest.mark.parametrize(
    ("errors", "exit_code", "advice"), [(0, 0, "no incident"), (60, 5, "SEV2"), (200, 7, "roll back at once")]
)
def test_the_error_rate_decides_how_the_command_ends(
    connections: Connections, errors: int, exit_code: int, advice: str
) -> None:
    assert isinstance(connections.host, MemoryHost)
    connections.host.measured = RequestMetrics(1000, errors, 0.1, 0.2, 0.3)
    result = run("monitoring:errors", "--last=10m")
    assert result.exit_code == exit_code, result.output
    assert advice in result.output


def test_no_data_ends_with_a_code_of_its_own() -> None:
    assert run("monitoring:performance").exit_code == 6


def test_metrics_are_shown_beside_the_past(connections: Connections) -> None:
    assert isinstance(connections.host, MemoryHost)
    connections.host.measured = RequestMetrics(1000, 0, 0.1, 0.2, 0.3)
    record = json.loads(run("monitoring:metrics", "--json").stdout)
    history_of(connections).add([sample(datetime.fromisoformat(record["at"]), "requests", 77)])
    again = json.loads(run("monitoring:metrics", "--json", "--last=1h").stdout)
    assert again["samples"]["requests"] == {
        "value": 1000,
        "unit": "requests",
        "normal": again["samples"]["requests"]["normal"],
        "times_normal": None,
    }
    assert [piece["requests"] for piece in again["history"] if piece["requests"]] == [77]
    assert {missing["what"] for missing in again["missing"]} >= {"infrastructure", "active sessions"}


def test_a_span_that_is_none_is_refused() -> None:
    result = CliRunner().invoke(cli, ["monitoring:errors", "--last=soon"])
    assert isinstance(result.exception, InvalidInputError)
    assert result.exception.exit_code == 3
    assert "30m" in str(result.exception)
