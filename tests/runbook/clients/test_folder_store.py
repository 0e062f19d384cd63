"""The object store as a folder: what only a folder can do wrong. The rest is in `test_object_stores.py`."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest

from runbook.clients.folder_store import FolderStore
from runbook.errors import RejectedError
from tests.runbook.helpers import no_file_bigger_than

KEY = "database/backups/backup_20250104_120000/dump/1.dat.zst"


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    return FolderStore(tmp_path / "records")


def files(store: FolderStore) -> list[str]:
    return sorted(path.relative_to(store.root).as_posix() for path in store.root.rglob("*") if path.is_file())


def test_only_the_owner_can_read_what_is_in_the_store(store: FolderStore) -> None:
    store.write(KEY, io.BytesIO(b"rows"))
    store.create("logs/deploy_1.json", b"{}")
    store.replace("logs/deploy_2.json", b"{}")
    paths = [store.root, *store.root.rglob("*")]
    assert {path.stat().st_mode & 0o777 for path in paths if path.is_dir()} == {0o700}
    assert {path.stat().st_mode & 0o777 for path in paths if path.is_file()} == {0o600}


def test_a_folder_that_was_there_keeps_its_mode(tmp_path: Path) -> None:
    (tmp_path / "records").mkdir(mode=0o755)
    FolderStore(tmp_path / "records").check()
    assert (tmp_path / "records").stat().st_mode & 0o777 == 0o755


def test_checking_leaves_nothing(store: FolderStore) -> None:
    store.check()
    store.check()
    assert files(store) == []


def test_a_folder_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    store = FolderStore(tmp_path / "file" / "records")
    for act in (
        store.check,
        lambda: store.create("a", b""),
        lambda: store.replace("a", b""),
        lambda: store.write("a", io.BytesIO(b"")),
    ):
        with pytest.raises(RejectedError, match=r"file/records cannot be used: .*Mend the folder"):
            act()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission_is_named(tmp_path: Path) -> None:
    (tmp_path / "records").mkdir(mode=0o500)
    with pytest.raises(RejectedError, match="Permission denied"):
        FolderStore(tmp_path / "records").check()


def test_a_full_disk_leaves_what_was_there_and_no_part(store: FolderStore) -> None:
    store.write(KEY, io.BytesIO(b"earlier"))
    with no_file_bigger_than(100_000), pytest.raises(RejectedError, match=r"cannot be used: .*disk"):
        store.write(KEY, io.BytesIO(bytes(3_000_000)))
    assert files(store) == [KEY]
    assert store.read(KEY) == b"earlier"


def test_a_writer_that_is_killed_leaves_a_part_that_nobody_lists_and_that_is_swept(store: FolderStore) -> None:
    script = (
        "import sys; from pathlib import Path; from runbook.clients.folder_store import FolderStore\n"
        "class Slow:\n"
        "    def read(self, size):\n"
        "        print('writing', flush=True); sys.stdin.readline(); return b'x' * 10\n"
        "FolderStore(Path(sys.argv[1])).write(sys.argv[2], Slow())\n"
    )
    argv = [sys.executable, "-c", script, str(store.root), KEY]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        assert writer.stdin is not None
        writer.stdout.readline()
        writer.stdin.write("\n")
        writer.stdin.flush()
        writer.stdout.readline()
        writer.kill()
    assert len(files(store)) == 1
    assert list(store.objects("")) == []
    assert store.sweep("", older_than=timedelta(hours=1)) == 0, "somebody may be writing it"
    assert store.sweep("", older_than=timedelta(seconds=-1)) == 1
    assert files(store) == []


def test_folders_go_with_their_last_file(store: FolderStore) -> None:
    store.write(KEY, io.BytesIO(b"rows"))
    store.delete([KEY])
    assert list(store.root.rglob("*")) == []
    store.delete([KEY])
