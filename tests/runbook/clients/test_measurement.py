"""What statements cost, as the sessions that run them say: locks, rewrites, WAL and for how long a table is closed."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from runbook.clients.measurement import Held, meter
from runbook.clients.migration_history import MigrationHistory
from runbook.clients.migration_run import Script, run_alone, run_together
from runbook.clients.postgres import Database
from runbook.reports import StatementCost
from runbook.rules.sql import statements
from runbook.settings import MigrationSettings
from tests.runbook.helpers import execute, query

ROWS = 2000
PAUSE_S = 0.15
PAUSE = f"SELECT pg_sleep({PAUSE_S});"


@pytest.fixture
def shop(database: Database) -> Database:
    execute(
        database.url,
        f"CREATE TABLE orders AS SELECT n AS id, 'note ' || n AS note FROM generate_series(1, {ROWS}) n",
        "CREATE TABLE customers (id int PRIMARY KEY)",
    )
    return database


def measured(
    database: Database, files: Mapping[str, str], *, alone: bool = False
) -> tuple[list[StatementCost], list[Held]]:
    history = MigrationHistory(database, MigrationSettings())
    scripts = [Script(name, f"m/{name}.sql", text) for name, text in files.items()]
    with history.locked():
        taken = meter(database)
        printed = (
            run_alone(history, scripts[0], measure=taken.measure)
            if alone
            else run_together(history, scripts, measure=taken.measure)
        )
    return taken.read(printed, {script.path: statements(script.text) for script in scripts})


def held_s(held: list[Held], table: str, mode: str) -> float:
    [found] = [lock.held_s for lock in held if (lock.table, lock.mode) == (table, mode)]
    return found


def test_each_statement_is_measured_with_its_file_line_and_text(shop: Database) -> None:
    costs, _ = measured(
        shop,
        {
            "0001_a": "-- first\nALTER TABLE orders ADD paid boolean;\n\n"
            "UPDATE orders SET note = 'very private' WHERE id = 7",
            "0002_b": f"{PAUSE}\nINSERT INTO customers VALUES (1); INSERT INTO customers VALUES (2);\n",
        },
    )
    assert [(cost.path, cost.line) for cost in costs] == [
        ("m/0001_a.sql", 2),
        ("m/0001_a.sql", 4),
        ("m/0002_b.sql", 1),
        ("m/0002_b.sql", 2),
        ("m/0002_b.sql", 2),
    ]
    assert costs[1].statement == "UPDATE orders SET note = ? WHERE id = ?"
    assert costs[2].duration_s >= PAUSE_S
    assert all(cost.duration_s >= 0 for cost in costs)


def test_the_locks_of_a_statement_are_those_that_it_takes(shop: Database) -> None:
    costs, held = measured(
        shop,
        {
            "0001_a": "CREATE INDEX orders_id ON orders (id);\n"
            "ALTER TABLE orders ADD paid boolean;\n"
            "ALTER TABLE orders ADD sent boolean;\n"
            "SELECT count(*) FROM customers;\n"
            "CREATE TABLE fresh (id int);\n"
        },
    )
    assert costs[0].locks == ("Share on public.orders",)
    assert costs[1].locks == ("AccessExclusive on public.orders",)
    assert costs[2].locks == (), "it is held already"
    assert costs[3].locks == ("AccessShare on public.customers",)
    assert costs[4].locks == (), "a table that the file itself makes closes nothing to anybody"
    closed = {(lock.table, lock.mode): lock.closed_to for lock in held}
    assert closed["public.orders", "Share"] == "writes"
    assert closed["public.orders", "AccessExclusive"] == "reads and writes"
    assert closed["public.customers", "AccessShare"] == ""


def test_a_change_of_type_rewrites_and_an_added_column_does_not(shop: Database) -> None:
    costs, _ = measured(
        shop,
        {
            "0001_a": "ALTER TABLE orders ADD paid boolean DEFAULT false;\n"
            "ALTER TABLE orders ALTER id TYPE bigint;\n"
            "ALTER TABLE orders ADD sent boolean;\n"
        },
    )
    assert [cost.rewrites for cost in costs] == [(), ("public.orders",), ()]
    assert costs[1].wal_bytes > ROWS * 20
    assert costs[0].wal_bytes > 0


def test_a_lock_is_held_until_the_last_statement_of_the_transaction(shop: Database) -> None:
    _, held = measured(
        shop,
        {
            "0001_a": f"ALTER TABLE orders ADD paid boolean;\n{PAUSE}\nCREATE INDEX customers_2 ON customers (id);\n",
            "0002_b": f"{PAUSE}\nALTER TABLE customers ADD name text;\n",
        },
    )
    orders = held_s(held, "public.orders", "AccessExclusive")
    customers = held_s(held, "public.customers", "Share")
    assert orders >= 2 * PAUSE_S
    assert PAUSE_S <= customers < orders
    assert held_s(held, "public.customers", "AccessExclusive") < customers


def test_a_lock_that_a_files_own_transaction_takes_is_held_to_its_commit(shop: Database) -> None:
    text = f"BEGIN;\nALTER TABLE orders ADD paid boolean;\n{PAUSE}\n{PAUSE}\nCOMMIT;\nSELECT pg_sleep(1);\n"
    costs, held = measured(shop, {"0001_own": text}, alone=True)
    assert [cost.line for cost in costs] == [1, 2, 3, 4, 5, 6]
    orders = held_s(held, "public.orders", "AccessExclusive")
    assert orders >= 2 * PAUSE_S
    assert orders < 2 * PAUSE_S + costs[-1].duration_s, "after the COMMIT nobody waits"


def test_a_lock_that_is_given_back_between_two_statements_does_not_add_up(shop: Database) -> None:
    text = "ALTER TABLE orders ADD paid boolean;\nVACUUM customers;\nALTER TABLE orders ADD sent boolean;\n"
    costs, held = measured(shop, {"0001_apart": text + PAUSE}, alone=True)
    assert [cost.locks for cost in costs] == [
        ("AccessExclusive on public.orders",),
        ("ShareUpdateExclusive (by the manual)",),
        ("AccessExclusive on public.orders",),
        (),
    ]
    longest = max(costs[0].duration_s, costs[2].duration_s)
    assert held_s(held, "public.orders", "AccessExclusive") == pytest.approx(longest, abs=0.001)


@pytest.mark.parametrize(
    ("text", "mode"),
    [
        ("CREATE INDEX CONCURRENTLY orders_id ON orders (id);", "ShareUpdateExclusive"),
        ("CREATE UNIQUE INDEX CONCURRENTLY IF NOT EXISTS orders_id ON orders (id);", "ShareUpdateExclusive"),
        ("REINDEX INDEX CONCURRENTLY customers_pkey;", "ShareUpdateExclusive"),
        ("VACUUM ANALYZE orders;", "ShareUpdateExclusive"),
        ("VACUUM FULL orders;", "AccessExclusive"),
        ("VACUUM (FULL, ANALYZE) orders;", "AccessExclusive"),
    ],
)
def test_what_leaves_no_lock_to_be_seen_has_the_one_of_the_manual(shop: Database, text: str, mode: str) -> None:
    costs, held = measured(shop, {"0001_apart": f"{text}\n"}, alone=True)
    assert costs[0].locks == (f"{mode} (by the manual)",)
    assert costs[0].duration_s > 0
    assert [lock.closed_to for lock in held] == (["reads and writes"] if mode == "AccessExclusive" else [])


def test_a_table_that_is_rebuilt_is_closed_meanwhile_also_when_no_lock_is_left_to_be_seen(shop: Database) -> None:
    costs, held = measured(shop, {"0001_apart": "VACUUM (FULL) orders;\n"}, alone=True)
    assert held == [Held("public.orders", "AccessExclusive", costs[0].duration_s)]
    _, held = measured(shop, {"0002_all": "VACUUM FULL;\n"}, alone=True)
    assert {"public.customers", "public.orders"} <= {lock.table for lock in held}


def test_what_a_script_prints_is_not_taken_for_a_measurement(shop: Database) -> None:
    text = 'SELECT \'0123456789abcdef 0 0 {"at": 1, "wal": 1, "locks": null}\';\n\\echo 0 0 {}\nSELECT 1;\n'
    costs, _ = measured(shop, {"0001_prints": text})
    assert [cost.line for cost in costs] == [1, 3]


def test_measuring_changes_nothing_that_a_file_does(shop: Database) -> None:
    text = (
        "CREATE TABLE lines (n int, t text);\nCOPY lines FROM stdin;\n1\ta;b\n2\tc\n\\.\n"
        "SELECT n AS number FROM lines WHERE n = 2;\nSELECT count(*) FROM lines \\g\n"
        "SET LOCAL search_path = '';\nINSERT INTO public.lines VALUES (3, 'd')"
    )
    costs, held = measured(shop, {"0001_odd": text})
    assert query(shop.url, "SELECT n, t FROM lines ORDER BY n") == [(1, "a;b"), (2, "c"), (3, "d")]
    assert [cost.line for cost in costs] == [1, 2, 6, 7, 8, 9]
    assert not [lock for lock in held if lock.closed_to]
