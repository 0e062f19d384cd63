"""Facts about a database, and the script that carries what a dump of it does not."""

from __future__ import annotations

import itertools
import re
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest

from runbook.clients.database_facts import globals_sql, read_facts, sequence_values
from runbook.clients.embedded_postgres import EmbeddedPostgres
from runbook.clients.fingerprint import exported_snapshot
from runbook.clients.postgres import Database
from runbook.errors import StageError
from runbook.manifest import SequenceRange
from tests.runbook.helpers import execute, query

PROPERTIES = """
SELECT datdba::regrole::text, datconnlimit, shobj_description(d.oid, 'pg_database'),
       (SELECT array_agg((a.grantee::regrole, a.privilege_type, a.is_grantable)::text
                         ORDER BY 1) FROM (SELECT * FROM aclexplode(datacl) ORDER BY 1, 2, 3, 4) a),
       (SELECT array_agg((setrole::regrole, setconfig)::text ORDER BY setrole::regrole::text)
        FROM pg_db_role_setting WHERE setdatabase = d.oid)
FROM pg_database d WHERE datname = %s
"""
ROLES = """
SELECT rolname, rolcanlogin, rolinherit, rolconnlimit, rolvaliduntil::text, rolconfig, rolsuper, rolcreaterole,
       rolcreatedb, rolreplication, rolbypassrls
FROM pg_roles WHERE starts_with(rolname, %s) ORDER BY 1
"""
MEMBERS = """
SELECT roleid::regrole::text, member::regrole::text, admin_option, inherit_option, set_option
FROM pg_auth_members WHERE starts_with(pg_get_userbyid(member), %s) ORDER BY 1, 2
"""
_number = itertools.count(1)


@pytest.fixture
def prefix() -> str:
    """What the names of a test's roles begin with: roles belong to all databases of the server."""
    return f"facts_{next(_number)} "


def own(prefix: str, name: str) -> str:
    """Return a role's name as an identifier."""
    return '"' + (prefix + name).replace('"', '""') + '"'


def rich(database: Database, prefix: str) -> None:
    """Give a database roles of all kinds and properties of its own."""
    owner, app, between, reader = (own(prefix, name) for name in ("owner", "app", "be'tween", 'rea"der $globals$ ☃'))
    execute(
        database.url,
        f"CREATE ROLE {owner} CREATEDB NOINHERIT",
        f"CREATE ROLE {app} LOGIN PASSWORD 'very-secret-word' CONNECTION LIMIT 5 VALID UNTIL '2031-02-03 04:05+00'",
        f"ALTER ROLE {app} BYPASSRLS",
        f"CREATE ROLE {between}; CREATE ROLE {reader} VALID UNTIL 'infinity'; CREATE ROLE {own(prefix, 'elsewhere')}",
        f"GRANT {between} TO {app} WITH ADMIN OPTION; GRANT {owner} TO {between} WITH INHERIT FALSE",
        f"GRANT pg_read_all_stats TO {reader}; GRANT {own(prefix, 'elsewhere')} TO {app}",
        f'ALTER ROLE {app} SET search_path = app, "od,d"; ALTER ROLE {app} SET "app.key" = \'another-secret\'',
        f"CREATE TABLE items (id int); GRANT SELECT ON items TO {reader}",
        f"CREATE POLICY p ON items TO {app} USING (true)",
        f"ALTER DATABASE {database.name} OWNER TO {owner}",
        f"ALTER DATABASE {database.name} CONNECTION LIMIT 77",
        f"REVOKE CONNECT, TEMPORARY ON DATABASE {database.name} FROM PUBLIC",
        f"REVOKE CREATE ON DATABASE {database.name} FROM {owner}",
        f"GRANT CONNECT ON DATABASE {database.name} TO {reader} WITH GRANT OPTION",
        f"""COMMENT ON DATABASE {database.name} IS E'the shop''s :"own" \\\\ :database\\nline'""",
        f'ALTER DATABASE {database.name} SET search_path = "$user", app, "odd, ""name", public',
        f"ALTER DATABASE {database.name} SET datestyle = 'German, DMY'",
        f"ALTER DATABASE {database.name} SET \"app.tenant\" = 'it''s = a \\ tenant'",
        f"ALTER ROLE {app} IN DATABASE {database.name} SET search_path = ''",
        f"ALTER ROLE {reader} IN DATABASE {database.name} SET statement_timeout = '5s'",
    )


