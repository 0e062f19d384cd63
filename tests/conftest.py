"""Tests that share one environment run one after the other, in one process; all others are spread over two.

Those that take longest begin first, one in each process.
"""

from __future__ import annotations

from pathlib import Path

import pytest

_TOGETHER = ("acceptance", "flows")
_HERE = Path(__file__).parent


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if _folder(item) in _TOGETHER:
            item.add_marker(pytest.mark.xdist_group(_folder(item)))
    items.sort(key=lambda item: _folder(item) not in _TOGETHER)


def _folder(item: pytest.Item) -> str:
    return item.path.relative_to(_HERE).parts[0]
