from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runbook.errors import InvalidInputError
from runbook.rules.sql import (
    Statement,
    controls_transaction,
    needs_own_transaction,
    refused_meta_command,
    statements,
    without_literals,
)

FUNCTION = "CREATE OR REPLACE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT 1; SELECT CASE WHEN true THEN 1 END; END;"

TRICKY = [
    pytest.param("SELECT ';';", id="semicolon in a string"),
    pytest.param("SELECT 'it''s; fine';", id="doubled quote"),
    pytest.param("SELECT 'back\\';", id="a backslash is an ordinary character in a plain string"),
    pytest.param(r"SELECT E'it\'s; fine\\';", id="escaped quote in an E string"),
    pytest.param(r"SELECT e'\\', 1;", id="escaped backslash at the end of an E string"),
    pytest.param("SELECT E'a'\n  'b\\';c';", id="an E string continued on the next line keeps its escapes"),
    pytest.param("SELECT 'a' -- why\n  'b\\';", id="a string continued after a comment"),
    pytest.param("SELECT 'a' 'b\\';", id="not continued on the same line"),
    pytest.param("SELECT namee'\\';", id="an E at the end of a word begins no E string"),
    pytest.param("SELECT U&'d\\0061t;', U&\"d;\" FROM t;", id="unicode escapes"),
    pytest.param("SELECT B'01;', x'1;', N'a;';", id="bit, hexadecimal and national strings"),
    pytest.param('SELECT 1 AS "a;""b;";', id="quoted identifier"),
    pytest.param("SELECT $$;'$$;", id="dollar quote"),
    pytest.param("SELECT $a$ ; $b$ $$ ; $a$;", id="dollar quote with a tag, others inside"),
    pytest.param("SELECT $é$;$é$;", id="dollar quote with a letter beyond ASCII"),
    pytest.param("SELECT a$b$ FROM c$b$;", id="a dollar inside a word opens nothing"),
    pytest.param("SELECT $1, $2;", id="parameters"),
    pytest.param("SELECT 1 -- it's; $$ /* \n;", id="line comment"),
    pytest.param("SELECT 1 -- ends at CR;'\r;", id="line comment ended by a carriage return"),
    pytest.param("SELECT /* ; /* it's */ ; */ 1;", id="nested comment"),
    pytest.param("SELECT 2*/* ; */3;", id="a comment after an operator"),
    pytest.param("SELECT /*/ ; */ 1;", id="slash star slash opens once"),
    pytest.param("SELECT 1+--;\n2;", id="a line comment after an operator"),
    pytest.param("CREATE RULE r AS ON INSERT TO t DO (SELECT 1; SELECT 2);", id="semicolon in parentheses"),
    pytest.param(FUNCTION, id="BEGIN ATOMIC"),
    pytest.param("DO $$ BEGIN; COMMIT; END $$;", id="DO block"),
    pytest.param("SELECT x::text, a[1:2], :var, :'var;' FROM t;", id="casts, slices, psql variables"),
    pytest.param('COPY t (a, "b") FROM stdin;\n1;\t\'\n$$\n\\N\n\\.\n', id="COPY data"),
    pytest.param('COPY s.t FROM STDIN WITH (FORMAT csv); -- data\r\n"\r\n\\.\r\n', id="COPY data, Windows line ends"),
    pytest.param("\\copy t from stdin\n;'\n\\.\n", id="psql copy with data"),
    pytest.param("COPY t FROM '/tmp/FROM stdin';", id="COPY from a file"),
    pytest.param("COPY (SELECT 1 FROM stdin) TO STDOUT;", id="COPY to"),
    pytest.param("\\echo ; 'a;\\\\ \\' b' \"c\\\\\" \\\\\n", id="meta-command"),
    pytest.param("SELECT 1 \\gset\n", id="sent by a meta-command"),
    pytest.param("SELECT 1 \\;", id="backslash semicolon"),
    pytest.param("SELECT 1 AS no\u00a0break\u2028;", id="exotic spaces are letters"),
]


@pytest.mark.parametrize("text", TRICKY)
def test_one_statement_stays_whole(text: str) -> None:
    found = statements(f"SELECT 0; -- before\n{text}\nSELECT 9;")
    assert [item.line for item in found][:2] == [1, 2]
    assert [item.bare for item in (found[0], found[-1])] == ["SELECT 0", "SELECT 9"]
    assert len(found) == 3


FRAGMENTS = [str(item.values[0]) for item in TRICKY]


@given(st.lists(st.sampled_from(FRAGMENTS), max_size=6), st.sampled_from(["\n", "\n\n", "\n-- ; '\n", "\n/* ;' */\n"]))
def test_joined_statements_split_back(parts: list[str], between: str) -> None:
    text = between.join([*parts, ""])
    found = statements(text)
    assert len(found) == len(parts)
    at = 0
    for item in found:  # what lies between the statements is nothing
        begin = text.index(item.text, at)
        assert statements(text[at:begin]) == []
        assert item.line == text.count("\n", 0, begin) + 1
        at = begin + len(item.text)
    assert statements(text[at:]) == []
    assert [statements(item.text)[0].bare for item in found] == [item.bare for item in found]


