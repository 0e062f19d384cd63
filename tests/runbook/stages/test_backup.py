"""Backups of a real database: what is in them comes back, what cannot come back is recorded so."""

from __future__ import annotations

import gzip
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import psutil
import psycopg
import pytest

from runbook.clients.backup_store import BackupStore
from runbook.clients.embedded_postgres import EmbeddedPostgres, bin_directory
from runbook.clients.encryption import Identity, read_identities
from runbook.clients.fingerprint import exported_snapshot, fingerprint
from runbook.clients.folder_store import FolderStore
from runbook.clients.postgres import Database
from runbook.connections import Connections
from runbook.errors import InvalidInputError, RejectedError, RunbookError, StageError, TransientError
from runbook.manifest import (
    BackupManifest,
    DumpFormat,
    SequenceRange,
    TableFingerprint,
    VerificationLevel,
    VerificationState,
)
from runbook.settings import BackupSettings
from runbook.stages.backup import copy_backup, create_backup, verify_backup
from runbook.stages.restore import restore_beside, swap_in
from tests.runbook.helpers import execute, query
from tests.runbook.schemas import EVERYTHING

HISTORY = "schema_migrations"
RICH = (
    "CREATE SCHEMA app",
    """CREATE SCHEMA "odd ""schema"" ☃" """,
    "CREATE TYPE app.mood AS ENUM ('sad', 'ok', 'happy')",
    "CREATE DOMAIN app.code AS varchar(10) CHECK (VALUE IN ('a', 'b', 'c') AND length(VALUE) BETWEEN 1 AND 5)",
    "CREATE TABLE app.customers (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name text NOT NULL UNIQUE)",
    """CREATE TABLE app.orders (
        id serial PRIMARY KEY, customer_id int REFERENCES app.customers ON DELETE CASCADE, mood app.mood, code app.code,
        status varchar(20) DEFAULT 'new' CHECK (status IN ('new', 'paid')),
        amount numeric(10, 2) CHECK (amount BETWEEN 0 AND 1000 AND amount <> 13),
        with_tax numeric GENERATED ALWAYS AS (amount * 1.15) STORED, tags text[], details jsonb, f double precision,
        at timestamptz DEFAULT now(), lasts interval, raw bytea)""",
    "CREATE TABLE app.events (id bigint, at date NOT NULL, note text) PARTITION BY RANGE (at)",
    "CREATE TABLE app.events_2024 PARTITION OF app.events FOR VALUES FROM ('2024-01-01') TO ('2025-01-01')",
    "CREATE TABLE app.events_rest PARTITION OF app.events DEFAULT",
    "CREATE TABLE app.no_key (t int, k text)",
    "CREATE TABLE app.empty (id int PRIMARY KEY)",
    'CREATE TABLE "odd ""schema"" ☃"."Таблица \'x\' %s {}" ("weird ""column"" 🐘" int, "select" text)',
    "CREATE SEQUENCE app.counter START 1000 INCREMENT 7",
    "CREATE VIEW app.paid AS SELECT id, status FROM app.orders WHERE status IN ('paid', 'new')",
    "CREATE MATERIALIZED VIEW app.totals AS SELECT customer_id, sum(amount) FROM app.orders GROUP BY 1",
    """CREATE FUNCTION app.touch() RETURNS trigger LANGUAGE plpgsql AS $$
-- a comment in a body
BEGIN NEW.at := NEW.at; RETURN NEW; END $$""",
    "CREATE TRIGGER touch BEFORE UPDATE ON app.orders FOR EACH ROW EXECUTE FUNCTION app.touch()",
    "CREATE INDEX ON app.orders (lower(status)) WHERE status IN ('new', 'paid')",
    "COMMENT ON TABLE app.orders IS E'it''s a \"comment\" \\\\ with ☃ and\\n-- two lines'",
    "INSERT INTO app.customers (name) SELECT 'customer ' || n FROM generate_series(1, 50) n",
    """INSERT INTO app.orders (customer_id, mood, code, amount, tags, details, f, lasts, raw)
       SELECT 1 + n % 50, 'ok', 'a', n % 13, ARRAY['x', NULL, '"q"', 'ü'], jsonb_build_object('n', n, 'u', 'ß☃'),
       n / 3.0, '1 mon 2 days', decode('00ff', 'hex') FROM generate_series(1, 500) n""",
    "INSERT INTO app.events SELECT n, date '2024-06-01' + n * 10, E'a\\tb\\\\n\\n' FROM generate_series(1, 100) n",
    "INSERT INTO app.no_key SELECT 1, 'twice' FROM generate_series(1, 2)",
    """INSERT INTO "odd ""schema"" ☃"."Таблица 'x' %s {}" VALUES (1, 'ä'), (2, NULL)""",
    "SELECT nextval('app.counter')",
)


