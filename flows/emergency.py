"""Runbook, "Emergency Procedures"."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.states import Completed

from blocks.environment import load_environment
from flows.rollback import roll_back_below
from runbook.procedures import emergency as procedure
from runbook.rules.thresholds import Severity
from tasks import emergency as tasks
from tasks import incidents, record, watch
from tasks import rollback as rollback_tasks

STAGES = procedure.EmergencyStages(
    # 1. Assess Severity
    look=tasks.look,
    # 2. Initiate Response, 3. Communicate
    open_or_join=incidents.open_or_join,
    investigate=tasks.investigate,
    # 4. Execute
    plan_rollback=rollback_tasks.plan_rollback,
    roll_back=roll_back_below,
    ask=watch.ask,
    verify=tasks.verify,
    # 5. Document
    say=incidents.say,
)


@flow(name="emergency", flow_run_name="emergency-{environment}", retries=0)
def emergency(
    environment: str,
    severity: Severity | None = None,
    reason: str = "",
    alert: str = "",
    detected_at: datetime | None = None,
    yes: bool = False,
    act: bool = True,
    triggered_by: str = "",
) -> State[Any]:
    """Something is wrong: assess how bad, tell everybody, investigate, and do what the runbook says, or ask.

    The run is completed when it has done what it may; how bad it is stands in the name of its state.

    Args:
        environment: name of a registered environment, for example `local` or `production`.
        severity: how bad you say it is; what is measured counts when it is worse.
        reason: what you see, in a line; it becomes the title of the incident.
        alert: the alert that started this; two of them make one incident.
        detected_at: when it was noticed; now when left out.
        yes: consent to the rollback that the runbook proposes; otherwise it is done only where the policy allows it,
            and somebody is asked in the UI.
        act: do something; otherwise only look, tell and write down.
        triggered_by: who or what asked; the name of this run when left empty.
    """
    connections = load_environment(environment).connect()
    request = procedure.EmergencyRequest(
        triggered_by=triggered_by or record.triggered_by_run(),
        severity=severity,
        reason=reason,
        key=alert,
        detected_at=detected_at or datetime.now(UTC),
        yes=yes,
        act=act,
    )
    report = procedure.emergency(connections, request, STAGES)
    tasks.show(connections, report)
    if report.incident is None:
        return Completed(name="Nothing Wrong", message="; ".join(report.classified.why))
    incidents.show(connections, report.incident.id)
    said = [report.incident.id, *report.classified.why, *report.done]
    return Completed(name=str(report.classified.severity), message="; ".join(said))