def script_of(database: Database) -> str:
    with exported_snapshot(database) as snapshot:
        return globals_sql(snapshot.connection)


def run_script(server: Database, script: str, target: str, folder: Path) -> str:
    (folder / "globals.sql").write_text(script, encoding="utf-8")
    argv = server.programs().argv(
        "psql",
        "--no-psqlrc",
        "--quiet",
        f"--set=database={target}",
        "--set=ON_ERROR_STOP=1",
        f"--file={folder}/globals.sql",
    )
    heard: list[str] = []
    server.run(argv, what="globals", database="postgres", on_line=heard.append)
    return "\n".join(heard)


def roles_and_properties(url: str, name: str, prefix: str) -> tuple[list[tuple[object, ...]], ...]:
    return query(url, PROPERTIES, name), query(url, ROLES, prefix), query(url, MEMBERS, prefix)


@contextmanager
def another_server(folder: Path) -> Generator[EmbeddedPostgres]:
    server = EmbeddedPostgres(folder)
    try:
        server.start()
        yield server
    finally:
        server.remove()


@pytest.fixture
def fresh(postgres: EmbeddedPostgres, database: Database) -> Generator[str]:
    """An empty database of an odd name beside the test's own."""
    name = f"{database.name} o'd\"d $1"
    quoted = '"' + name.replace('"', '""') + '"'
    execute(postgres.url(), f"CREATE DATABASE {quoted} TEMPLATE template0")
    yield name
    execute(postgres.url(), f"DROP DATABASE {quoted} WITH (FORCE)")


def test_what_a_dump_does_not_carry_reaches_another_database_of_the_server(
    postgres: EmbeddedPostgres, database: Database, fresh: str, prefix: str, tmp_path: Path
) -> None:
    rich(database, prefix)
    before = roles_and_properties(postgres.url(), database.name, prefix)
    assert run_script(database, script_of(database), fresh, tmp_path) == ""
    assert roles_and_properties(postgres.url(), fresh, prefix) == before
    assert run_script(database, script_of(database), fresh, tmp_path) == "", "it may be repeated"
    assert roles_and_properties(postgres.url(), fresh, prefix) == before


def test_roles_that_are_gone_are_made_again_without_passwords(
    postgres: EmbeddedPostgres, database: Database, prefix: str, tmp_path: Path
) -> None:
    rich(database, prefix)
    script = script_of(database)
    properties, roles, members = roles_and_properties(postgres.url(), database.name, prefix)
    with another_server(tmp_path / "server") as server:
        execute(server.url(), "CREATE DATABASE restored TEMPLATE template0")
        run_script(Database(server.url()), script, "restored", tmp_path)
        found = roles_and_properties(server.url(), "restored", prefix)
        passwords = query(
            server.url(), "SELECT count(rolpassword) FROM pg_authid WHERE starts_with(rolname, %s)", prefix
        )
    elsewhere = f"{prefix}elsewhere"
    assert found[0] == properties
    assert found[1] == [role for role in roles if role[0] != elsewhere], (
        "a role that nothing here depends on stays away"
    )
    assert found[2] == [member for member in members if member[0] != f'"{elsewhere}"']
    assert passwords == [(0,)]
    assert "very-secret-word" not in script


def test_a_role_that_exists_is_left_alone(
    postgres: EmbeddedPostgres, database: Database, fresh: str, prefix: str, tmp_path: Path
) -> None:
    rich(database, prefix)
    script = script_of(database)
    execute(postgres.url(), f"ALTER ROLE {own(prefix, 'app')} NOLOGIN NOBYPASSRLS CONNECTION LIMIT 9")
    changed = query(postgres.url(), ROLES, prefix)
    run_script(database, script, fresh, tmp_path)
    assert query(postgres.url(), ROLES, prefix) == changed


