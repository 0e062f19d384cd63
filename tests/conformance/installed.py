"""What `make conformance` has installed, and how to run it."""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
FOLDER = Path(os.environ.get("CONFORMANCE", ".conformance")).absolute()
MODULES = FOLDER / "node_modules"
_TIMEOUT_S = 120

JSON = dict[str, Any]
Calls = list[tuple[str, *tuple[Any, ...]]]
"""Name of each call and its arguments."""


@dataclass(frozen=True)
class Outcome:
    """How a program ended, and what it said."""

    exit_code: int
    output: str
    errors: str

    @property
    def printed(self) -> Any:  # noqa: ANN401 - whatever the program prints
        """The output of a program that prints JSON."""
        assert self.exit_code == 0, self.errors
        return json.loads(self.output)


def run_node(program: str, *arguments: str, cwd: Path, **environment: str) -> Outcome:
    """Run a program of an npm package, its name in `.bin`, in a folder below another."""
    return _run(["node", str(MODULES / ".bin" / program), *arguments], cwd, environment)


def call_npm(library: str, url: str, key: str, calls: Calls, *, cwd: Path) -> list[Any]:
    """Make calls, [name, arguments...], with a library of drive.mjs; return {value} or {error} of each."""
    argv = ["node", str(HERE / "drive.mjs"), str(MODULES), library, url]
    return _run(argv, cwd, {"KEY": key}, json.dumps(calls)).printed


def call_githubkit(url: str, key: str, calls: Calls, *, cwd: Path) -> list[Any]:
    """Make calls, [name, arguments by name], with githubkit; return {value} or {error} of each."""
    argv = [str(FOLDER / "venv/bin/python"), str(HERE / "drive_githubkit.py"), url]
    return _run(argv, cwd, {"KEY": key}, json.dumps(calls)).printed


def _run(argv: list[str], cwd: Path, environment: dict[str, str], said: str = "") -> Outcome:
    # Nothing of this machine's settings, and above all none of its keys, reaches the program.
    home = cwd.parent / "home"
    home.mkdir(exist_ok=True)
    quiet = dict.fromkeys(("CI", "NO_COLOR", "NO_UPDATE_NOTIFIER", "VERCEL_TELEMETRY_DISABLED"), "1")
    given = {"PATH": os.environ["PATH"], "HOME": str(home), **quiet, **environment}
    ended = subprocess.run(
        argv, cwd=cwd, env=given, input=said, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False
    )
    return Outcome(ended.returncode, ended.stdout, ended.stderr)
