"""What `make conformance` has installed, and how to run it."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic_core import from_json

HERE = Path(__file__).parent
FOLDER = Path(os.environ.get("CONFORMANCE", ".conformance")).absolute()
MODULES = FOLDER / "node_modules"
PYTHON = FOLDER / "venv/bin/python"
_TIMEOUT_S = 120


@dataclass(frozen=True)
class Outcome:
    """How a program ended, and what it said."""

    exit_code: int
    output: str
    errors: str

    @property
    def printed(self) -> Any:  # noqa: ANN401 - whatever the program prints
        """The output of a program that prints JSON."""
        return from_json(self.output)


def run_node(program: str, *arguments: str, cwd: Path, **environment: str) -> Outcome:
    """Run a program of an npm package (its name in `.bin`) or a script of this folder, in a folder below another."""
    script = HERE / program if program.endswith(".mjs") else MODULES / ".bin" / program
    return _run(["node", str(script), *arguments], cwd, environment)


def run_python(script: Path, *arguments: str, cwd: Path, **environment: str) -> Outcome:
    """Run a script with what tests/conformance/requirements.txt lists."""
    return _run([str(PYTHON), str(script), *arguments], cwd, environment)


def _run(argv: list[str], cwd: Path, environment: dict[str, str]) -> Outcome:
    # Nothing of this machine's settings, and above all none of its keys, reaches the program.
    home = cwd.parent / "home"
    home.mkdir(exist_ok=True)
    quiet = dict.fromkeys(("CI", "NO_COLOR", "NO_UPDATE_NOTIFIER", "VERCEL_TELEMETRY_DISABLED"), "1")
    given = {"PATH": os.environ["PATH"], "HOME": str(home), **quiet, **environment}
    ended = subprocess.run(argv, cwd=cwd, env=given, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
    return Outcome(ended.returncode, ended.stdout, ended.stderr)
