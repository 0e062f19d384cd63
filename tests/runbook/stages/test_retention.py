"""Pruning: the plan is what happens, and what is not in the plan stays."""

from __future__ import annotations

import io
from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from runbook.clients.backup_store import BackupStore
from runbook.clients.folder_store import FolderStore
from runbook.clients.object_store import ObjectLockedError
from runbook.connections import Connections
from runbook.errors import InvalidInputError
from runbook.manifest import Verification, VerificationState
from runbook.rules.identifiers import new_backup_id
from runbook.settings import BackupSettings, RetentionSettings
from runbook.stages.retention import Pruning, pin_backup, plan_pruning, prune_backups
from tests.runbook.manifests import manifest

VERIFIED, UNVERIFIED, FAILED = VerificationState.VERIFIED, VerificationState.UNVERIFIED, VerificationState.FAILED
FEW = RetentionSettings(keep_last=2, keep_daily=0, keep_weekly=0, keep_monthly=0, minimum_kept=1, unverified_days=3)


@pytest.fixture
def shop(connections: Connections) -> Connections:
    settings = connections.settings.model_copy(update={"backup": BackupSettings(retention=FEW)})
    return replace(connections, settings=settings)


def put(
    store: BackupStore,
    age_days: float,
    state: VerificationState = VERIFIED,
    *,
    environment: str = "test",
    now: datetime | None = None,
) -> str:
    at = (now or datetime.now(UTC)) - timedelta(days=age_days)
    backup_id = new_backup_id(at)
    store.reserve(backup_id, triggered_by="test", at=at)
    files = {"dump/toc.dat": store.put(backup_id, "dump/toc.dat", io.BytesIO(b"content"))}
    proof = Verification(state=state)
    store.publish(manifest(backup_id, environment=environment, files=files, created_at=at, verification=proof))
    return backup_id


def ids(connections: Connections) -> list[str]:
    return [known.backup_id for known in connections.store.manifests()]


def test_what_the_retention_does_not_keep_goes_with_all_its_files(shop: Connections) -> None:
    old = [put(shop.store, days) for days in (5, 4)]
    kept = [put(shop.store, days) for days in (1, 2)]
    planned = [decision.backup.backup_id for decision in plan_pruning(shop) if not decision.keep]
    assert (ids(shop), planned) == ([*kept, *reversed(old)], list(reversed(old)))
    pruning = prune_backups(shop)
    assert (list(pruning.removed), pruning.failed) == (planned, ())
    assert ids(shop) == kept
    left = {found.key.split("/")[2].split(".")[0] for found in shop.store.objects.objects("database/backups/backup_")}
    assert left == set(kept)
    assert prune_backups(shop).removed == ()


def test_the_last_verified_backup_stays_whatever_came_after_it(shop: Connections) -> None:
    good = put(shop.store, 100)
    bad = [put(shop.store, days, state) for days, state in ((50, FAILED), (40, UNVERIFIED), (1, FAILED))]
    assert set(prune_backups(shop).removed) == set(bad[:2])
    assert ids(shop) == [bad[2], good]


def test_a_pinned_backup_stays_until_it_is_unpinned(shop: Connections) -> None:
    old, *_ = [put(shop.store, days) for days in (9, 2, 1)]
    pin_backup(shop, old, reason="before the big change", by="somebody")
    (decision,) = [one for one in plan_pruning(shop) if one.backup.backup_id == old]
    assert decision.keep
    assert "before the big change (somebody)" in decision.reason
    assert prune_backups(shop).removed == ()
    shop.store.unpin(old)
    assert prune_backups(shop).removed == (old,)
    with pytest.raises(InvalidInputError, match="backup_id"):
        pin_backup(shop, old, reason="too late", by="somebody")


def test_another_environments_backups_in_the_same_store_are_left_alone(shop: Connections) -> None:
    theirs = [put(shop.store, days, environment="production") for days in (30, 20, 10, 5)]
    for days in (9, 2, 1):
        put(shop.store, days)
    assert len(prune_backups(shop).removed) == 1
    assert set(theirs) <= set(ids(shop))


def test_a_manifest_that_cannot_be_read_neither_counts_nor_goes(shop: Connections) -> None:
    old, *kept = [put(shop.store, days) for days in (9, 2, 1)]
    damaged = put(shop.store, 0.5)
    path = Path(shop.settings.records) / "database" / "backups" / f"{damaged}.meta.json"
    path.write_text("{")
    assert prune_backups(shop).removed == (old,)
    assert path.exists()
    assert set(ids(shop)) == set(kept)


def test_the_second_store_loses_only_what_the_first_one_loses(shop: Connections, tmp_path: Path) -> None:
    second, now = BackupStore(FolderStore(tmp_path / "second")), datetime.now(UTC)
    for store in (shop.store, second):
        for days in (9, 2, 1):
            put(store, days, now=now)  # the same backups, whatever second it is by then
    only_there = put(second, 200)
    assert len(prune_backups(replace(shop, second_store=second)).removed) == 1
    assert {known.backup_id for known in second.manifests()} == {*ids(shop), only_there}


class Locking(FolderStore):
    """A store that protects what it is told to."""

    def __init__(self, root: Path, *, locked: str, refused: str) -> None:
        super().__init__(root)
        self.locked, self.refused = locked, refused

    def locked_until(self, key: str) -> datetime | None:
        return datetime.now(UTC) + timedelta(days=30) if self.locked in key else None

    def delete(self, keys: Iterable[str]) -> None:
        doomed = list(keys)
        if any(self.refused in key for key in doomed):
            raise ObjectLockedError("protected until next month")
        super().delete(doomed)


def test_a_locked_backup_is_kept_and_one_that_refuses_to_go_is_reported(shop: Connections) -> None:
    oldest, locked, *_ = [put(shop.store, days) for days in (10, 9, 8, 2, 1)]
    locking = Locking(Path(shop.settings.records), locked=locked, refused=oldest)
    locked_shop = replace(shop, store=BackupStore(locking))
    (decision,) = [one for one in plan_pruning(locked_shop) if one.backup.backup_id == locked]
    assert decision.keep
    assert "protected by Object Lock until" in decision.reason
    pruning = prune_backups(locked_shop)
    assert len(pruning.removed) == 1
    assert pruning.failed == (f"{oldest}: protected until next month",)
    assert {oldest, locked} <= set(ids(shop))


def test_a_pin_set_after_the_plan_was_made_is_respected(shop: Connections) -> None:
    """The plan is made anew before each removal, here: between the first and the second one."""
    second, first = [put(shop.store, days) for days in (10, 9)]
    for days in (2, 1):
        put(shop.store, days)

    class PinningMeanwhile(FolderStore):
        def delete(self, keys: Iterable[str]) -> None:
            super().delete(keys)
            pin_backup(shop, second, reason="needed after all", by="somebody")

    pruning: Pruning = prune_backups(replace(shop, store=BackupStore(PinningMeanwhile(Path(shop.settings.records)))))
    assert pruning.removed == (first,)
    assert second in ids(shop)
