"""Backups in an object store: nothing is listed that is not whole, nothing is read that was changed."""

from __future__ import annotations

import hashlib
import io
import json
import logging
import os
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import BinaryIO

import pytest

from runbook.clients.backup_store import BackupStore
from runbook.clients.folder_store import FolderStore
from runbook.errors import DamagedBackupError, InvalidInputError, RefusedError, RejectedError, TransientError
from runbook.manifest import BackupManifest, Pin, StoredFile, Verification, VerificationState
from runbook.reports import DeployReport, FinalState, RollbackReport, RollbackScope
from tests.runbook.manifests import BACKUP, manifest

AT = datetime(2025, 1, 4, 12, tzinfo=UTC)
LATER = "backup_20250104_120001"
TOC = "dump/toc.dat"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "records"


@pytest.fixture
def store(root: Path) -> BackupStore:
    return BackupStore(FolderStore(root))


def reserve(store: BackupStore, backup_id: str = BACKUP) -> None:
    store.reserve(backup_id, triggered_by="somebody", at=AT)


def publish(store: BackupStore, backup_id: str = BACKUP, content: bytes = b"content") -> BackupManifest:
    reserve(store, backup_id)
    made = manifest(backup_id, files={TOC: store.put(backup_id, TOC, io.BytesIO(content))})
    store.publish(made)
    return made


def names(root: Path) -> list[str]:
    folder = root / "database" / "backups"
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def read(stream: BinaryIO, chunk: int) -> bytes:
    found = b""
    while data := stream.read(chunk):
        found += data
    return found


WHOLE = [f"{BACKUP}.meta.json", f"{BACKUP}/RESERVED", f"{BACKUP}/{TOC}"]


def test_a_backup_is_listed_once_it_is_published(store: BackupStore, root: Path) -> None:
    reserve(store)
    file = store.put(BACKUP, TOC, io.BytesIO(b"content"))
    assert file == StoredFile(sha256=hashlib.sha256(b"content").hexdigest(), size_bytes=7)
    assert store.manifests() == []
    store.discard(BACKUP)
    assert names(root) == []
    made = publish(store)
    assert store.manifests() == [made]
    assert store.manifest(BACKUP) == made
    assert names(root) == WHOLE
    with store.open(made, TOC) as stream:
        assert stream.read() == b"content"


def test_backups_are_listed_newest_first(store: BackupStore) -> None:
    publish(store)
    publish(store, LATER)
    assert [known.backup_id for known in store.manifests()] == [LATER, BACKUP]


def test_an_id_is_reserved_once(store: BackupStore, root: Path) -> None:
    reserve(store)
    with pytest.raises(TransientError, match="wait a second"):
        reserve(store)
    store.discard(BACKUP)
    publish(store)
    with pytest.raises(TransientError, match="wait a second"):
        reserve(store)
    assert names(root) == WHOLE


def test_a_backup_of_which_a_file_did_not_arrive_is_not_published(store: BackupStore) -> None:
    reserve(store)
    file = store.put(BACKUP, TOC, io.BytesIO(b"content"))
    for files in ({TOC: file, "dump/1.dat.zst": file}, {TOC: file.model_copy(update={"size_bytes": 8})}):
        with pytest.raises(RejectedError, match=r"is not in .* as it was written"):
            store.publish(manifest(files=files))
    assert store.manifests() == []


def test_discarding_never_touches_a_published_backup(store: BackupStore, root: Path) -> None:
    publish(store)
    store.discard(BACKUP)
    store.discard(LATER)
    assert names(root) == WHOLE


@pytest.mark.parametrize(
    "name", ["..", "../records", "/etc", f"{BACKUP}/..", f"{BACKUP}\n", "", "backup_20251399_000000"]
)
def test_an_id_that_is_no_backup_id_touches_nothing(store: BackupStore, root: Path, name: str) -> None:
    stranger = publish(store).model_copy(update={"backup_id": name})
    for call in (
        lambda: reserve(store, name),
        lambda: store.discard(name),
        lambda: store.manifest(name),
        lambda: store.publish(stranger),
        lambda: store.update(stranger),
        lambda: store.remove(name),
        lambda: store.unpin(name),
        lambda: store.pin(name, Pin(reason="r", by="b", at=AT)),
        lambda: store.check_files(stranger),
    ):
        with pytest.raises(InvalidInputError, match="backup_id"):
            call()
    assert names(root) == WHOLE


