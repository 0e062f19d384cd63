"""The commands `runbook db:...`: backups made, listed, proven, drilled and pruned; replaced databases kept or dropped.

They run in this process, with a bar in the terminal; the runs of flows are in the Prefect UI like all others.
"""

from __future__ import annotations

import getpass
import json
import sys
from typing import TYPE_CHECKING

import click

from deployments.runs import connect, progress_bars, require_identity_file, run_here

if TYPE_CHECKING:
    from runbook.manifest import BackupManifest

_LEVELS = ("checksums", "sample", "full")
_environment = click.option("--environment", default="local", show_default=True, help="Name of the environment.")
_backup_id = click.option("--backup-id", help="The backup; `runbook db:backups` lists them.")
_level = click.option("--level", type=click.Choice(_LEVELS), help="How it is proven; as the settings say by default.")
_identity_file = click.option(
    "--identity-file", type=click.Path(dir_okay=False), help="File with the age secret key, for encrypted backups."
)
_reason = click.option("--reason", default="by hand", show_default=True, help="Why; it stands in the manifest.")


@click.command("db:backup")
@_environment
@_reason
@_level
@_identity_file
def backup(environment: str, reason: str, level: str | None, identity_file: str | None) -> None:
    """Make a backup, prove it, and copy it to the second store."""
    _back_up(environment, reason, level, identity_file)


@click.command("db:backup:production")
@_reason
@_level
@_identity_file
def backup_production(reason: str, level: str | None, identity_file: str | None) -> None:
    """Make a backup of the environment `production`."""
    _back_up("production", reason, level, identity_file)


@click.command("db:backups")
@_environment
@click.option("--json", "as_json", is_flag=True, help="The manifests, as JSON.")
def backups(environment: str, as_json: bool) -> None:
    """List the backups, newest first."""
    store = connect(environment).store
    manifests = [manifest for manifest in store.manifests() if manifest.environment == environment]
    if as_json:
        click.echo(json.dumps([manifest.model_dump(mode="json") for manifest in manifests], indent=2))
        return
    pins = store.pins()
    for manifest in manifests:
        pinned = pins.get(manifest.backup_id)
        click.echo(_line(manifest) + (f"  pinned: {pinned.reason}" if pinned else ""))
    if not manifests:
        click.echo("no backups yet")


@click.command("db:backup:verify")
@_environment
@_backup_id
@click.option("--latest", is_flag=True, help="The newest backup, whatever is known about it.")
@_level
@_identity_file
def verify(environment: str, backup_id: str | None, latest: bool, level: str | None, identity_file: str | None) -> None:
    """Prove a backup: read it back, or restore it into a scratch database and compare."""
    if bool(backup_id) == latest:
        raise click.UsageError("name a backup with --backup-id, or pass --latest")
    connections = connect(environment)
    from runbook.manifest import VerificationLevel
    from runbook.stages.backup import newest_backup, verify_backup

    manifest = connections.store.manifest(backup_id) if backup_id else newest_backup(connections)
    needs_key = bool(manifest.recipients) and level != "checksums"
    key = require_identity_file(connections, is_encrypted=needs_key, identity_file=identity_file)
    with progress_bars():
        proven = verify_backup(
            connections.with_identity(key), manifest.backup_id, level=VerificationLevel(level) if level else None
        )
    click.echo(f"{_line(proven)}\n  {proven.verification.detail}")


@click.command("db:backup:prune")
@_environment
@click.option("--yes", is_flag=True, help="Remove what the plan says; without it the plan is only shown.")
def prune(environment: str, yes: bool) -> None:
    """Show which backups the retention keeps and which it does not; remove the latter with --yes."""
    from runbook.rules.retention import render_plan
    from runbook.stages.retention import plan_pruning

    click.echo("\n".join(render_plan(plan_pruning(connect(environment)))))
    if not yes:
        click.echo("Nothing was removed. Pass --yes to remove what the plan says.")
        return
    removed: tuple[str, ...] = run_here("backup_retention", environment=environment, dry_run=False)
    click.echo(f"removed: {', '.join(removed) or 'nothing'}")


