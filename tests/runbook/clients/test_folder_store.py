"""The backup store as a folder: nothing is listed that is not whole, and nothing outside it is touched."""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from runbook.clients.folder_store import FolderStore, stored_files
from runbook.errors import InvalidInputError, RejectedError, TransientError
from runbook.manifest import BackupManifest, Fingerprint, VerificationState
from runbook.reports import DeployReport, FinalState, RollbackReport, RollbackScope

AT = datetime(2025, 1, 4, 12, tzinfo=UTC)
BACKUP = "backup_20250104_120000"
LATER = "backup_20250104_120001"


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    return FolderStore(tmp_path / "records")


def manifest(store: FolderStore, backup_id: str = BACKUP) -> BackupManifest:
    """The manifest of what has been written into a reserved folder."""
    return BackupManifest(
        backup_id=backup_id,
        environment="test",
        database="shop",
        created_at=AT,
        duration_s=1,
        reason="test",
        triggered_by="somebody",
        active_git_sha=None,
        server_version="18.6",
        client="pg_dump 18.6",
        lsn="0/1",
        files=stored_files(store.backups / f".{backup_id}.partial"),
        fingerprint=Fingerprint(schema_sha256="0", tables={}, migrations=()),
        restore_by_hand=(),
    )


def publish(store: FolderStore, backup_id: str = BACKUP) -> BackupManifest:
    folder = store.reserve(backup_id)
    (folder / "dump").mkdir(mode=0o755)
    (folder / "dump" / "toc.dat").write_text("content")
    (folder / "dump" / "toc.dat").chmod(0o644)
    made = manifest(store, backup_id)
    store.publish(made)
    return made


def names(store: FolderStore) -> list[str]:
    return sorted(path.name for path in store.backups.iterdir())


def test_a_backup_is_listed_once_it_is_published(store: FolderStore) -> None:
    store.reserve(BACKUP)
    assert store.manifests() == []
    store.discard(BACKUP)
    made = publish(store)
    assert store.manifests() == [made]
    assert store.manifest(BACKUP) == made
    assert names(store) == [BACKUP, f"{BACKUP}.meta.json"]
    assert (store.files(made) / "dump" / "toc.dat").read_text() == "content"


def test_backups_are_listed_newest_first(store: FolderStore) -> None:
    publish(store)
    publish(store, LATER)
    assert [known.backup_id for known in store.manifests()] == [LATER, BACKUP]


def test_only_the_owner_can_read_what_is_in_the_store(store: FolderStore) -> None:
    publish(store)
    store.write_deploy(deploy_report(AT))
    paths = [store.root, *store.root.rglob("*")]
    assert {path.stat().st_mode & 0o777 for path in paths if path.is_dir()} == {0o700}
    assert {path.stat().st_mode & 0o777 for path in paths if path.is_file()} == {0o600}


def test_a_folder_that_was_there_keeps_its_mode(tmp_path: Path) -> None:
    (tmp_path / "records").mkdir(mode=0o755)
    FolderStore(tmp_path / "records").check()
    assert (tmp_path / "records").stat().st_mode & 0o777 == 0o755


def test_an_id_is_reserved_once(store: FolderStore) -> None:
    store.reserve(BACKUP)
    with pytest.raises(TransientError, match="wait a second"):
        store.reserve(BACKUP)
    store.discard(BACKUP)
    publish(store)
    with pytest.raises(TransientError, match="wait a second"):
        store.reserve(BACKUP)
    assert names(store) == [BACKUP, f"{BACKUP}.meta.json"]


def test_discarding_never_touches_a_published_backup(store: FolderStore) -> None:
    made = publish(store)
    store.discard(BACKUP)
    store.discard(LATER)
    assert store.files(made).is_dir()


