"""What the linter is told of a live database."""

from __future__ import annotations

from runbook.clients.catalogue import read_catalogue
from runbook.clients.postgres import Database
from tests.runbook.helpers import execute


def test_types_are_known_by_table_and_column(database: Database) -> None:
    execute(
        database.url,
        "CREATE TABLE orders (id int, note varchar(9), total numeric(8, 2), gone int, at timestamptz)",
        "ALTER TABLE orders DROP gone",
        'CREATE TABLE "Odd Name" ("a b" text[])',
        "CREATE VIEW seen AS SELECT id FROM orders",
    )
    catalogue, major = read_catalogue(database)
    assert catalogue.columns == {
        ("ORDERS", "ID"): "integer",
        ("ORDERS", "NOTE"): "character varying(9)",
        ("ORDERS", "TOTAL"): "numeric(8,2)",
        ("ORDERS", "AT"): "timestamp with time zone",
        ("ODD NAME", "A B"): "text[]",
    }
    assert database.server_version().startswith(f"{major}.")


def test_a_table_has_rows_before_it_was_ever_analysed(database: Database) -> None:
    execute(
        database.url,
        "CREATE TABLE orders (id int)",
        "INSERT INTO orders VALUES (1)",
        "CREATE TABLE empty (id int)",
        "CREATE TABLE counted (id int)",
        "INSERT INTO counted VALUES (1)",
        "ANALYZE counted",
    )
    catalogue, _ = read_catalogue(database)
    assert set(catalogue.with_rows) == {"ORDERS", "COUNTED"}


def test_a_partitioned_table_counts_as_one_with_rows_and_a_vacuumed_empty_one_does_not(database: Database) -> None:
    execute(
        database.url,
        "CREATE TABLE events (at date) PARTITION BY RANGE (at)",
        "CREATE TABLE events_24 PARTITION OF events FOR VALUES FROM ('2024-01-01') TO ('2025-01-01')",
        "INSERT INTO events VALUES ('2024-05-05')",
        "CREATE TABLE emptied (id int)",
        "INSERT INTO emptied VALUES (1)",
        "DELETE FROM emptied",
        "VACUUM emptied",
    )
    catalogue, _ = read_catalogue(database)
    assert set(catalogue.with_rows) == {"EVENTS", "EVENTS_24"}
