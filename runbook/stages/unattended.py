"""May a run take the application back without a person? What the deploy of the release has shown decides.

Source: runbook, "Decision Tree"; docs/decisions/0016-who-has-the-traffic-and-nobody-answers.md.
"""

from __future__ import annotations

from collections.abc import Callable

from runbook.connections import Connections
from runbook.errors import RunbookError
from runbook.rules.unattended import evidence_objection
from runbook.stages.rollback import RollbackPlan, RollbackRequest


def objection_to_acting(
    connections: Connections,
    request: RollbackRequest,
    plan_rollback: Callable[[Connections, RollbackRequest], RollbackPlan],
) -> str | None:
    """Return why the application is not taken back without a person; None when it is."""
    try:
        plan = plan_rollback(connections, request)
    except RunbookError as error:
        return str(error)
    has_drifted = plan.traffic is not None and plan.traffic.has_drifted
    return evidence_objection(plan.verdict, has_drifted=has_drifted, unknown=())