@pytest.mark.parametrize("name", ["../../../etc/passwd", "/etc/passwd", "dump/../../x", "", "dump//x", ".hidden", "-x"])
def test_a_manifest_that_names_a_file_outside_its_folder_is_refused(store: BackupStore, root: Path, name: str) -> None:
    made = publish(store)
    text = (root / "database" / "backups" / f"{BACKUP}.meta.json").read_text().replace(TOC, name)
    (root / "database" / "backups" / f"{BACKUP}.meta.json").write_text(text)
    with pytest.raises(RejectedError, match="file name"):
        store.manifest(made.backup_id)


def test_an_unknown_backup_is_answered_with_those_there_are(store: BackupStore) -> None:
    with pytest.raises(InvalidInputError, match="there is none yet"):
        store.manifest(BACKUP)
    publish(store)
    with pytest.raises(InvalidInputError, match=BACKUP):
        store.manifest(LATER)


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"format_version": 2}', "\0"])
def test_one_unreadable_manifest_does_not_hide_the_others(
    store: BackupStore, root: Path, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    made = publish(store)
    (root / "database" / "backups" / f"{LATER}.meta.json").write_text(text)
    (root / "database" / "backups" / "backup_of_my_notes.meta.json").write_text("{}")
    with caplog.at_level(logging.WARNING):
        assert store.manifests() == [made]
    assert LATER in caplog.text
    with pytest.raises(RejectedError, match="cannot be read as BackupManifest"):
        store.manifest(LATER)


def test_a_manifest_that_was_tampered_with_is_refused(store: BackupStore, root: Path) -> None:
    publish(store)
    path = root / "database" / "backups" / f"{BACKUP}.meta.json"
    for field, value in (("reason", "another"), ("database", "other"), ("seal", "")):
        record = json.loads(path.read_text()) | {field: value}
        original = path.read_text()
        path.write_text(json.dumps(record))
        with pytest.raises(RejectedError, match="was changed after it was written"):
            store.manifest(BACKUP)
        assert store.manifests() == []
        path.write_text(original)
    assert len(store.manifests()) == 1, "as it was written it is fine, also with other spaces"
    path.write_text(json.dumps(json.loads(path.read_text())))
    assert len(store.manifests()) == 1


def test_a_manifest_under_the_name_of_another_backup_is_refused(store: BackupStore, root: Path) -> None:
    publish(store)
    folder = root / "database" / "backups"
    (folder / f"{LATER}.meta.json").write_bytes((folder / f"{BACKUP}.meta.json").read_bytes())
    with pytest.raises(RejectedError, match=f"is the manifest of '{BACKUP}'"):
        store.manifest(LATER)


def test_an_update_replaces_the_manifest_and_leaves_no_other_file(store: BackupStore, root: Path) -> None:
    made = publish(store)
    store.update(made.with_verification(Verification(state=VerificationState.VERIFIED, at=AT, restore_s=2)))
    assert store.manifest(BACKUP).is_verified
    assert names(root) == WHOLE


@pytest.mark.parametrize(
    "damaged",
    [b"Content", b"cont", b"content ", b"", b"content" * 100],
    ids=["bit", "cut", "longer", "empty", "long"],
)
@pytest.mark.parametrize("chunk", [-1, 3, 1 << 20])
def test_a_file_that_was_changed_is_refused_by_name(store: BackupStore, root: Path, damaged: bytes, chunk: int) -> None:
    made = publish(store)
    (root / "database" / "backups" / BACKUP / TOC).write_bytes(damaged)
    with (
        pytest.raises(DamagedBackupError, match=f"{BACKUP}: {TOC} is not what its manifest says"),
        store.open(made, TOC) as stream,
    ):
        read(stream, chunk)
    with pytest.raises(DamagedBackupError, match=TOC):
        store.check_files(made)


def test_a_damage_behind_what_was_read_is_found_all_the_same(store: BackupStore, root: Path) -> None:
    made = publish(store, content=bytes(3 << 20))
    (root / "database" / "backups" / BACKUP / TOC).write_bytes(bytes((3 << 20) - 1) + b"x")
    with pytest.raises(DamagedBackupError, match=TOC), store.open(made, TOC) as stream:
        stream.read(10)


def test_a_file_that_is_gone_or_swapped_with_another_is_refused(store: BackupStore, root: Path) -> None:
    reserve(store)
    files = {name: store.put(BACKUP, name, io.BytesIO(name.encode())) for name in ("dump/1.dat", "dump/2.dat")}
    made = manifest(files=files)
    store.publish(made)
    folder = root / "database" / "backups" / BACKUP / "dump"
    (folder / "1.dat").rename(folder / "0.dat")
    with pytest.raises(DamagedBackupError, match=r"dump/1\.dat is missing"):
        store.check_files(made)
    (folder / "2.dat").rename(folder / "1.dat")
    (folder / "0.dat").rename(folder / "2.dat")
    with pytest.raises(DamagedBackupError, match="is not what its manifest says"):
        store.check_files(made)


def test_removing_takes_the_manifest_first_and_everything_of_that_backup_alone(store: BackupStore, root: Path) -> None:
    publish(store)
    publish(store, LATER)
    store.remove(LATER)
    store.remove(LATER)
    assert names(root) == WHOLE


def test_a_pinned_backup_is_not_removed(store: BackupStore, root: Path) -> None:
    publish(store)
    pin = Pin(reason="before the big change", by="somebody", at=AT)
    store.pin(BACKUP, pin)
    assert store.pins() == {BACKUP: pin}
    assert [known.backup_id for known in store.manifests()] == [BACKUP]
    with pytest.raises(RefusedError, match="pinned"):
        store.remove(BACKUP)
    store.unpin(BACKUP)
    store.remove(BACKUP)
    assert names(root) == []
    with pytest.raises(InvalidInputError, match="there is none yet"):
        store.pin(BACKUP, pin)


def test_what_was_never_finished_is_swept_when_it_is_old_and_nothing_else(store: BackupStore, root: Path) -> None:
    publish(store)
    reserve(store, LATER)
    store.put(LATER, TOC, io.BytesIO(b"half"))
    assert store.sweep(older_than=timedelta(hours=1)) == []
    old = time.time() - 7200
    for path in (root / "database" / "backups").rglob("*"):
        os.utime(path, (old, old))
    store.put(LATER, "dump/2.dat", io.BytesIO(b"still going on"))
    assert store.sweep(older_than=timedelta(hours=1)) == [], "its newest file is young"
    os.utime(root / "database" / "backups" / LATER / "dump" / "2.dat", (old, old))
    assert store.sweep(older_than=timedelta(hours=1)) == [f"{LATER}, which was never finished"]
    assert names(root) == WHOLE


def deploy_report(at: datetime) -> DeployReport:
    return DeployReport(
        environment="test",
        timestamp=at,
        git_ref="v1",
        git_sha="a" * 40,
        version="v1",
        undone=(),
        reason="test",
        triggered_by="somebody",
        duration=1,
        success=True,
        state=FinalState.VERIFIED,
        steps=(),
    )


def rollback_report(at: datetime) -> RollbackReport:
    return RollbackReport(
        environment="test",
        timestamp=at,
        scope=RollbackScope.FULL,
        reason="test",
        triggered_by="somebody",
        duration=1,
        success=True,
        state=FinalState.VERIFIED,
        steps=(),
    )


def test_reports_come_back_oldest_first(store: BackupStore, root: Path) -> None:
    times = [AT + timedelta(minutes=minutes) for minutes in (3, 1, 2)]
    store.write_deploy(deploy_report(times[0]))
    store.write_deploy(deploy_report(times[1]))
    where = store.write_rollback(rollback_report(times[2]))
    assert [report.timestamp for report in store.history()] == sorted(times)
    assert Path(where).parent == root / "logs"
    assert Path(where).name == "rollback_20250104_120200_000000.json"
    assert json.loads(Path(where).read_text())["triggeredBy"] == "somebody"


def test_a_report_that_cannot_be_read_is_not_passed_over(store: BackupStore, root: Path) -> None:
    """It may say which release was marked bad."""
    store.write_deploy(deploy_report(AT))
    (root / "logs" / "rollback_20250104_130000_000000.json").write_text("{")
    with pytest.raises(RejectedError, match="rollback_20250104_130000"):
        store.history()


def test_there_is_no_history_before_the_first_run(store: BackupStore) -> None:
    assert store.history() == []
    assert store.manifests() == []
