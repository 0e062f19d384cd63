"""What is known of a database beside its content: position, sequences, and all that a dump of it does not carry.

Only catalogs that every role may read are asked (`pg_roles`, not `pg_authid`): a hosted database has no superuser.

Source: PostgreSQL manual, "pg_dumpall" (--globals-only), "pg_shdepend", "ALTER DATABASE", "CREATE ROLE".
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import psycopg
from psycopg import sql
from psycopg.rows import dict_row

from runbook.errors import StageError
from runbook.manifest import DatabaseFacts, SequenceRange

_POSITION = """
SELECT CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END::text,
       pg_current_snapshot()::text, pg_database_size(current_database())
"""
# A foreign key of, or to, a partitioned table has entries for the partitions, too.
_REFERENCES = """
SELECT format('%I.%I', n.nspname, c.relname), array_agg(DISTINCT format('%I.%I', rn.nspname, r.relname))
FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid JOIN pg_namespace n ON n.oid = c.relnamespace
     JOIN pg_class r ON r.oid = k.confrelid JOIN pg_namespace rn ON rn.oid = r.relnamespace
WHERE k.contype = 'f' GROUP BY 1 ORDER BY 1
"""
_EXTENSIONS = "SELECT extname, extversion FROM pg_extension ORDER BY 1"
_SEQUENCES = """
SELECT format('%I.%I', n.nspname, c.relname), s.last_value
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
     JOIN pg_sequences s ON s.schemaname = n.nspname AND s.sequencename = c.relname
