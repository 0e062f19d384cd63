"""Tests here run what is not this project's against its emulators, and hold recorded exchanges against documents."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.emulators.recording import Record, read_records

_TESTS = Path(__file__).parents[1]
_REPLAYED = ("runbook/clients", "runbook/stages", "blocks", "emulators")


@pytest.fixture(scope="session")
def exchanges(tmp_path_factory: pytest.TempPathFactory) -> list[Record]:
    """Every exchange of a recorded run of the tests: of the whole suite's where `EXCHANGES` names its folder.

    Without one, the tests of clients and blocks that talk to an emulator are run again to record it.
    """
    given = os.environ.get("EXCHANGES")
    if given:
        return _of_services(Path(given))
    folder = tmp_path_factory.mktemp("exchanges")
    files = [file for part in _REPLAYED for file in (_TESTS / part).glob("test_*.py")]
    emulated = [str(file) for file in files if re.search("^from tests.emulators", file.read_text(), re.MULTILINE)]
    argv = [sys.executable, "-m", "pytest", "-q", "--numprocesses=2", f"--record-exchanges={folder}", *emulated]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    ended = subprocess.run(argv, cwd=_TESTS.parent, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout[-5000:]
    return _of_services(folder)


def _of_services(folder: Path) -> list[Record]:
    """Leave out what tests have invented to test emulators themselves."""
    return [record for record in read_records(folder) if not record.service.startswith("test_")]
