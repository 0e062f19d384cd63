"""Monitoring as tasks: observations, never from a cache; what was measured is recorded once."""

from __future__ import annotations

from datetime import timedelta

from prefect.artifacts import create_table_artifact

from runbook.connections import Connections
from runbook.rules.health_findings import most_urgent_first
from runbook.rules.samples import TOTAL
from runbook.stages import monitoring
from runbook.stages.monitoring import Measurement
from tasks.retries import stage_task


@stage_task("Measure")
def measure(connections: Connections, *, window: timedelta | None = None) -> Measurement:
    """See `runbook.stages.monitoring.measure`; leaves the findings and the metrics as tables."""
    found = monitoring.measure(connections, window=window)
    when = f"{found.at:%Y-%m-%d %H:%M:%S} UTC"
    create_table_artifact(
        key=f"health-{found.environment}",
        table=[
            {"what": one.name, "health": str(one.health), "detail": one.detail, "action": one.action}
            for one in most_urgent_first(found.findings)
        ],
        description=f"{found.environment} at {when}: {found.health}. Release {found.release}.",
    )
    create_table_artifact(
        key=f"metrics-{found.environment}",
        table=[
            {"metric": metric, "value": one.value, "unit": one.unit} | _normal(found, metric)
            for metric, one in found.samples.items()
            if one.unit != TOTAL
        ],
        description=f"Metrics of {found.environment} at {when}, beside what is normal then.",
    )
    return found


@stage_task("Record Samples", retries=2)
def record(connections: Connections, measurement: Measurement) -> None:
    """See `runbook.stages.monitoring.record`; adding the same samples twice changes no normal."""
    monitoring.record(connections, measurement)


def _normal(measurement: Measurement, metric: str) -> dict[str, object]:
    known = measurement.normals.get(metric)
    return {"normal": known.median if known else None, "rests on": known.render() if known else ""}
