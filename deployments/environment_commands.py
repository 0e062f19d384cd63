"""The commands about an environment's lock and hold: who changes it, who may, and what a dead run left."""

from __future__ import annotations

import getpass
import sys

import click

from deployments.runs import connect, reach_prefect, run_here

_environment = click.option("--environment", default="local", show_default=True, help="Name of the environment.")
_reason = click.option("--reason", required=True, help="Why; it is recorded.")


@click.command("deploy:status")
@_environment
def status(environment: str) -> None:
    """Show the active release, who changes the environment, what holds it, what is kept, and how runs ended."""
    from runbook.procedures.status import status_lines

    click.echo("\n".join(status_lines(connect(environment))))


@click.command("environment:check")
@_environment
def check(environment: str) -> None:
    """Ask everything that an environment is made of whether it can be used: keys, ids, permissions, versions."""
    reach_prefect()
    from blocks.environment import load_environment
    from runbook.rules.checklist import Outcome

    checks = load_environment(environment).check()
    for found in checks:
        click.echo(f"{found.outcome:<14} {found.name:<20} {found.detail}")
    if any(found.outcome is not Outcome.PASSED for found in checks):
        sys.exit(1)


@click.command("notifications")
@_environment
@click.option("--deliver", is_flag=True, help="Send what waits now, not with the next message.")
@click.option("--drop", is_flag=True, help="Give up what waits.")
def notifications(environment: str, deliver: bool, drop: bool) -> None:
    """Show the messages that a channel has not taken yet, with the reason; each waits for up to a week."""
    from runbook.stages.notification import deliver as send
    from runbook.stages.notification import records_of

    connections = connect(environment)
    troubles = send(connections) if deliver else {}
    records = records_of(connections)
    waiting = records.waiting()
    for one in waiting.values():
        click.echo(f"{one.said_at:%Y-%m-%d %H:%M:%S} UTC  {one.channel}  {one.level}  {one.title}: {one.trouble}")
    for channel, trouble in troubles.items():
        click.echo(f"{channel} still does not take them: {trouble}", err=True)
    if drop:
        records.remove(waiting)
        click.echo(f"{len(waiting)} messages are given up")
    elif not waiting:
        click.echo("every message was delivered")
    if troubles:
        sys.exit(1)


@click.command("deploy:unlock")
@_environment
@_reason
def unlock(environment: str, reason: str) -> None:
    """Open the lock by force. Whoever holds it stops before its next effect; what it left is for `recover`."""
    from runbook.procedures.environment import force_unlock

    state = force_unlock(connect(environment), reason=reason, by=getpass.getuser())
    click.echo(f"{environment} is unlocked; it was held by {state.owner.render()}")


@click.command("deploy:release")
@_environment
@_reason
def release(environment: str, reason: str) -> None:
    """Let an environment be deployed to again that a rollback holds."""
    from runbook.procedures.environment import release_hold

    hold = release_hold(connect(environment), reason=reason, by=getpass.getuser())
    click.echo(f"{environment} is released; it was held {hold.render()}")


@click.command("deploy:confirm")
@_environment
def confirm(environment: str) -> None:
    """Say that the last deploy stays: give up what is kept ready for its rollback."""
    from runbook.procedures.environment import confirm_deploy

    ended = confirm_deploy(connect(environment), by=getpass.getuser())
    click.echo(f"{environment}: not kept ready any more: {', '.join(ended) or 'nothing was'}")


@click.command("recover")
@_environment
def recover(environment: str) -> None:
    """Finish or take back what runs left that were killed."""
    reports = run_here("recover", environment=environment, triggered_by=getpass.getuser())
    if not reports:
        click.echo(f"{environment}: there is nothing to recover")
    for report in reports:
        what = "finished" if report.success else "taken back"
        click.echo(f"{report.timestamp:%Y-%m-%d %H:%M:%S} UTC  {what}, {report.state}  {report.reason}")
        for finding in (*report.findings, *([report.error] if report.error else [])):
            click.echo(f"  {finding}")


COMMANDS = (check, status, notifications, unlock, release, confirm, recover)
