"""The commands `runbook app:...`: the releases on the application host, their logs, and a release of it alone."""

from __future__ import annotations

import getpass
import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click

from deployments.runs import connect, run_here

if TYPE_CHECKING:
    from runbook.clients.application_host import Release
    from runbook.connections import Connections

_environment = click.option("--environment", default="local", show_default=True, help="Name of the environment.")
_as_json = click.option("--json", "as_json", is_flag=True, help="As JSON.")


@click.command("app:ls")
@_environment
@click.option("--limit", type=click.IntRange(1, 200), default=20, show_default=True, help="How many, newest first.")
@_as_json
def ls(environment: str, limit: int, as_json: bool) -> None:
    """List the releases on the application host, newest first; the one with the traffic is marked."""
    from runbook.procedures.status import release_lines

    host = connect(environment).host
    active = host.active()
    releases = list(host.releases())[:limit]
    if as_json:
        rows = [_row(release, is_active=_is_same(release, active)) for release in releases]
        click.echo(json.dumps(rows, indent=2))
        return
    for line in release_lines(releases, active):
        click.echo(line)
    if pin := host.pin():
        click.echo(f"PINNED: {pin}")
    if not releases:
        click.echo("no releases yet")


@click.command("app:logs")
@_environment
@click.option("--release", "release_id", help="Id of the release, as `app:ls` says; the active one by default.")
@click.option("--limit", type=click.IntRange(1, 10_000), default=100, show_default=True, help="How many lines.")
@click.option("--level", type=click.Choice(["info", "warning", "error", "critical"]), help="Only lines of this level.")
@_as_json
def logs(environment: str, release_id: str | None, limit: int, level: str | None, as_json: bool) -> None:
    """Show the newest lines of a release's log, oldest first."""
    connections = connect(environment)
    chosen = release_id or _active(connections).release_id
    found = connections.host.logs(chosen, limit=limit if level is None else 10_000)
    lines = [line for line in found if level in (None, line.level)][-limit:]
    for line in lines:
        if as_json:
            click.echo(json.dumps({"at": line.at.isoformat(), "level": line.level, "message": line.message}))
        else:
            click.echo(f"{line.at.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC  {line.level:<8} {line.message}")
    if not lines:
        click.echo(f"no line of {chosen} is kept", err=True)


@click.command("app:deploy")
@_environment
@click.option("--git-ref", default="HEAD", show_default=True, help="Branch, tag or commit.")
@click.option("--reason", required=True, help="Why not the whole runbook; it is recorded.")
def deploy(environment: str, git_ref: str, reason: str) -> None:
    """Release the application alone: no test suite, no backup, no migration; refused when one is pending."""
    who = getpass.getuser()
    run_here("deploy", environment=environment, git_ref=git_ref, reason=reason, triggered_by=who, application_only=True)


def _active(connections: Connections) -> Release:
    from runbook.errors import RefusedError

    active = connections.host.active()
    if active is None:
        raise RefusedError("no release has the traffic; name one with --release (`runbook app:ls`)")
    return active


def _is_same(release: Release, active: Release | None) -> bool:
    return active is not None and release.release_id == active.release_id


def _row(release: Release, *, is_active: bool) -> dict[str, object]:
    times = {"createdAt": release.created_at, "promotedAt": release.promoted_at}
    return {
        "releaseId": release.release_id,
        "version": release.version,
        "gitSha": release.git_sha,
        "state": release.state,
        "active": is_active,
        "url": release.url,
        **{name: _text(at) for name, at in times.items()},
    }


def _text(at: datetime | None) -> str | None:
    return at.astimezone(UTC).isoformat() if at else None


COMMANDS = (ls, logs, deploy)