@click.command("db:backup:pin")
@_environment
@click.option("--backup-id", required=True, help="The backup; `runbook db:backups` lists them.")
@click.option("--reason", required=True, help="Why it has to stay.")
def pin(environment: str, backup_id: str, reason: str) -> None:
    """Keep a backup whatever the retention says."""
    from runbook.stages.retention import pin_backup

    pin_backup(connect(environment), backup_id, reason=reason, by=getpass.getuser())
    click.echo(f"{backup_id} stays until `runbook db:backup:unpin --backup-id={backup_id}`")


@click.command("db:backup:unpin")
@_environment
@click.option("--backup-id", required=True, help="The backup; `runbook db:backups` lists them.")
def unpin(environment: str, backup_id: str) -> None:
    """Let the retention decide about a backup again."""
    connect(environment).store.unpin(backup_id)
    click.echo(f"{backup_id} is not pinned")


@click.command("db:drill")
@_environment
@_backup_id
@_identity_file
def drill(environment: str, backup_id: str | None, identity_file: str | None) -> None:
    """Restore a backup for practice, the newest one by default, and keep how long it took."""
    from runbook.reports import DrillReport
    from runbook.rules.drills import duration_in_words

    connections = connect(environment)
    from runbook.stages.backup import newest_backup

    manifest = connections.store.manifest(backup_id) if backup_id else newest_backup(connections)
    key = require_identity_file(connections, is_encrypted=bool(manifest.recipients), identity_file=identity_file)
    report = run_here(
        "restore_drill",
        environment=environment,
        backup_id=manifest.backup_id,
        identity_file=key,
        triggered_by=getpass.getuser(),
    )
    assert isinstance(report, DrillReport)  # noqa: S101 - what the flow returns
    rpo = "unknown" if report.rpo_s is None else duration_in_words(report.rpo_s)
    click.echo(f"{report.backup_id} restored and found equal: RTO {duration_in_words(report.rto_s or 0)}, RPO {rpo}")


@click.command("db:kept")
@_environment
def kept(environment: str) -> None:
    """List the databases that rollbacks have replaced, oldest first: name, when, size, of which rollback."""
    from runbook.stages.kept import kept_databases

    found = kept_databases(connect(environment))
    for one in found:
        click.echo(one.render())
    if not found:
        click.echo("no database is kept")


@click.command("db:kept:drop")
@_environment
@click.option("--name", required=True, help="The kept database; `runbook db:kept` lists them.")
@click.option("--yes", is_flag=True, help="Drop it; without it only what would go is shown.")
def kept_drop(environment: str, name: str, yes: bool) -> None:
    """Drop a database that a rollback has replaced. That rollback cannot be undone afterwards."""
    from runbook.procedures.environment import drop_kept_database
    from runbook.stages.kept import require_kept

    connections = connect(environment)
    if not yes:
        click.echo(f"This would drop {require_kept(connections, name).render()}")
        click.echo("What is only in it is gone then. Nothing was dropped. Pass --yes to drop it.", err=True)
        sys.exit(3)
    click.echo(f"dropped {drop_kept_database(connections, name, by=getpass.getuser()).render()}")


COMMANDS = (backup, backup_production, backups, verify, prune, pin, unpin, drill, kept, kept_drop)


def _back_up(environment: str, reason: str, level: str | None, identity_file: str | None) -> None:
    parameters = {"level": level, "identity_file": identity_file, "triggered_by": getpass.getuser()}
    manifest = run_here("database_backup", environment=environment, reason=reason, **parameters)
    click.echo(_line(manifest))


def _line(manifest: BackupManifest) -> str:
    proof = manifest.verification
    restored = f"restored in {proof.restore_s:.1f} s" if proof.restore_s is not None else "never restored"
    return (
        f"{manifest.backup_id}  {proof.state:<10}  {manifest.size_bytes:>12,} bytes  {restored:<18}  {manifest.reason}"
    )
