from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import cast

import psutil
import pytest

from runbook.clients.application_host import ApplicationHost
from runbook.clients.backup_store import BackupStore
from runbook.clients.git import Repository
from runbook.clients.postgres import Database
from runbook.connections import Connections
from runbook.errors import StageError
from runbook.settings import Settings, TestCommand
from runbook.stages.test_suite import TestReport, run_test_suite


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A repository with one commit, and a working tree that has moved on."""
    path = tmp_path / "repository"
    path.mkdir()
    git(path, "init", "--quiet")
    (path / "value.txt").write_text("committed\n", encoding="utf-8")
    git(path, "add", ".")
    git(path, "commit", "--quiet", "--message=one")
    (path / "value.txt").write_text("changed since\n", encoding="utf-8")
    (path / "untracked.txt").write_text("never committed\n", encoding="utf-8")
    return path


def git(path: Path, *arguments: str) -> str:
    argv = ["git", "-c", "user.name=t", "-c", "user.email=t@example.test", "-C", str(path), *arguments]
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout.strip()


def run(source: Path, *commands: TestCommand) -> TestReport:
    connections = Connections(
        settings=Settings(name="local", repository=str(source), database="shop", tests=commands),
        repository=Repository(source),
        database=Database("postgresql://nobody@127.0.0.1:1/shop"),
        host=cast("ApplicationHost", None),
        store=cast("BackupStore", None),
        channels=(),
    )
    return run_test_suite(connections, git(source, "rev-parse", "HEAD"))


def python(script: str, *, name: str = "unit tests", timeout_s: float = 30) -> TestCommand:
    return TestCommand(name=name, argv=("{python}", "-c", script), timeout_s=timeout_s)


def shell(script: str, *, timeout_s: float = 30) -> TestCommand:
    return TestCommand(name="unit tests", argv=("sh", "-c", script), timeout_s=timeout_s)


def wait_until_gone(pid_file: Path) -> bool:
    pid = int(pid_file.read_text(encoding="utf-8"))
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        if not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return True
        time.sleep(0.02)
    return False


def test_the_suite_sees_the_commit_and_not_the_working_tree(source: Path) -> None:
    report = run(source, shell("ls -A && cat value.txt"))
    [result] = report.results
    assert (result.name, result.last_line) == ("unit tests", "committed")
    assert report.git_sha == git(source, "rev-parse", "HEAD")
    with pytest.raises(StageError, match="exit code"):
        run(source, shell("test -e untracked.txt"))


def test_the_suite_cannot_change_the_repository(source: Path) -> None:
    run(source, shell("echo overwritten > value.txt; rm -rf .git"))
    assert (source / "value.txt").read_text(encoding="utf-8") == "changed since\n"
    assert git(source, "rev-parse", "HEAD")


def test_the_suite_sees_no_secret_of_our_environment(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DATABASE_URL", "PGPASSWORD", "JWT_SECRET", "PREFECT_API_KEY"):
        monkeypatch.setenv(name, "correct horse battery staple")
    script = "import os; print(sorted(os.environ)); assert 'horse' not in str(os.environ)"
    [result] = run(source, python(script)).results
    assert "DATABASE_URL" not in result.last_line
    assert "PATH" in result.last_line


def test_the_suite_cannot_wait_for_an_answer_on_the_terminal(source: Path) -> None:
    assert run(source, shell("read answer || echo nobody there")).results[0].last_line == "nobody there"


def test_commands_run_in_order_until_the_first_that_fails(source: Path, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    with pytest.raises(StageError, match="types failed with exit code 3"):
        run(
            source,
            python(f"open({str(trace)!r}, 'a').write('lint ')", name="lint"),
            python(f"open({str(trace)!r}, 'a').write('types ') and exit(3)", name="types"),
            python(f"open({str(trace)!r}, 'a').write('unit')", name="unit"),
        )
    assert trace.read_text(encoding="utf-8") == "lint types "


def test_a_failure_shows_the_end_of_the_output(source: Path) -> None:
    with pytest.raises(StageError) as caught:
        run(source, python("[print('line', n) for n in range(1000)]; raise SystemExit('the reason')"))
    lines = str(caught.value).splitlines()
    assert lines[0] == "unit tests failed with exit code 1:"
    assert lines[-1] == "the reason"
    assert "line 999" in lines
    assert "line 900" not in lines


def test_output_that_is_not_text_does_no_harm(source: Path) -> None:
    script = "import sys; sys.stdout.buffer.write(b'\\xff\\xfe done\\n')"
    assert run(source, python(script)).results[0].last_line.endswith("done")


def test_a_suite_that_says_nothing_passes(source: Path) -> None:
    assert run(source, shell("true")).results[0].last_line == ""


@pytest.mark.parametrize("signal_name", ["KILL", "SEGV"])
def test_a_command_ended_by_a_signal_has_failed(source: Path, signal_name: str) -> None:
    with pytest.raises(StageError, match="failed with exit code -"):
        run(source, shell(f"ulimit -c 0; kill -{signal_name} $$"))


@pytest.mark.timeout(30)
def test_a_command_that_takes_too_long_is_stopped_with_all_it_started(source: Path, tmp_path: Path) -> None:
    note = tmp_path / "child.pid"
    with pytest.raises(StageError, match=r"(?s)did not end within 0\.5 s and was stopped:\nstarted$"):
        run(source, shell(f"sleep 60 & echo $! > {note}; echo started; wait", timeout_s=0.5))
    assert wait_until_gone(note)


@pytest.mark.parametrize(("ending", "passes"), [("true", True), ("false", False)])
@pytest.mark.timeout(30)
def test_what_a_command_leaves_in_the_background_neither_delays_nor_outlives_it(
    source: Path, tmp_path: Path, ending: str, passes: bool
) -> None:
    note = tmp_path / "child.pid"
    command = shell(f"sleep 60 & echo $! > {note}; {ending}")
    if passes:
        run(source, command)
    else:
        with pytest.raises(StageError, match="failed with exit code 1"):
            run(source, command)
    assert wait_until_gone(note)


def test_a_missing_program_is_named(source: Path) -> None:
    command = TestCommand(name="end to end", argv=("no-such-program-anywhere", "--run"))
    with pytest.raises(StageError, match="end to end: no-such-program-anywhere cannot be started"):
        run(source, command)


def test_python_stands_for_the_python_that_runs_the_runbook(source: Path) -> None:
    assert run(source, python("import sys; print(sys.executable)")).results[0].last_line == sys.executable


def test_nothing_is_left_of_the_copy(source: Path) -> None:
    [result] = run(source, python("import os; os.makedirs('a/b'); os.chmod('a', 0); print(os.getcwd())")).results
    assert not Path(result.last_line).exists()


def test_without_commands_there_is_nothing_to_run(source: Path) -> None:
    assert run(source).results == ()
