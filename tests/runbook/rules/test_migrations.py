from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from runbook.rules.migrations import (
    Kind,
    Migration,
    breaking_statements,
    discover,
    out_of_order,
    pending,
    plan_steps,
    unknown,
)

from runbook.errors import InvalidInputError
from runbook.rules.sql import statements


def migrations(*names: str) -> list[Migration]:
    return discover([f"db/{name}.sql" for name in names], "db")


def test_discovery_orders_by_number_and_pairs_undo_scripts() -> None:
    found = discover(
        [
            "db/20250104120000_later.sql",
            "db/10_ten.sql",
            "db/9_nine.sql",
            "db/9_nine_ROLLBACK.sql",
            "db/9_nine_VALIDATION.sql",
            "db/9_nine_TESTS.sql",
            "db/10_ten.down.sql",
            "db/10_ten.sql.bak",
            "db/old.bak",
            "db/README.md",
            "other/9_nine.sql",
            "./db/9_nine.sql",
        ],
        "db",
    )
    assert found == [
        Migration("9_nine", "db/9_nine.sql", 9, Kind.NUMBERED, "db/9_nine_ROLLBACK.sql"),
        Migration("10_ten", "db/10_ten.sql", 10, Kind.NUMBERED, "db/10_ten.down.sql"),
        Migration("20250104120000_later", "db/20250104120000_later.sql", 20250104120000, Kind.TIMESTAMPED),
    ]


@pytest.mark.parametrize(
    ("paths", "named"),
    [
        pytest.param(["db/1_a.sql", "db/0001_b.sql"], ["db/1_a.sql", "db/0001_b.sql"], id="one version twice"),
        pytest.param(["db/1_a.sql", "db/1_a_rollback.sql"], ["db/1_a_rollback.sql"], id="undo script in lower case"),
        pytest.param(["db/setup.sql"], ["db/setup.sql"], id="no number"),
        pytest.param(["db/0001.sql"], ["db/0001.sql"], id="no name"),
        pytest.param(["db/\u0661_a.sql"], ["db/\u0661_a.sql"], id="unicode digits"),
        pytest.param(["db/1_a.SQL"], ["db/1_a.SQL"], id="extension in upper case"),
        pytest.param(["db/old/1_a.sql"], ["db/old/1_a.sql"], id="in a folder below"),
        pytest.param(["db/1_a_ROLLBACK.sql"], ["db/1_a_ROLLBACK.sql"], id="undo script without its migration"),
    ],
)
def test_a_file_that_fits_nothing_is_named(paths: list[str], named: list[str]) -> None:
    with pytest.raises(InvalidInputError) as caught:
        discover(paths, "db")
    assert all(name in str(caught.value) for name in named)


def test_pending_is_a_set_difference() -> None:
    found = migrations("1_a", "2_b", "3_c")
    assert [item.name for item in pending(found, {"1_a", "3_c"})] == ["2_b"]
    assert [item.name for item in out_of_order(found, {"1_a", "3_c"})] == ["2_b"]
    assert out_of_order(found, {"1_a"}) == []
    assert out_of_order(found, set()) == []


def test_an_applied_name_without_a_file_is_reported() -> None:
    found = migrations("1_a", "2_b")
    assert unknown(found, ["9_gone", "1_a", "8_gone"]) == ["8_gone", "9_gone"]
    assert [item.name for item in out_of_order(found, {"1_a", "9_gone"})] == ["2_b"]


@given(st.sets(st.integers(1, 30)), st.sets(st.integers(1, 30)))
def test_pending_applied_and_unknown_add_up(files: set[int], applied: set[int]) -> None:
    found = migrations(*(f"{number}_m" for number in files))
    names = {f"{number}_m" for number in applied}
    assert {item.version for item in pending(found, names)} == files - applied
    assert set(unknown(found, names)) == {f"{number}_m" for number in applied - files}
    assert [item.version for item in found] == sorted(files)


