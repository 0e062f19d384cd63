"""What a restore would lose, in rows, before anybody consents to it."""

from __future__ import annotations

from collections.abc import Generator

import pytest

from runbook.clients.write_capture import captures, end_capture
from runbook.connections import Connections
from runbook.reports import TableLoss
from runbook.stages.backup import create_backup
from runbook.stages.quote import quote_loss
from tests.runbook.helpers import execute
from tests.runbook.stages.test_replay import migrate

SHOP = (
    "CREATE TABLE orders (id int PRIMARY KEY, note text)",
    "CREATE TABLE emptied (id int PRIMARY KEY)",
    "CREATE TABLE untouched (id int PRIMARY KEY)",
    "CREATE TABLE keyless (n int)",
    "INSERT INTO orders SELECT n FROM generate_series(1, 100) n",
    "INSERT INTO emptied SELECT n FROM generate_series(1, 9) n",
    "INSERT INTO untouched SELECT n FROM generate_series(1, 9) n",
    "INSERT INTO keyless SELECT n FROM generate_series(1, 5) n",
)
WRITES = (
    "INSERT INTO orders SELECT n FROM generate_series(101, 110) n",
    "UPDATE orders SET note = 'twice' WHERE id <= 4 OR id = 101",
    "UPDATE orders SET note = 'and again' WHERE id <= 4",
    "DELETE FROM orders WHERE id IN (50, 51, 102)",
    "INSERT INTO orders VALUES (50, 'anew')",
    "UPDATE orders SET id = 999 WHERE id = 60",
    "TRUNCATE emptied",
    "INSERT INTO emptied VALUES (77)",
    "INSERT INTO keyless VALUES (6), (7)",
    "CREATE TABLE added AS SELECT 1 AS n",
    "ANALYZE untouched",
)


@pytest.fixture
def shop(connections: Connections) -> Generator[Connections]:
    execute(connections.database.url, *SHOP)
    yield connections
    for capture in captures(connections.database):
        end_capture(connections.database, capture.backup_id)


def test_captured_writes_are_quoted_exactly_each_row_once(shop: Connections) -> None:
    made = create_backup(shop, reason="test", triggered_by="somebody", capture=True)
    assert quote_loss(shop, made.backup_id) == ()
    execute(shop.database.url, *WRITES)
    by_table = {loss.table: loss for loss in quote_loss(shop, made.backup_id)}
    assert by_table.keys() == {"public.orders", "public.emptied", "public.keyless", "public.added"}
    # 101, 103-110 and 999 are new; 1-4 and 50 are others now; 51 and 60 are gone; 102 came and went.
    assert by_table["public.orders"] == TableLoss(
        table="public.orders", rows_now=108, rows_restored=100, inserted=10, updated=5, deleted=2, is_exact=True
    )
    emptied = by_table["public.emptied"]
    assert (emptied.inserted, emptied.deleted, emptied.is_exact) == (1, 9, True)
    keyless = by_table["public.keyless"]
    assert (keyless.inserted, keyless.is_exact, keyless.cannot_replay) == (2, False, "")
    added = by_table["public.added"]
    assert (added.inserted, added.cannot_replay) == (1, "the table was made after the backup")
    assert quote_loss(shop, made.backup_id) == tuple(by_table.values()), "asking changes nothing"


def test_without_a_capture_the_quote_is_an_estimate_and_says_so(shop: Connections) -> None:
    made = create_backup(shop, reason="test", triggered_by="somebody")
    execute(shop.database.url, *WRITES)
    by_table = {loss.table: loss for loss in quote_loss(shop, made.backup_id)}
    assert by_table.keys() == {"public.orders", "public.emptied", "public.keyless", "public.added"}
    orders = by_table["public.orders"]
    assert not orders.is_exact
    assert "(estimate)" in orders.render()
    assert orders.inserted + orders.updated == 15
    assert orders.rows_now - orders.rows_restored == orders.inserted - orders.deleted


def test_rows_in_which_a_migration_hides_what_was_written_before_it_are_counted(shop: Connections) -> None:
    made = create_backup(shop, reason="test", triggered_by="somebody")
    execute(shop.database.url, "UPDATE orders SET note = 'written' WHERE id <= 3")
    migrate(shop, "UPDATE orders SET note = 'migrated' WHERE id <= 20")
    execute(shop.database.url, "UPDATE orders SET note = 'since' WHERE id <= 2")
    (loss,) = quote_loss(shop, made.backup_id)
    assert (loss.updated, loss.obscured, loss.cannot_replay) == (2, 18, "")


def test_captured_writes_are_hidden_by_no_migration(shop: Connections) -> None:
    made = create_backup(shop, reason="test", triggered_by="somebody", capture=True)
    execute(shop.database.url, "UPDATE orders SET note = 'written' WHERE id <= 3")
    migrate(shop, "UPDATE orders SET note = 'migrated' WHERE id <= 20")
    (loss,) = quote_loss(shop, made.backup_id)
    assert (loss.updated, loss.obscured) == (3, 0)
