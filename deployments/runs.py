"""Starting runs and reaching environments from the command line.

Prefect takes seconds to import; what needs it is imported where it is used, so that `runbook --help` is quick.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Generator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from runbook.progress import listening

if TYPE_CHECKING:
    from runbook.clients.postgres import Database
    from runbook.connections import Connections

LOCAL_ROOT = Path(".runbook") / "local"
# The log of a run in this process goes to the server; the terminal shows bars, and how it ended.
# What is done without a run, such as an incident by hand, has no log there.
_QUIET = {"PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL", "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore"}


def run_deployment(flow: str, environment: str, parameters: Mapping[str, object]) -> None:
    """Start a run of a deployment, watch it, and exit with its code."""
    deployment = f"{flow}/{environment}"
    argv = [sys.executable, "-m", "prefect", "deployment", "run", deployment]
    argv += ["--params", json.dumps(parameters), "--watch"]
    sys.exit(subprocess.run(argv, env=_prefect_environment(), check=False).returncode)


def connect(environment: str) -> Connections:
    """Return the clients of a registered environment."""
    reach_prefect()
    from blocks.environment import load_environment

    return load_environment(environment).connect()


def reach_prefect() -> None:
    """Let this process talk to the Prefect server of the command line; before anything of Prefect is imported."""
    os.environ.update(_prefect_environment() | _QUIET)


def connect_database(environment: str) -> Database:
    """Return the client of a registered environment's database alone; nothing else of it has to work."""
    os.environ.update(_prefect_environment() | _QUIET)
    from blocks.environment import load_environment

    return load_environment(environment).database.get_client()


def require_identity_file(connections: Connections, *, is_encrypted: bool, identity_file: str | None) -> str | None:
    """Return the file of keys for an encrypted backup: as given, as in the settings, or as a person says now."""
    if not is_encrypted or identity_file or connections.settings.backup.identity_file or not sys.stdin.isatty():
        return identity_file
    return click.prompt("This backup is encrypted. File with the age secret key", type=click.Path(exists=True))


def run_here(flow: str, **parameters: object) -> Any:  # noqa: ANN401 - whatever the flow returns
    """Run a flow in this process, with bars in the terminal, and return its result; the server keeps its record."""
    reach_prefect()
    from importlib import import_module

    with progress_bars():
        return getattr(import_module(f"flows.{flow}"), flow)(**parameters)


@contextmanager
def progress_bars() -> Generator[None]:
    """Show each phase of long work as a bar on standard error while the body of a `with` runs."""
    with ExitStack() as stack:
        bars: dict[str, Any] = {}

        def show(phase: str, fraction: float) -> None:
            if phase not in bars:
                stack.pop_all().close()
                bars[phase] = stack.enter_context(
                    click.progressbar(length=1000, label=f"{phase:<8}", show_eta=False, file=sys.stderr)
                )
            bar = bars[phase]
            bar.update(max(0, round(1000 * fraction) - bar.pos))

        with listening(show):
            yield


def _prefect_environment() -> dict[str, str]:
    """Return where Prefect is found: the one of the environment `local` in this folder unless another is named."""
    from deployments.local import LocalEnvironment

    local = LocalEnvironment(LOCAL_ROOT.resolve(), Path())
    if "PREFECT_API_URL" in os.environ or not (local.root / "prefect" / "port").exists():
        return dict(os.environ)
    return local.prefect_environment()
