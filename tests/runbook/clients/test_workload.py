"""What an application asks of its database, on a real server with and without `pg_stat_statements`."""

from __future__ import annotations

from collections.abc import Generator

import pytest

from runbook.clients.postgres import Database
from runbook.clients.workload import failing_queries, read_workload
from tests.runbook.helpers import execute, query

SHOP = (
    "CREATE TABLE orders (id int PRIMARY KEY, note text)",
    "CREATE TABLE customers (id int PRIMARY KEY)",
    'CREATE TABLE "Odd Name" (id int)',
)


@pytest.fixture
def shop(database: Database) -> Database:
    execute(database.url, *SHOP)
    return database


@pytest.fixture
def recorded(shop: Database) -> Database:
    execute(shop.url, "CREATE EXTENSION pg_stat_statements")
    return shop


@pytest.fixture
def maintenance(shop: Database) -> Generator[Database]:
    """The extension in the server's maintenance database, as the environment `local` has it."""
    url = shop.url_of("postgres")
    execute(url, "CREATE EXTENSION pg_stat_statements")
    try:
        yield shop
    finally:
        execute(url, "DROP EXTENSION pg_stat_statements")


def ask_a_little(database: Database) -> None:
    for number in range(12):
        query(database.url, "SELECT note FROM orders WHERE id = %s", number)
    for number in range(6):  # what was asked once only the server may forget, when others ask it much
        query(database.url, "SELECT count(*) FROM orders, customers")
        first = 10 * number + 1
        execute(database.url, f"INSERT INTO orders SELECT n, 'x' FROM generate_series({first}, {first + 4}) n")
    execute(
        database.url,
        "WITH gone AS (DELETE FROM orders WHERE id = 5 RETURNING id) SELECT count(*) FROM gone",
        "SELECT relname FROM pg_class LIMIT 1",
        "VACUUM customers",
    )


@pytest.mark.parametrize("where", ["recorded", "maintenance"])
def test_recorded_calls_are_counted_by_table_and_kind(where: str, request: pytest.FixtureRequest) -> None:
    database: Database = request.getfixturevalue(where)
    ask_a_little(database)
    found = read_workload(database)
    assert found.source == f"pg_stat_statements, {len(found.queries)} queries"
    orders, customers = found.calls_per_s["public.orders"], found.calls_per_s["public.customers"]
    assert orders.reads_per_s > customers.reads_per_s > 0
    assert orders.writes_per_s > 0
    assert customers.writes_per_s == 0
    assert 'public."Odd Name"' not in found.calls_per_s
    assert "SELECT note FROM orders WHERE id = $1" in found.queries
    assert not [text for text in found.queries if "pg_class" in text or text.startswith(("VACUUM", "CREATE"))]


def test_what_is_asked_of_another_database_is_not_counted(recorded: Database) -> None:
    execute(recorded.url_of("postgres"), "CREATE TABLE orders (id int)", "SELECT 1 AS of_another FROM orders")
    try:
        query(recorded.url, "SELECT id FROM customers")
        found = read_workload(recorded)
    finally:
        execute(recorded.url_of("postgres"), "DROP TABLE orders")
    assert found.calls_per_s.keys() == {"public.customers"}
    assert not [text for text in found.queries if "of_another" in text]


def test_the_values_of_the_queries_are_not_shown(recorded: Database) -> None:
    execute(recorded.url, "SELECT id FROM orders WHERE note = 'very private'")
    found = read_workload(recorded)
    assert "very private" not in str(found.queries)
    assert "orders" not in repr(found).split("calls_per_s", 1)[0]
    assert "SELECT" not in repr(found)


def test_the_extension_is_found_in_whatever_schema_it_is(shop: Database) -> None:
    execute(shop.url, "CREATE SCHEMA extensions", "CREATE EXTENSION pg_stat_statements SCHEMA extensions")
    query(shop.url, "SELECT id FROM customers")
    assert read_workload(shop).source.startswith("pg_stat_statements, ")


