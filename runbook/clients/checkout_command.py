"""One command in an exported copy of a commit, ended in time with all that it started."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

_LOOK_EVERY_S = 0.2
_LONGEST_LINE = 1000


def run_in_checkout(
    argv: Sequence[str],
    checkout: Path,
    timeout_s: float,
    *,
    output: Path,
    errors: Path | None = None,
    variables: Mapping[str, str] | None = None,
    on_line: Callable[[str], None] | None = None,
) -> int | None:
    """Run a command to its end, and return its exit code; None when it was stopped because it took too long.

    It sees no secret, and no database but one in `variables`. What it prints goes into files: what it leaves running in
    the background would keep a pipe open.

    Args:
        argv: program and arguments; `{python}` stands for the Python that runs this.
        checkout: where it runs; the folder above is its home.
        timeout_s: seconds.
        output: file for what it prints.
        errors: file for what it prints on standard error; the same one when left out.
        variables: more of its environment.
        on_line: is called with each line of `output` while it runs, cut to a thousand characters.

    Raises:
        OSError: it cannot be started.
    """
    environment = {"PATH": os.environ.get("PATH", ""), "HOME": str(checkout.parent), "LANG": "C.UTF-8", "CI": "true"}
    environment["PYTHONUNBUFFERED"] = "1"  # output in its order, and what was said before a time-out is not lost
    environment.update(variables or {})
    with contextlib.ExitStack() as stack:
        printed = stack.enter_context(output.open("wb"))
        complained = stack.enter_context(errors.open("wb")) if errors else subprocess.STDOUT
        lines = _Follower(stack.enter_context(output.open("rb")), on_line) if on_line else None
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
            return _wait(process, timeout_s, lines)
        finally:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            if lines:
                lines.read(is_end=True)


class _Follower:
    """Passes on the lines of a file that is being written."""

    def __init__(self, file: BinaryIO, on_line: Callable[[str], None]) -> None:
        self._file, self._on_line, self._begun = file, on_line, b""

    def read(self, *, is_end: bool = False) -> None:
        """Pass on what has come since; what has no end yet waits, unless nothing more comes."""
        *whole, begun = (self._begun + self._file.read()).split(b"\n")
        self._begun = begun[:_LONGEST_LINE]
        if is_end and self._begun:
            whole.append(self._begun)
        for line in whole:
            self._on_line(line[:_LONGEST_LINE].decode(errors="replace").rstrip())


def _wait(process: subprocess.Popen[bytes], timeout_s: float, lines: _Follower | None) -> int | None:
    deadline = time.monotonic() + timeout_s
    while (left := deadline - time.monotonic()) > 0:
        try:
            return process.wait(timeout=min(left, _LOOK_EVERY_S) if lines else left)
        except subprocess.TimeoutExpired:
            if lines:
                lines.read()
    return None
