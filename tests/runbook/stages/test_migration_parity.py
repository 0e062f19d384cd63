r"""What psql does with a file, and what the runbook does with it: the same outcome, the same schema, the same rows.

psql alone runs each file with ON_ERROR_STOP, in one transaction (`-1`) where every statement allows it and statement by
statement where not, so that a file that fails leaves the same behind in both databases.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runbook.clients.embedded_postgres import EmbeddedPostgres
from runbook.clients.fingerprint import fingerprint
from runbook.clients.postgres import Database
from runbook.clients.psql import SqlError
from runbook.connections import Connections
from runbook.errors import RunbookError
from runbook.rules.migration_files import discover
from runbook.rules.migration_steps import plan_steps, why_alone
from runbook.rules.sql import statements
from runbook.stages.migration import apply_migrations
from runbook.stages.migration_plan import MigrationPlan
from tests.runbook.helpers import execute

_number = count(1)
FIRST = """
CREATE TABLE items (id int PRIMARY KEY, name text, price numeric(8, 2), kind text);
INSERT INTO items SELECT n, 'item ' || n, n / 3.0, 'a' FROM generate_series(1, 20) n;
CREATE TYPE mood AS ENUM ('good', 'bad');
CREATE TABLE events (at timestamptz, note text) PARTITION BY RANGE (at);
CREATE TABLE events_2024 PARTITION OF events FOR VALUES FROM ('2024-01-01') TO ('2025-01-01');
"""


@dataclass(frozen=True)
class Outcome:
    """How a set of files ended: the one that failed, None when all went well, and its SQLSTATE."""

    failed: str | None
    sqlstate: str


@dataclass(frozen=True)
class Pair:
    """Two databases that are equal to begin with."""

    ours: Connections
    theirs: Database

    def by_runner(self, files: Mapping[str, str]) -> Outcome:
        plan = plan_from(files)
        try:
            apply_migrations(self.ours, plan)
        except SqlError as error:
            return Outcome(Path(error.path).name, error.sqlstate)
        return Outcome(None, "")

    def by_psql(self, files: Mapping[str, str], folder: Path) -> Outcome:
        programs = self.theirs.programs()
        for migration in discover([f"m/{name}" for name in files], "m").migrations:
            name = migration.path.removeprefix("m/")
            path = folder / name.replace("/", "_")
            path.write_bytes(files[name].encode())
            argv = programs.argv("psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", "-v", "VERBOSITY=verbose")
            argv += ["-1"] if why_alone(statements(files[name])) is None else []
            done = subprocess.run(
                [*argv, "-f", str(path)],
                env=self.theirs.child_environment(programs=programs) | {"PGCLIENTENCODING": "UTF8"},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                check=False,
            )
            if done.returncode:
                code = re.search(r"(?:ERROR|FATAL): +([0-9A-Z]{5}):", done.stderr)
                return Outcome(name, code[1] if code else done.stderr)
        return Outcome(None, "")

    def assert_equal(self, *, contents: bool = True) -> None:
        """Schema as `pg_dump` writes it, and every row of every table but the history's."""
        assert dump(self.ours.database) == dump(self.theirs)
        ours, theirs = (
            {
                name: table if contents else table.rows
                for name, table in fingerprint(database, "schema_migrations").tables.items()
                if "schema_migrations" not in name
            }
            for database in (self.ours.database, self.theirs)
        )
        assert ours == theirs


def plan_from(files: Mapping[str, str]) -> MigrationPlan:
    """Plan files by their path below the directory of the migrations."""
    scripts = {f"m/{name}": text.removeprefix("\ufeff") for name, text in files.items()}
    found = discover(list(scripts), "m").migrations
    return MigrationPlan("", found, (), tuple(plan_steps(found, scripts)), (), scripts)


def dump(database: Database) -> str:
    argv = database.programs().argv("pg_dump", "--schema-only", "--exclude-table=public.schema_migrations*")
    return re.sub(r"^\\(?:un)?restrict .*$", "", database.run(argv, what="schema").stdout, flags=re.MULTILINE)


@pytest.fixture(scope="module")
def template(postgres: EmbeddedPostgres) -> str:
    execute(postgres.url(), "CREATE DATABASE parity TEMPLATE template0")
    execute(postgres.url("parity"), *FIRST.split(";\n"))
    return "parity"


