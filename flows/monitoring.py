"""Runbook, "Monitoring and Alerts": one look at application, database and infrastructure, kept in the history."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.states import Completed

from blocks.environment import load_environment
from runbook.rules.health_findings import Health, most_urgent_first
from tasks.monitoring import measure, record


@flow(name="monitoring", flow_run_name="monitoring-{environment}", retries=0)
def monitoring(environment: str, window_s: float | None = None) -> State[Any]:
    """Measure an environment and keep what was measured. Changes nothing else.

    A run that has looked is completed, whatever it saw; how the environment is stands in the name of its state.

    Args:
        environment: name of a registered environment, for example `local` or `production`.
        window_s: seconds of requests and log lines to look back on; as the settings say when left empty.
    """
    connections = load_environment(environment).connect()
    found = measure(connections, window=timedelta(seconds=window_s) if window_s else None)
    record(connections, found)
    urgent = [one for one in most_urgent_first(found.findings) if one.health is not Health.FINE]
    message = "; ".join(f"{one.name}: {one.detail}" for one in urgent) or "all that was looked at is fine"
    return Completed(name=str(found.health).replace("_", " ").capitalize(), message=message)
