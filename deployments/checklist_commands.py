"""The command `deploy:checklist`: the answers for a commit, and what a person attests in the terminal.

Exit codes: 0 nothing speaks against a deploy; 3 it is refused.
"""

from __future__ import annotations

import getpass
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from datetime import timedelta
from typing import TYPE_CHECKING

import click

from deployments.runs import connect, run_here
from runbook.errors import InvalidInputError, RefusedError

if TYPE_CHECKING:
    from runbook.stages.checklist import Checklist

_VALID = timedelta(days=1)


@click.command("deploy:checklist")
@click.option("--environment", default="local", show_default=True, help="Name of the environment.")
@click.option("--git-ref", default="HEAD", show_default=True, help="Branch, tag or commit.")
@click.option("--strict", is_flag=True, help="Warnings refuse, too, and manual items that nobody has attested.")
@click.option(
    "--attest",
    "attested",
    multiple=True,
    metavar="ITEM=NOTE",
    help="Say that a manual item holds for this commit, and why you know; for a day. Items: tests, review, security, "
    "performance, migrations, rollback, stakeholders, maintenance.",
)
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def checklist(environment: str, git_ref: str, strict: bool, attested: tuple[str, ...], as_json: bool) -> None:
    """Answer the checks for a commit, without changing anything but what you attest."""
    if attested:
        attest(environment, git_ref, attested)
    answers = _answers(environment, git_ref, strict=strict)
    click.echo(_as_json(answers) if as_json else "\n".join(_lines(answers)))
    if answers.refusals:
        sys.exit(RefusedError.exit_code)


def attest(environment: str, git_ref: str, given: Sequence[str]) -> None:
    """Keep attestations given as `ITEM=NOTE`, all of them or, when one is not acceptable, none.

    Raises:
        InvalidInputError: no such item, or no note.
    """
    from runbook.rules.manual_items import ManualItem
    from runbook.stages import manual_verification

    wanted: list[tuple[ManualItem, str]] = []
    for text in given:
        name, _, note = text.partition("=")
        if name not in list(ManualItem) or not note.strip():
            allowed = f"ITEM=NOTE with one of {', '.join(ManualItem)}"
            raise InvalidInputError("--attest", text, allowed, "The note says how you know; it is shown to everybody.")
        wanted.append((ManualItem(name), note))
    connections = connect(environment)
    for item, note in wanted:
        made = manual_verification.attest(connections, git_ref, item, by=getpass.getuser(), note=note, valid=_VALID)
        click.echo(f"{item.text}: attested by {made.by} until {made.until:%Y-%m-%d %H:%M} UTC", err=True)


COMMANDS = (checklist,)


def _answers(environment: str, git_ref: str, *, strict: bool) -> Checklist:
    from runbook.stages.checklist import ChecklistFailedError

    try:
        return run_here("pre_deployment_checklist", environment=environment, git_ref=git_ref, strict=strict)
    except ChecklistFailedError as error:
        if error.answers is None:
            raise
        return error.answers


def _as_json(answers: Checklist) -> str:
    about = {"gitRef": answers.git_ref, "gitSha": answers.git_sha, "version": answers.version}
    lists = {"checks": answers.checks, "manual": answers.manual, "refusals": answers.refusals}
    found = {name: [asdict(check) for check in checks] for name, checks in lists.items()}
    return json.dumps({**about, "passed": not answers.refusals, **found}, indent=2)


def _lines(answers: Checklist) -> list[str]:
    from runbook.tables import check_lines

    refused = [f"- {check.name}: {check.detail}" for check in answers.refusals]
    verdict = ["refused:", *refused] if refused else ["nothing speaks against a deploy"]
    return [
        f"{answers.version} ({answers.git_sha[:12]})",
        "",
        *check_lines(answers.checks),
        "",
        *check_lines(answers.manual),
        "",
        *verdict,
    ]
