"""Backups in S3, from the dump to the pruning, and what a store that fails does to them."""

from __future__ import annotations

from dataclasses import replace

import pytest
from mypy_boto3_s3 import S3Client

from runbook.clients.backup_store import BackupStore
from runbook.clients.s3_store import ObjectLock, S3Store
from runbook.connections import Connections
from runbook.errors import TransientError
from runbook.manifest import DumpFormat
from runbook.settings import BackupSettings, RetentionSettings
from runbook.stages.backup import copy_backup, create_backup, verify_backup
from runbook.stages.retention import plan_pruning, prune_backups
from tests.runbook.helpers import execute
from tests.runbook.s3_server import Fault, S3Proxy, resets_in_the_middle, says
from tests.runbook.stages.test_retention import put

pytest_plugins = ["tests.runbook.s3_server"]
NONE_BUT_THE_LAST = RetentionSettings(
    keep_last=1, keep_daily=0, keep_weekly=0, keep_monthly=0, minimum_kept=1, unverified_days=1
)


@pytest.fixture
def shop(connections: Connections, s3_through: S3Client, s3_bucket: str) -> Connections:
    execute(connections.database.url, "CREATE TABLE items AS SELECT n, md5(n::text) FROM generate_series(1, 500) n")
    return replace(connections, store=BackupStore(S3Store(s3_through, s3_bucket, "production")))


@pytest.mark.parametrize("dump_format", DumpFormat)
def test_a_backup_in_s3_is_restored_copied_and_pruned(
    shop: Connections, s3_through: S3Client, s3_bucket: str, dump_format: DumpFormat
) -> None:
    backup = BackupSettings(dump_format=dump_format, retention=NONE_BUT_THE_LAST)
    formed = replace(shop, settings=shop.settings.model_copy(update={"backup": backup}))
    made = create_backup(formed, reason="test", triggered_by="somebody")
    assert verify_backup(formed, made.backup_id).is_verified
    assert f"aws s3 cp --recursive {formed.store.place}/database/backups/{made.backup_id}" in made.restore_by_hand[1]
    second = BackupStore(S3Store(s3_through, s3_bucket, "elsewhere"))
    assert copy_backup(replace(formed, second_store=second), made.backup_id) == second.place
    assert second.manifests() == formed.store.manifests()
    old = put(formed.store, 9)
    assert prune_backups(formed).removed == (old,)
    assert [known.backup_id for known in formed.store.manifests()] == [made.backup_id]


def test_a_protected_backup_is_kept_until_its_date(
    shop: Connections, s3_through: S3Client, s3_direct: S3Client, s3_bucket: str
) -> None:
    lockable = f"{s3_bucket}-lockable"
    s3_direct.create_bucket(Bucket=lockable, ObjectLockEnabledForBucket=True)
    locking = BackupStore(S3Store(s3_through, lockable, "production", ObjectLock("GOVERNANCE", 3)))
    backup = BackupSettings(retention=NONE_BUT_THE_LAST)
    locked = replace(shop, store=locking, settings=shop.settings.model_copy(update={"backup": backup}))
    locking.check()
    old, new = put(locking, 9), put(locking, 1)
    (decision, _) = sorted(plan_pruning(locked), key=lambda one: one.backup.backup_id)
    assert decision.keep
    assert "protected by Object Lock until" in decision.reason
    assert prune_backups(locked).removed == ()
    assert [known.backup_id for known in locking.manifests()] == [new, old]


@pytest.mark.parametrize(
    "fault",
    [says(500, "InternalError"), resets_in_the_middle],
    ids=["the service fails", "the connection breaks in the upload"],
)
def test_an_upload_that_fails_for_good_leaves_no_backup(
    shop: Connections, s3_proxy: S3Proxy, s3_direct: S3Client, s3_bucket: str, fault: Fault
) -> None:
    earlier = put(shop.store, 1)
    s3_proxy.breaks("PutObject", fault, times=200, after=1)  # the reservation is made
    with pytest.raises(TransientError):
        create_backup(shop, reason="test", triggered_by="somebody")
    s3_proxy.mend()
    assert [known.backup_id for known in shop.store.manifests()] == [earlier]
    assert {key for key in keys(shop) if earlier not in key} == set()
    assert not s3_direct.list_multipart_uploads(Bucket=s3_bucket).get("Uploads")


def keys(connections: Connections) -> list[str]:
    return [found.key for found in connections.store.objects.objects("")]