@pytest.fixture(scope="module")
def make_pair(postgres: EmbeddedPostgres, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Pair]:
    """Make two equal databases, copies of a template or empty."""
    from runbook.clients.backup_store import BackupStore
    from runbook.clients.folder_store import FolderStore
    from runbook.clients.git import Repository
    from runbook.settings import MigrationSettings, Settings
    from tests.fakes.application_host import MemoryHost

    folder = tmp_path_factory.mktemp("parity")
    environment = Settings(name="test", repository="", database="x", migrations=MigrationSettings(lock_timeout_s=5))
    store = BackupStore(FolderStore(folder))

    def make(template: str = "template0") -> Pair:
        number = next(_number)
        databases: list[Database] = []
        for side in ("ours", "theirs"):
            execute(postgres.url(), f"CREATE DATABASE parity_{number}_{side} TEMPLATE {template}")
            databases.append(Database(postgres.url(f"parity_{number}_{side}")))
        connections = Connections(environment, Repository(folder), databases[0], MemoryHost(), store, ())
        return Pair(connections, databases[1])

    return make


CASES = {
    "dollar quotes, nested and tagged": "CREATE FUNCTION f() RETURNS text LANGUAGE plpgsql AS $f$\nBEGIN\n"
    "  EXECUTE $$SELECT 'a;b'$$;\n  RETURN $x$;$x$;\nEND $f$;\nUPDATE items SET name = f();",
    "a DO block": "DO $$ BEGIN FOR n IN 30..33 LOOP INSERT INTO items (id) VALUES (n); END LOOP; END $$;",
    "a DO block that commits": "DO $$ BEGIN FOR n IN 30..33 LOOP INSERT INTO items (id) VALUES (n); COMMIT; "
    "END LOOP; END $$;",
    "a procedure that commits": "CREATE PROCEDURE p() LANGUAGE plpgsql AS $$ BEGIN INSERT INTO items (id) VALUES (40); "
    "COMMIT; END $$;\nCALL p();",
    "COPY of text": "COPY items (id, name) FROM stdin;\n50\ta;b'\\\\$$\n51\t\\N\n\\.\nDELETE FROM items WHERE id = 1;",
    "COPY of csv": 'COPY items (id, name) FROM STDIN WITH (FORMAT csv);\n52,"a;\n""b"""\n\\.\n',
    "COPY of nothing": "COPY items (id, name) FROM stdin;\n\\.\n",
    "COPY to the end of the file": "COPY items (id, name) FROM stdin;\n53\tx\n54\ty\n",
    "psql's copy": "\\copy items (id, name) from stdin\n55\tx\n\\.\n",
    "its own transaction": "BEGIN;\nINSERT INTO items (id) VALUES (60);\nCOMMIT;\n",
    "statements after its COMMIT": "BEGIN;\nINSERT INTO items (id) VALUES (60);\nCOMMIT;\n"
    "DELETE FROM items WHERE id = 2;\n",
    "a failure after its COMMIT": "BEGIN;\nINSERT INTO items (id) VALUES (61);\nCOMMIT;\nSELECT 1/0;\n",
    "a failure inside its transaction": "BEGIN;\nINSERT INTO items (id) VALUES (62);\nSELECT 1/0;\nCOMMIT;\n",
    "a ROLLBACK": "BEGIN;\nINSERT INTO items (id) VALUES (63);\nROLLBACK;\nINSERT INTO items (id) VALUES (64);\n",
    "a COMMIT without BEGIN": "INSERT INTO items (id) VALUES (65);\nCOMMIT;\n",
    "COMMIT AND CHAIN": "BEGIN;\nINSERT INTO items (id) VALUES (66);\nCOMMIT AND CHAIN;\n"
    "INSERT INTO items (id) VALUES (67);\nCOMMIT;\n",
    "savepoints": "BEGIN;\nSAVEPOINT s;\nINSERT INTO items (id) VALUES (68);\nROLLBACK TO s;\nCOMMIT;\n",
    "an isolation level": "BEGIN;\nSET TRANSACTION ISOLATION LEVEL SERIALIZABLE;\n"
    "DELETE FROM items WHERE id = 3;\nEND;\n",
    "Windows line ends": "UPDATE items\r\nSET name = 'x'\r\nWHERE id = 1;\r\n-- done\r\n",
    "a byte order mark": "\ufeffDELETE FROM items WHERE id = 4;",
    "nested comments": "/* a /* b; */ ' */ DELETE FROM items WHERE id = 5; -- ;'\n",
    "a cron expression that ends a comment": "/* every\n */5 * * * * minutes */\nDELETE FROM items;",
    "several hundred statements": "".join(f"UPDATE items SET kind = 'k{n}' WHERE id = {n % 20};\n" for n in range(400)),
    "a changed search_path": "CREATE SCHEMA other;\nSET search_path = other;\nCREATE TABLE inside (id int);",
    "an empty search_path": "SELECT pg_catalog.set_config('search_path', '', false);\nCREATE TABLE public.x (id int);",
    "another role": "SET ROLE pg_monitor;\nSELECT 1;\nRESET ROLE;\nCREATE TABLE x (id int);",
    "a role without rights": "SET ROLE pg_monitor;\nDROP TABLE items;",
    "a temporary table": "CREATE TEMP TABLE t AS SELECT 1 AS id;\nINSERT INTO items (id) SELECT id + 70 FROM t;",
    "a prepared statement": "PREPARE ins (int) AS INSERT INTO items (id) VALUES ($1);\nEXECUTE ins(80);",
    "output and notices": "SELECT * FROM items;\nDO $$ BEGIN RAISE NOTICE 'hello'; END $$;\n"
    "DROP TABLE IF EXISTS nowhere;",
    "a BEGIN ATOMIC body": "CREATE FUNCTION g() RETURNS int BEGIN ATOMIC SELECT 1; SELECT 2; END;\n"
    "INSERT INTO items (id) SELECT 80 + g();",
    "escape strings": "UPDATE items SET name = E'it\\'s;' || U&'\\0061' || 'a''b' || 'back\\';",
    "names with quotes": 'CREATE TABLE "a;""b" ("c d" int);',
    "a rule with two actions": "CREATE TABLE log (id int);\nCREATE RULE r AS ON DELETE TO items DO ALSO "
    "(INSERT INTO log VALUES (old.id); INSERT INTO log VALUES (1));\nDELETE FROM items WHERE id = 6;",
    "psql's echo and timing": "\\echo hello\n\\timing on\nDELETE FROM items WHERE id = 7;\n\\timing off\n",
    "psql's variables": "\\set id 8\n\\set name 'it''s'\nUPDATE items SET name = :'name' WHERE id = :id;\n",
    "psql's conditions": "\\set go 1\n\\if :go\nDELETE FROM items WHERE id = 9;\n\\else\nDROP TABLE items;\n\\endif\n",
    "psql's conditions around an index": "\\if false\nVACUUM items;\n\\endif\n"
    "CREATE INDEX CONCURRENTLY i ON items (name);",
    "psql's formats": "\\pset format html\n\\x on\nSELECT 1;\nDELETE FROM items WHERE id = 10;",
    "two statements sent together": "INSERT INTO items (id) VALUES (90) \\; DELETE FROM items WHERE id = 11;\n",
    "sent by \\g": "DELETE FROM items WHERE id = 12 \\g\nDELETE FROM items WHERE id = 13;",
    "an index without blocking": "CREATE INDEX CONCURRENTLY items_name ON items (name);",
    "an index after other statements": "UPDATE items SET kind = 'b' WHERE id = 1;\n"
    "CREATE INDEX CONCURRENTLY items_kind ON items (kind);\nDELETE FROM items WHERE id = 14;",
    "a unique index that fails": "INSERT INTO items (id, name) VALUES (91, 'x'), (92, 'x');\n"
    "CREATE UNIQUE INDEX CONCURRENTLY u ON items (name);",
    "an enum value used at once": "ALTER TYPE mood ADD VALUE 'fair';\nCREATE TABLE m (m mood);\n"
    "INSERT INTO m VALUES ('fair');",
    "VACUUM and REINDEX": "VACUUM (ANALYZE) items;\nREINDEX INDEX CONCURRENTLY items_pkey;\nREINDEX TABLE items;\n",
    "a partition detached without blocking": "ALTER TABLE events DETACH PARTITION events_2024 CONCURRENTLY;",
    "LOCK TABLE in a transaction": "BEGIN;\nLOCK TABLE items;\nDELETE FROM items WHERE id = 15;\nCOMMIT;\n",
    "LOCK TABLE without one, in a file of its own step": "VACUUM items;\nLOCK TABLE items;\n",
    "up, then down": "CREATE TABLE x (id int);\n-- Down\nDROP TABLE x;\n",
    "a runtime error in the middle": "DELETE FROM items WHERE id = 16;\nSELECT 1/0;\nDELETE FROM items;",
    "a syntax error": "DELETE FROM items WHERE id = 17;\nDELETE items;",
    "a duplicate key": "INSERT INTO items (id) VALUES (1);",
    "an error of its own": "DO $$ BEGIN RAISE EXCEPTION 'no' USING ERRCODE = 'MY001'; END $$;",
    "a constraint that fails at the end": "CREATE TABLE c (id int REFERENCES items DEFERRABLE INITIALLY DEFERRED);\n"
    "INSERT INTO c VALUES (999);",
    "SET LOCAL": "SET LOCAL work_mem = '1MB';\nDELETE FROM items WHERE id = 18;",
    "LISTEN and NOTIFY": "LISTEN x;\nNOTIFY x;\nDELETE FROM items WHERE id = 19;",
    "a cursor": "BEGIN;\nDECLARE c CURSOR FOR SELECT * FROM items;\nFETCH 2 FROM c;\nCOMMIT;",
    "large objects": "SELECT lo_create(4711);\nSELECT lo_put(4711, 0, 'abc');",
    "a view, a trigger and a policy": "CREATE VIEW v AS SELECT id FROM items;\nCREATE FUNCTION t() RETURNS trigger "
    "LANGUAGE plpgsql AS 'BEGIN NEW.kind := ''t''; RETURN NEW; END';\nCREATE TRIGGER t BEFORE UPDATE ON items "
    "FOR EACH ROW EXECUTE FUNCTION t();\nUPDATE items SET name = 'x';\nALTER TABLE items ENABLE ROW LEVEL SECURITY;",
    "DISCARD ALL": "DELETE FROM items WHERE id = 20;\nDISCARD ALL;",
    "comments on everything": "COMMENT ON TABLE items IS 'a; -- b';\nCOMMENT ON COLUMN items.name IS NULL;",
}


