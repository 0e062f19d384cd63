"""Which client programs are run, never older ones nor ones without TLS where it is used; and how they are run."""

from __future__ import annotations

import io
import os
import shutil
import stat
import sys
import threading
from collections.abc import Callable, Generator
from pathlib import Path

import pytest

from runbook.clients.client_programs import ClientPrograms, choose_programs, find_programs, run_program
from runbook.clients.embedded_postgres import EmbeddedPostgres, bin_directory
from runbook.clients.fingerprint import fingerprint
from runbook.clients.postgres import Database
from runbook.errors import RejectedError, StageError
from tests.runbook.helpers import execute
from tests.runbook.tls_proxy import TlsProxy, tls_proxy

HISTORY = "schema_migrations"
WITH_TLS = 'echo "connection to server failed: Connection refused" >&2; exit 1'
WITHOUT_TLS = 'echo "sslmode value \\"require\\" invalid when SSL support is not compiled in" >&2; exit 1'

needs_preload = pytest.mark.skipif(sys.platform != "linux", reason="a library can be preloaded on Linux only")


def put_programs(folder: Path, version: str, otherwise: str = WITHOUT_TLS) -> Path:
    """Put programs of a version into a folder; `runs` beside it gets a line, and `environment` theirs, each run."""
    folder.mkdir(parents=True)
    for name in ("pg_dump", "pg_restore", "psql"):
        script = folder / name
        script.write_text(
            f'#!/bin/sh\necho "$@" >> {folder}/runs; env >> {folder}/environment\n'
            f'[ "$1" = --version ] && echo "{name} (PostgreSQL) {version}" && exit 0\n{otherwise}\n'
        )
        script.chmod(0o755)
    return folder


def runs(folder: Path) -> list[str]:
    return (folder / "runs").read_text().splitlines()


