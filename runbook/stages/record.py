"""Writing down what a run did. Source: runbook, "Deployment Logs"."""

from __future__ import annotations

from runbook.connections import Connections
from runbook.reports import DeployReport, DrillReport, MigrateReport, RollbackReport


def record_deploy(connections: Connections, report: DeployReport) -> str:
    """Keep the report of a deploy and return where it is (`logs/deploy_*.json`)."""
    return connections.store.write_deploy(report)


def record_rollback(connections: Connections, report: RollbackReport) -> str:
    """Keep the report of a rollback and return where it is (`logs/rollback_*.json`)."""
    return connections.store.write_rollback(report)


def record_drill(connections: Connections, report: DrillReport) -> str:
    """Keep the report of a restore drill and return where it is (`logs/drill_*.json`)."""
    return connections.store.write_drill(report)


def record_migrate(connections: Connections, report: MigrateReport) -> str:
    """Keep the report of a migration of the database alone and return where it is (`logs/migrate_*.json`)."""
    return connections.store.write_migrate(report)
