"""Planning a rollback, and asking a person for consent."""

from __future__ import annotations

from prefect.artifacts import create_markdown_artifact
from prefect.exceptions import FlowPauseTimeout
from prefect.flow_runs import pause_flow_run
from prefect.input import RunInput
from pydantic import Field

from runbook.connections import Connections
from runbook.errors import RefusedError
from runbook.stages import rollback, undo_rollback
from runbook.stages.rollback import ConsentRequest, RollbackPlan, RollbackRequest
from runbook.stages.undo_rollback import UndoPlan, UndoRequest
from tasks.retries import stage_task

_CONSENT_WITHIN_S = 900
_LOOK_EVERY_S = 1


class RollbackConsent(RunInput):
    """Consent to the rollback shown in the artifact `rollback-quote`."""

    environment: str = Field(description="Type the name of the environment to consent to the plan shown.")
    approver: str = Field(description="Your name; it is recorded.", min_length=1)
    note: str = Field(description="Why you agree, for those who read the report.", min_length=1)


@stage_task("Plan", retries=2)
def plan_rollback(connections: Connections, request: RollbackRequest) -> RollbackPlan:
    """See `runbook.stages.rollback.plan_rollback`; leaves the plan, with its loss in rows, as an artifact."""
    plan = rollback.plan_rollback(connections, request)
    _show(connections, plan, request)
    return plan


@stage_task("Plan", retries=2)
def plan_undo(connections: Connections, request: UndoRequest) -> UndoPlan:
    """See `runbook.stages.undo_rollback.plan_undo`; leaves the plan as an artifact."""
    plan = undo_rollback.plan_undo(connections, request)
    _show(connections, plan, request)
    return plan


def ask_consent(connections: Connections, plan: RollbackPlan, request: ConsentRequest) -> str:
    """Return who consented, and the note: whoever passed `yes`, else a person who resumes the paused run in the UI.

    Not a task: Prefect pauses flows, not tasks. The input has no default, so an empty answer is not accepted.

    Raises:
        RefusedError: nobody answered in time, or what was typed is not the environment's name.
    """
    if request.yes:
        return f"{request.triggered_by} (yes)"
    name = connections.settings.name
    try:
        answer = pause_flow_run(wait_for_input=RollbackConsent, timeout=_CONSENT_WITHIN_S, poll_interval=_LOOK_EVERY_S)
    except FlowPauseTimeout as error:
        raise RefusedError(f"nobody consented within {_CONSENT_WITHIN_S // 60} minutes; nothing was changed") from error
    if answer.environment != name:
        raise RefusedError(
            f"{answer.approver} typed {answer.environment!r} instead of {name!r} to {plan.scope}; nothing was changed"
        )
    return f"{answer.approver}: {answer.note}"


def _show(connections: Connections, plan: RollbackPlan, request: ConsentRequest) -> None:
    create_markdown_artifact(
        key=f"rollback-quote-{connections.settings.name}",
        markdown=plan.render(),
        description=f"What this rollback would do. Reason: {request.reason}",
    )