def test_steps_group_what_can_share_a_transaction() -> None:
    found = migrations("1_a", "2_b", "3_index", "4_c", "5_own", "6_enum", "7_mixed")
    texts = {
        "1_a": "CREATE TABLE a (x int);",
        "2_b": "CREATE TABLE b (x int);",
        "3_index": "\nCREATE INDEX CONCURRENTLY i ON a (x);",
        "4_c": "DO $$ BEGIN END $$;",
        "5_own": "BEGIN; SELECT 1; COMMIT;",
        "6_enum": "ALTER TYPE mood ADD VALUE 'meh';",
        "7_mixed": "SELECT 1; VACUUM;",
    }
    steps = plan_steps(found, texts)
    assert [([item.version for item in step.migrations], step.transactional) for step in steps] == [
        ([1, 2], True),
        ([3], False),
        ([4], True),
        ([5], False),
        ([6], False),
        ([7], False),
    ]
    assert steps[1].reason == "3_index, line 2: CREATE INDEX CONCURRENTLY cannot run inside a transaction block"
    assert steps[3].reason == "5_own, line 1: BEGIN begins or ends a transaction"


@given(st.lists(st.sampled_from(["SELECT 1;", "VACUUM;", "COMMIT;"]), max_size=8))
def test_steps_keep_every_migration_in_order(texts: list[str]) -> None:
    found = migrations(*(f"{number}_m" for number in range(len(texts))))
    steps = plan_steps(found, {item.name: text for item, text in zip(found, texts, strict=True)})
    assert [item for step in steps for item in step.migrations] == found
    assert all(step.transactional or len(step.migrations) == 1 for step in steps)
    assert not any(a.transactional and b.transactional for a, b in pairwise(steps))


@pytest.mark.parametrize("text", ["", "-- nothing", "SELECT 'open"])
def test_a_file_that_does_nothing_or_cannot_be_read_is_refused(text: str) -> None:
    with pytest.raises(InvalidInputError, match=r"db/1_a\.sql"):
        plan_steps(migrations("1_a"), {"1_a": text})


@pytest.mark.parametrize(
    ("text", "kinds"),
    [
        ("DROP TABLE IF EXISTS t", ["DROP TABLE"]),
        ("DROP SCHEMA s CASCADE", ["DROP SCHEMA"]),
        ("TRUNCATE TABLE t", ["TRUNCATE"]),
        ("ALTER TABLE t DROP COLUMN a", ["DROP COLUMN"]),
        ("ALTER TABLE IF EXISTS ONLY s.t DROP a", ["DROP COLUMN"]),
        ("ALTER TABLE t ADD b int, DROP IF EXISTS a", ["DROP COLUMN"]),
        ("ALTER TABLE t ALTER COLUMN a SET DATA TYPE bigint", ["ALTER COLUMN TYPE"]),
        ('ALTER TABLE "T" ALTER "a b" TYPE bigint', ["ALTER COLUMN TYPE"]),
        ("ALTER TABLE t ALTER a SET NOT NULL, ALTER b TYPE int", ["ALTER COLUMN TYPE", "SET NOT NULL"]),
        ("ALTER TABLE t RENAME TO u", ["RENAME"]),
        ("ALTER TABLE t RENAME a TO b", ["RENAME"]),
        ("ALTER FUNCTION f(int, text) RENAME TO g", ["RENAME"]),
        ("DELETE FROM t", ["DELETE without WHERE"]),
        ("UPDATE t SET a = 1", ["UPDATE without WHERE"]),
        ("UPDATE t SET a = (SELECT b FROM u WHERE u.id = t.id)", ["UPDATE without WHERE"]),
        ("WITH x AS (SELECT 1 WHERE true) DELETE FROM t", ["DELETE without WHERE"]),
        ("WITH x AS (DELETE FROM t RETURNING *) INSERT INTO u SELECT * FROM x", ["DELETE without WHERE"]),
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
        ("ALTER INDEX i RENAME TO j", []),
        ("ALTER TABLE t ADD COLUMN rename int, ADD CHECK (a IN (1, 2))", []),
        ("DROP INDEX i", []),
        ("SELECT 'DROP TABLE t' -- DELETE FROM t", []),
    ],
)
def test_breaking_statements(text: str, kinds: list[str]) -> None:
    found = breaking_statements(statements(f"\n{text};"))
    assert [item.kind for item in found] == kinds
    assert all(item.line == 2 and item.safer for item in found)


WORDS = ["WITH", "DELETE", "FROM", "UPDATE", "SET", "WHERE", "ALTER", "TABLE", "DROP", "t", "(", ")", ",", ";", '""']


@given(st.lists(st.sampled_from(WORDS)))
def test_any_statement_can_be_looked_at(words: list[str]) -> None:
    try:
        found = statements(" ".join(words))
    except InvalidInputError:
        return
    breaking_statements(found)
