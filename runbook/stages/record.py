"""Writing down what a run did. Source: runbook, "Deployment Logs"."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from runbook.connections import Connections
from runbook.errors import RunbookError
from runbook.journal import Entry
from runbook.reports import DeployReport, DrillReport, MigrateReport, RollbackReport
from runbook.rules.incident_report import Incident, deploy_taken_back, render_incident, render_update
from runbook.watch_report import WatchReport

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class OpenedIncident:
    """An incident report: where it is kept, and its text."""

    where: str
    markdown: str


def record_deploy(connections: Connections, report: DeployReport) -> str:
    """Keep the report of a deploy and return where it is (`logs/deploy_*.json`)."""
    return connections.store.write_deploy(report)


def record_rollback(connections: Connections, report: RollbackReport) -> str:
    """Keep the report of a rollback and return where it is (`logs/rollback_*.json`)."""
    return connections.store.write_rollback(report)


def open_incident(connections: Connections, report: RollbackReport, entries: Sequence[Entry]) -> OpenedIncident:
    """Open the incident report of a rollback (`logs/incident_*.md`); `entries` are those of its journal.

    Safe to repeat: a rollback has one. Where it is open already, what is new is added to it, and what people have
    written since stays.

    Source: runbook, "Post-Rollback Actions" ("Create Incident Report").
    """
    incident = Incident(report, entries, _deploy_taken_back(connections, report), datetime.now(UTC))
    opened = connections.store.incident(report)
    markdown = render_incident(incident) if opened is None else opened + render_update(incident)
    return OpenedIncident(connections.store.write_incident(report, markdown), markdown)


def record_drill(connections: Connections, report: DrillReport) -> str:
    """Keep the report of a restore drill and return where it is (`logs/drill_*.json`)."""
    return connections.store.write_drill(report)


def record_watch(connections: Connections, report: WatchReport) -> str:
    """Keep the report of a watch and return where it is (`logs/watch_*.json`)."""
    return connections.store.write_watch(report)


def record_migrate(connections: Connections, report: MigrateReport) -> str:
    """Keep the report of a migration of the database alone and return where it is (`logs/migrate_*.json`)."""
    return connections.store.write_migrate(report)


def _deploy_taken_back(connections: Connections, report: RollbackReport) -> DeployReport | None:
    """Return the deploy of the bad release; that the history cannot be read is no reason to open no report."""
    try:
        return deploy_taken_back(connections.store.history(), report)
    except RunbookError as error:
        _log.warning("the incident report does not say when the release was deployed: %s", error)
        return None
