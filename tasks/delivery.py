"""The figures of delivery as a task; a table, the text and a plot are artifacts."""

from __future__ import annotations

from datetime import timedelta

from prefect.artifacts import create_image_artifact, create_markdown_artifact, create_table_artifact

from runbook.connections import Connections
from runbook.delivery_plot import deploy_durations
from runbook.figures import as_data_uri
from runbook.rules.delivery import DeliveryReport
from runbook.stages import delivery
from tasks.retries import stage_task


@stage_task("Delivery Report", retries=2)
def report_delivery(connections: Connections, window: timedelta) -> DeliveryReport:
    """See `runbook.stages.delivery.report_delivery`; leaves `delivery-*`, `deploy-durations-*` as artifacts."""
    report = delivery.report_delivery(connections, window)
    name, text = connections.settings.name, "\n".join(report.lines())
    create_markdown_artifact(key=f"delivery-{name}", markdown=f"```text\n{text}\n```\n", description=report.lines()[0])
    create_table_artifact(
        key=f"deploy-stages-{name}",
        table=[one.model_dump() for one in report.stages],
        description=f"How long each stage of a deploy of {name} takes, in seconds.",
    )
    create_image_artifact(
        key=f"deploy-durations-{name}",
        image_url=as_data_uri(deploy_durations(report)),
        description=f"How long deploys of {name} take, stage by stage.",
    )
    return report
