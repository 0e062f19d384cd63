"""The investigation that the runbook has for each severity, as evidence for whoever decides. It changes nothing.

Source: runbook, "SEV1: Complete Outage" ("Immediate Actions"), "SEV2: High Error Rates" and "SEV3: Performance
Degradation" ("Investigation").
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from runbook.clients.database_diagnostics import Part, read_state
from runbook.clients.http_probe import probe
from runbook.connections import Connections
from runbook.errors import RefusedError, ServiceError
from runbook.procedures.status import release_lines, status_lines
from runbook.rules.application_health import signals
from runbook.rules.emergency import Situation
from runbook.rules.health_findings import Health, render_findings
from runbook.rules.thresholds import Severity
from runbook.stages.monitoring import Measurement, Source, measure
from runbook.tables import database_lines, errors_lines, metrics_lines, sessions_lines, statements_lines

_LAST = timedelta(minutes=30)
_LOG_LINES = 100
_COMMITS = 10
_RELEASES = 5
_LONGEST_LINE = 400


@dataclass(frozen=True)
class Evidence:
    """What one step of an investigation has found, and the command that shows it again."""

    title: str
    command: str
    lines: tuple[str, ...]


def look(connections: Connections) -> Situation:
    """Look at what users meet: health endpoints, database, errors and response times, and what runs since when."""
    now, url = datetime.now(UTC), connections.host.public_url
    endpoints: dict[str, str] = {}
    for path in connections.settings.health_paths:
        answer = probe(url + path)
        wrong = "" if answer.status == 200 else f"answered {answer.status}"
        endpoints[path] = answer.problem if answer.status is None else wrong
    measured = measure(connections, sources=(Source.APPLICATION, Source.DATABASE), pause_s=0)
    lost = next(
        (one for one in measured.findings if one.name == "connectivity" and one.health is Health.CRITICAL), None
    )
    try:
        active = connections.host.active()
    except ServiceError:
        active = None
    return Situation(
        endpoints=endpoints,
        login_paths=connections.settings.login_paths,
        database_trouble=lost.detail if lost else "",
        signals=signals(measured.samples, measured.normals),
        version=active.version if active else None,
        released_ago=now - active.promoted_at if active and active.promoted_at else None,
    )


def investigate(connections: Connections, severity: Severity) -> tuple[Evidence, ...]:
    """Take the steps that the runbook has for a severity, in its order; one that cannot be taken is said to be that."""
    name = connections.settings.name
    environment = f" --environment={name}"
    steps: dict[Severity, list[tuple[str, str, Callable[[], Sequence[str]]]]] = {
        Severity.SEV1: [
            ("System status", f"runbook deploy:status{environment}", lambda: status_lines(connections)),
            ("Recent deployments", f"runbook app:ls{environment}", lambda: _releases(connections)),
            ("Database connectivity", f"runbook db:health{environment}", lambda: _database(connections)),
            ("Error logs", f"runbook app:logs{environment} --limit={_LOG_LINES}", lambda: _log(connections)),
        ],
        Severity.SEV2: [
            ("Error rates", f"runbook monitoring:errors{environment} --last=30m", lambda: _errors(connections)),
            ("Recent changes", "git log --oneline -10", lambda: _commits(connections)),
            ("Database health", f"runbook db:health{environment}", lambda: _database(connections)),
            (
                "Response times",
                f"runbook monitoring:performance{environment} --last=30m",
                lambda: metrics_lines(_measured(connections, Source.APPLICATION, Source.DATABASE)),
            ),
        ],
        Severity.SEV3: [
            ("Query performance", f"runbook db:slow-queries{environment}", lambda: _slow(connections)),
            ("Connection pool", f"runbook db:connections{environment}", lambda: _sessions(connections)),
            (
                "Application metrics",
                f"runbook monitoring:metrics{environment}",
                lambda: metrics_lines(_measured(connections, *Source)),
            ),
        ],
        Severity.SEV4: [],
    }
    return tuple(_taken(title, command, step) for title, command, step in steps[severity])


def _taken(title: str, command: str, step: Callable[[], Sequence[str]]) -> Evidence:
    try:
        lines = [line[:_LONGEST_LINE] for line in step()] or ["nothing"]
    except Exception as error:  # noqa: BLE001 - what cannot be seen in an emergency is evidence, too
        lines = [f"could not be looked at: {error}"]
    return Evidence(title, command, tuple(lines))


def _releases(connections: Connections) -> list[str]:
    return release_lines(list(connections.host.releases())[:_RELEASES], connections.host.active())


def _database(connections: Connections) -> list[str]:
    return render_findings(measure(connections, sources=(Source.DATABASE,), pause_s=0).findings)


def _log(connections: Connections) -> list[str]:
    active = connections.host.active()
    if active is None:
        raise RefusedError("no release has the traffic")
    lines = connections.host.logs(active.release_id, limit=_LOG_LINES)
    return [f"{line.at.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC  {line.level:<8} {line.message}" for line in lines]


def _errors(connections: Connections) -> list[str]:
    measured = _measured(connections, Source.APPLICATION)
    return [*render_findings(measured.findings), "", *errors_lines(measured.errors)]


def _commits(connections: Connections) -> list[str]:
    active = connections.host.active()
    return connections.repository.newest_commits(active.git_sha if active else "HEAD", _COMMITS)


def _slow(connections: Connections) -> list[str]:
    state = read_state(connections.database, parts=(Part.STATEMENTS,))
    return statements_lines(state.statements) if state.statements else database_lines(state)


def _sessions(connections: Connections) -> list[str]:
    state = read_state(connections.database, parts=(Part.SESSIONS,))
    return sessions_lines(state.sessions) if state.sessions else database_lines(state)


def _measured(connections: Connections, *sources: Source) -> Measurement:
    return measure(connections, window=_LAST, sources=sources, pause_s=0.2)
