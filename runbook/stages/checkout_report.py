"""What one command says of a commit, in a clean checkout of it."""

from __future__ import annotations

import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from runbook.clients.checkout_command import run_in_checkout
from runbook.connections import Connections
from runbook.errors import StageError
from runbook.settings import CheckoutCommand


@dataclass(frozen=True)
class CheckoutReport:
    """What a command printed, its exit code, and its last line on standard error, to explain why there is no more."""

    printed: str
    code: int
    complaint: str


@contextmanager
def checkout_of(connections: Connections, git_sha: str) -> Generator[Path]:
    """Export a commit into a folder that is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="runbook-checkout-", ignore_cleanup_errors=True) as folder:
        checkout = Path(folder) / "source"
        connections.repository.export(git_sha, checkout)
        yield checkout


def report_of(command: CheckoutCommand, checkout: Path) -> CheckoutReport:
    """Run a command to its end and return what it printed, whatever its exit code.

    Raises:
        StageError: it could not be started, or took too long.
    """
    output, errors = checkout.parent / "report", checkout.parent / "errors"
    try:
        code = run_in_checkout(command.argv, checkout, command.timeout_s, output=output, errors=errors)
    except OSError as error:
        raise StageError(f"{command.name}: {command.argv[0]} cannot be started: {error}") from error
    if code is None:
        raise StageError(f"{command.name} did not end within {command.timeout_s:g} s")
    last = errors.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1:]
    complaint = f" ({last[0][:200]})" if last else ""
    return CheckoutReport(output.read_text(encoding="utf-8", errors="replace"), code, complaint)
