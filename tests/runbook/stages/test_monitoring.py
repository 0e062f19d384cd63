"""Measuring against a real database; the host is in memory, so that it can be as slow, silent and wrong as asked."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

import pytest

from runbook.clients.application_host import LogLine, RequestMetrics
from runbook.clients.postgres import Database
from runbook.connections import Connections
from runbook.errors import RejectedError, TransientError
from runbook.rules.health_findings import Finding, Health
from runbook.rules.infrastructure import Resources
from runbook.rules.normal import NEEDED
from runbook.rules.samples import sample
from runbook.stages.monitoring import Measurement, Source, as_record, history_of, measure, recent, record
from runbook.tables import advice_line, database_lines, errors_lines, metrics_lines, pieces_lines
from tests.fakes.application_host import MemoryHost
from tests.runbook.helpers import execute

BUSY = RequestMetrics(requests=1000, errors=10, p50_s=0.1, p95_s=0.3, p99_s=0.9)


@dataclass
class HostWithMachine(MemoryHost):
    """A host that shows its machine: the looks at it, in turn."""

    looks: list[Resources] = field(default_factory=list[Resources])

    def resources(self, release_id: str) -> Resources:
        return self.looks.pop(0)


def host_of(connections: Connections) -> MemoryHost:
    assert isinstance(connections.host, MemoryHost)
    return connections.host


def findings(measurement: Measurement) -> Mapping[str, Finding]:
    return {finding.name: finding for finding in measurement.findings}


def application(connections: Connections, counted: RequestMetrics = BUSY) -> Measurement:
    host_of(connections).measured = counted
    return measure(connections, sources=[Source.APPLICATION])


def test_application_and_database_are_measured_at_once(connections: Connections) -> None:
    host_of(connections).measured = BUSY
    found = measure(connections, window=timedelta(minutes=10), pause_s=0)
    values = {metric: one.value for metric, one in found.samples.items()}
    assert values["error_rate_pct"] == 1
    assert values["requests_per_s"] == pytest.approx(1000 / 600)
    assert values["response_time_p95_s"] == 0.3
    assert 0 < values["database_connections_pct"] < 75
    assert values["database_size_bytes"] > 1_000_000
    assert "database_transactions_total" in values
    assert "active_sessions" not in values
    assert {one.what for one in found.missing} >= {"active sessions", "infrastructure"}
    assert found.health is Health.FINE, found.findings


def test_no_requests_are_not_no_errors(connections: Connections) -> None:
    found = application(connections, RequestMetrics(0, 0, 0, 0, 0))
    assert found.health is Health.COULD_NOT_RUN
    assert "error_rate_pct" not in found.samples
    assert "response_time_p95_s" not in found.samples
    assert advice_line(found) == "no requests, so nobody can say how severe it is"


def test_a_host_that_counts_but_does_not_time_has_no_response_times(connections: Connections) -> None:
    found = application(connections, RequestMetrics(100, 0, 0, 0, 0))
    assert found.samples["error_rate_pct"].value == 0
    assert not {metric for metric in found.samples if metric.startswith("response_time")}


@pytest.mark.parametrize(
    ("errors", "health", "advice"),
    [
        (9, Health.FINE, "no incident: monitor normally"),
        (49, Health.FINE, "SEV3: monitor, no rollback"),
        (50, Health.WARNING, "SEV2: investigate, consider a rollback"),
        (100, Health.WARNING, "SEV2: investigate, consider a rollback"),
        (101, Health.CRITICAL, "SEV2: roll back at once"),
    ],
)
def test_the_error_rate_means_what_the_runbook_says(
    connections: Connections, errors: int, health: Health, advice: str
) -> None:
    found = application(connections, replace(BUSY, errors=errors))
    assert findings(found)["error rate"].health is health
    assert advice_line(found) == advice


def test_errors_in_the_log_are_grouped_without_their_values(connections: Connections) -> None:
    now = datetime.now(UTC)
    host_of(connections).lines = [
        LogLine(now - timedelta(seconds=5), "error", "order 1 failed: password=hunter2"),
        LogLine(now, "error", "order 2 failed: password=hunter3"),
        LogLine(now, "info", "order 3"),
        LogLine(now - timedelta(hours=1), "error", "long ago"),
    ]
    found = application(connections)
    assert [(group.signature, group.count) for group in found.errors] == [("order ? failed: password=?", 2)]
    assert found.samples["error_log_lines_per_min"].value == 2
    assert "hunter" not in json.dumps(as_record(found), default=str) + "".join(errors_lines(found.errors))


def test_a_database_that_is_gone_is_critical_and_the_rest_is_still_measured(connections: Connections) -> None:
    host_of(connections).measured = BUSY
    gone = replace(connections, database=Database("postgresql://nobody@127.0.0.1:1/shop"))
    found = measure(gone, pause_s=0)
    assert findings(found)["connectivity"].health is Health.CRITICAL
    assert found.health is Health.CRITICAL
    assert found.samples["requests"].value == 1000


@pytest.mark.parametrize("question", ["active", "metrics", "logs"])
def test_a_host_that_does_not_answer_is_a_finding_and_the_database_is_still_measured(
    connections: Connections, question: str
) -> None:
    host_of(connections).measured = BUSY
    host_of(connections).breaks[question] = TransientError("the host is away")
    found = measure(connections, pause_s=0)
    assert found.health is Health.COULD_NOT_RUN
    assert "the host is away" in str(found.findings)
    assert "database_connections" in found.samples


def test_a_history_that_cannot_be_read_stops_nothing(connections: Connections, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_self: object) -> object:
        raise RejectedError("the store is away")

    monkeypatch.setattr("runbook.clients.sample_history.SampleHistory.last", refuse)
    found = application(connections)
    assert findings(found)["history"].detail == "the store is away"
    assert found.samples["requests"].value == 1000


def test_more_than_twice_the_normal_is_a_warning_once_there_is_a_normal(connections: Connections) -> None:
    found = application(connections)
    assert "no normal yet: 0 samples" in findings(found)["times normal (p95)"].detail
    yesterday = found.at - timedelta(days=1)
    history_of(connections).add(
        sample(yesterday + timedelta(seconds=number), "response_time_p95_s", 0.15) for number in range(NEEDED)
    )
    assert findings(application(connections))["times normal (p95)"].health is Health.WARNING
    slower = application(connections, replace(BUSY, p95_s=0.29))
    assert findings(slower)["times normal (p95)"].health is Health.FINE
    assert slower.normals["response_time_p95_s"].samples == NEEDED
    assert findings(slower)["response time p95"].detail == "290 ms; normal is 150 ms"


def test_what_is_recorded_becomes_rates_and_a_past(connections: Connections) -> None:
    host_of(connections).measured = BUSY
    first = measure(connections, sources=[Source.APPLICATION, Source.DATABASE])
    assert "database_transactions_per_s" not in first.samples
    record(connections, first)
    second = measure(connections, sources=[Source.APPLICATION, Source.DATABASE])
    assert second.samples["database_transactions_per_s"].value >= 0
    record(connections, second)
    past = recent(connections, timedelta(minutes=5), until=second.at)
    assert [(piece.samplings, piece.requests) for piece in past if piece.samplings] == [(2, 2000)]
    assert past[-1].error_rate_pct == 1
    assert past[-1].worst_p95_s == 0.3
    assert "2000" in "\n".join(pieces_lines(past))


def test_the_machine_of_the_release_is_measured_where_the_host_shows_it(connections: Connections) -> None:
    at = datetime.now(UTC)
    before = Resources(at, 2, 10, 1_000_000, 0, 2, 100, 40, 88, 0)
    after = replace(before, at=at + timedelta(seconds=1), cpu_s=11, machine_cpu_s=102)
    host = HostWithMachine(known=host_of(connections).known, active_id="r1", measured=BUSY, looks=[before, after])
    found = measure(replace(connections, host=host), sources=[Source.INFRASTRUCTURE], pause_s=0)
    assert found.samples["application_cpu_pct"].value == 50
    assert found.samples["disk_usage_pct"].value == 88
    assert findings(found)["disk of the application host"].health is Health.CRITICAL
    gone = [before, replace(after, processes=0)]
    found = measure(replace(connections, host=replace(host, looks=gone)), sources=[Source.INFRASTRUCTURE], pause_s=0)
    assert findings(found)["processes"].health is Health.CRITICAL


@pytest.mark.parametrize(
    ("query", "sessions", "finding"),
    [
        ("SELECT count(*) FROM logins", 2.0, None),
        ("SELECT 1, 2", None, "has no single number"),
        ("SELECT nonsense", None, "nonsense"),
        ("DELETE FROM logins RETURNING 1", None, "read-only transaction"),
    ],
)
def test_sessions_of_users_are_counted_by_the_query_of_the_settings(
    connections: Connections, query: str, sessions: float | None, finding: str | None
) -> None:
    execute(connections.database.url, "CREATE TABLE logins AS SELECT generate_series(1, 2)")
    monitoring = connections.settings.monitoring.model_copy(update={"active_sessions_query": query})
    settings = connections.settings.model_copy(update={"monitoring": monitoring})
    found = measure(replace(connections, settings=settings), sources=[Source.DATABASE])
    counted = found.samples.get("active_sessions")
    assert (counted.value if counted else None) == sessions
    assert (finding or "") in str(findings(found).get("active sessions", ""))
    assert "connectivity" not in findings(found)


def test_what_was_measured_can_be_read_by_people_and_by_machines(connections: Connections) -> None:
    from runbook.clients.database_diagnostics import read_state

    found = measure(connections, sources=[Source.APPLICATION, Source.DATABASE])
    written = json.loads(json.dumps(as_record(found), default=str))
    assert written["samples"]["database_connections"]["unit"] == "connections"
    assert any(line.startswith("database_connections_pct") for line in metrics_lines(found))
    execute(connections.database.url, "CREATE TABLE orders AS SELECT 1 AS id", "ANALYZE orders")
    shown = "\n".join(database_lines(read_state(connections.database)))
    assert "primary, asked as postgres" in shown
    assert "public.orders" in shown
