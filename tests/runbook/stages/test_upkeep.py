from __future__ import annotations

import pytest

from runbook.connections import Connections
from runbook.errors import InvalidInputError, StageError
from runbook.stages.upkeep import reindex, vacuum
from tests.runbook.helpers import execute, query


@pytest.fixture
def shop(connections: Connections) -> Connections:
    execute(
        connections.database.url,
        'CREATE TABLE "Orders" (id integer PRIMARY KEY, sku text)',
        'INSERT INTO "Orders" SELECT g, g::text FROM generate_series(1, 500) g',
        'CREATE INDEX orders_sku ON "Orders" (sku)',
    )
    return connections


def test_a_table_is_vacuumed_and_analysed(shop: Connections) -> None:
    assert vacuum(shop, '"Orders"') == 'vacuumed and analysed "Orders"'
    [(vacuums, tuples)] = query(
        shop.database.url,
        "SELECT pg_stat_get_vacuum_count(c.oid), c.reltuples FROM pg_class c WHERE c.relname = 'Orders'",
    )
    assert (vacuums, tuples) == (1, 500)
    assert vacuum(shop) == "vacuumed and analysed all tables"


def test_indexes_are_built_anew_beside_the_old_ones(shop: Connections) -> None:
    where = "SELECT relfilenode FROM pg_class WHERE relname = 'orders_sku'"
    before = query(shop.database.url, where)
    reindex(shop, '"Orders"')
    assert query(shop.database.url, where) != before
    assert reindex(shop) == "reindexed the database"


def test_a_reindex_that_fails_leaves_the_old_index_and_nothing_else(shop: Connections) -> None:
    """A unique index that does not hold any more cannot be built anew."""
    execute(
        shop.database.url,
        'CREATE UNIQUE INDEX orders_once ON "Orders" (sku)',
        "UPDATE pg_index SET indisunique = false WHERE indexrelid = 'orders_once'::regclass",
        "UPDATE \"Orders\" SET sku = 'same' WHERE id < 3",
        "UPDATE pg_index SET indisunique = true WHERE indexrelid = 'orders_once'::regclass",
    )
    with pytest.raises(StageError, match="the old indexes are there"):
        reindex(shop, '"Orders"')
    names = {str(row[0]) for row in query(shop.database.url, "SELECT relname FROM pg_class WHERE relkind = 'i'")}
    assert "orders_once" in names
    assert not [name for name in names if name.endswith("_ccnew")]


@pytest.mark.parametrize("table", ["no_such_table", "x; DROP TABLE orders", "'"])
def test_a_table_that_is_not_there_is_refused(shop: Connections, table: str) -> None:
    with pytest.raises(InvalidInputError, match="a table of the database"):
        vacuum(shop, table)
    assert query(shop.database.url, 'SELECT count(*) FROM "Orders"') == [(500,)]
