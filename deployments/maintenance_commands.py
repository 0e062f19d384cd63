"""The commands `runbook maintenance:...`: the windows, and the queue of approved changes."""

from __future__ import annotations

import getpass
import json
import sys
from datetime import UTC, datetime
from pathlib import Path

import click

from deployments.runs import connect, run_here

_KINDS = ("deploy", "rollback", "drill", "retention", "vacuum", "reindex")
_environment = click.option("--environment", default="local", show_default=True, help="Name of the environment.")


@click.command("maintenance:next")
@_environment
def next_(environment: str) -> None:
    """Show the window that is open or comes next, and the freeze that is on."""
    from runbook.rules.maintenance import freeze_at, next_window

    planned, now = connect(environment).settings.maintenance, datetime.now(UTC)
    window = next_window(planned.windows, now)
    if window is None:
        click.echo("no maintenance window is in the settings (`maintenance.windows`)")
    else:
        state = "open" if window.covers(now) else "next"
        click.echo(f"{state}: {window.start:%Y-%m-%d %H:%M} to {window.end:%Y-%m-%d %H:%M} UTC, {window.reason}")
    if freeze := freeze_at(planned.freezes, now):
        click.echo(f"freeze until {freeze.end.astimezone(UTC):%Y-%m-%d %H:%M} UTC: {freeze.reason}")


@click.command("maintenance:list")
@_environment
@click.option("--all", "with_ended", is_flag=True, help="Also what is done, has failed or was cancelled.")
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def list_(environment: str, with_ended: bool, as_json: bool) -> None:
    """List the changes that wait for a window, in the order in which they are made, and how long each may take."""
    from runbook.procedures.maintenance import expected_s, records_of
    from runbook.rules.drills import duration_in_words

    queue = records_of(connect(environment)).queue()
    shown = [change for change in queue if with_ended or change.is_due]
    if as_json:
        click.echo(json.dumps([change.model_dump(mode="json") for change in shown], indent=2))
        return
    for change in shown:
        takes = f", about {duration_in_words(expected_s(queue, change.kind))}" if change.is_due else ""
        click.echo(f"{change.id}  {change.render()}{takes}")
    if not shown:
        click.echo("nothing waits")


@click.command("maintenance:schedule")
@click.argument("kind", type=click.Choice(_KINDS))
@_environment
@click.option("--reason", required=True, help="Why.")
@click.option(
    "--set",
    "given",
    multiple=True,
    metavar="NAME=VALUE",
    help="deploy: git_ref; rollback: scope, backup_id, discard_writes; drill: backup_id; vacuum, reindex: table.",
)
def schedule(kind: str, environment: str, reason: str, given: tuple[str, ...]) -> None:
    """Approve a change for the next window, in your name."""
    from runbook.errors import InvalidInputError
    from runbook.procedures.maintenance import schedule as approve
    from runbook.rules.maintenance_queue import ChangeKind

    parameters: dict[str, str] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals:
            raise InvalidInputError("--set", text, "NAME=VALUE", "Such as git_ref=v2.")
        parameters[name] = value
    change = approve(connect(environment), ChangeKind(kind), parameters, reason=reason, by=getpass.getuser())
    click.echo(f"{change.id}  {change.render()}")


@click.command("maintenance:cancel")
@click.argument("change")
@_environment
@click.option("--reason", required=True, help="Why.")
def cancel(change: str, environment: str, reason: str) -> None:
    """Take a change out of the queue."""
    from runbook.procedures.maintenance import cancel as withdraw

    click.echo(withdraw(connect(environment), change, reason=reason, by=getpass.getuser()).render())


@click.command("maintenance:run")
@_environment
def run(environment: str) -> None:
    """Work off the queue now, if a window is open; the deployment `maintenance` does it on a schedule."""
    state = run_here("maintenance", environment=environment, return_state=True)
    click.echo(f"{state.name}: {state.message}")
    if not state.is_completed():
        sys.exit(1)


@click.command("maintenance:calendar")
@_environment
@click.option("--read", "path", type=click.Path(path_type=Path, exists=True, dir_okay=False), help="An .ics file.")
def calendar(environment: str, path: Path | None) -> None:
    """Print windows and freezes as iCalendar; with --read, those of a file as TOML for the settings."""
    from runbook.rules.calendar_file import from_ical, to_ical

    if path is None:
        planned = connect(environment).settings.maintenance
        click.echo(to_ical(environment, planned.windows, planned.freezes, datetime.now(UTC)), nl=False)
        return
    windows, freezes = from_ical(path.read_text(encoding="utf-8", errors="replace"), str(path))
    for table, entries in (("windows", windows), ("freezes", freezes)):
        for entry in entries:
            click.echo(f"[[maintenance.{table}]]")
            for name, value in entry.model_dump(mode="json", exclude_defaults=True).items():
                click.echo(f"{name} = {json.dumps(value, ensure_ascii=False)}")
            click.echo("")


COMMANDS = (next_, list_, schedule, cancel, run, calendar)
