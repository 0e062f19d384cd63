"""Retention of backups as tasks. Both are safe to repeat: what is gone is gone, the rest is decided anew."""

from __future__ import annotations

from collections.abc import Sequence

from prefect.artifacts import create_table_artifact

from runbook.connections import Connections
from runbook.procedures import environment
from runbook.rules.retention import Decision
from runbook.stages import retention
from runbook.stages.retention import Pruning
from tasks.backup import publish_catalogue
from tasks.retries import stage_task


@stage_task("Plan", retries=2)
def plan_pruning(connections: Connections) -> tuple[Decision, ...]:
    """See `runbook.stages.retention.plan_pruning`; leaves the plan as an artifact."""
    decisions = retention.plan_pruning(connections)
    _publish(connections, decisions)
    return decisions


@stage_task("Prune", retries=2)
def prune_backups(connections: Connections) -> Pruning:
    """See `runbook.stages.retention.prune_backups`; leaves the catalogue as an artifact."""
    pruning = retention.prune_backups(connections)
    publish_catalogue(connections)
    return pruning


give_up_expired = stage_task("Give Up Expired Preparations", retries=2)(environment.give_up_expired)


def _publish(connections: Connections, decisions: Sequence[Decision]) -> None:
    going = [decision.backup for decision in decisions if not decision.keep]
    create_table_artifact(
        key=f"backup-retention-{connections.settings.name}",
        table=[
            {
                "backup": decision.backup.backup_id,
                "decision": "keep" if decision.keep else "remove",
                "reason": decision.reason,
                "state": str(decision.backup.verification),
                "bytes": decision.backup.size_bytes,
            }
            for decision in decisions
        ],
        description=f"{len(going)} of {len(decisions)} backups may go: {sum(one.size_bytes for one in going):,} bytes.",
    )
