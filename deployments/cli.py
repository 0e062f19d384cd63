"""The command line: `runbook <command>`. Command names and options are those of the runbook's `npm run` scripts.

`runbook deploy:checklist -- --environment=production` works with and without the `--` that npm wants.
Exit codes: 0 done; 1 the run failed or refused, its log says which; 2 wrong usage; 3 refused before a run was started.
Diagnostics: 0 fine; 5 a warning; 6 something could not be looked at; 7 critical.
"""

from __future__ import annotations

import getpass
import sys
from collections.abc import Mapping
from pathlib import Path

import click

from deployments import (
    application_commands,
    checklist_commands,
    database_commands,
    emergency_command,
    environment_commands,
    incident_commands,
    maintenance_commands,
    migration_commands,
    monitoring_commands,
    report_command,
    status_page_commands,
    verify_commands,
    watch_commands,
)
from deployments.runs import LOCAL_ROOT, connect, run_deployment
from runbook.errors import InvalidInputError, RunbookError

_environment = click.option("--environment", default="local", show_default=True, help="Name of the environment.")
_git_ref = click.option("--git-ref", default="HEAD", show_default=True, help="Branch, tag or commit.")


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def cli() -> None:
    """The MantisNXT deployment runbook."""


@cli.command("local:up")
@click.option("--repository", type=click.Path(path_type=Path, exists=True, file_okay=False), required=True)
def local_up(repository: Path) -> None:
    """Bring up the environment `local`: Postgres, application host, Prefect server, worker."""
    from deployments.local import LocalEnvironment

    local = LocalEnvironment(LOCAL_ROOT.resolve(), repository.resolve())
    local.up(click.echo)
    click.echo(f"Prefect UI: {local.ui_url}")


@cli.command("local:down")
def local_down() -> None:
    """Stop the environment `local`; its data stays."""
    from deployments.local import LocalEnvironment

    LocalEnvironment(LOCAL_ROOT.resolve(), Path()).down()


@cli.command("deploy")
@_environment
@_git_ref
@click.option("--reason", default="scheduled release", show_default=True, help="Why; it is recorded.")
@click.option("--skip-tests", metavar="REASON", help="Do not run the test suite, and why; it is recorded.")
def deploy(environment: str, git_ref: str, reason: str, skip_tests: str | None) -> None:
    """Release a commit through all seven stages, or leave everything as it was."""
    if skip_tests is not None and not skip_tests.strip():
        raise InvalidInputError("--skip-tests", skip_tests, "a reason", "Say why; whoever reads the report will ask.")
    parameters = {"git_ref": git_ref, "reason": reason, "triggered_by": getpass.getuser()}
    run_deployment("deploy", environment, parameters | ({"skip_tests": skip_tests} if skip_tests else {}))


@cli.command("deploy:rollback")
@_environment
@click.option("--reason", default="", help="Why; it is recorded and told to everybody.")
@click.option("--severity", type=click.Choice(["SEV1", "SEV2", "SEV3", "SEV4"]), help="How bad it is; it is recorded.")
@click.option("--app-only", is_flag=True, help="Only the application; the database stays as it is.")
@click.option("--db-only", is_flag=True, help="Only the database; the application stays as it is.")
@click.option("--latest", is_flag=True, help="Use the newest verified backup that fits.")
@click.option("--backup-id", help="Use this backup; `runbook db:backups` lists them.")
@click.option(
    "--discard-writes", is_flag=True, help="Go back to the rows of the backup; what was written since is lost."
)
@click.option("--identity-file", help="File with the age secret key, on the worker; for encrypted backups.")
@click.option("--yes", is_flag=True, help="Consent now, without being shown what would be lost.")
@click.option(
    "--ask-in-ui", is_flag=True, help="Let somebody consent in the Prefect UI; nobody has to sit at this terminal."
)
def deploy_rollback(
    environment: str,
    reason: str,
    severity: str | None,
    app_only: bool,
    db_only: bool,
    latest: bool,
    backup_id: str | None,
    discard_writes: bool,
    identity_file: str | None,
    yes: bool,
    ask_in_ui: bool,
) -> None:
    """Take back a bad release: database and application, or one of them."""
    if app_only and db_only:
        raise click.UsageError("--app-only and --db-only exclude each other; leave both out for a full rollback")
    if yes and ask_in_ui:
        raise click.UsageError("--yes and --ask-in-ui exclude each other; one of them consents")
    scope = "app-only" if app_only else "db-only" if db_only else "full"
    parameters: dict[str, object] = {"scope": scope, "latest": latest, "backup_id": backup_id, "reason": reason}
    parameters["discard_writes"] = discard_writes
    parameters["severity"] = severity
    if identity_file:
        parameters["identity_file"] = identity_file
    who = getpass.getuser()
    if not yes and not ask_in_ui:
        _ask_consent(environment, _rollback_in_words(environment, parameters, who))
    run_deployment("rollback", environment, {**parameters, "yes": not ask_in_ui, "triggered_by": who})


@cli.command("deploy:rollback:undo")
@_environment
@click.option("--reason", required=True, help="Why; it is recorded and told to everybody.")
@click.option("--yes", is_flag=True, help="Consent now, without being shown what would be left behind.")
def deploy_rollback_undo(environment: str, reason: str, yes: bool) -> None:
    """Undo the last rollback: the database that it replaced, and the release, come back. Again: undoes the undoing."""
    who = getpass.getuser()
    if not yes:
        from runbook.stages.undo_rollback import UndoRequest, plan_undo

        _ask_consent(environment, plan_undo(connect(environment), UndoRequest(reason, False, who)).render())
    run_deployment("undo-rollback", environment, {"reason": reason, "yes": True, "triggered_by": who})


for _command in (
    *application_commands.COMMANDS,
    *checklist_commands.COMMANDS,
    *database_commands.COMMANDS,
    *emergency_command.COMMANDS,
    *environment_commands.COMMANDS,
    *incident_commands.COMMANDS,
    *maintenance_commands.COMMANDS,
    *migration_commands.COMMANDS,
    *monitoring_commands.COMMANDS,
    *report_command.COMMANDS,
    *status_page_commands.COMMANDS,
    *verify_commands.COMMANDS,
    *watch_commands.COMMANDS,
):
    cli.add_command(_command)


def main() -> None:
    """Run the command line and exit with its code."""
    arguments = sys.argv[1:]
    if arguments[1:2] == ["--"]:
        del arguments[1]
    try:
        cli(arguments, prog_name="runbook")
    except RunbookError as error:
        click.echo(f"runbook: {error}", err=True)
        sys.exit(error.exit_code)


def _ask_consent(environment: str, shown: str) -> None:
    click.echo(shown)
    typed = click.prompt(f"Type {environment} to consent", default="", show_default=False)
    if typed != environment:
        click.echo("Not the environment's name; nothing was changed.", err=True)
        sys.exit(3)


def _rollback_in_words(environment: str, parameters: Mapping[str, object], who: str) -> str:
    from runbook.reports import RollbackScope
    from runbook.stages.rollback import RollbackRequest, plan_rollback

    request = RollbackRequest(
        scope=RollbackScope(str(parameters["scope"])),
        backup_id=str(parameters["backup_id"]) if parameters["backup_id"] else None,
        latest=bool(parameters["latest"]),
        reason=str(parameters["reason"]),
        yes=False,
        triggered_by=who,
        discard_writes=bool(parameters["discard_writes"]),
    )
    identity_file = str(parameters["identity_file"]) if "identity_file" in parameters else None
    return plan_rollback(connect(environment).with_identity(identity_file), request).render()


if __name__ == "__main__":
    main()