WHERE c.relkind = 'S' AND c.relpersistence <> 't' AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
  AND NOT EXISTS (SELECT 1 FROM pg_depend d
                  WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')
ORDER BY 1
"""
# Roles that own something, may do something or have settings here. What belongs to the role that made the cluster is
# in no list of dependencies. Then the roles between two of them: one is a member of the other only through these.
_ROLES = """
WITH RECURSIVE this AS (SELECT oid, datdba FROM pg_database WHERE datname = current_database()),
owners AS (
    SELECT datdba AS oid FROM this
    UNION SELECT d.refobjid FROM pg_shdepend d, this
          WHERE d.refclassid = 'pg_authid'::regclass
            AND (d.dbid = this.oid OR (d.dbid = 0 AND d.classid = 'pg_database'::regclass AND d.objid = this.oid))
    UNION SELECT s.setrole FROM pg_db_role_setting s, this WHERE s.setdatabase = this.oid
    UNION SELECT relowner FROM pg_class c WHERE oid >= 16384 AND NOT EXISTS
          (SELECT FROM pg_depend e WHERE e.classid = 'pg_class'::regclass AND e.objid = c.oid AND e.deptype = 'e')
    UNION SELECT nspowner FROM pg_namespace WHERE oid >= 16384
    UNION SELECT proowner FROM pg_proc p WHERE oid >= 16384 AND NOT EXISTS
          (SELECT FROM pg_depend e WHERE e.classid = 'pg_proc'::regclass AND e.objid = p.oid AND e.deptype = 'e')
    UNION SELECT typowner FROM pg_type t WHERE oid >= 16384 AND NOT EXISTS
          (SELECT FROM pg_depend e WHERE e.classid = 'pg_type'::regclass AND e.objid = t.oid AND e.deptype = 'e')
    UNION SELECT a.grantee FROM pg_database d JOIN this USING (oid), aclexplode(d.datacl) a
),
above AS (SELECT roleid AS oid FROM pg_auth_members WHERE member IN (SELECT oid FROM owners)
          UNION SELECT m.roleid FROM pg_auth_members m JOIN above a ON a.oid = m.member),
below AS (SELECT member AS oid FROM pg_auth_members WHERE roleid IN (SELECT oid FROM owners)
          UNION SELECT m.member FROM pg_auth_members m JOIN below b ON b.oid = m.roleid)
SELECT rolname, rolcanlogin, rolinherit, rolconnlimit, to_json(rolvaliduntil)#>>'{}' AS rolvaliduntil, rolconfig,
       rolsuper, rolcreaterole, rolcreatedb, rolreplication, rolbypassrls
FROM pg_roles r
WHERE r.rolname !~ '^pg_' AND r.oid IN
      (SELECT oid FROM owners UNION (SELECT oid FROM above INTERSECT SELECT oid FROM below))
ORDER BY r.rolname
"""
# PostgreSQL 16 has added options to memberships, and one membership can have several grantors since.
_MEMBERSHIPS = """
SELECT pg_get_userbyid(roleid) AS role, pg_get_userbyid(member) AS member, bool_or(admin_option) AS admin,
       bool_or((to_jsonb(m)->>'inherit_option')::boolean) AS inherit,
       bool_or((to_jsonb(m)->>'set_option')::boolean) AS set
FROM pg_auth_members m WHERE pg_get_userbyid(member) = ANY (%(roles)s)
  AND (pg_get_userbyid(roleid) = ANY (%(roles)s) OR pg_get_userbyid(roleid) ~ '^pg_')
GROUP BY 1, 2 ORDER BY 1, 2
"""
_PROPERTIES = """
SELECT pg_get_userbyid(datdba), datconnlimit, shobj_description(oid, 'pg_database'), datacl IS NULL
FROM pg_database WHERE datname = %s
"""
_SETTINGS = """
SELECT r.rolname, split_part(c, '=', 1), substr(c, strpos(c, '=') + 1)
FROM pg_db_role_setting s JOIN pg_database d ON d.oid = s.setdatabase LEFT JOIN pg_roles r ON r.oid = s.setrole,
     unnest(s.setconfig) WITH ORDINALITY AS settings (c, position)
WHERE d.datname = %s ORDER BY 1 NULLS FIRST, position
"""
_GRANTS = """
SELECT CASE WHEN grantee = 0 THEN NULL ELSE pg_get_userbyid(grantee) END, privilege_type, bool_or(is_grantable)
FROM pg_database, aclexplode(datacl) WHERE datname = %s GROUP BY 1, 2 ORDER BY 1 NULLS FIRST, 2
"""
# Settings whose value is a list of names are stored already quoted; as one string they would mean something else.
_LIST_SETTINGS = {"search_path", "temp_tablespaces", "local_preload_libraries", "session_preload_libraries"}
_LIST_NAME = re.compile(r'"((?:[^"]|"")*)"|([^\s,"]+)')
_ATTRIBUTES = {
    "rolsuper": sql.SQL("SUPERUSER"),
    "rolcreaterole": sql.SQL("CREATEROLE"),
    "rolcreatedb": sql.SQL("CREATEDB"),
    "rolreplication": sql.SQL("REPLICATION"),
    "rolbypassrls": sql.SQL("BYPASSRLS"),
}
_HEAD = """\
-- What a dump of one database does not carry: roles without their passwords, and the database's own properties.
-- Run this once the empty database NAME is there, before the dump is restored: its objects need their owners.
--   psql --dbname=NAME --set=database=NAME --file=THIS_FILE
-- Roles that exist are left as they are. Give new ones their passwords with \\password.
\\set ON_ERROR_STOP on
SET client_encoding = 'UTF8';
SET standard_conforming_strings = on;
BEGIN;
"""
_CREATE_ROLE = """
BEGIN
    IF EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = {literal}) THEN
        RETURN;
    END IF;
    CREATE ROLE {role} {login} {inherit} CONNECTION LIMIT {limit}{until};
{extra}END
"""
_TRY = """\
    BEGIN
        {statement};
    EXCEPTION WHEN insufficient_privilege THEN
        RAISE WARNING 'not done, for lack of rights: %', {words};
    END;
