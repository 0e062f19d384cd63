"""Retention of the backups that stage 3 makes."""

from __future__ import annotations

from prefect import flow

from blocks.environment import load_environment
from runbook.errors import StageError
from tasks import record
from tasks.retention import give_up_expired, plan_pruning, prune_backups


@flow(name="backup-retention", flow_run_name="backup-retention-{environment}", retries=0)
def backup_retention(environment: str, dry_run: bool = True) -> tuple[str, ...]:
    """Remove the backups that the retention does not keep; the last verified one always stays.

    Also gives up what was kept ready for the rollback of a deploy for too long.

    Args:
        environment: name of a registered environment, for example `local` or `production`.
        dry_run: only show the plan, as the artifact `backup-retention`.
    """
    connections = load_environment(environment).connect()
    plan_pruning(connections)
    if dry_run:
        return ()
    give_up_expired(connections, triggered_by=record.triggered_by_run())
    pruning = prune_backups(connections)
    if pruning.failed:
        raise StageError("not all could be removed: " + "; ".join(pruning.failed))
    return pruning.removed
