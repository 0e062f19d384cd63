"""The database's connections and the programs that are run against it: what they get, and how they end."""

from __future__ import annotations

import io
import os
import shutil
import signal
import socket
import struct
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

import psutil
import pytest
from psycopg.conninfo import conninfo_to_dict

from runbook.clients.postgres import Database
from runbook.errors import InvalidInputError, RejectedError, StageError, TransientError
from tests.runbook.helpers import execute, query


def message(kind: bytes, body: bytes) -> bytes:
    return kind + struct.pack("!i", len(body) + 4) + body


def greet(connection: socket.socket, version: str) -> None:
    """Let one session in, as a server of that version does, and wait until it has gone."""
    with connection, suppress(OSError):
        while True:
            (length,) = struct.unpack("!i", connection.recv(4, socket.MSG_WAITALL))
            (code,) = struct.unpack("!i", connection.recv(length - 4, socket.MSG_WAITALL)[:4])
            if code == 3 << 16:
                break
            connection.sendall(b"N")  # neither TLS nor GSS
        greeting = message(b"R", struct.pack("!i", 0))
        for name, value in (("server_version", version), ("client_encoding", "UTF8"), ("server_encoding", "UTF8")):
            greeting += message(b"S", f"{name}\0{value}\0".encode())
        connection.sendall(greeting + message(b"Z", b"I"))
        while connection.recv(1024):
            pass


@dataclass
class FakeServer:
    """A server that lets everybody in and knows its version, nothing else."""

    database: Database
    version: str
    sessions: int = 0


@contextmanager
def server_of_version(version: str, port: int = 0) -> Generator[FakeServer]:
    with socket.create_server(("127.0.0.1", port)) as listener:
        server = FakeServer(Database(f"postgresql://u@127.0.0.1:{listener.getsockname()[1]}/shop"), version)

        def serve() -> None:
            with suppress(OSError):
                while True:
                    connection = listener.accept()[0]
                    server.sessions += 1
                    greet(connection, server.version)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield server
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


def test_a_server_is_asked_for_its_version_once() -> None:
    with server_of_version("18.1") as server:
        chosen = [server.database.programs() for _ in range(3)]
        assert server.sessions == 1
    assert chosen[0] == chosen[1] == chosen[2]


def test_a_server_that_did_not_answer_is_asked_again() -> None:
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        port = int(reserved.getsockname()[1])
        with pytest.raises(TransientError, match="does not answer"):
            Database(f"postgresql://u@127.0.0.1:{port}/shop").programs()
    with server_of_version("18.1", port) as server:
        assert server.database.programs().major >= 18


def test_a_server_whose_version_no_client_had_is_asked_again() -> None:
    with server_of_version("99.1") as server:
        with pytest.raises(RejectedError, match="no pg_dump for PostgreSQL 99"):
            server.database.programs()
        server.version = "18.1"
        assert server.database.programs().major >= 18


def test_a_pooled_host_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="direct host"):
        Database("postgresql://u:p@ep-cool-name-pooler.eu.example.invalid/shop")


