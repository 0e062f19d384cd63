"""What a run left that died is finished or taken back. Started by an automation, by the next run, or by hand."""

from __future__ import annotations

from prefect import flow

from blocks.environment import load_environment
from runbook.procedures.recovery import Report
from tasks import record, recovery


@flow(name="recover", flow_run_name="recover-{environment}", retries=0)
def recover(environment: str, triggered_by: str = "") -> tuple[Report, ...]:
    """Finish or take back what runs left that were killed. Does nothing while the run that holds the lock lives.

    Args:
        environment: name of a registered environment, for example `local` or `production`.
        triggered_by: who or what asked; the name of this run when left empty.
    """
    connections = load_environment(environment).connect()
    return recovery.recover(connections, triggered_by=triggered_by or record.triggered_by_run())
