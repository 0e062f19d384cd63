"""One shop for all cases, one after the other, and the traffic on it."""

from __future__ import annotations

from collections.abc import Generator

import pytest

from deployments.demo.traffic import Traffic
from deployments.local import LocalEnvironment
from tests.chaos.shop import Shop


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Generator[Shop]:
    root = tmp_path_factory.mktemp("chaos")
    local = LocalEnvironment(root / "environment", root / "repository")
    try:
        shop = Shop(local)
        shop.open()
        yield shop
    finally:
        local.remove()


@pytest.fixture(scope="module")
def traffic(shop: Shop) -> Generator[Traffic]:
    """Reads and orders all the time, 40 a second."""
    with Traffic(shop.public_url) as traffic:
        yield traffic
