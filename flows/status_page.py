"""Runbook, "Incident Response Process" ("Update status page"): the static page, written anew on a schedule."""

from __future__ import annotations

from prefect import flow

from blocks.environment import load_environment
from tasks.incidents import write_status_site


@flow(name="status-page", flow_run_name="status-page-{environment}", retries=0)
def status_page(environment: str) -> str:
    """Write the status page: components, incidents that were published, maintenance, uptime. Returns where.

    Args:
        environment: name of a registered environment that has a status site.
    """
    return write_status_site(load_environment(environment).connect())