@pytest.mark.parametrize("case", CASES)
def test_a_file_does_here_what_it_does_in_psql(
    make_pair: Callable[..., Pair], template: str, tmp_path: Path, case: str
) -> None:
    pair = make_pair(template)
    files = {"0001_case.sql": CASES[case], "0002_next.sql": "ALTER TABLE items ADD note text;"}
    assert pair.by_runner(files) == pair.by_psql(files, tmp_path)
    pair.assert_equal()


_BLANK = st.sampled_from([" ", "\n", "\t", " -- a comment; '\n", " /* ; /* nested */ ' */ ", "\r\n"])
_TEXT = st.sampled_from(["'plain'", "'it''s;'", "E'\\'\\n;'", "$$;'$$", "$q$ $$ ; $q$", "U&'\\0061;'", "'ß☃'"])
_TABLE = st.sampled_from(["a", "b", '"C;d"'])


@st.composite
def _statement(draw: st.DrawFn) -> str:
    table, text, number = draw(_TABLE), draw(_TEXT), draw(st.integers(1, 99))
    words = draw(
        st.sampled_from(
            [
                f"CREATE TABLE IF NOT EXISTS {table} (id int, note text DEFAULT {text})",
                f"INSERT INTO {table} VALUES ({number}, {text})",
                f"UPDATE {table} SET note = {text} WHERE id > {number}",
                f"ALTER TABLE {table} ADD COLUMN c{number} text DEFAULT {text}",
                f"ALTER TABLE {table} ADD CONSTRAINT k{number} CHECK (id < {number} * 10)",
                f"CREATE INDEX i{number} ON {table} (note)",
                f"CREATE INDEX CONCURRENTLY j{number} ON {table} (id)",
                f"COMMENT ON TABLE {table} IS {text}",
                f"DELETE FROM {table} WHERE id = {number}",
                f"DO $do$ BEGIN INSERT INTO {table} VALUES ({number}); END $do$",
                f"DROP TABLE {table}",
                f"BEGIN; INSERT INTO {table} VALUES ({number}); COMMIT",
                f"SELECT {text} / 0" if number > 90 else f"SELECT {text}",
            ]
        )
    )
    return draw(_BLANK).join(words.split(" ")) if "'" not in words and "$" not in words else words


