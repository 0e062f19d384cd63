"""The commands `runbook incident:...`: open an incident, say how it goes on, answer for it, resolve it, look at it."""

from __future__ import annotations

import getpass
import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import click

from deployments.runs import connect

if TYPE_CHECKING:
    from runbook.connections import Connections
    from runbook.rules.incidents import EventKind, Incident, IncidentEvent

_SEVERITIES = ("SEV1", "SEV2", "SEV3", "SEV4")
_STATUSES = ("Investigating", "Identified", "Mitigating")
_environment = click.option("--environment", default="local", show_default=True, help="Name of the environment.")
_incident = click.argument("incident", required=False, default="")


@click.command("incident:open")
@_environment
@click.option("--title", required=True, help="What is wrong, in a line.")
@click.option("--severity", type=click.Choice(_SEVERITIES), required=True)
@click.option("--began", help="When it began: 10m (ago), or a time such as 2025-01-04T12:00Z. Now when left out.")
@click.option("--impact", default="", help="What users notice.")
def open_(environment: str, title: str, severity: str, began: str | None, impact: str) -> None:
    """Open an incident: everybody is told, and the escalation path begins."""
    from runbook.rules.incidents import EventKind
    from runbook.rules.thresholds import Severity
    from runbook.stages.incidents import Opening, open_or_join, say

    connections = connect(environment)
    opening = Opening(title, Severity(severity), getpass.getuser(), began=_time(began) if began else None)
    incident = open_or_join(connections, opening)
    if impact:
        incident = say(connections, incident.id, _event(EventKind.IMPACT, impact))
    _show(incident)


@click.command("incident:note")
@_environment
@_incident
@click.option("--text", required=True, help="What was seen or tried; it is in the timeline, and nobody is called.")
def note(environment: str, incident: str, text: str) -> None:
    """Add a note to the timeline."""
    from runbook.rules.incidents import EventKind
    from runbook.stages.incidents import say

    connections = connect(environment)
    say(connections, _chosen(connections, incident), _event(EventKind.NOTE, text), aloud=False)


@click.command("incident:update")
@_environment
@_incident
@click.option("--severity", type=click.Choice(_SEVERITIES), help="How bad it is now.")
@click.option("--status", type=click.Choice(_STATUSES), help="How far it is; resolved: `incident:resolve`.")
@click.option("--impact", help="What users notice.")
@click.option("--current", help="What is happening now.")
@click.option("--action", help="What was done. It is added to what was done before.")
@click.option("--next-steps", help="What is planned; several with a semicolon between.")
@click.option("--eta", help="When it is expected to be over.")
@click.option("--cause", help="Why it happened; each one answers the next why of the post-mortem.")
@click.option("--lesson", help="What was learned, for the post-mortem.")
def update(environment: str, incident: str, severity: str | None, status: str | None, **said: str | None) -> None:
    """Say how an incident goes on: the message in the channels is changed, and what is new goes into its thread."""
    from runbook.rules.incidents import EventKind, IncidentStatus
    from runbook.rules.thresholds import Severity
    from runbook.stages.incidents import say

    kinds = {"current": EventKind.CURRENT, "next_steps": EventKind.NEXT_STEPS, "eta": EventKind.ETA}
    events = [_event(kinds.get(name) or EventKind(name), text) for name, text in said.items() if text]
    if severity:
        events.insert(0, _event(EventKind.SEVERITY, severity=Severity(severity)))
    if status:
        events.insert(0, _event(EventKind.STATUS, status=IncidentStatus(status)))
    if not events:
        raise click.UsageError("nothing to say: give --status, --severity, --impact, --current, --action, ...")
    connections = connect(environment)
    _show(say(connections, _chosen(connections, incident), *events))


@click.command("incident:ack")
@_environment
@_incident
@click.option("--note", default="", help="What you are about to do.")
def ack(environment: str, incident: str, note: str) -> None:
    """Say that you work on it: nobody else is called for want of an answer."""
    from runbook.stages.incidents import acknowledge

    connections = connect(environment)
    _show(acknowledge(connections, _chosen(connections, incident), by=getpass.getuser(), note=note))


@click.command("incident:resolve")
@_environment
@_incident
@click.option("--note", required=True, help="How it was mended, and how you know.")
def resolve(environment: str, incident: str, note: str) -> None:
    """Say that it is over. The draft of the post-mortem is written to logs/."""
    from runbook.stages.incidents import resolve as end
    from runbook.stages.incidents import write_post_mortem

    connections = connect(environment)
    ended = end(connections, _chosen(connections, incident), by=getpass.getuser(), note=note)
    _show(ended)
    click.echo(f"post-mortem, due within 48 hours: {write_post_mortem(connections, ended.id)}")


@click.command("incident:show")
@_environment
@_incident
@click.option(
    "--format",
    "form",
    type=click.Choice(["text", "markdown", "public", "timeline", "post-mortem", "json"]),
    default="text",
    show_default=True,
    help="As the template, for GitHub, for users, line by line, as the post-mortem, or all events.",
)
def show(environment: str, incident: str, form: str) -> None:
    """Show one incident, the open one when none is named; without an open one, list them."""
    from runbook.rules.incident_messages import draft_public, render_markdown
    from runbook.stages.incidents import post_mortem_of, records_of, timeline_of

    connections = connect(environment)
    known = records_of(connections).incidents()
    if not incident and sum(one.is_open for one in known) != 1:
        _list(known)
        return
    found = records_of(connections).incident(_chosen(connections, incident))
    if form == "json":
        click.echo(json.dumps(found.model_dump(mode="json", exclude_defaults=True), indent=2))
    elif form == "timeline":
        click.echo("\n".join(entry.render() for entry in timeline_of(connections, found)))
    elif form == "post-mortem":
        click.echo(post_mortem_of(connections, found))
    elif form == "public":
        click.echo(draft_public(found, connections.settings.incidents.components))
    elif form == "markdown":
        click.echo(render_markdown(found, datetime.now(UTC)))
    else:
        _show(found)