"""
_GRANT_ROLE = """
BEGIN
    IF EXISTS (SELECT FROM pg_catalog.pg_auth_members m
               JOIN pg_catalog.pg_roles r ON r.oid = m.roleid JOIN pg_catalog.pg_roles u ON u.oid = m.member
               WHERE r.rolname = {role} AND u.rolname = {member}) THEN
        RETURN;
    END IF;
{grant}END
"""


def read_facts(connection: psycopg.Connection, version: str) -> DatabaseFacts:
    """Return what is known of the database in the snapshot of `connection`.

    Sequences belong to no snapshot: `before` and `after` are both their values now.

    Args:
        connection: a session of the database.
        version: the server's version.
    """
    row = connection.execute(_POSITION).fetchone()
    assert row is not None  # noqa: S101 - a SELECT without FROM returns one row
    lsn, snapshot, size_bytes = row
    return DatabaseFacts(
        server_version=version,
        lsn=lsn,
        snapshot=snapshot,
        size_bytes=size_bytes,
        extensions=dict(connection.execute(_EXTENSIONS).fetchall()),
        roles=tuple(str(role["rolname"]) for role in _roles(connection)),
        references={name: tuple(targets) for name, targets in connection.execute(_REFERENCES).fetchall()},
        sequences={
            name: SequenceRange(before=value, after=value) for name, value in sequence_values(connection).items()
        },
    )


def sequence_values(connection: psycopg.Connection) -> dict[str, int | None]:
    """Return the last value of each sequence by its quoted name; None for one that was never called.

    Sequences of extensions are left out, as those of PostgreSQL itself.
    """
    connection.execute("SET quote_all_identifiers = off")  # a database may have it on
    return dict(connection.execute(_SEQUENCES).fetchall())


def globals_sql(connection: psycopg.Connection) -> str:
    r"""Return a script for `psql` with what a dump of the connected database does not carry.

    It creates the roles that the database depends on, without passwords, unless they exist, and their memberships;
    then it gives the database named by the psql variable `database` the owner, limit, comment, grants and settings.
    All of it happens or nothing; what the one who runs it has no right to give a new role is a warning.

    Settings may be secrets: the text belongs in no log.
    """
    row = connection.execute("SELECT current_database()").fetchone()
    assert row is not None  # noqa: S101 - a SELECT without FROM returns one row
    blocks = [_do(connection, block) for block in _role_blocks(connection)]
    statements = database_properties(connection, row[0], sql.SQL(':"database"'))
    return "\n".join([_HEAD, *blocks, *(f"{one.as_string(connection)};" for one in statements), "COMMIT;", ""])


def database_properties(connection: psycopg.Connection, name: str, target: sql.Composable) -> Iterator[sql.Composed]:
    """Yield the statements that give `target` what a dump does not hold of the database `name`.

    That is owner, connection limit, comment, grants and settings, also those of roles in this database.

    Raises:
        StageError: there is no database of this name.
    """
    row = connection.execute(_PROPERTIES, [name]).fetchone()
    if row is None:
        raise StageError(f"database {name} does not exist")
    owner, limit, comment, default_grants = row
    yield sql.SQL("ALTER DATABASE {} OWNER TO {}").format(target, sql.Identifier(owner))
    yield sql.SQL("ALTER DATABASE {} CONNECTION LIMIT {}").format(target, sql.Literal(limit))
    yield sql.SQL("COMMENT ON DATABASE {} IS {}").format(target, sql.Literal(comment))
    if not default_grants:
        yield sql.SQL("REVOKE ALL ON DATABASE {} FROM PUBLIC, {}").format(target, sql.Identifier(owner))
        for grantee, privilege, grantable in connection.execute(_GRANTS, [name]).fetchall():
            yield sql.SQL("GRANT {} ON DATABASE {} TO {}{}").format(
                sql.SQL(privilege),
                target,
                sql.SQL("PUBLIC") if grantee is None else sql.Identifier(grantee),
                sql.SQL(" WITH GRANT OPTION" if grantable else ""),
            )
    for role, setting, value in connection.execute(_SETTINGS, [name]).fetchall():
        whose = sql.SQL("DATABASE {}").format(target)
        if role is not None:
            whose = sql.SQL("ROLE {} IN DATABASE {}").format(sql.Identifier(role), target)
        yield _set(whose, setting, value)


def _set(whose: sql.Composable, setting: str, value: str) -> sql.Composed:
    parts = [value]
    if setting.lower() in _LIST_SETTINGS:
        parts = [match[2] or match[1].replace('""', '"') for match in _LIST_NAME.finditer(value)]
    given = sql.SQL(", ").join(sql.Literal(part) for part in parts)
    return sql.SQL("ALTER {} SET {} TO {}").format(whose, sql.Identifier(setting), given)


def _roles(connection: psycopg.Connection) -> list[dict[str, Any]]:
    with connection.cursor(row_factory=dict_row) as cursor:
        return cursor.execute(_ROLES).fetchall()


def _role_blocks(connection: psycopg.Connection) -> Iterator[sql.Composed]:
    roles = _roles(connection)
    for role in roles:
        yield _create_role(role)
    names = [role["rolname"] for role in roles]
    with connection.cursor(row_factory=dict_row) as cursor:
        for found in cursor.execute(_MEMBERSHIPS, {"roles": names}).fetchall():
            yield _grant_role(found)


def _create_role(role: Mapping[str, Any]) -> sql.Composed:
    name = str(role["rolname"])
    whose = sql.SQL("ROLE {}").format(sql.Identifier(name))
    extra = [
        _tried(sql.SQL("ALTER {} {}").format(whose, word), f"{name} {word.as_string()}")
        for column, word in _ATTRIBUTES.items()
        if role[column]
    ]
    for setting, value in (str(one).split("=", 1) for one in role["rolconfig"] or ()):
        extra.append(_tried(_set(whose, setting, value), f"{name} SET {setting}"))  # its value may be a secret
    return sql.SQL(_CREATE_ROLE).format(
        literal=sql.Literal(name),
        role=sql.Identifier(name),
        login=sql.SQL("LOGIN" if role["rolcanlogin"] else "NOLOGIN"),
        inherit=sql.SQL("INHERIT" if role["rolinherit"] else "NOINHERIT"),
        limit=sql.Literal(role["rolconnlimit"]),
        until=sql.SQL(" VALID UNTIL {}").format(until) if (until := role["rolvaliduntil"]) else sql.SQL(""),
        extra=sql.Composed(extra),
    )


def _grant_role(found: Mapping[str, Any]) -> sql.Composed:
    role, member = str(found["role"]), str(found["member"])
    grant = sql.SQL("GRANT {} TO {}").format(sql.Identifier(role), sql.Identifier(member))
    if found["inherit"] is not None:
        grant += sql.SQL(" WITH ADMIN {}, INHERIT {}, SET {}").format(
            *(sql.SQL("TRUE" if found[option] else "FALSE") for option in ("admin", "inherit", "set"))
        )
    elif found["admin"]:
        grant += sql.SQL(" WITH ADMIN OPTION")
    return sql.SQL(_GRANT_ROLE).format(
        role=sql.Literal(role), member=sql.Literal(member), grant=_tried(grant, f"{member} IN ROLE {role}")
    )


def _tried(statement: sql.Composed, words: str) -> sql.Composed:
    """Write a statement of a block that a role with fewer rights may not run; a warning then says so in `words`."""
    return sql.SQL(_TRY).format(statement=statement, words=sql.Literal(words))


def _do(connection: psycopg.Connection, block: sql.Composed) -> str:
    """Write a block for psql, with a quote around it that is not in it."""
    text, tag = block.as_string(connection), "$globals$"
    while tag in text:
        tag = f"{tag[:-1]}_$"
    return f"DO {tag}{text}{tag};"
