"""The commands `runbook db:migrate...`: migrations listed, rehearsed, applied, marked as applied.

They run in this process, with a bar in the terminal; the runs of flows are in the Prefect UI like all others.
"""

from __future__ import annotations

import getpass
import json
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from deployments.runs import connect, require_identity_file, run_here

if TYPE_CHECKING:
    from runbook.reports import MigrateReport, Rehearsal

_environment = click.option("--environment", default="local", show_default=True, help="Name of the environment.")
_git_ref = click.option("--git-ref", default="HEAD", show_default=True, help="Branch, tag or commit.")
_migration = click.option("--migration", help="Only this one; `runbook db:migrations` lists them.")
_phase = click.option(
    "--phase",
    type=click.Choice(["pre", "post"]),
    default="pre",
    show_default=True,
    help="pre: what a release needs; post: what waits until it is validated.",
)
_dry_run = click.option("--dry-run", is_flag=True, help="Rehearse on the newest verified backup; change nothing.")
_reason = click.option("--reason", default="by hand", show_default=True, help="Why; it is recorded.")
_identity_file = click.option(
    "--identity-file", type=click.Path(dir_okay=False), help="File with the age secret key, for encrypted backups."
)


@click.command("db:migrate")
@_environment
@_git_ref
@_migration
@_phase
@_dry_run
@_reason
@_identity_file
def migrate(
    environment: str,
    git_ref: str,
    migration: str | None,
    phase: str,
    dry_run: bool,
    reason: str,
    identity_file: str | None,
) -> None:
    """Back up, rehearse, apply and verify the pending migrations, or leave everything as it was."""
    _migrate(environment, git_ref, migration, phase, reason, identity_file, dry_run=dry_run)


@click.command("db:migrate:production")
@_git_ref
@_migration
@_phase
@_dry_run
@_reason
@_identity_file
def migrate_production(
    git_ref: str, migration: str | None, phase: str, dry_run: bool, reason: str, identity_file: str | None
) -> None:
    """Migrate the database of the environment `production`."""
    _migrate("production", git_ref, migration, phase, reason, identity_file, dry_run=dry_run)


@click.command("db:rehearse")
@_environment
@_git_ref
@_migration
@_phase
@_identity_file
def rehearse(environment: str, git_ref: str, migration: str | None, phase: str, identity_file: str | None) -> None:
    """Try the pending migrations on the newest verified backup: time, locks, down scripts, the running release."""
    _migrate(environment, git_ref, migration, phase, "rehearsal", identity_file, dry_run=True)


@click.command("db:migrations")
@_environment
@_git_ref
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def migrations(environment: str, git_ref: str, as_json: bool) -> None:
    """List the migrations: applied, pending, failed, interrupted, edited, without a file."""
    connections = connect(environment)
    from runbook.stages.migration_plan import migration_status

    found = migration_status(connections, connections.repository.resolve(git_ref))
    if as_json:
        click.echo(json.dumps([asdict(row) for row in found], indent=2, default=str))
        return
    for row in found:
        at = f"{row.at:%Y-%m-%d %H:%M:%S}" if row.at else ""
        click.echo(f"{row.name:<40} {row.state:<12} {at:<19}  {row.detail}".rstrip())
    if not found:
        click.echo("no migrations yet")


@click.command("db:baseline")
@_environment
@_git_ref
@click.option("--through", help="All migrations up to this one, in their order.")
@_migration
@click.option("--yes", is_flag=True, help="Write it; without it the names are only shown.")
def baseline(environment: str, git_ref: str, through: str | None, migration: str | None, yes: bool) -> None:
    """Say that migrations are applied already, without running them: of another tool, or finished by hand."""
    if bool(through) == bool(migration):
        raise click.UsageError("name one migration with --migration, or the last of several with --through")
    connections = connect(environment)
    from runbook.stages.migration import baseline_migrations
    from runbook.stages.migration_plan import baseline_names

    git_sha = connections.repository.resolve(git_ref)
    names = baseline_names(connections, git_sha, through=through, migration=migration)
    click.echo("\n".join(names))
    if not yes:
        click.echo(f"Nothing was written. Pass --yes to mark these {len(names)} as applied.")
        return
    baseline_migrations(connections, git_sha, names)
    click.echo(f"{len(names)} marked as applied")


COMMANDS = (migrate, migrate_production, rehearse, migrations, baseline)


def _migrate(
    environment: str,
    git_ref: str,
    migration: str | None,
    phase: str,
    reason: str,
    identity_file: str | None,
    *,
    dry_run: bool,
) -> None:
    connections = connect(environment)
    from runbook.procedures.database_migrate import MigrateFailedError

    is_encrypted = bool(connections.settings.backup.recipients)
    key = require_identity_file(connections, is_encrypted=is_encrypted, identity_file=identity_file)
    try:
        report: MigrateReport = run_here(
            "database_migrate",
            environment=environment,
            git_ref=git_ref,
            dry_run=dry_run,
            migration=migration,
            phase=phase,
            reason=reason,
            identity_file=key,
            triggered_by=getpass.getuser(),
        )
    except MigrateFailedError as error:
        _show(error.report.rehearsal)
        raise
    _show(report.rehearsal)
    for line in (*report.warnings, *report.findings):
        click.echo(f"- {line}")
    if not report.migrations:
        click.echo("nothing is pending")
    elif dry_run:
        click.echo(f"rehearsed, nothing was changed: {', '.join(report.migrations)}")
    else:
        click.echo(f"applied: {', '.join(report.migrations)}; {report.state}; backup {report.backup_id}")


def _show(rehearsal: Rehearsal | None) -> None:
    """Show what was measured: each statement with its time and locks, then what the whole means."""
    if rehearsal is None:
        return
    from runbook.plans import render_rehearsal

    for cost in rehearsal.statements:
        click.echo(f"{cost.duration_s:9.3f} s  {cost.path}:{cost.line}  {cost.statement}")
        notes = [*cost.locks, *(f"rewrites {table}" for table in cost.rewrites)]
        if notes:
            click.echo(f"{'':13}{'; '.join(notes)}")
    click.echo(render_rehearsal(rehearsal))