def test_one_without_superuser_writes_the_script_and_runs_it_with_warnings_that_name_no_value(
    postgres: EmbeddedPostgres, database: Database, prefix: str, tmp_path: Path
) -> None:
    owner, app = own(prefix, "hosted"), own(prefix, "app")
    name = f"{database.name}_hosted"
    execute(
        postgres.url(),
        f"CREATE ROLE {owner} LOGIN PASSWORD 'hosted' CREATEROLE CREATEDB",
        f"CREATE DATABASE {name} OWNER {owner} TEMPLATE template0",
        f"CREATE ROLE {app} LOGIN REPLICATION",
        f"ALTER ROLE {app} SET log_min_duration_statement = '4711ms'",
        f"GRANT CONNECT ON DATABASE {name} TO {app}",
    )
    hosted = as_role(postgres, name, f"{prefix}hosted", "hosted")
    script = script_of(hosted)
    with another_server(tmp_path / "server") as server:
        execute(server.url(), f"CREATE ROLE {owner} LOGIN PASSWORD 'hosted' CREATEROLE CREATEDB")
        execute(server.url(), f"CREATE DATABASE restored OWNER {owner} TEMPLATE template0")
        heard = run_script(as_role(server, "restored", f"{prefix}hosted", "hosted"), script, "restored", tmp_path)
        login = query(
            server.url(), "SELECT rolcanlogin, rolreplication FROM pg_roles WHERE rolname = %s", f"{prefix}app"
        )
    assert login == [(True, False)]
    assert f"not done, for lack of rights: {prefix}app REPLICATION" in heard
    assert f"not done, for lack of rights: {prefix}app SET log_min_duration_statement" in heard
    assert "4711" not in heard


def as_role(server: EmbeddedPostgres, database: str, role: str, password: str) -> Database:
    return Database(re.sub("//[^@]*@", f"//{role.replace(' ', '%20')}:{password}@", server.url(database)))


def test_a_script_that_fails_changes_nothing(
    postgres: EmbeddedPostgres, database: Database, fresh: str, prefix: str, tmp_path: Path
) -> None:
    rich(database, prefix)
    script = script_of(database)
    before = query(postgres.url(), PROPERTIES, fresh)
    with pytest.raises(StageError, match="psql ended with 3"):
        run_script(database, script.replace("COMMIT;", "SELECT nonsense; COMMIT;"), fresh, tmp_path)
    assert query(postgres.url(), PROPERTIES, fresh) == before


def test_facts_are_those_of_the_snapshot(database: Database, prefix: str) -> None:
    rich(database, prefix)
    execute(database.url, "CREATE EXTENSION pg_trgm")
    with exported_snapshot(database) as snapshot:
        execute(database.url, "CREATE EXTENSION citext")
        facts = read_facts(snapshot.connection, "18.6")
        (row,) = snapshot.connection.execute("SELECT pg_current_snapshot()::text").fetchall()
    assert facts.server_version == "18.6"
    assert facts.extensions.keys() == {"plpgsql", "pg_trgm"}
    assert facts.snapshot == row[0]
    assert re.fullmatch(r"[0-9A-F]+/[0-9A-F]+", facts.lsn)
    assert facts.size_bytes > 1_000_000
    expected = {f"{prefix}{name}" for name in ("owner", "app", "be'tween", 'rea"der $globals$ ☃')}
    assert {role for role in facts.roles if role.startswith(prefix)} == expected


def test_sequences_have_their_values_by_quoted_name(postgres: EmbeddedPostgres, database: Database) -> None:
    execute(
        database.url,
        "CREATE TABLE items (id serial, n bigint GENERATED ALWAYS AS IDENTITY)",
        "INSERT INTO items DEFAULT VALUES; INSERT INTO items DEFAULT VALUES",
        'CREATE SEQUENCE "Down.""☃" INCREMENT -3 MAXVALUE 5; SELECT nextval(\'"Down.""☃"\')',
        "CREATE SEQUENCE never",
        "CREATE EXTENSION pg_trgm; CREATE SEQUENCE part; ALTER EXTENSION pg_trgm ADD SEQUENCE part",
        f"ALTER DATABASE {database.name} SET quote_all_identifiers = on",
    )
    expected = {"public.items_id_seq": 2, "public.items_n_seq": 2, 'public."Down.""☃"': 5, "public.never": None}
    with database.connect() as connection:
        assert sequence_values(connection) == expected
    with exported_snapshot(database) as snapshot:
        sequences = read_facts(snapshot.connection, "18.6").sequences
    assert sequences == {name: SequenceRange(before=value, after=value) for name, value in expected.items()}
