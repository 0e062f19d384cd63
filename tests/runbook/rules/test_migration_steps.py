"""How a script is divided: what shares a transaction, what commits on its own, and the text that psql really gets."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runbook.errors import InvalidInputError
from runbook.rules.migration_files import discover
from runbook.rules.migration_script import journaled, measured, render
from runbook.rules.migration_steps import (
    UnitKind,
    plan_steps,
    prefix_sha256,
    read_script,
    touches_session,
    units,
    why_not_resumable,
)
from runbook.rules.sql import statements

SCRIPTS = {
    "1_a": "CREATE TABLE a (x int);",
    "2_b": "CREATE TABLE b (x int);",
    "3_index": "\nCREATE INDEX CONCURRENTLY i ON a (x);",
    "4_c": "DO $$ BEGIN END $$;",
    "5_own": "BEGIN; SELECT 1; COMMIT;",
    "6_enum": "ALTER TYPE mood ADD VALUE 'meh';",
    "7_mixed": "SELECT 1; VACUUM;",
}


def test_neighbours_share_a_transaction_where_every_statement_can() -> None:
    found = discover([f"m/{name}.sql" for name in SCRIPTS], "m").migrations
    steps = plan_steps(found, {f"m/{name}.sql": text for name, text in SCRIPTS.items()})
    assert [([item.name for item in step.migrations], step.transactional) for step in steps] == [
        (["1_a", "2_b"], True),
        (["3_index"], False),
        (["4_c"], True),
        (["5_own"], False),
        (["6_enum"], False),
        (["7_mixed"], False),
    ]
    assert steps[1].reason == "3_index, line 2: CREATE INDEX CONCURRENTLY cannot run inside a transaction block"
    assert steps[3].reason == "5_own, line 1: BEGIN begins or ends a transaction"


@given(st.lists(st.sampled_from(["SELECT 1;", "VACUUM;", "BEGIN; COMMIT;"]), max_size=8))
def test_steps_keep_every_migration_in_order(texts: list[str]) -> None:
    found = discover([f"m/{number}_m.sql" for number in range(len(texts))], "m").migrations
    steps = plan_steps(found, {item.path: text for item, text in zip(found, texts, strict=True)})
    assert tuple(item for step in steps for item in step.migrations) == found
    assert all(step.transactional or len(step.migrations) == 1 for step in steps)
    assert not any(a.transactional and b.transactional for a, b in pairwise(steps))


def divided(text: str) -> list[tuple[str, int, int]]:
    return [(str(unit.kind), unit.first, unit.last) for unit in units(statements(text))]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("SELECT 1; SELECT 2;", [("wrapped", 0, 0), ("wrapped", 1, 1)]),
        ("BEGIN; SELECT 1; COMMIT; SELECT 2;", [("block", 0, 2), ("wrapped", 3, 3)]),
        ("BEGIN; SELECT 1; COMMIT AND CHAIN; SELECT 2; COMMIT;", [("block", 0, 4)]),
        ("START TRANSACTION; ROLLBACK TO s; END;", [("block", 0, 2)]),
        ("COMMIT; SELECT 1;", [("session", 0, 0), ("wrapped", 1, 1)]),
        ("SET search_path = x; SELECT 1;", [("session", 0, 0), ("wrapped", 1, 1)]),
        ("SELECT pg_catalog.set_config('a.b', '', false);", [("session", 0, 0)]),
        ("SELECT set_config('a.b', f(1), false);", [("wrapped", 0, 0)]),
        ("CREATE INDEX CONCURRENTLY i ON t (a);", [("alone", 0, 0)]),
        ("VACUUM;", [("alone", 0, 0)]),
        ("ALTER TYPE mood ADD VALUE 'x';", [("wrapped", 0, 0)]),
        ("DO $$ BEGIN COMMIT; END $$;", [("alone", 0, 0)]),
        ("CALL p();", [("alone", 0, 0)]),
        ("LOCK TABLE t;", [("alone", 0, 0)]),
        ("SET LOCAL work_mem = '1MB';", [("alone", 0, 0)]),
        ("SELECT 1 \\; SELECT 2; SELECT 3;", [("alone", 0, 1), ("wrapped", 2, 2)]),
        ("\\set a 1\nCOPY t FROM stdin;\n1\n\\.\n", [("session", 0, 0), ("wrapped", 1, 1)]),
        ("\\copy t from stdin\n1\n\\.\n", [("wrapped", 0, 0)]),
    ],
)
def test_a_script_is_divided_into_what_commits_together(text: str, expected: list[tuple[str, int, int]]) -> None:
    assert divided(text) == expected


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "at least one statement"),
        ("-- only this\n\\echo x\n", "at least one statement"),
        ("SELECT 'open", "line 1"),
        ("SELECT 1;\nBEGIN;\nSELECT 2;\n", "m/1_a.sql:2"),
        ("SELECT 1;\n\\i other.sql\n", "m/1_a.sql:2"),
    ],
)
def test_what_could_not_run_to_its_end_is_refused(text: str, said: str) -> None:
    with pytest.raises(InvalidInputError, match=r"m/1_a\.sql") as raised:
        read_script("m/1_a.sql", text)
    assert said in str(raised.value)


@pytest.mark.parametrize(
    ("text", "touches"),
    [
        ("CREATE TABLE t (a int); ALTER TABLE t ADD b int; INSERT INTO t VALUES (1); DROP TABLE t;", False),
        ("CREATE TEMP TABLE t (a int);", True),
        ("SET search_path = x;", True),
        ("DO $$ BEGIN END $$;", True),
        ("SELECT f();", True),
        ("PREPARE p AS SELECT 1;", True),
    ],
)
def test_a_session_is_made_fresh_after_what_may_touch_it(text: str, touches: bool) -> None:
    assert touches_session(statements(text)) is touches


@pytest.mark.parametrize("lost", ["CREATE TEMPORARY TABLE t (a int);", "PREPARE p AS SELECT 1;", "LISTEN x;"])
def test_what_lived_in_a_lost_session_stops_a_resume(lost: str) -> None:
    script = statements(f"SELECT 1; {lost} VACUUM;")
    assert why_not_resumable(script, 1) is None
    assert "line 1" in (why_not_resumable(script, 2) or "")


class Journal:
    """Writes numbers where the real one writes SQL."""

    def begun(self, count: int) -> str:
        return f"SELECT 'begun {count}';"

    def done(self, count: int) -> str:
        return f"SELECT 'done {count}';"


def rendered(text: str, *, done: int = 0) -> str:
    script = statements(text)
    around, after = journaled(units(script), Journal(), done=done)
    return render(text, script, units(script), done=done, before=around, after=after).text


def test_each_unit_writes_down_how_far_it_came() -> None:
    text = "SET x = 1;\nSELECT 1;\nBEGIN;\nSELECT 2;\nCOMMIT;\nVACUUM -- why\n"
    assert rendered(text) == (
        "SET x = 1;\nBEGIN; SELECT 1; SELECT 'done 2'; COMMIT;\nBEGIN;\nSELECT 2;\nSELECT 'done 5'; COMMIT;\n"
        "BEGIN; SELECT 'begun 6'; COMMIT; VACUUM; BEGIN; SELECT 'done 6'; COMMIT; -- why\n"
    )


def test_what_is_done_is_left_out_but_for_the_session() -> None:
    text = "SET x = 1;\nSELECT\n 1;\nSELECT 2;\n"
    assert rendered(text, done=2) == "SET x = 1;\n\n\nBEGIN; SELECT 2; SELECT 'done 3'; COMMIT;\n"


def test_data_and_meta_commands_end_their_line() -> None:
    assert "\n\\.\nSELECT 'done 1'; COMMIT;" in rendered("COPY t FROM stdin;\n1\n\\.\n")
    assert "\n2\n\\.\nSELECT 'done 1'; COMMIT;" in rendered("COPY t FROM stdin;\n2")
    assert "SELECT 1 \\g\nSELECT 'done 1'; COMMIT;" in rendered("SELECT 1 \\g\nSELECT 2;")


PIECES = [
    "SELECT 1;",
    "SELECT\n'a\nb';",
    "-- c\n",
    "BEGIN;\nSELECT 2;\nCOMMIT;",
    "VACUUM;",
    "COPY t FROM stdin;\nx\n\\.",
    "\n",
]


@given(st.lists(st.sampled_from(PIECES), max_size=8), st.booleans())
def test_every_line_can_be_traced_back(pieces: list[str], journal: bool) -> None:
    text = "\n".join(pieces)
    script = statements(text)
    around, after = journaled(units(script), Journal()) if journal else ({}, {})
    after = measured(script, units(script), lambda number: f"SELECT 'measured {number}';", after) if journal else {}
    made = render(text, script, units(script), before=around, after=after)
    lines = text.split("\n")
    assert len(made.lines) == made.text.count("\n") + 1
    if not journal:
        assert made.text == text
    for line, origin in zip(made.text.split("\n"), made.lines, strict=True):
        assert lines[origin - 1] in line or "measured" in line or "done" in line or line == "\\."
    assert list(made.lines) == sorted(made.lines)


def test_the_done_part_is_known_by_its_text() -> None:
    script = statements("SELECT 1; SELECT 2; SELECT 3;")
    edited = statements("SELECT 1; SELECT 2; SELECT 4;")
    assert prefix_sha256(script, 2) == prefix_sha256(edited, 2)
    assert prefix_sha256(script, 3) != prefix_sha256(edited, 3)
    assert all(unit.kind is UnitKind.WRAPPED for unit in units(script))