@contextmanager
def running_writes(database: Database) -> Generator[list[int]]:
    """Insert and update rows for as long as the body runs; yield the list of what was acknowledged."""
    stop, written = threading.Event(), list[int]()

    def write() -> None:
        with psycopg.connect(database.url, autocommit=True) as connection:
            while not stop.is_set():
                connection.execute("INSERT INTO app.no_key VALUES (%s, 'live')", [len(written)])
                connection.execute("UPDATE app.orders SET amount = amount + 0.01 WHERE id = %s", [len(written) % 500])
                written.append(len(written))

    thread = threading.Thread(target=write)
    thread.start()
    try:
        while not written:
            time.sleep(0.01)
        yield written
    finally:
        stop.set()
        thread.join()


def backup(connections: Connections) -> BackupManifest:
    return create_backup(connections, reason="test", triggered_by="somebody")


def folder(connections: Connections) -> Path:
    return Path(connections.settings.records) / "database" / "backups"


def everything_in(connections: Connections) -> list[str]:
    return sorted(path.name for path in folder(connections).glob("*")) if folder(connections).exists() else []


def wheel_environment(database: Database) -> dict[str, str]:
    """PG* variables of this server, and the wheel's programs in PATH."""
    variables = database.child_environment()
    return variables | {"PATH": f"{bin_directory()}{os.pathsep}{os.environ['PATH']}"}


def shell(command: str, database: Database, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "-c", command],
        env=wheel_environment(database),
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_a_rich_database_is_backed_up_under_running_writes_and_comes_back_equal(connections: Connections) -> None:
    execute(connections.database.url, *RICH)
    with running_writes(connections.database) as written:
        made = backup(connections)
        before_verification = len(written)
        verified = verify_backup(connections, made.backup_id)
        assert len(written) > before_verification, "writing went on meanwhile"
    assert verified.verification.state is VerificationState.VERIFIED
    restored = restore_beside(connections, made.backup_id, purpose="restored")
    assert fingerprint(connections.database, HISTORY, name=restored.name) == made.fingerprint
    rest = Database(connections.database.url.replace(connections.database.name, restored.name))
    assert query(rest.url, "SELECT nextval('app.counter')") == [(1007,)]
    assert query(rest.url, "SELECT count(*) FROM app.totals") == [(50,)]
    assert query(rest.url, "SELECT obj_description('app.orders'::regclass)")[0][0] == (
        'it\'s a "comment" \\ with ☃ and\n-- two lines'
    )


def test_a_database_with_everything_in_it_is_verified(connections: Connections) -> None:
    execute(connections.database.url, *EVERYTHING)
    made = backup(connections)
    assert "pg_catalog.pg_largeobject" in made.fingerprint.tables
    assert {"citext", "pg_trgm"} <= made.facts.extensions.keys()
    assert verify_backup(connections, made.backup_id).is_verified
    assert verify_backup(connections, made.backup_id, level=VerificationLevel.SAMPLE).is_verified


def test_a_manifest_says_what_the_backup_holds(connections: Connections) -> None:
    execute(connections.database.url, *RICH)
    made = backup(connections)
    path = folder(connections) / f"{made.backup_id}.meta.json"
    read = BackupManifest.model_validate_json(path.read_text())
    assert read == made
    rows = {name: table.rows for name, table in read.fingerprint.tables.items()}
    assert rows["app.orders"] == 500
    assert rows["app.empty"] == 0
    assert rows["app.events_2024"] + rows["app.events_rest"] == 100
    assert rows['"odd ""schema"" ☃"."Таблица \'x\' %s {}"'] == 2
    assert "app.events" not in rows, "a partitioned table holds no rows itself"
    assert read.verification.state is VerificationState.UNVERIFIED
    active = connections.host.active()
    assert active is not None
    assert read.active_git_sha == active.git_sha
    assert re.fullmatch(r"[0-9A-F]+/[0-9A-F]+", read.facts.lsn)
    assert re.fullmatch(r"\d+:\d+:[\d,]*", read.facts.snapshot)
    assert read.facts.sequences["app.counter"] == SequenceRange(before=1000, after=1000)
    assert read.facts.extensions.keys() == {"plpgsql"}
    assert read.facts.size_bytes > read.size_bytes > 1000
    assert all(name.endswith((".zst", "/toc.dat", "globals.sql")) for name in read.files)


