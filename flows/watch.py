"""Runbook, "What to Monitor (First 30 Minutes)"."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.states import Completed

from blocks.environment import load_environment
from flows.rollback import roll_back_below
from runbook.procedures import watch as procedure
from tasks import notification, record
from tasks import watch as tasks

STAGES = procedure.WatchStages(
    unnoticed_loss=tasks.unnoticed_loss,
    roll_back=roll_back_below,
    ask=tasks.ask,
    notify=notification.notify,
    show=tasks.show,
    record_watch=tasks.record_watch,
)


@flow(name="watch", flow_run_name="watch-{environment}", retries=0)
def watch(
    environment: str,
    duration_s: float | None = None,
    act: bool = True,
    reason: str = "after a deploy",
    triggered_by: str = "",
) -> State[Any]:
    """Watch the release that has the traffic, and do what the runbook says: roll back, ask a person, keep watching.

    A run that has watched is completed, whatever it saw; how the release is stands in the name of its state.

    Args:
        environment: name of a registered environment, for example `local` or `production`.
        duration_s: seconds since the release got the traffic; as the settings say (thirty minutes) when left empty.
        act: roll back or ask; otherwise only look and tell.
        reason: why; it is recorded.
        triggered_by: who or what asked; the name of this run when left empty.
    """
    duration = timedelta(seconds=duration_s) if duration_s else None
    request = procedure.WatchRequest(reason, triggered_by or record.triggered_by_run(), duration, act)
    report = procedure.watch(load_environment(environment).connect(), request, STAGES)
    name = report.verdict.replace("_", " ").capitalize()
    return Completed(name=name, message="; ".join([report.detail, *report.acted]))
