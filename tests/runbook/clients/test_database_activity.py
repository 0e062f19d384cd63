"""Who else is at the database, seen with real sessions."""

from __future__ import annotations

import time
from contextlib import closing

import psycopg
import pytest

from runbook.clients.database_activity import require_calm, rows_written
from runbook.clients.postgres import Database
from runbook.errors import TransientError
from runbook.settings import MigrationSettings
from tests.runbook.helpers import execute, query

IMPATIENT = MigrationSettings(maximum_transaction_s=0.1)


@pytest.fixture
def shop(database: Database) -> Database:
    execute(database.url, "CREATE TABLE orders (id int)", "CREATE TABLE customers (id int)")
    return database


def test_a_transaction_that_is_open_for_long_is_named(shop: Database) -> None:
    with psycopg.connect(shop.url, application_name="report") as other:
        other.execute("SELECT count(*) FROM orders WHERE id > 4711")
        time.sleep(0.15)
        with pytest.raises(TransientError) as raised:
            require_calm(shop, IMPATIENT)
        said = str(raised.value)
        assert said.startswith(f"{shop.name} is too busy for a migration: session {other.info.backend_pid} of postgres")
        assert "(report, idle in transaction) has a transaction open for 0 s, 0.1 s are allowed" in said
        assert "SELECT count(*) FROM orders WHERE id > ?" in said
        assert "4711" not in said
        other.commit()
        require_calm(shop, IMPATIENT)


def test_a_query_that_runs_for_long_is_named(shop: Database) -> None:
    with closing(psycopg.connect(shop.url, autocommit=True)) as other:
        other.pgconn.send_query(b"SELECT pg_sleep(60)")
        time.sleep(0.15)
        with pytest.raises(TransientError, match=r"\(no application name, active\)"):
            require_calm(shop, IMPATIENT)
        other.cancel_safe()


def test_what_is_short_or_elsewhere_or_idle_stops_nothing(shop: Database) -> None:
    with (
        psycopg.connect(shop.url, autocommit=True) as idle,
        psycopg.connect(shop.url_of("postgres")) as elsewhere,
        psycopg.connect(shop.url) as short,
    ):
        idle.execute("SELECT 1")
        elsewhere.execute("SELECT 1")
        time.sleep(0.15)
        require_calm(shop, IMPATIENT)
        short.execute("SELECT 1")
        require_calm(shop, MigrationSettings())


def test_of_many_transactions_the_oldest_are_shown(shop: Database) -> None:
    others = [psycopg.connect(shop.url, application_name=f"other-{number}") for number in range(5)]
    try:
        for other in others:
            other.execute("SELECT 1")
        time.sleep(0.15)
        with pytest.raises(TransientError) as raised:
            require_calm(shop, IMPATIENT)
    finally:
        for other in others:
            other.close()
    shown = [number for number in range(5) if f"other-{number}" in str(raised.value)]
    assert shown == [0, 1, 2]


def test_written_rows_are_counted_by_table(shop: Database) -> None:
    before = rows_written_by_one(shop)
    execute(shop.url, "INSERT INTO orders VALUES (1), (2)", "UPDATE orders SET id = 3 WHERE id = 2")
    after = rows_written_by_one(shop)
    assert after["public.orders"] - before["public.orders"] == 3
    assert after["public.customers"] == before["public.customers"]
    query(shop.url, "SELECT * FROM orders")
    assert rows_written_by_one(shop) == after, "reading is not writing"


def rows_written_by_one(shop: Database) -> dict[str, int]:
    """Ask as a rehearsal does, while one other session holds the migration lock."""
    with psycopg.connect(shop.url, autocommit=True):
        return rows_written(shop)


def test_the_rows_of_a_session_that_is_about_to_end_are_waited_for(shop: Database) -> None:
    with psycopg.connect(shop.url, autocommit=True):
        ending = psycopg.connect(shop.url, autocommit=True)
        ending.execute("INSERT INTO orders VALUES (1)")
        ending.pgconn.send_query(b"SELECT pg_sleep(0.3)")
        ending.close()
        assert rows_written(shop)["public.orders"] == 1
