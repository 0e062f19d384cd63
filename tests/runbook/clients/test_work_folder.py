"""Work folders: private, gone afterwards, also those of a run that was killed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from runbook.clients.work_folder import work_folder
from runbook.errors import RejectedError

HOLD = (
    "import sys; from pathlib import Path; from runbook.clients.work_folder import work_folder\n"
    "with work_folder(Path(sys.argv[1]), 'theirs') as folder:\n"
    "    (folder / 'rows').write_text('secret'); print(folder, flush=True); sys.stdin.readline()\n"
)


def test_a_work_folder_is_private_empty_and_gone_afterwards(tmp_path: Path) -> None:
    parent = tmp_path / "work"
    with work_folder(parent, "backup") as folder:
        assert list(folder.iterdir()) == []
        assert folder.stat().st_mode & 0o777 == folder.parent.stat().st_mode & 0o777 == 0o700
        (folder / "rows").write_text("secret")
    assert list(parent.iterdir()) == []


def test_a_work_folder_goes_also_when_its_body_fails(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), work_folder(tmp_path, "backup"):
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_run_left_is_swept_and_what_a_living_one_holds_is_not(tmp_path: Path) -> None:
    argv = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        theirs = Path(other.stdout.readline().strip())
        with work_folder(tmp_path, "backup"):
            assert (theirs / "rows").exists()
        other.kill()
    assert (theirs / "rows").exists()
    with work_folder(tmp_path, "backup"):
        assert not theirs.exists()


def test_a_folder_that_cannot_be_written_to_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(RejectedError, match=r"work folder .*file/work cannot be used.*work_directory"):  # noqa: SIM117
        with work_folder(tmp_path / "file" / "work", "backup"):
            pass
