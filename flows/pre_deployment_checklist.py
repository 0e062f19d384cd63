"""Runbook, "Pre-Deployment Checklist"."""

from __future__ import annotations

from prefect import flow

from blocks.environment import load_environment
from runbook.stages.checklist import Checklist, ChecklistFailedError
from tasks.checklist import run_checklist


@flow(name="pre-deployment-checklist", flow_run_name="checklist-{environment}-{git_ref}")
def pre_deployment_checklist(environment: str, git_ref: str, strict: bool = False) -> Checklist:
    """Answer every check of the runbook for a commit, the manual ones too, without changing anything.

    Args:
        environment: name of a registered environment, for example `local` or `production`.
        git_ref: branch, tag or commit that is about to be released.
        strict: warnings refuse, too.
    """
    connections = load_environment(environment).connect()
    answers = run_checklist(connections, git_ref, strict=strict or connections.settings.strict)
    if answers.refusals:
        raise ChecklistFailedError(answers.refusals, answers)
    return answers
