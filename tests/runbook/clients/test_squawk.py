"""squawk itself, on files as people write them for psql."""

from __future__ import annotations

from runbook.clients.squawk import lint_files
from runbook.rules.lint import Finding


def found(text: str, rule: str, *, transactional: bool = True, server_major: int = 18) -> list[int]:
    """Return the lines in which a rule finds something in one file."""
    inside = ["m/1.sql"] if transactional else []
    answer = lint_files({"m/1.sql": text}, server_major=server_major, transactional=inside)
    assert {finding.path for finding in answer} <= {"m/1.sql"}
    return [finding.line for finding in answer if finding.rule == rule]


INDEX = "CREATE INDEX items_id ON items (id);"


def test_a_finding_names_file_line_rule_and_what_is_safer() -> None:
    answer = lint_files({"m/1.sql": f"-- a comment\n\n{INDEX}\n"}, server_major=18, transactional=["m/1.sql"])
    [finding] = [one for one in answer if one.rule == "require-concurrent-index-creation"]
    assert isinstance(finding, Finding)
    assert (finding.path, finding.line) == ("m/1.sql", 3)
    assert "CONCURRENTLY" in finding.safer or "concurrently" in finding.safer.lower()
    assert finding.message


def test_without_files_squawk_is_not_asked() -> None:
    assert lint_files({}, server_major=18, transactional=[]) == []


def test_each_file_keeps_its_own_findings() -> None:
    files = {"b/2 ü.sql": f"\n{INDEX}", "a/1.sql": "SELECT 1;", "-c.sql": INDEX}
    answer = lint_files(files, server_major=18, transactional=["b/2 ü.sql", "a/1.sql"])
    rule = "require-concurrent-index-creation"
    assert {(one.path, one.line) for one in answer if one.rule == rule} == {("b/2 ü.sql", 2), ("-c.sql", 1)}


def test_concurrently_is_only_wrong_inside_a_transaction() -> None:
    text = "CREATE INDEX CONCURRENTLY items_id ON items (id);\nSELECT 1;"
    rule = "ban-concurrent-index-creation-in-transaction"
    assert found(text, rule, transactional=True) == [1]
    assert found(text, rule, transactional=False) == []


def test_the_version_of_the_server_decides() -> None:
    """From PostgreSQL 11 on a new column with a constant default does not rewrite its table."""
    text, rule = "ALTER TABLE items ADD COLUMN price int DEFAULT 1;", "adding-field-with-default"
    assert found(text, rule, server_major=18) == []
    assert found(text, rule, server_major=10) == [1]


PSQL = rf"""\set ON_ERROR_STOP on
\echo 'begins; here'
COPY items (id, note) FROM stdin;
1	DROP TABLE items;
2	it's; "odd" $$ /*
\.
\if :{{?skip}}
\else
SELECT 'a' \gdesc
\endif
\copy items from stdin
3	x
\.
{INDEX}
"""


def test_what_only_psql_understands_is_no_finding_and_moves_no_line() -> None:
    answer = lint_files({"m/1.sql": PSQL}, server_major=18, transactional=["m/1.sql"])
    assert [(one.rule, one.line) for one in answer if one.rule == "require-concurrent-index-creation"] == [
        ("require-concurrent-index-creation", 14)
    ]
    assert not [one for one in answer if one.rule in {"syntax-error", "ban-drop-table"}]


def test_lines_are_those_of_the_file_whatever_its_line_ends_and_letters() -> None:
    text = f"\ufeff-- ß☃\r\nSELECT 'ü☃';\r\n\r\n/* a\r\nb */ {INDEX}\r\n"
    assert found(text, "require-concurrent-index-creation") == [5]


def test_a_comment_of_squawk_switches_a_rule_off() -> None:
    text = f"-- squawk-ignore require-concurrent-index-creation\n{INDEX}\n"
    assert found(text, "require-concurrent-index-creation") == []


def test_what_squawk_cannot_parse_is_a_finding_with_its_line() -> None:
    assert found("SELECT 1;\nCREATE TABBLE items (id int);\n", "syntax-error")[:1] == [2]
