"""Which client programs are run: never any that are older than the server."""

from __future__ import annotations

import os
import socket
import struct
import threading
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from runbook.clients.embedded_postgres import bin_directory
from runbook.clients.postgres import Database
from runbook.errors import InvalidInputError, RejectedError, StageError, TransientError


def put_programs(folder: Path, version: str) -> None:
    """Put programs of a version into a folder; they would fail if they were run for anything else than it."""
    folder.mkdir()
    for name in ("pg_dump", "pg_restore", "psql"):
        script = folder / name
        script.write_text(f'#!/bin/sh\n[ "$1" = --version ] || exit 9\necho "{name} (PostgreSQL) {version}"\n')
        script.chmod(0o755)


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


@contextmanager
def server_of_version(version: str) -> Generator[Database]:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            with suppress(OSError):
                while True:
                    greet(listener.accept()[0], version)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield Database(f"postgresql://u@127.0.0.1:{listener.getsockname()[1]}/shop")
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


def test_a_client_older_than_the_server_is_skipped(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_programs(tmp_path / "old", "15.18")
    monkeypatch.setenv("PATH", f"{tmp_path / 'old'}{os.pathsep}{os.environ['PATH']}")
    chosen = database.programs()
    assert chosen.directory == bin_directory()
    assert chosen.major >= int(database.server_version().split(".")[0])


def test_a_newer_client_on_the_path_comes_first(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_programs(tmp_path / "new", "19.2")
    monkeypatch.setenv("PATH", f"{tmp_path / 'new'}{os.pathsep}{os.environ['PATH']}")
    assert database.programs().directory == tmp_path / "new"


def test_a_folder_without_all_three_programs_is_skipped(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_programs(tmp_path / "half", "19.2")
    (tmp_path / "half" / "pg_restore").unlink()
    monkeypatch.setenv("PATH", f"{tmp_path / 'half'}{os.pathsep}{os.environ['PATH']}")
    assert database.programs().directory == bin_directory()


def test_when_no_client_is_new_enough_the_ones_found_are_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_programs(tmp_path / "old", "15.18")
    monkeypatch.setenv("PATH", f"{tmp_path / 'old'}{os.pathsep}{os.environ['PATH']}")
    with server_of_version("99.1") as newest, pytest.raises(RejectedError, match="no pg_dump for PostgreSQL 99") as no:
        newest.programs()
    assert f"{tmp_path / 'old'} (15.18)" in str(no.value)
    assert f"{bin_directory()} (18" in str(no.value)


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
    assert "SECRET_OF_SOMEBODY_ELSE" not in environment


def test_what_the_server_refuses_is_told_from_what_may_work_later(database: Database) -> None:
    with pytest.raises(RejectedError, match='relation "nowhere" does not exist'), database.connect() as connection:
        connection.execute("SELECT * FROM nowhere")
    with pytest.raises(TransientError, match="terminat"), database.connect() as connection:
        connection.execute("SELECT pg_terminate_backend(pg_backend_pid())")


def test_a_program_that_fails_says_why(database: Database) -> None:
    with pytest.raises(StageError, match=r"backup: pg_dump ended with 1: .*no matching tables"):
        database.run(database.programs().argv("pg_dump", "--table=nowhere"), what="backup")


def test_names_beside_a_database_fit_and_stay_apart() -> None:
    live = Database(f"postgresql://u@h/{'ü' * 30}")
    names = {live.beside("before_rollback") for _ in range(20)}
    assert len(names) == 20
    assert all(len(name.encode()) <= 63 and name.isprintable() for name in names)
