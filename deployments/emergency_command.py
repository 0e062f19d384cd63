"""The command `runbook emergency`: something is wrong, and nobody wants to read a document now.

Exit codes: 0 it was handled, or nothing is wrong; 5 a person has to decide.
"""

from __future__ import annotations

import getpass
import sys
from datetime import UTC, datetime

import click

from deployments.runs import connect


@click.command("emergency")
@click.option("--environment", default="local", show_default=True, help="Name of the environment.")
@click.option("--severity", type=click.Choice(["SEV1", "SEV2", "SEV3", "SEV4"]), help="How bad you say it is.")
@click.option("--reason", default="", help="What you see, in a line; it becomes the title of the incident.")
@click.option("--yes", is_flag=True, help="Consent to the rollback that the runbook proposes.")
@click.option("--look-only", is_flag=True, help="Look, tell and write down; do nothing.")
def emergency(environment: str, severity: str | None, reason: str, yes: bool, look_only: bool) -> None:
    """Assess how bad it is, tell everybody, investigate, and do what the runbook says, or ask.

    Runs in this process; no worker has to work. Without --yes the plan is shown, with what would be lost in rows, and
    the command for it; where the policy allows it for a SEV1, it is done at once.
    """
    from runbook.procedures.emergency import EmergencyRequest, EmergencyStages, render_report
    from runbook.procedures.emergency import emergency as handle
    from runbook.rules.thresholds import Severity
    from runbook.stages.rollback import RollbackRequest

    def ask(_: object, request: RollbackRequest) -> str:
        command = f"runbook deploy:rollback --environment={environment} --{request.scope} --severity={request.severity}"
        return f"to do it: {command} --reason=..."

    who = getpass.getuser()
    level = Severity(severity) if severity else None
    request = EmergencyRequest(who, level, reason, detected_at=datetime.now(UTC), yes=yes, act=not look_only)
    report = handle(connect(environment), request, EmergencyStages(ask=ask))
    click.echo(render_report(report, environment))
    if report.incident is not None and not report.checks:
        sys.exit(5)


COMMANDS = (emergency,)