@pytest.mark.parametrize("version", ["1.8", "1.9", "1.10"])
def test_an_extension_that_was_never_updated_with_its_server_will_do(shop: Database, version: str) -> None:
    execute(shop.url, f"CREATE EXTENSION pg_stat_statements VERSION '{version}'")
    query(shop.url, "SELECT id FROM customers")
    found = read_workload(shop, observe_s=0.01)
    assert found.source.startswith("counters of the tables" if version == "1.8" else "pg_stat_statements, ")
    assert found.calls_per_s["public.customers"].reads_per_s > 0


def test_without_the_extension_scans_and_written_rows_are_counted(shop: Database) -> None:
    ask_a_little(shop)
    found = read_workload(shop, observe_s=0.01)
    assert found.source.startswith("counters of the tables")
    assert found.queries == ()
    orders = found.calls_per_s["public.orders"]
    assert orders.reads_per_s > 0
    assert orders.writes_per_s > 0
    assert found.calls_per_s["public.customers"].writes_per_s == 0
    assert 'public."Odd Name"' not in found.calls_per_s, "nobody asked it anything"


def test_a_role_that_may_not_see_queries_falls_back_on_the_counters(recorded: Database) -> None:
    ask_a_little(recorded)
    execute(recorded.url, "CREATE ROLE nosy LOGIN PASSWORD 'n'", "GRANT SELECT ON ALL TABLES IN SCHEMA public TO nosy")
    try:
        host = recorded.url.partition("@")[2]
        found = read_workload(Database(f"postgresql://nosy:n@{host}"), observe_s=0.01)
    finally:
        execute(recorded.url, "DROP OWNED BY nosy", "DROP ROLE nosy")
    assert found.source.startswith("counters of the tables")
    assert found.calls_per_s["public.orders"].reads_per_s > 0


def test_a_query_fails_once_its_column_is_gone(shop: Database) -> None:
    queries = [
        "SELECT note FROM orders WHERE id = $1",
        "SELECT id FROM orders WHERE id = $1",
        "INSERT INTO orders (id, note) VALUES ($1, $2)",
        "UPDATE orders SET note = $2 WHERE id = $1",
        "SELECT nonsense",
    ]
    before = failing_queries(shop, shop.name, queries)
    assert before == {"SELECT nonsense": 'column "nonsense" does not exist'}
    execute(shop.url, "ALTER TABLE orders DROP note")
    after = failing_queries(shop, shop.name, queries)
    assert list(after) == [queries[0], queries[2], queries[3], queries[4]]
    assert 'column "note" does not exist' in after[queries[0]]
    assert "\n" not in "".join(after.values())


def test_nothing_is_run_to_find_out(shop: Database) -> None:
    execute(
        shop.url,
        "INSERT INTO orders VALUES (1, 'x'), (2, 'y')",
        "CREATE SEQUENCE numbers",
        "CREATE FUNCTION writes() RETURNS int STABLE LANGUAGE plpgsql AS"
        " $$ BEGIN INSERT INTO customers VALUES (1); RETURN 1; END $$",
    )
    queries = [
        "DELETE FROM orders WHERE id = $1",
        "DELETE FROM orders",
        "UPDATE orders SET note = $1",
        "TRUNCATE orders",
        "SELECT nextval($1)",
        "SELECT 1; DELETE FROM orders",
        "SELECT id FROM orders WHERE id = writes()",
    ]
    failing = failing_queries(shop, shop.name, queries)
    assert not {"DELETE FROM orders WHERE id = $1", "DELETE FROM orders", "UPDATE orders SET note = $1"} & set(failing)
    assert query(shop.url, "SELECT count(*), min(note) FROM orders") == [(2, "x")]
    assert query(shop.url, "SELECT count(*) FROM customers") == [(0,)]
    assert query(shop.url, "SELECT is_called FROM numbers") == [(False,)]
