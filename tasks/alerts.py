"""Alerts as tasks; each alert is an event too, for automations to act on."""

from __future__ import annotations

from prefect.artifacts import create_table_artifact
from prefect.events import emit_event

from runbook.connections import Connections
from runbook.rules.alerting import Notice
from runbook.stages import alerts
from runbook.stages.alerts import Evaluation
from tasks.retries import stage_task


@stage_task("Evaluate Alerts")
def evaluate(connections: Connections) -> Evaluation:
    """See `runbook.stages.alerts.evaluate`; emits an event for each alert, and leaves what fires as a table.

    Not repeated: who was told must not be told again; the next run looks at what this one has not.
    """
    found = alerts.evaluate(connections)
    for notice in found.notices:
        _emit(found.environment, notice)
    create_table_artifact(
        key=f"alerts-{found.environment}",
        table=[
            {
                "alert": rule.name,
                "level": str(rule.level),
                "since (UTC)": f"{state.since:%Y-%m-%d %H:%M:%S}" if state.since else "",
                "value": state.value,
                "worst": state.worst,
                "threshold": rule.condition,
                "source": rule.source,
            }
            for rule, state in found.firing
        ],
        description=f"Alerts that fire on {found.environment}, by what was measured at {found.measured_at}.",
    )
    return found


def _emit(environment: str, notice: Notice) -> None:
    """Emit `runbook.alert.firing`, `.still_firing`, `.resolved`, or `runbook.maintenance.silence_begins`, `..._ends`.

    A server that does not answer stops nothing: Prefect sends events in the background.
    """
    rule = notice.rule
    if rule is None:
        resource = {"prefect.resource.id": f"runbook.maintenance.{environment}", "runbook.environment": environment}
        emit_event(f"runbook.maintenance.{notice.kind}", resource, payload={"text": notice.text})
        return
    resource = {
        "prefect.resource.id": f"runbook.alert.{environment}.{rule.name}",
        "prefect.resource.name": rule.name,
        "runbook.environment": environment,
        "runbook.level": str(rule.level),
        "runbook.group": str(rule.group),
        "runbook.metric": rule.metric,
    }
    payload = {"text": notice.text, "value": notice.value, "worst": notice.worst, "unit": rule.unit}
    emit_event(f"runbook.alert.{notice.kind}", resource, occurred=notice.at, payload=payload)