@pytest.mark.parametrize(
    "name", ["..", "../records", "/etc", f"{BACKUP}/..", f"{BACKUP}\n", "", "backup_20251399_000000"]
)
def test_an_id_that_is_no_backup_id_touches_nothing(store: FolderStore, name: str) -> None:
    made = publish(store)
    stranger = made.model_copy(update={"backup_id": name})
    for call in (store.reserve, store.discard, store.manifest):
        with pytest.raises(InvalidInputError, match="backup_id"):
            call(name)
    for act in (store.publish, store.update, store.files):
        with pytest.raises(InvalidInputError, match="backup_id"):
            act(stranger)
    assert names(store) == [BACKUP, f"{BACKUP}.meta.json"]


def test_an_unknown_backup_is_answered_with_those_there_are(store: FolderStore) -> None:
    with pytest.raises(InvalidInputError, match="there is none yet"):
        store.manifest(BACKUP)
    publish(store)
    with pytest.raises(InvalidInputError, match=BACKUP):
        store.manifest(LATER)


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"format_version": 2}', "\0"])
def test_one_unreadable_manifest_does_not_hide_the_others(
    store: FolderStore, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    made = publish(store)
    (store.backups / f"{LATER}.meta.json").write_text(text)
    (store.backups / "backup_of_my_notes.meta.json").write_text("{}")
    with caplog.at_level(logging.WARNING):
        assert store.manifests() == [made]
    assert LATER in caplog.text
    with pytest.raises(RejectedError, match="cannot be read as BackupManifest"):
        store.manifest(LATER)


def test_a_manifest_under_the_name_of_another_backup_is_refused(store: FolderStore) -> None:
    publish(store)
    (store.backups / f"{LATER}.meta.json").write_bytes((store.backups / f"{BACKUP}.meta.json").read_bytes())
    with pytest.raises(RejectedError, match=f"is the manifest of '{BACKUP}'"):
        store.manifest(LATER)


def test_an_update_replaces_the_manifest_and_leaves_no_other_file(store: FolderStore) -> None:
    made = publish(store)
    store.update(made.verified(at=AT, restore_s=2))
    assert store.manifest(BACKUP).verification.state is VerificationState.VERIFIED
    assert names(store) == [BACKUP, f"{BACKUP}.meta.json"]


def test_a_backup_whose_folder_is_gone_is_refused(store: FolderStore) -> None:
    made = publish(store)
    (store.backups / BACKUP).rename(store.backups / "elsewhere")
    with pytest.raises(RejectedError, match=r"dump/toc\.dat"):
        store.files(made)


def test_a_folder_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    store = FolderStore(tmp_path / "file" / "records")
    for act in (store.check, lambda: store.reserve(BACKUP), lambda: store.write_deploy(deploy_report(AT))):
        with pytest.raises(RejectedError, match=r"file/records cannot be used: .*Mend the folder"):
            act()


def test_checking_leaves_nothing_but_folders(store: FolderStore) -> None:
    store.check()
    store.check()
    assert [path.name for path in store.root.rglob("*") if path.is_file()] == []


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


def test_reports_come_back_oldest_first(store: FolderStore) -> None:
    times = [AT + timedelta(minutes=minutes) for minutes in (3, 1, 2)]
    store.write_deploy(deploy_report(times[0]))
    store.write_deploy(deploy_report(times[1]))
    where = store.write_rollback(rollback_report(times[2]))
    assert [report.timestamp for report in store.history()] == sorted(times)
    assert Path(where).parent == store.logs
    assert Path(where).name == "rollback_20250104_120200_000000.json"
    assert json.loads(Path(where).read_text())["triggeredBy"] == "somebody"


def test_a_report_that_cannot_be_read_is_not_passed_over(store: FolderStore) -> None:
    """It may say which release was marked bad."""
    store.write_deploy(deploy_report(AT))
    (store.logs / "rollback_20250104_130000_000000.json").write_text("{")
    with pytest.raises(RejectedError, match="rollback_20250104_130000"):
        store.history()


def test_there_is_no_history_before_the_first_run(store: FolderStore) -> None:
    assert store.history() == []
    assert store.manifests() == []
