"""Writing down what a run did, as a JSON log and as an artifact."""

from __future__ import annotations

from collections.abc import Sequence

from prefect.artifacts import create_markdown_artifact
from prefect.runtime import flow_run

from runbook.connections import Connections
from runbook.journal import Entry
from runbook.plans import render_verdict
from runbook.reports import DeployReport, MigrateReport, RollbackReport, Step
from runbook.stages import record
from runbook.stages.record import OpenedIncident
from runbook.stages.replay import in_words
from tasks.retries import stage_task


@stage_task("Record")
def record_deploy(connections: Connections, report: DeployReport) -> str:
    """See `runbook.stages.record.record_deploy`; then leaves the deploy summary as an artifact."""
    where = record.record_deploy(connections, report)
    lines = [
        f"# {report.version}: {'released' if report.success else 'not released'}, {report.state}",
        f"- commit `{report.git_sha}`, before it `{report.previous_git_sha or 'none'}`",
        f"- backup: {report.backup_id or 'none'}",
        f"- migrations: {', '.join(report.migrations) or 'none'}",
        f"- triggered by {report.triggered_by}: {report.reason}",
        *(f"- undone: {undone}" for undone in report.undone),
        *(f"- finding: {finding}" for finding in report.findings),
        *(f"- warning: {warning}" for warning in report.warnings),
        *render_verdict(report.verdict),
        *_error(report.error),
        *_steps(report.steps),
    ]
    create_markdown_artifact(
        key=f"deploy-summary-{report.environment}",
        markdown="\n".join(lines),
        description=f"Deploy of {report.version} to {report.environment}: {report.state}",
    )
    return where


@stage_task("Record")
def record_migrate(connections: Connections, report: MigrateReport) -> str:
    """See `runbook.stages.record.record_migrate`; then leaves the summary of the migration as an artifact."""
    where = record.record_migrate(connections, report)
    lines = [
        f"# Database {'migrated' if report.success else 'not migrated'}, {report.state}",
        f"- commit `{report.git_sha}`, backup: {report.backup_id or 'none'}",
        f"- migrations: {', '.join(report.migrations) or 'none'}",
        f"- triggered by {report.triggered_by}: {report.reason}",
        *(f"- undone: {undone}" for undone in report.undone),
        *(f"- finding: {finding}" for finding in report.findings),
        *(f"- warning: {warning}" for warning in report.warnings),
        *_error(report.error),
        *_steps(report.steps),
    ]
    create_markdown_artifact(
        key=f"migrate-summary-{report.environment}",
        markdown="\n".join(lines),
        description=f"Migration of the database of {report.environment}: {report.state}",
    )
    return where


@stage_task("Record")
def record_rollback(connections: Connections, report: RollbackReport) -> str:
    """See `runbook.stages.record.record_rollback`; then leaves the rollback report as an artifact."""
    where = record.record_rollback(connections, report)
    lines = [
        f"# {report.what.capitalize()}: {'done' if report.success else 'failed'}, {report.state}",
        f"- application: {report.to_version or 'unchanged'}",
        f"- database: {_database(report)}; replaced database kept as {report.kept_database or 'none'}",
        f"- approved by {report.approved_by}: {report.reason}",
        f"- incident report: {report.incident_report or 'none'}",
        *(f"- finding: {finding}" for finding in report.findings),
        *_error(report.error),
        *_steps(report.steps),
    ]
    if report.data_loss:
        head = "Written since the backup" + ("" if report.replay else ", and lost")
        lines += ["", f"## {head}", "", *(f"- {loss.render()}" for loss in report.data_loss)]
    if report.written:
        lines += ["", "## Written since that rollback", ""]
        lines += [f"- {one.table}: {one.rows} rows added or changed" for one in report.written]
    if report.replay:
        since = "that rollback" if report.undoes else "the backup"
        lines += [
            "",
            f"## {in_words(report.replay, since=since)}",
            "",
            "| table | inserted | updated | deleted | put aside |",
        ]
        lines += ["|---|---:|---:|---:|---:|"]
        lines += [
            f"| {one.table} | {one.inserted} | {one.updated} | {one.deleted} | {one.quarantined} |"
            for one in report.replay.tables
        ]
    create_markdown_artifact(
        key=f"rollback-report-{report.environment}",
        markdown="\n".join(lines),
        description=f"{report.what.capitalize()} of {report.environment}: {report.state}",
    )
    return where


@stage_task("Incident Report")
def open_incident(connections: Connections, report: RollbackReport, entries: Sequence[Entry]) -> OpenedIncident:
    """See `runbook.stages.record.open_incident`; then leaves the incident report as an artifact."""
    opened = record.open_incident(connections, report, entries)
    create_markdown_artifact(
        key=f"incident-{report.environment}",
        markdown=opened.markdown,
        description=f"Incident on {report.environment}, kept as {opened.where}",
    )
    return opened


def _database(report: RollbackReport) -> str:
    if report.undoes is not None and report.kept_database is not None:
        return "the one that the rollback had replaced"
    return report.backup_id or "unchanged"


def triggered_by_run() -> str:
    """Return the current flow run as the one who asked, for a run of which nobody said it."""
    return f"flow run {flow_run.get_name()}"


def _error(error: str | None) -> list[str]:
    return ["", "```", error, "```"] if error else []


def _steps(steps: Sequence[Step]) -> list[str]:
    rows = [f"| {step.step} | {step.status} | {step.duration:.1f} |" for step in steps]
    return ["", "| step | status | seconds |", "|---|---|---:|", *rows]
