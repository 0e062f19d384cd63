"""Runs of a real shop that are killed at every step of their journal, while customers order.

A few of the points are in `make test`, all of them in `make chaos`.
"""

from __future__ import annotations

import itertools
import re
import subprocess
import time

import pytest

from deployments.demo.traffic import Traffic
from runbook.settings import ReplayMethod
from tests.chaos.shop import Run, Shop, check, recovered, wait_for, wait_for_entries

# What the entries of the journals are:
# deploy    1 begun, 2 backup, 3 done, 4 copy, 5 done, 6 migrate, 7 done, 8 stage, 9 done, 10 promote, 11 done,
#           12 passed, 13 ended
# full      1 begun, 2 copy, 3 done, 4 swap, 5 done, 6 switch, 7 done, 8 passed, 9 hold, 10 done, 11 ended
# app-only  1 begun, 2 switch, 3 done, 4 passed, 5 hold, 6 done, 7 ended
# db-only   1 begun, 2 copy, 3 done, 4 swap, 5 done, 6 passed, 7 hold, 8 done, 9 ended
ENTRIES = {Run.DEPLOY: 13, Run.FULL: 11, Run.APP_ONLY: 7, Run.DB_ONLY: 9}
REPLAYS = (Run.FULL, Run.DB_ONLY)
SAMPLE = {
    (Run.FULL, 4, 0.1, ReplayMethod.SLOT),
    (Run.DB_ONLY, 5, 0.0, ReplayMethod.DIFFERENCE),
}
POINTS = [
    pytest.param(
        *point,
        id=f"{point[0]} at entry {point[1]} + {point[2]} s, {point[3]}",
        marks=[] if point in SAMPLE else [pytest.mark.chaos],
    )
    for run, last in ENTRIES.items()
    for point in itertools.product(
        [run],
        range(1, last + 1),
        (0.0, 0.1),
        (ReplayMethod.SLOT, ReplayMethod.DIFFERENCE) if run in REPLAYS else (ReplayMethod.SLOT,),
    )
]


@pytest.mark.parametrize(("run", "entry", "delay_s", "method"), POINTS)
def test_a_run_that_is_killed_leaves_the_old_state_or_the_new_one(
    shop: Shop, traffic: Traffic, run: Run, entry: int, delay_s: float, method: ReplayMethod
) -> None:
    shop.method = method
    ref = shop.prepare(run)
    before = shop.facts()
    begun = wait_for_entries(shop, run, entry, lambda: shop.start(run, ref))
    was_running = killed(begun.process, after_s=delay_s)
    assert was_running or delay_s or entry == ENTRIES[run], "it ended before it could be killed"
    check(shop, traffic, before, recovered(shop))


@pytest.mark.parametrize(
    ("run", "entry"), [(Run.DEPLOY, 7), (Run.DEPLOY, 10), (Run.FULL, 3), (Run.FULL, 5), (Run.DB_ONLY, 4)]
)
@pytest.mark.parametrize("entries", [1, 2, 4])
@pytest.mark.chaos
def test_a_recovery_that_is_killed_is_finished_by_the_next_one(
    shop: Shop, traffic: Traffic, run: Run, entry: int, entries: int
) -> None:
    shop.method = ReplayMethod.SLOT
    ref = shop.prepare(run)
    before = shop.facts()
    begun = wait_for_entries(shop, run, entry, lambda: shop.start(run, ref))
    killed(begun.process)
    there = len(list(begun.journal.glob("0*.json")))
    recovery = shop.start(Run.RECOVER, ref)
    wait_for(
        "the recovery never came so far",
        lambda: len(list(begun.journal.glob("0*.json"))) >= there + entries or recovery.poll() is not None,
    )
    killed(recovery)
    check(shop, traffic, before, recovered(shop))


def test_of_two_rollbacks_at_once_one_wins_and_the_other_says_who_did(shop: Shop, traffic: Traffic) -> None:
    ref = shop.prepare(Run.APP_ONLY)
    before = shop.facts()
    both = [shop.start(Run.APP_ONLY, ref, stderr=subprocess.PIPE) for _ in range(2)]
    said = [process.communicate(timeout=60)[1].decode() for process in both]
    assert sorted(process.returncode == 0 for process in both) == [False, True], said
    [refusal] = [text for text, process in zip(said, both, strict=True) if process.returncode]
    assert re.search(
        r"local is being changed: rollback \(rollback_\S+\) by chaos since 20\d\d-\S+ \S+ UTC: a case", refusal
    )
    check(shop, traffic, before, recovered(shop))


def killed(process: subprocess.Popen[bytes], *, after_s: float = 0) -> bool:
    """Kill a process after a time, and return whether it was still running."""
    try:
        time.sleep(after_s)
        return process.poll() is None
    finally:
        process.kill()
        process.wait(30)
