"""An emergency as tasks; the evidence, the quote and what was done are an artifact."""

from __future__ import annotations

from prefect.artifacts import create_markdown_artifact

from runbook.connections import Connections
from runbook.procedures import investigation
from runbook.procedures.emergency import EmergencyReport, render_report
from runbook.stages import verification
from tasks.retries import stage_task

look = stage_task("Emergency: Assess")(investigation.look)
investigate = stage_task("Emergency: Investigate")(investigation.investigate)
verify = stage_task("Emergency: Verify")(verification.verify)


@stage_task("Emergency: Document")
def show(connections: Connections, report: EmergencyReport) -> None:
    """Leave what was found and done as an artifact, `emergency-*`."""
    name = connections.settings.name
    create_markdown_artifact(
        key=f"emergency-{name}",
        markdown=f"```text\n{render_report(report, name).replace('```', '` ` `')}\n```\n",
        description=f"{report.classified.severity} on {name}: {report.classified.why[0]}",
    )
