"""How well the team delivers: the four DORA figures, incidents, drills, durations of deploys; weekly by schedule."""

from __future__ import annotations

from datetime import timedelta

from prefect import flow

from blocks.environment import load_environment
from runbook.rules.delivery import DeliveryReport
from tasks import delivery, notification


@flow(name="delivery-report", flow_run_name="delivery-report-{environment}", retries=0)
def delivery_report(environment: str, days: int = 28, tell: bool = True) -> DeliveryReport:
    """Report deployment frequency, lead time, change fail rate and recovery time, MTTA, MTTR and restore drills.

    Args:
        environment: name of a registered environment, for example `local` or `production`.
        days: how far to look back.
        tell: send it to the channels, too.
    """
    connections = load_environment(environment).connect()
    report = delivery.report_delivery(connections, timedelta(days=days))
    if tell:
        notification.notify(connections, "info", f"delivery of {environment}", "\n".join(report.lines()))
    return report
