"""Recovery as a task, and its artifact."""

from __future__ import annotations

from prefect.artifacts import create_markdown_artifact

from runbook.connections import Connections
from runbook.procedures import recovery
from runbook.procedures.recovery import Report
from runbook.reports import RollbackReport
from tasks.retries import stage_task


@stage_task("Recover What a Dead Run Left", retries=3)
def recover(connections: Connections, *, triggered_by: str) -> tuple[Report, ...]:
    """See `runbook.procedures.recovery.recover`; leaves what it did as an artifact."""
    reports = recovery.recover(connections, triggered_by=triggered_by)
    if reports:
        lines: list[str] = []
        for report in reports:
            lines += [f"# {type(report).__name__} of {report.timestamp:%Y-%m-%d %H:%M:%S} UTC: {report.state}"]
            if isinstance(report, RollbackReport) and report.incident_report:
                lines += [f"- incident report: {report.incident_report}"]
            lines += [f"- {finding}" for finding in (*report.findings, *([report.error] if report.error else []))]
        create_markdown_artifact(
            key=f"recovery-{connections.settings.name}",
            markdown="\n".join(lines),
            description=f"What was finished or taken back on {connections.settings.name}, by {triggered_by}",
        )
    return reports
