"""Planning a rollback, and asking a person for consent."""

from __future__ import annotations

import logging
import threading
from datetime import UTC, datetime, timedelta
from math import ceil
from uuid import UUID, uuid4

from prefect.artifacts import create_markdown_artifact
from prefect.exceptions import FlowPauseTimeout, NotPausedError
from prefect.flow_runs import pause_flow_run, resume_flow_run
from prefect.input import RunInput
from prefect.logging import get_run_logger
from prefect.runtime import flow_run
from pydantic import Field

from runbook.connections import Connections
from runbook.errors import RefusedError, UnansweredError
from runbook.rules.drills import duration_in_words
from runbook.stages import rollback, undo_rollback
from runbook.stages.rollback import ConsentRequest, RollbackPlan, RollbackRequest
from runbook.stages.undo_rollback import UndoPlan, UndoRequest
from tasks.notification import notify
from tasks.retries import stage_task

_log = logging.getLogger(__name__)
_LOOK_EVERY_S = 1
_SPARE_S = 60


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

    Not a task: Prefect pauses flows, not tasks. The input has no default, so an empty answer is not accepted. What the
    policy for an unattended SEV1 will do is announced when the waiting begins. No lock is held meanwhile.

    Raises:
        UnansweredError: nobody answered in time.
        RefusedError: what was typed is not the environment's name.
    """
    if request.yes:
        return f"{request.triggered_by} (yes)"
    name, unattended = connections.settings.name, plan.unattended
    within_s = connections.settings.rollback.consent_within_s
    if unattended is not None and unattended.plan is not None:
        within_s = unattended.after_s
        title = f"rollback {plan.scope} on {name} waits for consent: {request.reason}"
        notify(connections, "warning", title, unattended.announce(datetime.now(UTC)))
    until = datetime.now(UTC) + timedelta(seconds=within_s)
    get_run_logger().warning(
        "Waits for your consent until %s UTC: read the artifact rollback-quote-%s, then press Resume and type %s. "
        "To refuse, press Cancel.",
        f"{until:%H:%M:%S}",
        name,
        name,
    )
    answer = _answer(within_s, name)
    if answer is None:
        raise UnansweredError(f"nobody consented within {duration_in_words(within_s)}; nothing was changed")
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


def _answer(within_s: float, environment: str) -> RollbackConsent | None:
    """Pause the run until somebody answers, and return the answer; None when nobody does in time.

    Prefect fails a run whose pause has timed out, whatever it does afterwards. So the run answers itself in time, with
    a note that nobody else can know, and goes on.
    """
    own, over = uuid4().hex, threading.Event()
    run_input = {"environment": environment, "approver": "nobody", "note": own}
    run_id = UUID(flow_run.get_id())

    def answer_in_time() -> None:
        wait_s = within_s
        while not over.wait(wait_s):
            try:
                resume_flow_run(run_id, run_input=run_input)
            except NotPausedError:
                return
            except Exception as error:  # noqa: BLE001 - the server may be away for a moment; the pause ends later then
                _log.warning("nobody answered, and the run could not go on yet: %s", error)
            wait_s = _LOOK_EVERY_S

    waiting = threading.Thread(target=answer_in_time, daemon=True)
    waiting.start()
    try:
        timeout_s = ceil(within_s) + _SPARE_S
        answer = pause_flow_run(wait_for_input=RollbackConsent, timeout=timeout_s, poll_interval=_LOOK_EVERY_S)
    except FlowPauseTimeout:
        return None
    finally:
        over.set()
        waiting.join()
    return None if answer.note == own else answer