def first_on_path(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")


def wheel() -> ClientPrograms:
    (programs,) = (one for one in find_programs() if one.directory == bin_directory())
    return programs


def test_an_older_pg_dump_which_writes_0_bytes_that_a_pipe_through_gzip_hides_is_never_run(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = put_programs(tmp_path / "old", "15.18", "exit 0")
    first_on_path(monkeypatch, old)
    execute(database.url, "CREATE TABLE items (id int)")
    programs = database.programs()
    text = database.run(programs.argv("pg_dump", "--schema-only"), what="dump").stdout
    assert "CREATE TABLE public.items" in text
    assert programs.directory != old
    assert programs.major >= int(database.server_version().split(".")[0])
    assert [run for run in runs(old) if run not in ("--version", "--no-password")] == []


def test_a_newer_client_on_the_path_comes_first(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first_on_path(monkeypatch, put_programs(tmp_path / "new", "99.2"))
    assert database.programs().directory == tmp_path / "new"


def test_packages_come_after_the_path_newest_first_and_the_wheel_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_path = put_programs(tmp_path / "path", "18.1")
    first_on_path(monkeypatch, on_path)
    packages = [put_programs(tmp_path / "packages" / name / "bin", f"{name}.3") for name in ("99", "100", "9.6")]
    found = [programs.directory for programs in find_programs(tmp_path / "packages")]
    assert found == [on_path, packages[1], packages[0], packages[2], bin_directory()]


def test_a_folder_without_all_three_programs_or_whose_program_does_not_run_is_skipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    half = put_programs(tmp_path / "half", "99.2")
    (half / "pg_restore").unlink()
    first_on_path(monkeypatch, half)
    (put_programs(tmp_path / "packages" / "99" / "bin", "99.1") / "pg_dump").write_text("#!/nowhere/interpreter\n")
    assert [programs.directory for programs in find_programs(tmp_path / "packages")] == [bin_directory()]


def test_a_folder_is_probed_once_until_its_pg_dump_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = put_programs(tmp_path / "new", "99.2")
    first_on_path(monkeypatch, folder)
    assert find_programs()[0].version == find_programs()[0].version == "99.2"
    assert runs(folder) == ["--version", "--no-password"]
    shutil.rmtree(folder)
    put_programs(folder, "99.3", WITH_TLS)
    assert find_programs()[0] == ClientPrograms(folder, "99.3", tls=True)


def test_a_probe_gets_no_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PGPASSWORD", "PGPASSFILE", "PGSERVICE", "TOKEN_OF_SOMEBODY"):
        monkeypatch.setenv(name, "very-secret-word")
    folder = put_programs(tmp_path / "new", "99.2")
    first_on_path(monkeypatch, folder)
    find_programs()
    given = (folder / "environment").read_text()
    assert "PGSSLMODE=require" in given
    assert "very-secret-word" not in given


def test_without_tls_where_it_is_used_the_next_folder_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = put_programs(tmp_path / "plain", "99.1")
    first_on_path(monkeypatch, plain)
    able = put_programs(tmp_path / "packages" / "99" / "bin", "99.2", WITH_TLS)
    found = find_programs(tmp_path / "packages")
    assert choose_programs(found, 18, tls=False).directory == plain
    assert choose_programs(found, 18, tls=True) == ClientPrograms(able, "99.2", tls=True)


def test_when_no_client_will_do_the_ones_found_are_listed_with_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = put_programs(tmp_path / "plain", "99.1")
    first_on_path(monkeypatch, plain)
    able = put_programs(tmp_path / "packages" / "98" / "bin", "98.2", WITH_TLS)
    with pytest.raises(RejectedError, match="no pg_dump for PostgreSQL 99 with TLS") as no:
        choose_programs(find_programs(tmp_path / "packages"), 99, tls=True)
    for words in (
        f"{plain} (99.1, TLS no)",
        f"{able} (98.2, TLS yes)",
        f"{bin_directory()} (18",
        "postgresql-client-99",
    ):
        assert words in str(no.value)


@pytest.fixture
def front(postgres: EmbeddedPostgres, tmp_path: Path) -> Generator[TlsProxy]:
    """A server with TLS and nothing else before the tests' own, which has none."""
    folder = tmp_path / "certificate"
    folder.mkdir()
    with tls_proxy(port_of(postgres), folder) as proxy:
        yield proxy
    assert proxy.refused == 0, "nobody tried without TLS"


def port_of(postgres: EmbeddedPostgres) -> int:
    return int((postgres.root / "port").read_text())


def through(front: TlsProxy, postgres: EmbeddedPostgres, database: Database, options: str) -> Database:
    url = database.url.replace(f":{port_of(postgres)}/", f":{front.port}/").replace("127.0.0.1", "localhost")
    return Database(f"{url}?{options}gssencmode=disable")


@needs_preload
def test_with_verify_full_a_database_is_dumped_and_restored_by_programs_without_tls_of_their_own(
    front: TlsProxy, postgres: EmbeddedPostgres, database: Database, tmp_path: Path
) -> None:
    execute(database.url, "CREATE TABLE items AS SELECT generate_series(1, 1000) AS id", "CREATE TABLE other (x text)")
    execute(postgres.url(), f"CREATE DATABASE {database.name}_back TEMPLATE template0")
    hosted = through(front, postgres, database, f"sslmode=verify-full&sslrootcert={front.certificate}&")
    programs = hosted.programs()
    assert programs.tls
    hosted.run(programs.argv("pg_dump", "-Fd", "-j2", f"--file={tmp_path / 'dump'}"), what="dump")
    back = programs.argv("pg_restore", "-j2", "-e", f"--dbname={database.name}_back", str(tmp_path / "dump"))
    hosted.run(back, what="restore", database=f"{database.name}_back")
    assert fingerprint(hosted, HISTORY, name=f"{database.name}_back") == fingerprint(database, HISTORY)
    assert front.encrypted > 6, "sessions of two dump workers and two restore workers, and those of the tests"


@needs_preload
def test_a_server_that_speaks_tls_is_never_spoken_to_without_it_though_the_url_allows_it(
    front: TlsProxy, postgres: EmbeddedPostgres, database: Database
) -> None:
    hosted = through(front, postgres, database, "")
    assert "PostgreSQL database dump" in hosted.run(hosted.programs().argv("pg_dump"), what="dump").stdout
    assert hosted.child_environment()["PGSSLMODE"] == "require"
    assert "PGSSLMODE" not in database.child_environment()


@needs_preload
def test_the_library_is_preloaded_for_the_child_alone_and_only_where_tls_is_used(
    front: TlsProxy, postgres: EmbeddedPostgres, database: Database
) -> None:
    with_tls = choose_programs([wheel()], wheel().major, tls=True)
    assert with_tls.tls
    assert with_tls.preload is not None
    assert choose_programs([wheel()], wheel().major, tls=False).preload is None
    hosted = through(front, postgres, database, "sslmode=require&")
    assert hosted.child_environment(programs=with_tls)["LD_PRELOAD"] == with_tls.preload
    assert "LD_PRELOAD" not in hosted.child_environment()
    assert "LD_PRELOAD" not in os.environ


@needs_preload
def test_a_certificate_of_another_host_is_refused_by_the_program_itself(
    postgres: EmbeddedPostgres, database: Database, tmp_path: Path
) -> None:
    with tls_proxy(port_of(postgres), tmp_path, "elsewhere.invalid") as proxy:
        hosted = through(proxy, postgres, database, f"sslmode=verify-full&sslrootcert={proxy.certificate}&")
        programs = choose_programs([wheel()], wheel().major, tls=True)
        environment = hosted.child_environment(programs=programs)
        with pytest.raises(StageError, match=r'certificate for "elsewhere.invalid" does not match host name'):
            run_program(programs.argv("pg_dump"), environment, what="dump", timeout_s=60)


def shell(script: str, **how: object) -> Callable[[], str]:
    environment = {"PATH": os.environ["PATH"]}
    return lambda: run_program(["sh", "-c", script], environment, what="test", timeout_s=60, **how).stdout  # pyright: ignore[reportArgumentType]


def test_a_program_that_says_more_than_a_pipe_holds_on_both_sides_does_not_hang() -> None:
    lines: list[str] = []
    text = shell("yes out | head -c 3000000; yes err | head -c 3000000 >&2", on_line=lines.append)()
    assert len(text) == 3000000
    assert sum(len(line) + 1 for line in lines) == 3000000


def test_what_a_program_is_given_may_be_more_than_a_pipe_holds() -> None:
    assert shell("cat", source=io.BytesIO(b"x" * 3000000))() == "x" * 3000000


def test_lines_come_while_the_program_runs_in_the_thread_that_runs_it() -> None:
    """The program goes on only when its first line has been seen: what the line leads to is its input."""
    reading, writing = os.pipe()
    seen: list[tuple[str, int]] = []

    def see(line: str) -> None:
        seen.append((line, threading.get_ident()))
        if line == "ready":
            os.close(writing)

    with os.fdopen(reading, "rb") as source:
        shell("echo ready >&2; cat; printf half >&2", source=source, on_line=see)()
    assert seen == [("ready", threading.get_ident()), ("half", threading.get_ident())]


def test_only_the_end_of_what_a_failed_program_said_is_repeated() -> None:
    with pytest.raises(StageError, match=r"^test: sh ended with 3: [^\0]*the reason$") as raised:
        shell("yes noise | head -c 3000000 >&2; echo the reason >&2; exit 3")()
    assert len(str(raised.value)) < 2100


def test_programs_write_files_for_their_owner_alone(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        shell(f"mkdir {tmp_path}/folder; echo x > {tmp_path}/folder/file")()
    finally:
        os.umask(before)
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("folder", "folder/file")]
    assert modes == [0o700, 0o600]