def test_client_programs_get_every_option_of_the_url(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGSSLCERT", "/from/the/environment")
    monkeypatch.setenv("SECRET_OF_SOMEBODY_ELSE", "x")
    url = "postgresql://u:p%20w@h:5433/shop?sslmode=require&options=endpoint%3Dcool&target_session_attrs=read-write"
    environment = Database(url).child_environment("other")
    expected = {
        "PGHOST": "h",
        "PGPORT": "5433",
        "PGUSER": "u",
        "PGPASSWORD": "p w",
        "PGDATABASE": "other",
        "PGSSLMODE": "require",
        "PGOPTIONS": "endpoint=cool",
        "PGTARGETSESSIONATTRS": "read-write",
        "PGSSLCERT": "/from/the/environment",
    }
    assert expected.items() <= environment.items()
    assert environment["PGTZ"] == "UTC"
    assert "SECRET_OF_SOMEBODY_ELSE" not in environment


def test_what_the_server_refuses_is_told_from_what_may_work_later(database: Database) -> None:
    with pytest.raises(RejectedError, match='relation "nowhere" does not exist'), database.connect() as connection:
        connection.execute("SELECT * FROM nowhere")
    with pytest.raises(TransientError, match="terminat"), database.connect() as connection:
        connection.execute("SELECT pg_terminate_backend(pg_backend_pid())")


def test_a_program_that_fails_says_why(database: Database) -> None:
    with pytest.raises(StageError, match=r"backup: pg_dump ended with 1: .*no matching tables"):
        database.run(database.programs().argv("pg_dump", "--table=nowhere"), what="backup")


def big_table(database: Database) -> None:
    rows = "SELECT n, repeat(md5(n::text), 10) AS text FROM generate_series(1, 20000) n"
    execute(database.url, f"CREATE TABLE big AS {rows}")


def child() -> psutil.Process:
    """The program that this process has started, not one of its workers."""
    (found,) = (one for one in psutil.Process().children() if one.name() in {"pg_dump", "psql"})
    return found


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def programs_left() -> list[psutil.Process]:
    return [one for one in psutil.Process().children() if one.name() in {"pg_dump", "psql"}]


def test_a_dump_is_read_as_a_stream(database: Database, tmp_path: Path) -> None:
    big_table(database)
    programs = database.programs()
    with database.output(programs.argv("pg_dump", "--format=custom"), what="backup") as stream:
        with (tmp_path / "dump").open("wb") as file:
            shutil.copyfileobj(stream, file)
        assert stream.read() == b"", "the end stays the end"
    said = database.run(programs.argv("pg_restore", "--file=-", str(tmp_path / "dump")), what="look").stdout
    assert said.count("\n") > 20000


def test_the_stream_of_a_killed_pg_dump_raises_where_a_plain_pipe_would_just_end(
    database: Database, tmp_path: Path
) -> None:
    """A store that reads the pipe itself would keep the truncated dump, and `pg_restore --list` would accept it."""
    big_table(database)
    argv = database.programs().argv("pg_dump", "--format=custom", "--compress=none")
    with database.output(argv, what="backup") as stream, (tmp_path / "dump").open("wb") as file:
        file.write(stream.read(100_000))
        child().kill()
        with pytest.raises(StageError, match="backup: pg_dump ended with -9"):
            shutil.copyfileobj(stream, file)
        with pytest.raises(StageError, match="backup: pg_dump ended with -9"):
            stream.read(1)
    assert 100_000 <= (tmp_path / "dump").stat().st_size < 6_000_000


def test_the_stream_of_a_pg_dump_that_fails_says_why(database: Database) -> None:
    argv = database.programs().argv("pg_dump", "--table=nowhere")
    with (
        database.output(argv, what="backup") as stream,
        pytest.raises(StageError, match=r"backup: pg_dump ended with 1: .*no matching tables"),
    ):
        stream.read()


def test_a_stream_that_is_left_early_ends_its_program(database: Database) -> None:
    big_table(database)
    argv = database.programs().argv("pg_dump", "--format=custom", "--compress=none")
    with database.output(argv, what="backup") as stream:
        stream.read(10)
        running = child()
    assert not running.is_running()
    with pytest.raises(LookupError), database.output(argv, what="backup"):  # noqa: PT012 - what runs is asked first
        running = child()
        raise LookupError
    assert not running.is_running()


def test_a_program_beside_a_body_that_fails_is_ended(database: Database) -> None:
    sleep = database.programs().argv("psql", "--command=SELECT pg_sleep(60)")
    with pytest.raises(LookupError), database.running(sleep, what="sleep") as process:
        raise LookupError
    assert process.returncode is not None


class Source(io.RawIOBase):
    """Gives what it is told to, one piece a read; an exception among the pieces is raised."""

    def __init__(self, *pieces: bytes | Exception, then: bytes = b"") -> None:
        super().__init__()
        self.pieces, self.then, self.given = list(pieces), then, 0

    def read(self, size: int = -1, /) -> bytes:
        self.given += 1
        piece = self.pieces.pop(0) if self.pieces else self.then
        if isinstance(piece, Exception):
            raise piece
        return piece


def psql(database: Database, source: Source, *arguments: str) -> str:
    argv = database.programs().argv("psql", "--no-psqlrc", "--quiet", "--set=ON_ERROR_STOP=1", *arguments)
    return database.run(argv, what="script", source=cast("BinaryIO", source)).stdout


def test_a_program_reads_a_source(database: Database) -> None:
    execute(database.url, "CREATE TABLE lines (n int)")
    psql(database, Source(b"COPY lines FROM stdin;\n", *(f"{n}\n".encode() for n in range(30000)), b"\\.\n"))
    assert query(database.url, "SELECT count(*), sum(n) FROM lines") == [(30000, 30000 * 29999 // 2)]


def test_the_error_of_a_source_ends_the_program_and_wins(database: Database) -> None:
    execute(database.url, "CREATE TABLE lines (n int)")
    with pytest.raises(RejectedError, match="the file is damaged"):
        psql(database, Source(b"COPY lines FROM stdin;\n", b"1\n", RejectedError("the file is damaged")))
    assert programs_left() == []
    assert query(database.url, "SELECT count(*) FROM lines") == [(0,)]


def test_the_error_at_the_end_of_a_source_wins_also_when_the_program_was_content_without_the_end(
    database: Database,
) -> None:
    damaged = Source(b"\\q\n", *[b"rest\n" * 10000] * 20, RejectedError("the file is damaged"))
    with pytest.raises(RejectedError, match="the file is damaged"):
        psql(database, damaged)


def test_a_program_that_dies_early_does_not_wait_for_the_rest_of_its_source(database: Database) -> None:
    endless = Source(b"SELECT nonsense;\n", then=b"-- more\n" * 1000)
    with pytest.raises(StageError, match=r'script: psql ended with 3: .*column "nonsense" does not exist'):
        psql(database, endless)


def test_settings_reach_the_sessions_of_a_program_beside_those_of_the_url(database: Database) -> None:
    tuned = Database(f"{database.url}?options=-c%20statement_timeout%3D77s")
    settings = {"work_mem": "7MB", "app.words": "two 'words' \\ and\ttab"}
    show = "SELECT current_setting('work_mem'), current_setting('statement_timeout'), current_setting('app.words')"
    argv = tuned.programs().argv("psql", "--no-psqlrc", "--tuples-only", "--no-align", f"--command={show}")
    said = tuned.run(argv, what="settings", settings=settings).stdout
    assert said.rstrip("\n") == "7MB|77s|two 'words' \\ and\ttab"


def test_a_program_that_takes_too_long_is_ended(database: Database) -> None:
    sleep = database.programs().argv("psql", "--command=SELECT pg_sleep(60)")
    with pytest.raises(StageError, match="sleep: psql did not end within 0 s"):
        database.run(sleep, what="sleep", timeout_s=0.2)
    assert programs_left() == []


def test_ctrl_c_ends_the_program_that_runs(database: Database) -> None:
    sleep = database.programs().argv("psql", "--command=SELECT pg_sleep(60)")

    def interrupt() -> None:
        until(lambda: bool(programs_left()))
        os.kill(os.getpid(), signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell starts its jobs with it ignored
    thread = threading.Thread(target=interrupt)
    try:
        thread.start()
        with pytest.raises(KeyboardInterrupt):
            database.run(sleep, what="sleep")
        thread.join()
    finally:
        signal.signal(signal.SIGINT, before)
    assert programs_left() == []


def test_names_beside_a_database_fit_and_stay_apart() -> None:
    live = Database(f"postgresql://u@h/{'ü' * 30}")
    names = {live.beside("before_rollback") for _ in range(20)}
    assert len(names) == 20
    assert all(len(name.encode()) <= 63 and name.isprintable() for name in names)


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://u:p%20w%40%3A%2F@h:5433/shop?sslmode=require&options=endpoint%3Dcool%20-c%20a%3Db",
        "postgresql://u@h/shop",
        "postgresql://h/shop?application_name=a%20b%26c",
        "postgresql://u:p@[::1]:5433/shop",
        "host=h port=5433 user=u password='p w' dbname=shop sslmode=require",
        "postgres:///shop?host=/var/run/postgresql&user=u",
    ],
)
@pytest.mark.parametrize("name", ["copy", "Odd /?#%name ü"])
def test_the_url_of_another_database_differs_in_its_name_alone(url: str, name: str) -> None:
    made = Database(url).url_of(name)
    assert made.startswith("postgresql://")
    before, after = conninfo_to_dict(url), conninfo_to_dict(made)
    assert after.pop("dbname") == name
    assert before.pop("dbname") == "shop"
    assert {"port": "5432"} | after == {"port": "5432"} | before


def test_the_url_of_another_database_leads_there(database: Database) -> None:
    there = Database(database.url_of("postgres"))
    assert there.name == "postgres"
    assert query(there.url, "SELECT current_database()") == [("postgres",)]
    assert Database(there.url_of(database.name)) == database
