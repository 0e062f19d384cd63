from __future__ import annotations

import logging
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import psutil
import psycopg
import pytest

from runbook.clients.embedded_postgres import EmbeddedPostgres
from runbook.clients.git import Repository
from runbook.connections import Connections
from runbook.errors import StageError
from runbook.rules.test_results import TestOutcome
from runbook.settings import TestCommand, TestDatabase
from runbook.stages.test_suite import TestReport, TestSuiteFailedError, run_test_suite
from tests.runbook.surroundings import surrounded


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
    return run_test_suite(with_tests(source, *commands), git(source, "rev-parse", "HEAD"))


def with_tests(source: Path, *commands: TestCommand) -> Connections:
    records = source.parent / "records"
    connections = surrounded(records)
    settings = connections.settings.model_copy(update={"tests": commands, "records": str(records)})
    return replace(connections, settings=settings, repository=Repository(source))


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


def test_each_line_is_in_the_log_while_the_command_runs(
    source: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The command goes on only when what it has said was logged."""
    caplog.set_level(logging.INFO)
    go_on = tmp_path / "go on"

    class Answer(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.getMessage() == "unit tests | first":
                go_on.touch()

    answer = Answer()
    logging.getLogger("runbook").addHandler(answer)
    try:
        run(source, shell(f"echo first; while ! test -e '{go_on}'; do sleep 0.02; done; printf 'no end of line'"))
    finally:
        logging.getLogger("runbook").removeHandler(answer)
    assert [text for text in caplog.messages if " | " in text] == ["unit tests | first", "unit tests | no end of line"]


def test_a_command_that_says_too_much_does_not_flood_the_log(source: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    run(source, shell("seq 7000"))
    said = [text for text in caplog.messages if " | " in text]
    assert said[4999:] == ["unit tests | 5000", "unit tests | more than 5000 lines; the rest is not logged"]


def junit(xml: str, *, ending: str = "true", pattern: str = "out/*.xml") -> TestCommand:
    script = f"mkdir -p out && cat > out/results.xml <<'END'\n{xml}\nEND\n{ending}"
    return TestCommand(name="unit tests", argv=("sh", "-c", script), junit=pattern)


GOOD = '<testsuite><testcase classname="cart" name="adds" time="0.25"/></testsuite>'
BAD = '<testsuite><testcase classname="cart" name="adds"><failure message="1 is not 2"/></testcase></testsuite>'


def test_results_of_single_tests_are_reported(source: Path) -> None:
    [result] = run(source, junit(GOOD)).results
    [case] = result.cases
    assert (case.name, case.outcome, case.duration_s) == ("cart / adds", TestOutcome.PASSED, 0.25)


def test_a_failure_names_the_tests_that_failed_and_keeps_their_results(source: Path) -> None:
    with pytest.raises(TestSuiteFailedError, match=r"exit code 1:\n- cart / adds: 1 is not 2") as caught:
        run(source, shell("true"), junit(BAD, ending="exit 1"))
    first, second = caught.value.report.results
    assert (first.passed, second.passed) == (True, False)
    assert (first.counts, second.counts) == ("", "1 failed")


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        pytest.param(junit(BAD), "its results say that 1 tests failed", id="failed tests, exit code 0"),
        pytest.param(
            junit(GOOD, pattern="other/*.xml"), r"left no result of a test that matches other/\*\.xml", id="none"
        ),
        pytest.param(junit("<testsuite/>"), "left no result of a test", id="no test was run"),
        pytest.param(junit("<testsuite>"), "left results that cannot be read", id="not XML"),
    ],
)
def test_a_command_whose_results_do_not_show_that_it_passed_has_failed(
    source: Path, command: TestCommand, reason: str
) -> None:
    with pytest.raises(TestSuiteFailedError, match=reason):
        run(source, command)


def test_results_of_an_earlier_command_are_not_those_of_a_later_one(source: Path) -> None:
    with pytest.raises(TestSuiteFailedError, match="unit tests ended well, but left no result"):
        run(source, junit(GOOD), TestCommand(name="unit tests", argv=("true",), junit="out/*.xml"))


def test_results_outside_of_the_checkout_are_not_read(source: Path, tmp_path: Path) -> None:
    (tmp_path / "outside.xml").write_text(GOOD, encoding="utf-8")
    linked = TestCommand(name="e2e", argv=("ln", "-s", str(tmp_path / "outside.xml"), "linked.xml"), junit="*.xml")
    with pytest.raises(TestSuiteFailedError, match=r"linked\.xml"):
        run(source, linked)


def test_a_test_that_failed_and_passes_with_the_same_commit_is_flaky(source: Path, tmp_path: Path) -> None:
    """By the results when there are some, otherwise the command as a whole; another commit starts anew."""
    second = tmp_path / "second"
    once = shell(f"test -e {second}")
    with pytest.raises(TestSuiteFailedError):
        run(source, junit(BAD, ending="exit 1"))
    with pytest.raises(TestSuiteFailedError):
        run(source, once.model_copy(update={"name": "end to end"}))
    second.touch()
    again = (junit(GOOD), once.model_copy(update={"name": "end to end"}))
    assert run(source, *again).flaky == ("cart / adds", "end to end")
    git(source, "commit", "--quiet", "--allow-empty", "--message=two")
    assert run(source, *again).flaky == ()


MIGRATION = "CREATE TABLE shop (id integer PRIMARY KEY); INSERT INTO shop VALUES (7);"
ASK = """
import os, psycopg
with psycopg.connect(os.environ["DATABASE_URL"]) as connection:
    print(connection.execute({query!r}).fetchone()[0])
    connection.execute("CREATE TABLE scratch ()")
"""


def asking(query: str, database: TestDatabase) -> TestCommand:
    return TestCommand(name="integration", argv=("{python}", "-c", ASK.format(query=query)), database=database)


def with_migration(source: Path, text: str) -> None:
    (source / "migrations").mkdir()
    (source / "migrations" / "0001_shop.sql").write_text(text, encoding="utf-8")
    git(source, "add", "migrations")
    git(source, "commit", "--quiet", "--message=migration")


def test_commands_get_databases_of_their_own_that_are_gone_afterwards(source: Path) -> None:
    """Both make a table of the same name; what is left of the server is nothing."""
    with_migration(source, MIGRATION)
    count = "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'"
    report = run(
        source,
        asking("SELECT id FROM shop", TestDatabase.MIGRATED),
        asking(count, TestDatabase.EMPTY),
        asking(count, TestDatabase.EMPTY),
    )
    assert [result.last_line for result in report.results] == ["7", "0", "0"]
    root = with_tests(source).work_directory.resolve() / "tests-production"
    assert not EmbeddedPostgres(root).running()
    assert {path.name for path in root.iterdir()} <= {"lock"}


def test_migrations_that_need_more_than_an_empty_database_are_named(source: Path) -> None:
    with_migration(source, "ALTER TABLE older ADD COLUMN size integer;")
    with pytest.raises(StageError, match=r"(?s)do not apply to an empty database.*older.*database = \"empty\""):
        run(source, asking("SELECT 1", TestDatabase.MIGRATED))


def test_the_server_of_a_run_that_was_killed_is_replaced(source: Path) -> None:
    server = EmbeddedPostgres(with_tests(source).work_directory.resolve() / "tests-production")
    server.start()
    left_by = server.url()
    [result] = run(source, asking("SELECT 1", TestDatabase.EMPTY)).results
    assert result.last_line == "1"
    assert not server.running()
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(left_by)
