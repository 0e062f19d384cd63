"""Processes that outlive their caller, found again and stopped by what is written about them."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

_STOP_WITHIN_S = 10


@dataclass(frozen=True)
class Service:
    """A long-running program with its own session, a log, and a note of which process it is, in one folder."""

    name: str
    folder: Path

    @property
    def log(self) -> Path:
        """Where the program's output goes."""
        return self.folder / f"{self.name}.log"

    def start(self, argv: Sequence[str], environment: Mapping[str, str]) -> None:
        """Start the program unless it runs already."""
        if self.process() is not None:
            return
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with self.log.open("ab") as log:
            process = subprocess.Popen(
                argv,
                env=environment,
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        process.returncode = 0  # it is meant to outlive this process, which therefore never waits for it
        note = {"pid": process.pid, "create_time": psutil.Process(process.pid).create_time()}
        self._note.write_text(json.dumps(note), encoding="utf-8")

    def process(self) -> psutil.Process | None:
        """Return the running process, or None; a reused process id is told apart by its start time."""
        try:
            note = json.loads(self._note.read_text(encoding="utf-8"))
            process = psutil.Process(note["pid"])
            if process.create_time() == note["create_time"] and process.status() != psutil.STATUS_ZOMBIE:
                return process
        except (OSError, ValueError, KeyError, psutil.Error):
            return None
        return None

    def stop(self) -> None:
        """Stop the program and everything it started; no error when it does not run."""
        process = self.process()
        if process is not None:
            family = [process]
            with suppress(psutil.NoSuchProcess):
                family += process.children(recursive=True)
            for end in (psutil.Process.terminate, psutil.Process.kill):
                for member in family:
                    with suppress(psutil.NoSuchProcess):
                        end(member)
                _, family = psutil.wait_procs(family, timeout=_STOP_WITHIN_S)
        self._note.unlink(missing_ok=True)

    @property
    def _note(self) -> Path:
        return self.folder / f"{self.name}.pid.json"


def inherited_environment() -> dict[str, str]:
    """Return this process's environment without Prefect's and Python's own settings, which belong to someone else."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "PYTHON"))}
