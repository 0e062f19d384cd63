"""What the project's own rules find in a migration, how severe it is, and what they do not see."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runbook.errors import InvalidInputError
from runbook.rules.lint import SAFER, Catalogue, Finding, Severity, check_rules, destructive, is_widening, settled
from runbook.rules.sql import statements

ROWS = Catalogue({("T", "A"): "integer", ("T", "B"): "character varying(20)"}, {"T"})


def rules(text: str, catalogue: Catalogue = ROWS) -> list[str]:
    return [finding.rule for finding in destructive("m/1_a.sql", text, statements(text), catalogue)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("DROP TABLE IF EXISTS t", ["drop-table"]),
        ('DROP TABLE s."T", u CASCADE', ["drop-table", "drop-table"]),
        ("DROP SCHEMA s CASCADE", ["drop-schema"]),
        ("DROP DATABASE d", ["drop-database"]),
        ("DROP OWNED BY r", ["drop-owned"]),
        ("TRUNCATE TABLE t", ["truncate"]),
        ("ALTER TABLE t DROP COLUMN a", ["drop-column"]),
        ("ALTER TABLE IF EXISTS ONLY s.t DROP a", ["drop-column"]),
        ("ALTER TABLE t ADD b int, DROP IF EXISTS a", ["drop-column"]),
        ("ALTER TABLE t ALTER COLUMN a SET DATA TYPE smallint", ["narrowing-type"]),
        ("ALTER TABLE t ALTER COLUMN a SET DATA TYPE bigint", []),
        ("ALTER TABLE t ALTER b TYPE varchar(10)", ["narrowing-type"]),
        ("ALTER TABLE t ALTER b TYPE varchar(40)", []),
        ("ALTER TABLE t ALTER b TYPE text", []),
        ('ALTER TABLE "T" ALTER "a b" TYPE bigint', ["narrowing-type"]),
        ("ALTER TABLE t ALTER a SET NOT NULL, ALTER b TYPE int", ["not-null-on-existing-rows", "narrowing-type"]),
        ("ALTER TABLE empty ALTER a SET NOT NULL", []),
        ("ALTER TABLE t ADD COLUMN c int NOT NULL", ["not-null-on-existing-rows"]),
        ("ALTER TABLE t ADD COLUMN c int NOT NULL DEFAULT 1", []),
        ("ALTER TABLE t ADD COLUMN c int GENERATED ALWAYS AS IDENTITY NOT NULL", []),
        ("ALTER TABLE t RENAME TO u", ["rename"]),
        ("ALTER TABLE t RENAME a TO b", ["rename"]),
        ("ALTER FUNCTION f(int, text) RENAME TO g", ["rename"]),
        ("DELETE FROM t", ["delete-without-where"]),
        ("UPDATE t SET a = 1", ["update-without-where"]),
        ("UPDATE t SET a = (SELECT b FROM u WHERE u.id = t.id)", ["update-without-where"]),
        ("WITH x AS (SELECT 1 WHERE true) DELETE FROM t", ["delete-without-where"]),
        ("WITH x AS (DELETE FROM t RETURNING *) INSERT INTO u SELECT * FROM x", ["delete-without-where"]),
        ("DELETE FROM t WHERE a = 1", []),
        ("UPDATE t SET a = 1 WHERE id IN (SELECT 1)", []),
        ("SELECT 1 FROM t FOR UPDATE", []),
        ("INSERT INTO t VALUES (1) ON CONFLICT (a) DO UPDATE SET a = 1", []),
        ("CREATE TABLE t (update int, a int REFERENCES u ON DELETE CASCADE)", []),
        ("CREATE TRIGGER r AFTER DELETE ON t EXECUTE FUNCTION f()", []),
        ("ALTER TABLE t DROP CONSTRAINT c", []),
        ("ALTER TABLE t ALTER COLUMN a DROP NOT NULL", []),
        ("ALTER TABLE t ALTER COLUMN a DROP DEFAULT", []),
        ("ALTER TABLE t RENAME CONSTRAINT c TO d", []),
        ("ALTER TYPE mood RENAME VALUE 'a' TO 'b'", []),
        ("ALTER INDEX i RENAME TO j", []),
        ("ALTER TABLE t ADD COLUMN rename int, ADD CHECK (a IN (1, 2))", []),
        ("DROP INDEX i", []),
        ("SELECT 'DROP TABLE t' -- DELETE FROM t", []),
        ("CREATE TABLE new (a int);\nALTER TABLE new RENAME a TO b;\nDROP TABLE new", []),
    ],
)
def test_what_takes_something_away_is_found(text: str, expected: list[str]) -> None:
    assert rules(f"\n{text};") == expected


def test_a_finding_names_line_and_subject_and_a_safer_form() -> None:
    text = "SELECT 1;\nALTER TABLE t\n  DROP a;"
    [found] = destructive("m/1_a.sql", text, statements(text), ROWS)
    assert (found.path, found.line, found.message, found.subject) == ("m/1_a.sql", 2, "drops column a of t", "A")
    assert found.safer == SAFER["drop-column"]


@pytest.mark.parametrize(
    "mark",
    [
        "-- Down",
        "-- Down Migration",
        "--- DOWN ---",
        "-- +goose Down",
        "-- migrate:down",
        "-- @DOWN",
        "-- rollback:",
        "--//@UNDO",
    ],
)
def test_an_executable_down_part_is_found_by_the_comment_that_announces_it(mark: str) -> None:
    text = f"CREATE TABLE x (a int);\n\n{mark}\nDROP TABLE x;\n"
    [found] = destructive("m/1_a.sql", text, statements(text), ROWS)
    assert (found.rule, found.line) == ("executable-down-part", 3)
    assert rules(f"CREATE TABLE x (a int);\n{mark}\n-- DROP TABLE x;\n") == []
    assert rules(f"{mark}\nCREATE TABLE x (a int);\n") == []


@pytest.mark.parametrize("text", ["-- roll down the window\nSELECT 1;", "-- undo what 0003 did to orders\nSELECT 2;"])
def test_a_comment_that_only_speaks_of_going_down_is_none(text: str) -> None:
    assert rules(f"SELECT 0;\n{text}") == []


@pytest.mark.parametrize(
    ("old", "new", "wider"),
    [
        ("integer", "BIGINT", True),
        ("bigint", "int", False),
        ("character varying(20)", "VARCHAR ( 20 )", True),
        ("character varying(20)", "VARCHAR", True),
        ("character varying", "varchar(20)", False),
        ("text", "varchar(255)", False),
        ("numeric(8,2)", "NUMERIC ( 10 , 2 )", True),
        ("numeric(8,2)", "numeric(10,3)", False),
        ("numeric(8,2)", "numeric", True),
        ("timestamp with time zone", "timestamp", False),
        ("timestamp with time zone", "timestamptz", True),
        ("real", "float8", True),
        ("jsonb", "text", False),
    ],
)
def test_a_type_that_takes_every_value_is_no_narrowing(old: str, new: str, wider: bool) -> None:
    assert is_widening(old, new) is wider


def finding(rule: str, line: int = 1) -> Finding:
    return Finding("m/1_a.sql", line, rule, "")


def test_severities_are_those_of_the_settings_or_the_rules_own() -> None:
    found = settled(
        [
            finding("drop-database"),
            finding("ban-drop-not-null", 2),
            finding("require-lock-timeout", 3),
            finding("truncate", 4),
        ],
        {"truncate": Severity.OFF, "ban-drop-not-null": Severity.ERROR},
    )
    assert [(item.rule, item.severity) for item in found] == [
        ("drop-database", Severity.ERROR),
        ("ban-drop-not-null", Severity.ERROR),
    ]
    assert [
        item.rule for item in settled([finding("require-lock-timeout")], {"require-lock-timeout": Severity.WARNING})
    ]


def test_of_one_line_the_finding_that_says_most_is_kept() -> None:
    both = [finding("ban-drop-table"), finding("drop-table"), finding("drop-in-use"), finding("ban-drop-table", 2)]
    assert [(item.rule, item.line) for item in settled(both, {})] == [("drop-in-use", 1), ("ban-drop-table", 2)]


def test_a_rule_that_there_is_not_is_refused_with_names_that_are_close() -> None:
    check_rules({"drop-table": Severity.OFF, "renaming-column": Severity.ERROR})
    with pytest.raises(InvalidInputError, match="drop-table"):
        check_rules({"drop-tables": Severity.OFF})


WORDS = [
    "WITH",
    "DELETE",
    "FROM",
    "UPDATE",
    "SET",
    "WHERE",
    "ALTER",
    "TABLE",
    "DROP",
    "TYPE",
    "t",
    "(",
    ")",
    ",",
    ";",
    '""',
]


@given(st.one_of(st.text(), st.lists(st.sampled_from(WORDS)).map(" ".join)))
def test_any_script_can_be_looked_at(text: str) -> None:
    try:
        found = statements(text)
    except InvalidInputError:
        return
    destructive("m/1_a.sql", text, found, ROWS)
