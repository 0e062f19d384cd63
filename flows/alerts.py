"""Runbook, "Monitoring and Alerts": what was measured is held against the alert thresholds, and people are told."""

from __future__ import annotations

from typing import Any

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.states import Completed

from blocks.environment import load_environment
from tasks.alerts import evaluate


@flow(name="alerts", flow_run_name="alerts-{environment}", retries=0)
def alerts(environment: str) -> State[Any]:
    """Tell the channels of alerts that fire or are resolved. A run that has looked is completed, whatever fires.

    Args:
        environment: name of a registered environment, for example `local` or `production`.
    """
    found = evaluate(load_environment(environment).connect())
    firing = ", ".join(f"{rule.name} ({state.value:.4g} {rule.unit})" for rule, state in found.firing)
    message = "; ".join(
        [
            firing or "nothing fires",
            *([f"no alerts until {found.silence.end:%Y-%m-%d %H:%M} UTC"] if found.silence else []),
            *([f"not told: {', '.join(found.undelivered)}"] if found.undelivered else []),
        ]
    )
    return Completed(name="Firing" if firing else "Quiet", message=message)
