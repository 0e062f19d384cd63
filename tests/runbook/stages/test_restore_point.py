"""The instant restore point beside each dump: made, kept as long as it may be needed, removed with its backup."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from pydantic import SecretStr

from runbook.clients.backup_store import BackupStore
from runbook.clients.folder_store import FolderStore
from runbook.clients.http_api import Patience
from runbook.clients.neon import NeonRestorePoints, NeonSettings
from runbook.connections import Connections
from runbook.errors import RejectedError, TransientError
from runbook.settings import BackupSettings, RetentionSettings
from runbook.stages.backup import create_backup
from runbook.stages.checklist import run_checklist
from runbook.stages.retention import prune_backups
from tests.emulators.neon import NeonEmulator, neon_emulator
from tests.runbook.stages.test_retention import put

QUICK = Patience(answer_s=5, pause_s=0.005, poll_s=0.002, finish_s=30)


@pytest.fixture
def neon() -> Generator[NeonEmulator]:
    with neon_emulator(token="token", history=timedelta(hours=6)) as emulator:
        yield emulator


@pytest.fixture
def shop(connections: Connections, neon: NeonEmulator) -> Connections:
    settings = NeonSettings(neon.project_id, "main", "branch", neon.url)
    points = NeonRestorePoints(settings, SecretStr("token"), QUICK)
    few = RetentionSettings(keep_last=1, keep_daily=0, keep_weekly=0, keep_monthly=0, minimum_kept=1, unverified_days=1)
    backup = BackupSettings(rollback_deadline_h=5, retention=few)
    changed = connections.settings.model_copy(update={"backup": backup})
    database = replace(connections.database, restore_points=points)
    return replace(connections, settings=changed, database=database)


def test_a_backup_names_its_restore_point_which_outlives_the_rollback_deadline(
    shop: Connections, neon: NeonEmulator
) -> None:
    made = create_backup(shop, reason="test", triggered_by="somebody")
    point = made.restore_point
    assert point is not None
    assert point.name == f"runbook-{made.backup_id}"
    assert len(neon.named(point.name)) == 1
    assert point.expires_at is not None
    assert point.expires_at - made.created_at > shop.settings.backup.rollback_deadline
    assert shop.store.manifest(made.backup_id).restore_point == point


def test_a_backup_that_fails_leaves_no_restore_point(shop: Connections, neon: NeonEmulator) -> None:
    class Broken(FolderStore):
        def create(self, key: str, data: bytes, *, protected: bool = False) -> None:
            if key.endswith(".meta.json"):
                raise RejectedError("no more")
            super().create(key, data, protected=protected)

    broken = replace(shop, store=BackupStore(Broken(Path(shop.settings.records))))
    with pytest.raises(RejectedError, match="no more"):
        create_backup(broken, reason="test", triggered_by="somebody")
    assert not [branch for branch in neon.branches.values() if branch.name.startswith("runbook-")]


def test_a_provider_that_refuses_fails_the_backup_before_the_dump(shop: Connections, neon: NeonEmulator) -> None:
    neon.refuse("POST", "/branches$", 500, times=50)
    with pytest.raises(TransientError):
        create_backup(shop, reason="test", triggered_by="somebody")
    assert list(shop.store.objects.objects("database/backups/")) == []


def test_a_restore_point_goes_with_its_backup(shop: Connections, neon: NeonEmulator) -> None:
    kept = put(shop.store, 1)
    old = put(shop.store, 9)
    assert shop.restore_points is not None
    point = shop.restore_points.create(f"runbook-{old}", keep_for=timedelta(days=1))
    shop.store.update(shop.store.manifest(old).model_copy(update={"restore_point": point}))
    assert prune_backups(shop).removed == (old,)
    assert neon.named(point.name) == []
    assert [known.backup_id for known in shop.store.manifests()] == [kept]


@pytest.mark.parametrize(("deadline_h", "outcome"), [(5, "passed"), (7, "failed")])
def test_a_deploy_is_refused_when_the_provider_forgets_before_the_rollback_deadline(
    shop: Connections, deadline_h: float, outcome: str
) -> None:
    settings = shop.settings.model_copy(update={"backup": BackupSettings(rollback_deadline_h=deadline_h)})
    answers = run_checklist(replace(shop, settings=settings), "main", strict=False)
    (check,) = [check for check in answers.checks if check.name == "instant restore point"]
    assert check.outcome == outcome, check.detail
    assert f"the rollback deadline is {deadline_h} h" in check.detail
