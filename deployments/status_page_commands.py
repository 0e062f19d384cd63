"""The commands that tell users, on the status page of an environment, how an incident goes on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from deployments.runs import connect

if TYPE_CHECKING:
    from runbook.clients.statuspage import ComponentStatus, Statuspage

_STATUSES = ("investigating", "identified", "monitoring", "resolved")
_environment = click.option("--environment", default="local", show_default=True, help="Name of the environment.")
_body = click.option("--body", required=True, help="What users read.")
_components = click.option(
    "--component", "components", multiple=True, help="Id and status of a component: ID=major_outage. May be repeated."
)


@click.command("status-page:publish")
@_environment
@click.option("--name", required=True, help="Title of the incident.")
@_body
@click.option("--status", type=click.Choice(_STATUSES), default="investigating", show_default=True)
@_components
@click.option("--notify", is_flag=True, help="Tell those who have subscribed.")
@click.option("--yes", is_flag=True, help="Publish without asking.")
def publish(
    environment: str, name: str, body: str, status: str, components: tuple[str, ...], notify: bool, yes: bool
) -> None:
    """Publish an incident. Users see it at once, so it is shown first, and asked about."""
    page, affected = _page(environment), _statuses(components)
    from runbook.rules.incident_messages import PublicIncidentStatus

    _confirm([name, body, *components], yes=yes)
    made = page.open_incident(name, body, status=PublicIncidentStatus(status), components=affected, notify=notify)
    click.echo(f"{made.id}  {made.status}  {made.name}  {made.shortlink}")


@click.command("status-page:update")
@_environment
@click.option("--incident", required=True, help="Id of the incident, as `status-page:publish` prints it.")
@_body
@click.option("--status", type=click.Choice(_STATUSES), required=True)
@_components
@click.option("--yes", is_flag=True, help="Publish without asking.")
def update(environment: str, incident: str, body: str, status: str, components: tuple[str, ...], yes: bool) -> None:
    """Publish how an incident goes on, or that it is over."""
    page, affected = _page(environment), _statuses(components)
    from runbook.rules.incident_messages import PublicIncidentStatus

    _confirm([body, *components], yes=yes)
    made = page.update_incident(incident, body, status=PublicIncidentStatus(status), components=affected)
    click.echo(f"{made.id}  {made.status}  {made.name}  {made.shortlink}")


@click.command("status-page:write")
@_environment
@click.option(
    "--to", "folder", type=click.Path(path_type=Path, file_okay=False), help="A folder, instead of the block's."
)
def write(environment: str, folder: Path | None) -> None:
    """Write the static status page: index.html, summary.json, history.atom."""
    from runbook.clients.site_target import FolderSite
    from runbook.stages.status_site import write_status_site

    click.echo(write_status_site(connect(environment), FolderSite(folder) if folder else None))


COMMANDS = (publish, update, write)


def _page(environment: str) -> Statuspage:
    from runbook.errors import RefusedError

    page = connect(environment).status_page
    if page is None:
        raise RefusedError(f"{environment} has no status page: put the block runbook-status-page into it.")
    return page


def _statuses(components: tuple[str, ...]) -> dict[str, ComponentStatus]:
    from runbook.clients.statuspage import ComponentStatus
    from runbook.errors import InvalidInputError

    found: dict[str, ComponentStatus] = {}
    for given in components:
        name, _, status = given.partition("=")
        if not name or status not in list(ComponentStatus):
            allowed = f"ID=STATUS with one of {', '.join(ComponentStatus)}"
            raise InvalidInputError("--component", given, allowed, "Ids stand in the settings of the page.")
        found[name] = ComponentStatus(status)
    return found


def _confirm(lines: list[str], *, yes: bool) -> None:
    if not yes:
        click.echo("\n".join(["Users will read:", *(f"  {line}" for line in lines)]))
        click.confirm("Publish it?", abort=True)
