"""The commands `runbook db:health`, `db:status`, ... and `runbook monitoring:...`: what runs now, and how it is.

They change nothing. Exit codes: 0 fine, 5 a warning, 6 something could not be looked at, 7 critical.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from datetime import timedelta
from typing import TYPE_CHECKING

import click

from deployments.runs import connect, connect_database

if TYPE_CHECKING:
    from runbook.clients.database_diagnostics import Part, StatementOrder
    from runbook.rules.database_state import DatabaseState
    from runbook.rules.health_findings import Finding
    from runbook.stages.monitoring import Measurement, Source

_environment = click.option("--environment", default="local", show_default=True, help="Name of the environment.")
_json = click.option("--json", "as_json", is_flag=True, help="As JSON.")
_last = click.option("--last", default="30m", show_default=True, help="How far to look back: 90s, 30m, 2h, 1d.")
_limit = click.option(
    "--limit", default=20, show_default=True, type=click.IntRange(1, 500), help="So many of the largest or slowest."
)


@click.command("db:health")
@_environment
@_json
def health(environment: str, as_json: bool) -> None:
    """Say how the database is: connections, long and blocked transactions, lag, disk, and what to do."""
    from runbook.clients.database_diagnostics import Part

    parts = (Part.SESSIONS, Part.REPLICATION, Part.TOTALS, Part.STORAGE)
    _show_database(environment, parts, as_json, lambda _state: [])


@click.command("db:status")
@_environment
@_limit
@_json
def status(environment: str, limit: int, as_json: bool) -> None:
    """Show all that can be seen of the database: sessions, locks, replication, sizes, bloat, indexes, queries."""
    from runbook.clients.database_diagnostics import Part
    from runbook.tables import database_lines

    _show_database(environment, tuple(Part), as_json, lambda state: [*database_lines(state), ""], limit=limit)


@click.command("db:slow-queries")
@_environment
@_limit
@click.option(
    "--order",
    type=click.Choice(["total", "mean", "calls"]),
    default="total",
    show_default=True,
    help="First those that take most time in all, most time each, or are asked most often.",
)
@_json
def slow_queries(environment: str, limit: int, order: str, as_json: bool) -> None:
    """Show the queries that take most time, without their values, and those that run now."""
    from runbook.clients.database_diagnostics import Part, StatementOrder
    from runbook.tables import sessions_lines, statements_lines

    def lines(state: DatabaseState) -> list[str]:
        counted = statements_lines(state.statements) if state.statements else []
        return [*counted, "", *(sessions_lines(state.sessions) if state.sessions else []), ""]

    parts = (Part.SESSIONS, Part.STATEMENTS)
    _show_database(environment, parts, as_json, lines, limit=limit, order=StatementOrder(order))


@click.command("db:connections")
@_environment
@_json
def connections(environment: str, as_json: bool) -> None:
    """Show who is connected, what they do and for how long, who waits for whom, and which locks there are."""
    from runbook.clients.database_diagnostics import Part
    from runbook.tables import sessions_lines

    def lines(state: DatabaseState) -> list[str]:
        return [*(sessions_lines(state.sessions) if state.sessions else []), ""]

    _show_database(environment, (Part.SESSIONS,), as_json, lines)


@click.command("monitoring:errors")
@_environment
@_last
@_json
def errors(environment: str, last: str, as_json: bool) -> None:
    """Show the error rate and the errors in the log, since when, and how severe the runbook says that is."""
    from runbook.stages.monitoring import Source
    from runbook.tables import errors_lines

    _show_measurement(environment, last, (Source.APPLICATION,), as_json, lambda one: ["", *errors_lines(one.errors)])


@click.command("monitoring:performance")
@_environment
@_last
@_json
def performance(environment: str, last: str, as_json: bool) -> None:
    """Show response times and the load of the database beside what is normal at this hour."""
    from runbook.stages.monitoring import Source
    from runbook.tables import metrics_lines

    sources = (Source.APPLICATION, Source.DATABASE)
    _show_measurement(environment, last, sources, as_json, lambda one: ["", *metrics_lines(one)])


@click.command("monitoring:metrics")
@_environment
@click.option("--last", default="5m", show_default=True, help="How far to look back: 90s, 30m, 2h, 1d.")
@_json
def metrics(environment: str, last: str, as_json: bool) -> None:
    """Show all key metrics: application, database, infrastructure; what is normal, and what cannot be measured."""
    from runbook.stages.monitoring import Source
    from runbook.tables import metrics_lines

    _show_measurement(environment, last, tuple(Source), as_json, lambda one: ["", *metrics_lines(one)])


COMMANDS = (health, status, slow_queries, connections, errors, performance, metrics)


def _show_database(
    environment: str,
    parts: Sequence[Part],
    as_json: bool,
    lines: Callable[[DatabaseState], Sequence[str]],
    *,
    limit: int = 20,
    order: StatementOrder | None = None,
) -> None:
    """Look at the database, show what was found, and exit as it is."""
    database = connect_database(environment)
    from runbook.clients.database_diagnostics import StatementOrder, read_state
    from runbook.errors import ServiceError
    from runbook.rules.database_health import database_findings, unreachable

    state: DatabaseState | None = None
    try:
        state = read_state(database, parts, order=order or StatementOrder.TOTAL, limit=limit)
        findings = database_findings(state)
    except ServiceError as error:
        findings = unreachable(error)
    shown = {"state": asdict(state) if state else None}
    _finish(environment, findings, as_json, shown, lines(state) if state else [])


def _show_measurement(
    environment: str,
    last: str,
    sources: Sequence[Source],
    as_json: bool,
    lines: Callable[[Measurement], Sequence[str]],
) -> None:
    """Measure, show what was found and how it has come about, and exit as it is."""
    from runbook.rules.spans import parse_span

    window = parse_span(last, "--last", most=timedelta(days=90))
    connections = connect(environment)
    from runbook.stages.monitoring import as_record, measure, recent
    from runbook.tables import advice_line, pieces_lines

    found = measure(connections, window=window, sources=sources)
    before = recent(connections, window, until=found.at)
    shown = as_record(found) | {"advice": advice_line(found), "history": [asdict(piece) for piece in before]}
    head = [f"{environment}: {found.release or 'no release'}, the last {last}", advice_line(found)]
    _finish(environment, found.findings, as_json, shown, [*head, *lines(found), "", *pieces_lines(before), ""])


def _finish(
    environment: str, findings: Sequence[Finding], as_json: bool, shown: Mapping[str, object], lines: Sequence[str]
) -> None:
    from runbook.rules.health_findings import overall, render_findings

    health = overall(findings)
    if as_json:
        record = {"environment": environment, "health": health, "findings": [asdict(one) for one in findings]}
        click.echo(json.dumps({**record, **shown}, indent=2, default=str))
    else:
        click.echo("\n".join([*lines, *render_findings(findings)]))
    sys.exit(health.exit_code)
