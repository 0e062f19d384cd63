"""Automations that belong to no single deployment; those that start one are its triggers in prefect.yaml."""

from __future__ import annotations

from datetime import timedelta

from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import StateType
from prefect.events.actions import ActionTypes, ChangeFlowRunState
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
from prefect.events.schemas.events import ResourceSpecification

SILENT_FOR = timedelta(seconds=90)
"""How long a run may give no sign of life; three times what `deployments.local` asks runs for."""
_ENDS = ("Completed", "Failed", "Crashed", "Cancelled", "Paused", "Suspended")


def crash_silent_runs() -> AutomationCore:
    """Return the automation that says of a run which gives no sign of life any more that it crashed.

    Its process was killed together with its worker: nobody says so, its state would stay Running, and who watches it
    would wait for ever. As a crashed run it is for `recover`, like any other.

    Source: https://docs.prefect.io/v3/advanced/detect-zombie-flows
    """
    message = f"no sign of life for {SILENT_FOR.total_seconds():.0f} s"
    actions: list[ActionTypes] = [
        ChangeFlowRunState(name="Crashed", state=StateType.CRASHED, message=message, force=False)
    ]
    return AutomationCore(
        name="a run that gives no sign of life has crashed",
        description="Its process was killed together with its worker.",
        trigger=EventTrigger(
            posture=Posture.Proactive,
            after={"prefect.flow-run.heartbeat"},
            expect={"prefect.flow-run.heartbeat", *(f"prefect.flow-run.{end}" for end in _ENDS)},
            match=ResourceSpecification({"prefect.resource.id": "prefect.flow-run.*"}),
            for_each={"prefect.resource.id"},
            threshold=1,
            within=SILENT_FOR,
        ),
        actions=actions,
    )


def register_automation(automation: AutomationCore) -> None:
    """Create an automation, or bring the one of this name up to date.

    One that is up to date is left alone: an update makes the server forget which runs it has heard of.
    """
    with get_client(sync_client=True) as client:
        known = client.read_automations_by_name(automation.name)
        if not known:
            client.create_automation(automation)
        elif AutomationCore.model_validate(known[0].model_dump(include=set(AutomationCore.model_fields))) != automation:
            client.update_automation(known[0].id, automation)