def test_only_its_owner_can_read_a_backup(connections: Connections) -> None:
    execute(connections.database.url, *RICH)
    backup(connections)
    paths = list(Path(connections.settings.records).rglob("*"))
    assert {path.stat().st_mode & 0o777 for path in paths if path.is_dir()} == {0o700}
    assert {path.stat().st_mode & 0o777 for path in paths if path.is_file()} == {0o600}


@pytest.mark.timeout(30)
def test_a_table_locked_for_too_long_fails_the_backup_and_leaves_nothing(connections: Connections) -> None:
    execute(connections.database.url, "CREATE TABLE busy (id int)")
    impatient = Database(connections.database.url + "?options=-c%20lock_timeout%3D300ms")
    with psycopg.connect(connections.database.url) as holder:
        holder.execute("LOCK TABLE busy IN ACCESS EXCLUSIVE MODE")
        with pytest.raises(TransientError, match="lock timeout"):
            backup(replace(connections, database=impatient))
    assert everything_in(connections) == []
    assert connections.store.manifests() == []


def test_a_dump_that_fails_leaves_nothing(connections: Connections) -> None:
    execute(connections.database.url, "CREATE ROLE reader LOGIN PASSWORD 'reader'", "CREATE TABLE secret (id int)")
    reader = Database(re.sub("//postgres:[^@]*@", "//reader:reader@", connections.database.url))
    with pytest.raises(RunbookError, match="permission denied for table secret"):
        backup(replace(connections, database=reader))
    assert everything_in(connections) == []


def test_a_server_that_does_not_answer_leaves_nothing(connections: Connections) -> None:
    gone = Database("postgresql://postgres:very-secret-word@127.0.0.1:1/shop")
    with pytest.raises(TransientError, match=r"shop at 127\.0\.0\.1:1 does not answer") as raised:
        backup(replace(connections, database=gone))
    assert "very-secret-word" not in str(raised.value)
    assert everything_in(connections) == []


