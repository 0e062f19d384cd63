"""Runs that are cancelled in the UI, or whose process is told to end, at every step of their journal under traffic.

All of it is in `make chaos`; one step of each kind is in `test_recovery.py`.
"""

from __future__ import annotations

import json
from collections.abc import Generator
from typing import TYPE_CHECKING

import pytest

from deployments.demo.traffic import Traffic
from tests.chaos.shop import Beginning, Run, Shop, check, perform, recovered, wait_for, wait_for_entries
from tests.chaos.test_kill_matrix import ENTRIES
from tests.flows.test_recovery import CANCEL, TERMINATE, stop

if TYPE_CHECKING:
    from tests.flows.conftest import Platform

_ENDED_WITHIN_S = 150
POINTS = [
    pytest.param(run, entry, how, id=f"{run} {how} at entry {entry}")
    for run, last in ENTRIES.items()
    for entry in range(1, last)
    for how in (CANCEL, TERMINATE)
]


@pytest.fixture
def traffic(released: Platform) -> Generator[Traffic]:
    with Traffic(released.host.public_url) as traffic:
        yield traffic


@pytest.fixture
def shop(released: Platform, traffic: Traffic) -> Generator[Shop]:
    """The platform's environment; afterwards it is as it was."""
    shop = Shop(released.local)
    active = released.host.active()
    assert active is not None
    shop.begin_at(active.version)
    yield shop
    if shop.facts().version != active.version:
        perform(shop, Run.FULL, "")
    shop.settle()


@pytest.mark.chaos
@pytest.mark.timeout(400)
@pytest.mark.parametrize(("run", "entry", "how"), POINTS)
def test_a_run_that_is_stopped_leaves_the_old_state_or_the_new_one(
    released: Platform, shop: Shop, traffic: Traffic, run: Run, entry: int, how: str
) -> None:
    ref = shop.prepare(run)
    before = shop.facts()
    parameters = {"git_ref": ref} if run is Run.DEPLOY else {"scope": run, "latest": run is not Run.APP_ONLY}
    if run is not Run.DEPLOY:
        parameters |= {"reason": "a case", "yes": True}
    begun = wait_for_entries(
        shop, run, entry, lambda: released.start(f"{run.procedure}/local", triggered_by="tests", **parameters)
    )
    with begun.process:
        try:
            owner = json.loads(max((released.local.root / "locks" / "local").glob("????????.json")).read_text())
            stop(released, owner["pid"], how)
            begun.process.communicate(timeout=_ENDED_WITHIN_S)
        finally:
            begun.process.kill()
    wait_for("nobody ended its journal", lambda: has_ended(begun), within_s=_ENDED_WITHIN_S)
    check(shop, traffic, before, recovered(shop))


def has_ended(begun: Beginning) -> bool:
    return json.loads(max(begun.journal.glob("*.json")).read_text())["kind"] == "ended"