@settings(max_examples=4, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    files=st.lists(
        st.tuples(st.lists(_statement(), min_size=1, max_size=6), _BLANK, st.sampled_from(["", ";", ";\n"])),
        min_size=1,
        max_size=4,
    )
)
def test_generated_files_do_here_what_they_do_in_psql(
    make_pair: Callable[..., Pair], tmp_path_factory: pytest.TempPathFactory, files: list[tuple[list[str], str, str]]
) -> None:
    pair = make_pair()
    for database in (pair.ours.database, pair.theirs):
        execute(database.url, *(f"CREATE TABLE {name} (id int, note text)" for name in ("a", "b", '"C;d"')))
    scripts = {f"{n}_file.sql": f";{blank}".join(texts) + end for n, (texts, blank, end) in enumerate(files, 1)}
    expected = pair.by_psql(scripts, tmp_path_factory.mktemp("files"))
    if expected.failed is not None:  # what ran before it in one transaction with it is rolled back here, too
        assert_same_file_fails(pair, scripts, expected.failed)
        return
    assert pair.by_runner(scripts) == expected
    pair.assert_equal()


def assert_same_file_fails(pair: Pair, scripts: dict[str, str], failed: str) -> None:
    """The file that fails in psql fails here with the same SQLSTATE; run one by one, both leave the same behind."""
    names = list(scripts)[: list(scripts).index(failed) + 1]
    ends = [pair.by_runner({name: scripts[name] for name in names[: n + 1]}) for n in range(len(names))]
    assert [end.failed for end in ends] == [*[None] * (len(names) - 1), failed]
    pair.assert_equal()


