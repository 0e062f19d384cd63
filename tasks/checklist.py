"""Stage 1 as tasks. Observations: repeated freely, never taken from a cache."""

from __future__ import annotations

from collections.abc import Sequence

from prefect.artifacts import create_table_artifact

from runbook.connections import Connections
from runbook.rules.checklist import Check
from runbook.stages import checklist
from runbook.stages.checklist import Checklist, ReleasePlan
from tasks.migration import publish_plan
from tasks.retries import stage_task


@stage_task("Stage 1: Pre-Deployment Validation")
def plan_release(connections: Connections, git_ref: str) -> tuple[ReleasePlan, tuple[str, ...]]:
    """See `runbook.stages.checklist.plan_release`; leaves the list of pending migrations as an artifact."""
    plan, warnings = checklist.plan_release(connections, git_ref)
    publish_plan(connections, plan.migrations)
    return plan, warnings


@stage_task("Pre-Deployment Checklist", retries=2)
def run_checklist(connections: Connections, git_ref: str, *, strict: bool) -> Checklist:
    """See `runbook.stages.checklist.run_checklist`; leaves the answers and the manual items as artifacts."""
    answers = checklist.run_checklist(connections, git_ref, strict=strict)
    create_table_artifact(
        key=f"checklist-{connections.settings.name}",
        table=_table(answers.checks),
        description=f"Automated checks for {answers.version} ({answers.git_sha[:12]}), strict={strict}.",
    )
    create_table_artifact(
        key=f"manual-verification-{connections.settings.name}",
        table=_table(answers.manual),
        description=f"Manual verification of {answers.version} ({answers.git_sha[:12]}): by evidence, or whose word.",
    )
    return answers


def _table(checks: Sequence[Check]) -> list[dict[str, str]]:
    return [
        {"check": check.name, "outcome": str(check.outcome), "detail": check.detail, "action": check.action}
        for check in checks
    ]
