"""The commands that look at what runs, and change nothing: `deploy:verify` and `test:smoke`.

Exit codes: 0 all passed; 5 a warning; 6 something could not be looked at; 7 something is wrong.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from deployments.runs import connect

if TYPE_CHECKING:
    from runbook.rules.checklist import Check

_json = click.option("--json", "as_json", is_flag=True, help="As JSON.")


@click.command("deploy:verify")
@click.option("--environment", default="local", show_default=True, help="Name of the environment.")
@_json
def verify(environment: str, as_json: bool) -> None:
    """Look at the release that has the traffic: health, version, smoke tests, schema, log, new errors, TLS."""
    connections = connect(environment)
    from runbook.stages.verification import verify as look

    _show(look(connections), as_json=as_json)


@click.command("test:smoke")
@click.option("--url", required=True, help="Where the application is, without a path.")
@click.option(
    "--file",
    "path",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    default=Path("smoke.toml"),
    show_default=True,
    help="The smoke tests, as the application's repository has them.",
)
@_json
def smoke(url: str, path: Path, as_json: bool) -> None:
    """Send the smoke tests of a file to a URL and compare the answers. Needs neither an environment nor Prefect."""
    from runbook.errors import InvalidInputError
    from runbook.rules.smoke import parse_smoke_tests
    from runbook.stages.health import run_smoke_tests

    if not url.startswith(("http://", "https://")):
        raise InvalidInputError("--url", url, "an address with http:// or https://", "Put the scheme before it.")
    tests = parse_smoke_tests(path.read_text(encoding="utf-8"), str(path))
    _show(run_smoke_tests(url.rstrip("/"), tests), as_json=as_json)


COMMANDS = (verify, smoke)


def _show(checks: Sequence[Check], *, as_json: bool) -> None:
    from runbook.rules.checklist import Outcome
    from runbook.tables import check_lines

    if as_json:
        click.echo(json.dumps([asdict(check) for check in checks], indent=2))
    else:
        click.echo("\n".join(check_lines(checks)))
    codes = {Outcome.WARNING: 5, Outcome.COULD_NOT_RUN: 6, Outcome.FAILED: 7}
    sys.exit(max((codes.get(check.outcome, 0) for check in checks), default=0))