@pytest.fixture(scope="session")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install the packages whose migrations are applied; that it cannot be done is a failure, not a skip."""
    folder = tmp_path_factory.mktemp("packages")
    pins = Path(__file__).with_name("migration_sets.txt")
    argv = [str(Path(sys.executable).with_name("uv")), "pip", "install", "--quiet", "--no-deps", "--require-hashes"]
    argv += ["--system-certs", "--python", sys.executable, "--target", str(folder), "-r", str(pins)]
    done = subprocess.run(argv, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


def read(folder: Path, pattern: str) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text("utf-8") for path in sorted(folder.glob(pattern))}


def test_dotted_versions_in_two_halves(make_pair: Callable[..., Pair], packages: Path, tmp_path: Path) -> None:
    """procrastinate: `03.04.00_01_pre_name.sql`, functions and triggers."""
    files = read(packages / "procrastinate" / "sql" / "migrations", "*.sql")
    assert len(files) > 30
    plan = plan_from(files)
    assert {migration.phase for migration in plan.found} == {"pre", "post"}
    pair = make_pair()
    assert pair.by_runner(files) == pair.by_psql(files, tmp_path) == Outcome(None, "")
    pair.assert_equal()


@pytest.mark.chaos
def test_folders_with_timestamps(make_pair: Callable[..., Pair], packages: Path, tmp_path: Path) -> None:
    """litellm-proxy-extras: Prisma's `<timestamp>_name/migration.sql`, more than two hundred of them."""
    files = read(packages / "litellm_proxy_extras" / "migrations", "*/migration.sql")
    assert len(files) > 200
    pair = make_pair()
    assert pair.by_runner(files) == pair.by_psql(files, tmp_path)
    pair.assert_equal()


@pytest.mark.chaos
def test_files_that_were_never_meant_to_run_one_after_the_other(
    make_pair: Callable[..., Pair], packages: Path, tmp_path: Path
) -> None:
    """kinto: a schema of today and the steps from older ones, most of which fail on it; file by file, as psql says."""
    storage = packages / "kinto" / "core" / "storage" / "postgresql"
    steps = read(storage / "migrations", "migration_*.sql")
    assert len(steps) > 20
    files = {"000_schema.sql": (storage / "schema.sql").read_text("utf-8")}
    files |= {name.replace("migration_", ""): text for name, text in steps.items()}
    pair = make_pair()
    ends: list[tuple[Outcome, Outcome]] = []
    for name, text in files.items():
        ends.append((pair.by_runner({name: text}), pair.by_psql({name: text}, tmp_path)))
    assert [ours for ours, _ in ends] == [theirs for _, theirs in ends]
    assert {end.failed is None for end, _ in ends} == {True, False}, "some run, some fail"
    pair.assert_equal(contents=False)  # a column holds when the row was written


def test_what_is_refused_is_refused_before_anything_runs(make_pair: Callable[..., Pair]) -> None:
    pair = make_pair()
    for text in ("\\! true", "\\i other.sql", "\\gexec", "SELECT 'DROP TABLE x' \\gexec", "\\set ON_ERROR_STOP off"):
        with pytest.raises(RunbookError, match=r"psql meta-commands? "):
            pair.by_runner({"0001_first.sql": "CREATE TABLE x (id int);", "0002_meta.sql": f"SELECT 1;\n{text}\n"})
    assert dump(pair.ours.database) == dump(pair.theirs)
