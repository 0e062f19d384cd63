"""One command in an exported copy of a commit, ended in time with all that it started."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path


def run_in_checkout(
    argv: Sequence[str], checkout: Path, timeout_s: float, *, output: Path, errors: Path | None = None
) -> int | None:
    """Run a command to its end, and return its exit code; None when it was stopped because it took too long.

    It sees no secret and no database. What it prints goes into files: what it leaves running in the background would
    keep a pipe open.

    Args:
        argv: program and arguments; `{python}` stands for the Python that runs this.
        checkout: where it runs; the folder above is its home.
        timeout_s: seconds.
        output: file for what it prints.
        errors: file for what it prints on standard error; the same one when left out.

    Raises:
        OSError: it cannot be started.
    """
    environment = {"PATH": os.environ.get("PATH", ""), "HOME": str(checkout.parent), "LANG": "C.UTF-8", "CI": "true"}
    environment["PYTHONUNBUFFERED"] = "1"  # output in its order, and what was said before a time-out is not lost
    with contextlib.ExitStack() as stack:
        printed = stack.enter_context(output.open("wb"))
        complained = stack.enter_context(errors.open("wb")) if errors else subprocess.STDOUT
        process = subprocess.Popen(
            [sys.executable if argument == "{python}" else argument for argument in argv],
            cwd=checkout,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=printed,
            stderr=complained,
            start_new_session=True,
        )
    try:
        return process.wait(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        return None
    finally:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