@given(st.one_of(st.text(), st.lists(st.sampled_from(list("'\"$;\\/*-()\nEeUBa&.:C0 ")), max_size=40).map("".join)))
def test_random_text_is_split_or_refused(text: str) -> None:
    try:
        found = statements(text)
    except InvalidInputError:
        return
    at = 0
    for item in found:
        at = text.index(item.text, at) + len(item.text)
        assert item.text
        assert item.bare
        needs_own_transaction(item)
        controls_transaction(item)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        pytest.param("SELECT 1;\nSELECT 'a;", 2, id="string"),
        pytest.param("SELECT '''", 1, id="string that ends in a doubled quote"),
        pytest.param("SELECT E'\\'", 1, id="E string that ends in an escaped quote"),
        pytest.param('SELECT\n\n"a', 3, id="quoted identifier"),
        pytest.param("SELECT 1;\n/* /* */", 2, id="nested comment"),
        pytest.param("\nSELECT $a$ $b$ $$", 2, id="dollar quote"),
        pytest.param("SELECT (1;\nSELECT 2;", 1, id="parenthesis"),
        pytest.param("\nCREATE FUNCTION f() BEGIN ATOMIC SELECT 1;", 2, id="function body"),
        pytest.param("COPY t FROM stdin; SELECT 1;\n\\.\n", 1, id="a statement on the line of the COPY"),
        pytest.param("SELECT 1\n\\echo x\n;", 2, id="meta-command inside a statement"),
        pytest.param("SELECT 1;\n\0", 2, id="NUL"),
    ],
)
def test_what_is_never_closed_is_named_by_its_line(text: str, line: int) -> None:
    with pytest.raises(InvalidInputError, match=f"line {line}'"):
        statements(text)


@pytest.mark.parametrize("text", ["", " \n\t", ";;\n;", "-- only a comment", "/* only */ ; -- this", "\ufeff"])
def test_no_statement(text: str) -> None:
    assert statements(text) == []


def test_the_end_of_the_script_ends_copied_data() -> None:
    assert [item.text for item in statements("\nCOPY t FROM stdin;\n1;\n2")] == ["COPY t FROM stdin;\n1;\n2"]


@pytest.mark.parametrize(
    "text",
    [
        "\\echo done",
        "\\timing on",
        "\\restrict abc",
        "\\pset format aligned",
        "\\set name value",
        "\\set ON_ERROR_STOP on",
        "\\set on_error_stop 1",
        "\\unset name",
        "\\if :{?name}",
        "\\endif",
        "\\dt+ public.*",
        "\\copy t from stdin\n1\n\\.\n",
        "SELECT 1 \\g",
        "SELECT 1 \\gx\n",
    ],
)
def test_meta_commands_that_stay_inside_psql(text: str) -> None:
    (found,) = statements(text)
    assert refused_meta_command(found) is None


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("\\! rm -rf x", "\\!"),
        ("\\i other.sql", "\\i"),
        ("\\ir other.sql", "\\ir"),
        ("\\c other", "\\c"),
        ("\\connect other", "\\connect"),
        ("\\o file", "\\o"),
        ("\\q", "\\q"),
        ("\\cd /", "\\cd"),
        ("\\setenv A b", "\\setenv"),
        ("\\prompt 'x' y", "\\prompt"),
        ("\\password", "\\password"),
        ("\\lo_import file", "\\lo_import"),
        ("\\copy t from 'file'", "\\copy"),
        ("\\copy t to 'file'", "\\copy"),
        ("\\copy t from program 'curl x'", "\\copy"),
        ("\\echo `date`", "\\echo"),
        ("\\set x `date`", "\\set x"),
        ("\\set AUTOCOMMIT off", "\\set AUTOCOMMIT"),
        ("\\set ON_ERROR_STOP 0", "\\set ON_ERROR_STOP"),
        ("\\unset ON_ERROR_STOP", "\\unset ON_ERROR_STOP"),
        ("\\set ON_ERROR_ROLLBACK on", "\\set ON_ERROR_ROLLBACK"),
        ("SELECT 'DROP TABLE t' \\gexec", "\\gexec"),
        ("SELECT 1 AS a \\gset", "\\gset"),
        ("SELECT 1 \\g out.txt", "\\g"),
        ("SELECT 1 \\g |sh", "\\g"),
        ("SELECT 1 \\watch 1", "\\watch"),
    ],
)
def test_meta_commands_that_reach_outside_are_named(text: str, named: str) -> None:
    (found,) = statements(text)
    assert refused_meta_command(found) == named


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("UPDATE  t SET a = 'secret', b = 12\nWHERE \"Id 1\" = $1", 'UPDATE t SET a = ?, b = ? WHERE "Id 1" = ?'),
        ("SELECT E'a\\'b' /* why */ || $x$body$x$", "SELECT ? || ?"),
        ("ALTER ROLE r PASSWORD 'cut off in the mid", "ALTER ROLE r PASSWORD ?"),
    ],
)
def test_what_people_are_shown_holds_no_literals(text: str, shown: str) -> None:
    assert without_literals(text) == shown


