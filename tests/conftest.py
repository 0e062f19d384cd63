"""Tests that share one environment run one after the other, in one process; all others are spread over the rest."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("suite", deadline=None)  # how long an example takes says how busy the machine is
settings.load_profile("suite")

_TOGETHER = ("chaos", "flows")
_HERE = Path(__file__).parent


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--record-exchanges", metavar="DIR", help="write what clients and emulated services say to DIR")


def pytest_configure(config: pytest.Config) -> None:
    folder: str | None = config.getoption("--record-exchanges")
    if folder is not None:
        from tests.emulators.recording import Recorder  # needs a web server, which tests of rules do not
        from tests.emulators.service import Emulator

        Emulator.hear = Recorder(Path(folder).absolute())


def pytest_itemcollected(item: pytest.Item) -> None:
    """Here, not once all are collected: by then xdist has read the groups."""
    folder = item.path.relative_to(_HERE).parts[0]
    if folder in _TOGETHER:
        item.add_marker(pytest.mark.xdist_group(folder))