@click.command("incident:publish")
@_environment
@_incident
@click.option("--text", default="", help="What users read; the draft when left out (`incident:show --format=public`).")
@click.option("--yes", is_flag=True, help="Approve it without being shown it.")
def publish(environment: str, incident: str, text: str, yes: bool) -> None:
    """Tell users on the status page. Whoever approves the text publishes it."""
    from runbook.rules.incident_messages import draft_public
    from runbook.stages.incidents import publish as tell_users
    from runbook.stages.incidents import records_of
    from runbook.stages.status_site import write_status_site

    connections = connect(environment)
    chosen = _chosen(connections, incident)
    said = text or draft_public(records_of(connections).incident(chosen), connections.settings.incidents.components)
    if not yes:
        click.echo(f"Users will read:\n  {said}")
        click.confirm("Publish it?", abort=True)
    tell_users(connections, chosen, text=said, by=getpass.getuser())
    if connections.status_site is not None:
        click.echo(write_status_site(connections))
    click.echo("published")


@click.command("incident:action-item")
@_environment
@_incident
@click.option("--text", default="", help="What is to be done so that it does not happen again.")
@click.option("--owner", default="", help="Who does it.")
@click.option("--due", default="7d", show_default=True, help="Until when: days from now (7d), or a time.")
@click.option("--done", help="The key of an item that is done, as `incident:show --format=post-mortem` says it.")
def action_item(environment: str, incident: str, text: str, owner: str, due: str, done: str | None) -> None:
    """Add an action item to an incident, or say that one is done. Open ones are reminded of once they are due."""
    from runbook.errors import InvalidInputError
    from runbook.rules.incidents import EventKind
    from runbook.stages.incidents import records_of, say

    connections = connect(environment)
    chosen = _chosen(connections, incident)
    items = records_of(connections).incident(chosen).action_items
    if done:
        if done not in {item.key for item in items}:
            keys = ", ".join(item.key for item in items) or "none yet"
            raise InvalidInputError(
                "--done", done, f"one of {keys}", "`incident:show --format=post-mortem` lists them."
            )
        say(connections, chosen, _event(EventKind.ITEM_DONE, key=done), aloud=False)
        return
    if not text.strip() or not owner.strip():
        raise click.UsageError("an action item needs --text and --owner; or give --done")
    made = _event(EventKind.ACTION_ITEM, text, key=f"a{len(items) + 1}", owner=owner, due=_time(due, ahead=True))
    say(connections, chosen, made, aloud=False)
    click.echo(f"{made.key}: {text}")


@click.command("incident:post-mortem")
@_environment
@_incident
@click.option("--done", is_flag=True, help="The post-mortem is written and was talked about.")
def post_mortem(environment: str, incident: str, done: bool) -> None:
    """Write the draft of a post-mortem to logs/ unless it is there, or say that it is done."""
    from runbook.rules.incidents import EventKind
    from runbook.stages.incidents import records_of, say, write_post_mortem

    connections = connect(environment)
    newest = [one.id for one in records_of(connections).incidents()[-1:]]
    chosen = _chosen(connections, incident or "".join(newest))
    where = write_post_mortem(connections, chosen)
    if done:
        say(connections, chosen, _event(EventKind.POST_MORTEM, where), aloud=False)
    click.echo(where)


COMMANDS = (open_, note, update, ack, resolve, show, publish, action_item, post_mortem)


def _event(kind: EventKind, text: str = "", **more: object) -> IncidentEvent:
    from runbook.rules.incidents import IncidentEvent

    about = {"at": datetime.now(UTC), "by": getpass.getuser(), "kind": kind, "text": text}
    return IncidentEvent.model_validate({**about, **more})


def _chosen(connections: Connections, incident: str) -> str:
    from runbook.stages.incidents import choose

    return choose(connections, incident)


def _time(text: str, *, ahead: bool = False) -> datetime:
    """Return the time that is meant: so long ago, or ahead (`10m`, `7d`), or a date and time, by default in UTC."""
    from runbook.rules.spans import parse_span

    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        span = parse_span(text, "time", most=timedelta(days=365))
        return datetime.now(UTC) + (span if ahead else -span)
    return at if at.tzinfo else at.replace(tzinfo=UTC)


def _show(incident: Incident) -> None:
    from runbook.rules.incident_messages import render_message

    now = datetime.now(UTC)
    click.echo(f"{incident.id} on {incident.environment}\n\n{render_message(incident, now)}")
    if late := incident.overdue(now):
        click.echo(f"\noverdue: {', '.join(late)}")


def _list(known: list[Incident]) -> None:
    from runbook.tables import columns

    rows = [
        (one.id, one.severity, one.status, f"{one.began_at.astimezone(UTC):%Y-%m-%d %H:%M}", one.title)
        for one in known[-20:]
    ]
    click.echo("\n".join(columns(("incident", "", "status", "began (UTC)", "what"), rows)) if rows else "no incidents")