def test_bare_form() -> None:
    text = "\ufeffselect  'secret'\n , $x$body$x$ /* c */,\"Quoted  name\" -- end\n from T;"
    assert [item.bare for item in statements(text)] == ["SELECT '' , '' ,\"QUOTED  NAME\" FROM T"]


def test_the_last_statement_needs_no_semicolon() -> None:
    assert statements("SELECT 1;\nSELECT 2 -- end\n")[1] == Statement("SELECT 2", 2, "SELECT 2")


def test_large_scripts_are_read_in_one_pass() -> None:
    text = "INSERT INTO t VALUES ('" + "x" * 1_000_000 + "');\n" + "SELECT 1;\n" * 5_000
    assert len(statements(text)) == 5_001


@pytest.mark.parametrize(
    "text",
    [
        "CREATE INDEX CONCURRENTLY i ON t (a)",
        "create unique index /* c */ concurrently if not exists i on t (a)",
        "DROP INDEX CONCURRENTLY IF EXISTS i",
        "REINDEX INDEX CONCURRENTLY i",
        "REINDEX (VERBOSE, CONCURRENTLY) TABLE t",
        "REINDEX (CONCURRENTLY true) TABLE t",
        "REINDEX (VERBOSE) DATABASE d",
        "REINDEX SCHEMA s",
        "VACUUM",
        "VACUUM (ANALYZE) t",
        "CREATE DATABASE d",
        "DROP DATABASE d",
        "ALTER DATABASE d SET TABLESPACE x",
        "CREATE TABLESPACE x LOCATION '/x'",
        "DROP TABLESPACE x",
        "ALTER SYSTEM SET work_mem = '1MB'",
        'ALTER TABLE "a b" DETACH PARTITION s.p CONCURRENTLY',
        "CREATE SUBSCRIPTION s CONNECTION 'x' PUBLICATION p",
        "DROP SUBSCRIPTION s",
        "ALTER SUBSCRIPTION s REFRESH PUBLICATION",
        "ALTER SUBSCRIPTION s SET PUBLICATION p",
        "CLUSTER",
        "CLUSTER VERBOSE",
        "CLUSTER (VERBOSE)",
        "DISCARD ALL",
        "ALTER TYPE s.mood ADD VALUE IF NOT EXISTS 'meh'",
        "DO $$ BEGIN COMMIT; END $$",
        "do language plpgsql $x$ begin call p(); end $x$",
        "CALL p()",
    ],
)
def test_statements_that_need_their_own_transaction(text: str) -> None:
    (found,) = statements(text)
    assert needs_own_transaction(found)


@pytest.mark.parametrize(
    "text",
    [
        "CREATE INDEX i ON t (a)",
        'CREATE INDEX "concurrently" ON t (a)',
        "CREATE INDEX i ON concurrently_t (a)",
        "DROP INDEX i",
        "REINDEX TABLE t",
        "REINDEX (CONCURRENTLY false) TABLE t",
        "REFRESH MATERIALIZED VIEW CONCURRENTLY m",
        "ANALYZE t",
        "COMMENT ON TABLE t IS 'VACUUM; CREATE DATABASE d'",
        "ALTER TABLE t DETACH PARTITION p",
        "ALTER TABLE t DETACH PARTITION p FINALIZE",
        "ALTER DATABASE d SET work_mem = '1MB'",
        "CREATE SUBSCRIPTION s CONNECTION 'x' PUBLICATION p WITH (connect = false)",
        "CREATE SUBSCRIPTION s CONNECTION 'x' PUBLICATION p WITH (create_slot = false)",
        "ALTER SUBSCRIPTION s DISABLE",
        "CLUSTER t USING i",
        "ALTER TYPE mood RENAME VALUE 'a' TO 'b'",
        "DO $$ BEGIN PERFORM 1; END $$",
        "DO $$ BEGIN -- no COMMIT\n RAISE NOTICE 'rollback'; /* CALL */ END $$",
    ],
)
def test_statements_that_can_share_a_transaction(text: str) -> None:
    (found,) = statements(text)
    assert needs_own_transaction(found) is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("begin", True),
        ("BEGIN ISOLATION LEVEL SERIALIZABLE", True),
        ("START TRANSACTION", True),
        ("COMMIT", True),
        ("END", True),
        ("ROLLBACK", True),
        ("ROLLBACK AND CHAIN", True),
        ("ABORT", True),
        ("PREPARE TRANSACTION 'x'", True),
        ("COMMIT PREPARED 'x'", True),
        ("ROLLBACK TO s", False),
        ("ROLLBACK WORK TO SAVEPOINT s", False),
        ("SAVEPOINT s", False),
        ("RELEASE s", False),
        ("PREPARE q AS SELECT 1", False),
        ("SET TRANSACTION READ ONLY", True),
        ("DO $$ BEGIN END $$", False),
        (FUNCTION, False),
    ],
)
def test_transaction_control(text: str, expected: bool) -> None:
    (found,) = statements(text)
    assert controls_transaction(found) is expected