def test_a_store_that_cannot_be_written_to_is_named(connections: Connections, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    unusable = BackupStore(FolderStore(tmp_path / "file" / "records"))
    with pytest.raises(RejectedError, match="cannot be used"):
        backup(replace(connections, store=unusable))


def test_an_interrupted_publishing_lists_nothing_and_leaves_nothing(connections: Connections) -> None:
    class CutShort(FolderStore):
        def create(self, key: str, data: bytes, *, protected: bool = False) -> None:
            if key.endswith(".meta.json"):
                raise KeyboardInterrupt
            super().create(key, data, protected=protected)

    store = BackupStore(CutShort(folder(connections).parents[1]))
    with pytest.raises(KeyboardInterrupt):
        backup(replace(connections, store=store))
    assert store.manifests() == []
    assert everything_in(connections) == []


def one_file(connections: Connections, made: BackupManifest) -> Path:
    name = next(name for name in made.files if name.endswith("toc.dat"))
    return folder(connections) / made.backup_id / name


def corrupt(path: Path) -> str:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    return "dump/toc.dat"


def truncate(path: Path) -> str:
    path.write_bytes(path.read_bytes()[:-1])
    return "dump/toc.dat"


def remove(path: Path) -> str:
    path.unlink()
    return "dump/toc.dat"


@pytest.mark.parametrize("damage", [corrupt, truncate, remove])
def test_a_damaged_backup_is_refused_by_the_name_of_the_file(
    connections: Connections, damage: Callable[[Path], str], beside: Callable[[], list[str]]
) -> None:
    made = backup(connections)
    verify_backup(connections, made.backup_id)
    named = damage(one_file(connections, made))
    with pytest.raises(RejectedError, match=re.escape(named)):
        verify_backup(connections, made.backup_id)
    recorded = connections.store.manifest(made.backup_id).verification
    assert recorded.state is VerificationState.FAILED, "it was verified before and is not any more"
    assert named in recorded.detail
    assert beside() == []


def test_a_backup_that_is_not_what_its_manifest_says_is_recorded_as_failed(
    connections: Connections, beside: Callable[[], list[str]]
) -> None:
    execute(connections.database.url, "CREATE TABLE items AS SELECT generate_series(1, 3) AS id")
    made = backup(connections)
    tables = made.fingerprint.tables | {"public.items": TableFingerprint(rows=4, checksum="0")}
    tampered = made.model_copy(update={"fingerprint": made.fingerprint.model_copy(update={"tables": tables})})
    connections.store.update(tampered)
    with pytest.raises(StageError, match=r"came back different: table public\.items: 4 rows became 3"):
        verify_backup(connections, made.backup_id)
    recorded = connections.store.manifest(made.backup_id).verification
    assert recorded.state is VerificationState.FAILED
    assert "4 rows became 3" in recorded.detail
    assert beside() == []


def test_a_dump_without_error_that_cannot_be_restored_is_recorded_as_failed(
    connections: Connections, beside: Callable[[], list[str]]
) -> None:
    """The function finds its table by search_path, which a restore does not have."""
    execute(
        connections.database.url,
        "CREATE TABLE limits (most int)",
        "INSERT INTO limits VALUES (10)",
        "CREATE FUNCTION allowed(n int) RETURNS boolean LANGUAGE plpgsql AS"
        " $$ BEGIN RETURN n <= (SELECT most FROM limits); END $$",
        "CREATE TABLE items (n int CHECK (allowed(n)))",
        "INSERT INTO items VALUES (1)",
    )
    made = backup(connections)
    with pytest.raises(StageError, match='relation "limits" does not exist'):
        verify_backup(connections, made.backup_id)
    assert connections.store.manifest(made.backup_id).verification.state is VerificationState.FAILED
    assert beside() == []


def by_hand(made: BackupManifest, database: Database, cwd: Path, **variables: str) -> None:
    """Type the commands of a manifest into a shell, in an empty folder, with standard tools alone."""
    (cwd / "bin").mkdir(parents=True)
    for tool, script in (("zstd", ZSTD), ("age", AGE)):
        if shutil.which(tool) is None:
            (cwd / "bin" / tool).write_text(f"#!{sys.executable}\n{script}")
            (cwd / "bin" / tool).chmod(0o700)
    environment = wheel_environment(database) | variables
    environment["PATH"] = f"{cwd / 'bin'}{os.pathsep}{environment['PATH']}"
    script = "\n".join(["set -e", *made.restore_by_hand])
    argv = ["bash", "-c", script]
    done = subprocess.run(argv, env=environment, cwd=cwd, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


# What the two tools do with the options that the commands give them, for machines that do not have them.
ZSTD = """
import sys, zstandard
for name in sys.argv[3:]:
    with open(name, "rb") as source, open(name.removesuffix(".zst"), "xb") as target:
        zstandard.ZstdDecompressor().copy_stream(source, target)
"""
AGE = """
import sys, pyrage
_, decrypt, identity, key, output, target, name = sys.argv
assert (decrypt, identity, output) == ("--decrypt", "--identity", "--output")
keys = [pyrage.x25519.Identity.from_str(line) for line in open(key).read().split("\\n") if line[:3] == "AGE"]
with open(name, "rb") as source, open(target, "xb") as out:
    pyrage.decrypt_io(source, out, keys)
"""


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    path = tmp_path / "key.txt"
    path.write_text(f"{Identity.generate()}\n")
    path.chmod(0o600)
    return path


def with_backup_settings(connections: Connections, **changes: object) -> Connections:
    backup_settings = BackupSettings.model_validate(changes)
    return replace(connections, settings=connections.settings.model_copy(update={"backup": backup_settings}))


def recipient_of(key_file: Path) -> str:
    return str(read_identities(key_file)[0].to_public())


@pytest.mark.parametrize("dump_format", DumpFormat)
@pytest.mark.parametrize("is_encrypted", [False, True], ids=["plain", "encrypted"])
def test_every_form_of_a_backup_is_verified_and_restored_by_hand(
    connections: Connections, tmp_path: Path, key_file: Path, dump_format: DumpFormat, is_encrypted: bool
) -> None:
    name = connections.database.name
    secret = "a-key-in-a-setting"
    settings = (
        f"ALTER DATABASE {name} SET work_mem = '12MB'",
        f"ALTER DATABASE {name} SET app.jwt_secret = '{secret}'",
    )
    execute(connections.database.url, *RICH, *settings)
    recipients = (recipient_of(key_file),) if is_encrypted else ()
    formed = with_backup_settings(connections, dump_format=dump_format, recipients=recipients)
    made = backup(formed)
    content = b"".join(path.read_bytes() for path in (folder(formed) / made.backup_id).rglob("*") if path.is_file())
    assert (b"CREATE TABLE app.customers" in content) == (not is_encrypted and dump_format is DumpFormat.DIRECTORY)
    assert (secret.encode() in content) == (not is_encrypted), "in globals.sql"
    assert secret not in (folder(formed) / f"{made.backup_id}.meta.json").read_text()
    if is_encrypted:
        with pytest.raises(InvalidInputError, match=r"identity_file.*is encrypted"):
            verify_backup(formed, made.backup_id)
        assert formed.store.manifest(made.backup_id).verification == made.verification, "the backup is not to blame"
    assert verify_backup(formed.with_identity(str(key_file)), made.backup_id).is_verified

    by_hand(made, connections.database, tmp_path / "by hand", AGE_IDENTITY_FILE=str(key_file))
    fresh = f"{name}_restored"
    assert fingerprint(connections.database, HISTORY, name=fresh) == made.fingerprint
    assert query(connections.database.url.replace(name, fresh), "SHOW work_mem") == [("12MB",)]
    private = {path.stat().st_mode & 0o077 for path in (tmp_path / "by hand" / made.backup_id).rglob("*")}
    assert private == {0}


def test_a_wrong_key_is_refused_and_the_backup_not_blamed(
    connections: Connections, tmp_path: Path, key_file: Path, beside: Callable[[], list[str]]
) -> None:
    formed = with_backup_settings(connections, recipients=(recipient_of(key_file),))
    made = backup(formed)
    other = tmp_path / "other.txt"
    other.write_text(f"{Identity.generate()}\n")
    other.chmod(0o600)
    with pytest.raises(InvalidInputError, match="was encrypted for"):
        verify_backup(formed.with_identity(str(other)), made.backup_id)
    assert formed.store.manifest(made.backup_id).verification == made.verification
    assert beside() == []
    assert list(formed.work_directory.iterdir()) == []


def test_the_commands_in_the_manifest_survive_a_name_that_a_shell_would_expand(
    postgres: EmbeddedPostgres, connections: Connections, tmp_path: Path
) -> None:
    execute(postgres.url(), 'CREATE DATABASE "my$HOME" TEMPLATE template0')
    odd = replace(connections, database=Database(postgres.url("my$HOME")))
    by_hand(backup(odd), odd.database, tmp_path / "by hand")
    assert query(postgres.url(), "SELECT 1 FROM pg_database WHERE datname = 'my$HOME_restored'") == [(1,)]


def test_a_stronger_proof_is_not_taken_back_by_a_weaker_one(connections: Connections) -> None:
    made = backup(connections)
    read_back = verify_backup(connections, made.backup_id, level=VerificationLevel.CHECKSUMS)
    assert (read_back.is_verified, read_back.verification.level) == (False, VerificationLevel.CHECKSUMS)
    proven = verify_backup(connections, made.backup_id)
    assert (proven.is_verified, proven.verification.level) == (True, VerificationLevel.FULL)
    assert proven.verification.restore_s is not None
    assert verify_backup(connections, made.backup_id, level=VerificationLevel.CHECKSUMS) == proven


def test_a_sample_restores_the_schema_and_some_tables_with_what_they_reference(
    connections: Connections, beside: Callable[[], list[str]]
) -> None:
    execute(connections.database.url, *RICH)
    made = backup(connections)
    proven = verify_backup(connections, made.backup_id, level=VerificationLevel.SAMPLE)
    assert (proven.is_verified, proven.verification.level) == (True, VerificationLevel.SAMPLE)
    match = re.search(r"\((\d+) tables, (\d+) rows\) of (\d+) tables", proven.verification.detail)
    assert match is not None
    compared, rows, tables = (int(number) for number in match.groups())
    assert 0 < compared < tables == len(made.fingerprint.tables)
    assert rows >= sum(table.rows for table in made.fingerprint.tables.values()) / 10
    assert beside() == []


def test_a_backup_is_copied_to_the_second_store_and_restored_from_there(
    connections: Connections, tmp_path: Path
) -> None:
    execute(connections.database.url, *RICH)
    second = BackupStore(FolderStore(tmp_path / "second"))
    both = replace(connections, second_store=second)
    made = backup(both)
    verify_backup(both, made.backup_id)
    assert copy_backup(both, made.backup_id) == copy_backup(both, made.backup_id) == str(tmp_path / "second")
    assert second.manifests() == both.store.manifests()
    both.store.remove(made.backup_id)
    assert verify_backup(replace(connections, store=second), made.backup_id).is_verified
    assert copy_backup(connections, made.backup_id) is None


def test_of_two_backups_in_one_second_one_wins(connections: Connections) -> None:
    while time.time() % 1 > 0.4:
        time.sleep(0.01)
    made, refused = list[BackupManifest](), list[Exception]()
    start = threading.Barrier(2)

    def make() -> None:
        start.wait()
        try:
            made.append(backup(connections))
        except TransientError as error:
            refused.append(error)

    threads = [threading.Thread(target=make) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == len(refused) == 1
    assert "wait a second" in str(refused[0])
    assert [manifest.backup_id for manifest in connections.store.manifests()] == [made[0].backup_id]
    verify_backup(connections, made[0].backup_id)


def command_lines(stop: threading.Event, seen: set[str]) -> None:
    while not stop.is_set():
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                seen.add(" ".join(process.cmdline()))
        time.sleep(0.005)


def test_the_password_is_in_no_argument_manifest_or_message(connections: Connections) -> None:
    execute(connections.database.url, *RICH)
    password = re.sub(r".*//postgres:([^@]*)@.*", r"\1", connections.database.url)
    stop, seen = threading.Event(), set[str]()
    watcher = threading.Thread(target=command_lines, args=(stop, seen))
    watcher.start()
    try:
        made = backup(connections)
        verify_backup(connections, made.backup_id)
    finally:
        stop.set()
        watcher.join()
    assert any("pg_dump" in line and "--format=directory" in line for line in seen), "a dump was seen"
    assert not [line for line in seen if password in line]
    assert password not in (folder(connections) / f"{made.backup_id}.meta.json").read_text()
    assert password not in repr(connections)


@pytest.mark.parametrize("url", ["postgresql://u:top-secret word@h/d", "postgresql://u:top-secret@h:port%/d", "x"])
def test_a_url_that_cannot_be_read_is_not_repeated(url: str) -> None:
    with pytest.raises(InvalidInputError, match="database url") as raised:
        Database(url)
    assert "top-secret" not in str(raised.value)
    assert raised.value.__cause__ is None


@pytest.mark.parametrize("backup_id", ["../../etc", "backup_20250104_120000/../x", "", "backup_20250104_1200"])
def test_a_backup_id_that_leads_elsewhere_is_refused(connections: Connections, backup_id: str) -> None:
    with pytest.raises(InvalidInputError):
        verify_backup(connections, backup_id)


def test_time_outs_of_the_application_do_not_end_a_backup(connections: Connections) -> None:
    execute(
        connections.database.url,
        *RICH,
        f"ALTER DATABASE {connections.database.name} SET statement_timeout = '50ms'",
        f"ALTER DATABASE {connections.database.name} SET idle_in_transaction_session_timeout = '1ms'",
    )
    with exported_snapshot(connections.database) as (connection, _):
        connection.execute("SELECT pg_sleep(0.1)")
        time.sleep(0.1)
        connection.execute("SELECT 1")
    made = backup(connections)
    assert connections.store.manifests() == [made]


def test_a_database_in_another_encoding_is_backed_up(postgres: EmbeddedPostgres, connections: Connections) -> None:
    execute(postgres.url(), "CREATE DATABASE latin TEMPLATE template0 ENCODING 'LATIN1' LOCALE 'C'")
    latin = replace(connections, database=Database(postgres.url("latin")))
    execute(latin.database.url, "CREATE TABLE t (a text DEFAULT 'é')", "COMMENT ON TABLE t IS 'ü'")
    execute(latin.database.url, "INSERT INTO t VALUES ('ß'), (DEFAULT)")
    made = backup(latin)
    assert verify_backup(latin, made.backup_id).verification.state is VerificationState.VERIFIED


def test_every_column_counts_whatever_it_is_called(database: Database) -> None:
    execute(database.url, "CREATE TABLE a (t int, b text)", "INSERT INTO a VALUES (1, 'old')")
    before = fingerprint(database, HISTORY)
    execute(database.url, "UPDATE a SET b = 'new'")
    assert before.differences(fingerprint(database, HISTORY)) == ["table public.a: 1 rows, other content"]


def test_equal_rows_do_not_cancel_each_other(database: Database) -> None:
    execute(database.url, "CREATE TABLE a (x int)", "INSERT INTO a VALUES (1), (1), (2), (2)")
    before = fingerprint(database, HISTORY)
    execute(database.url, "UPDATE a SET x = 3 WHERE x = 1")
    assert before.differences(fingerprint(database, HISTORY)) == ["table public.a: 4 rows, other content"]


@pytest.mark.parametrize(
    "change",
    [
        "ALTER TABLE a ALTER x SET DEFAULT 2",
        "ALTER TABLE a ADD y int",
        "COMMENT ON TABLE a IS 'changed'",
        "CREATE OR REPLACE FUNCTION f() RETURNS int LANGUAGE sql AS E'\\n-- now\\nSELECT 1'",
        "GRANT SELECT ON a TO PUBLIC",
        "DROP INDEX i",
    ],
)
def test_every_change_of_the_schema_counts(database: Database, change: str) -> None:
    execute(
        database.url,
        "CREATE TABLE a (x int DEFAULT 1)",
        "CREATE INDEX i ON a (x)",
        "CREATE FUNCTION f() RETURNS int LANGUAGE sql AS E'\\n-- then\\nSELECT 1'",
    )
    before = fingerprint(database, HISTORY)
    assert before == fingerprint(database, HISTORY)
    execute(database.url, change)
    assert before.differences(fingerprint(database, HISTORY)) == ["the schema differs"]


def orders(url: str) -> list[tuple[object, ...]]:
    return query(url, "SELECT * FROM orders ORDER BY id")


MIGRATE = (
    "ALTER TABLE orders ADD note text",
    "UPDATE orders SET amount = 0",
    "CREATE TABLE refunds (id int REFERENCES orders)",
    "INSERT INTO journal VALUES ('migrated')",
)


def test_a_plain_dump_over_the_live_database_rolls_nothing_back_and_reports_success_but_ours_restores(
    connections: Connections, tmp_path: Path
) -> None:
    live = connections.database
    execute(
        live.url,
        "CREATE TABLE orders (id int PRIMARY KEY, amount int)",
        "CREATE TABLE journal (line text)",
        "INSERT INTO orders SELECT n, n * 10 FROM generate_series(1, 5) n",
        "INSERT INTO journal VALUES ('created')",
    )
    before = orders(live.url)
    made = backup(connections)
    assert shell("pg_dump | gzip > plain.sql.gz", live, tmp_path).returncode == 0
    assert b"CREATE TABLE" in gzip.decompress((tmp_path / "plain.sql.gz").read_bytes())
    execute(live.url, *MIGRATE)

    theirs = shell("gunzip -c plain.sql.gz | psql", live, tmp_path)
    assert theirs.returncode == 0, "it says that it worked"
    assert "already exists" in theirs.stderr
    assert orders(live.url) == [(n, 0, None) for n in range(1, 6)], "and all is still migrated"
    assert query(live.url, "SELECT to_regclass('refunds') IS NOT NULL") == [(True,)]
    assert query(live.url, "SELECT count(*) FROM journal") == [(3,)], "and rows have doubled"

    swap_in(connections.discarding_writes(), restore_beside(connections, made.backup_id, purpose="restored"))
    assert orders(live.url) == before
    assert query(live.url, "SELECT to_regclass('refunds') IS NOT NULL") == [(False,)]
    assert query(live.url, "SELECT line FROM journal") == [("created",)]
    assert fingerprint(live, HISTORY) == made.fingerprint
