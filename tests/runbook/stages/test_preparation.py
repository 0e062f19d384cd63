"""What a deploy keeps ready for its rollback: captured writes, and the backup restored already."""

from __future__ import annotations

import time
from collections.abc import Generator
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from psycopg.conninfo import make_conninfo

from runbook.clients.embedded_postgres import EmbeddedPostgres
from runbook.clients.postgres import Database
from runbook.connections import Connections
from runbook.errors import RefusedError, TransientError
from runbook.rules.checklist import Outcome
from runbook.settings import ReplayMethod, RollbackSettings
from runbook.stages.backup import create_backup, prove_by_copy
from runbook.stages.preparation import (
    check_bound,
    end_preparations,
    expire_preparations,
    preparations,
    prepare_rollback,
    take_prepared,
)
from runbook.stages.replay import replay_method, replay_writes
from runbook.stages.restore import drop_restored, swap_in
from tests.runbook.helpers import execute, query


@pytest.fixture
def shop(connections: Connections) -> Generator[Connections]:
    execute(connections.database.url, "CREATE TABLE orders (id int PRIMARY KEY)", "INSERT INTO orders VALUES (1), (2)")
    yield connections
    end_preparations(connections)


def prepared(shop: Connections) -> str:
    made = create_backup(shop, reason="test", triggered_by="test", capture=True)
    copy = prove_by_copy(shop, made.backup_id)
    prepare_rollback(shop, copy, keep=True)
    drop_restored(shop, copy)
    return made.backup_id


def settled(shop: Connections, **changes: object) -> Connections:
    rollback = RollbackSettings.model_validate(changes)
    return replace(shop, settings=shop.settings.model_copy(update={"rollback": rollback}))


def test_a_prepared_rollback_has_only_to_catch_up_and_swap(shop: Connections) -> None:
    backup_id = prepared(shop)
    [ready] = preparations(shop)
    assert ready.backup_id == backup_id
    assert ready.size_bytes > 1_000_000
    assert f"restored as {ready.database}" in ready.render()
    assert "of WAL kept" in ready.render()
    execute(shop.database.url, "INSERT INTO orders VALUES (3)", "ALTER TABLE orders ADD COLUMN note text")
    taken = take_prepared(shop, backup_id, purpose="restored")
    assert taken is not None
    replay_writes(shop, backup_id, taken.name)
    swapped = swap_in(shop, taken)
    assert query(shop.database.url, "SELECT * FROM orders ORDER BY id") == [(1,), (2,), (3,)]
    assert take_prepared(shop, backup_id, purpose="restored") is None, "it was used up"
    assert end_preparations(shop, name=swapped.kept) == (backup_id,)
    slots = "SELECT slot_name FROM pg_replication_slots WHERE starts_with(database, %s)"
    assert query(shop.database.url, slots, shop.database.name) == []


def test_nobody_gets_into_a_prepared_database(shop: Connections) -> None:
    prepared(shop)
    [ready] = preparations(shop)
    with pytest.raises(TransientError, match="not currently accepting connections") as caught:
        query_or_reject(shop.database, str(ready.database))
    assert str(ready.database) in str(caught.value)


def query_or_reject(database: Database, name: str) -> None:
    with database.connect(name) as connection:
        connection.execute("SELECT 1")


def test_only_what_is_asked_for_is_given_up(shop: Connections) -> None:
    backup_id = prepared(shop)
    assert end_preparations(shop, other_than=backup_id) == ()
    assert end_preparations(shop, since=datetime.now(UTC) + timedelta(seconds=5)) == ()
    assert expire_preparations(shop) == ()
    assert len(preparations(shop)) == 1
    assert end_preparations(shop, since=datetime.now(UTC) - timedelta(minutes=5)) == (backup_id,)
    assert preparations(shop) == ()
    assert end_preparations(shop) == ()
    assert query(shop.database.url, "SELECT pubname FROM pg_publication") == []


@pytest.mark.parametrize("limit", [{"keep_h": 1e-9}, {"maximum_wal_gb": 1e-9}])
def test_what_is_too_old_or_too_big_is_given_up(shop: Connections, limit: dict[str, float]) -> None:
    backup_id = prepared(shop)
    assert expire_preparations(settled(shop, **limit)) == (backup_id,)
    assert preparations(shop) == ()
    assert replay_method(shop, backup_id) is ReplayMethod.DIFFERENCE, "the writes are found by comparing then"
    with pytest.raises(RefusedError, match="were not captured"):
        replay_method(settled(shop, replay="slot"), backup_id)


def test_a_server_that_cannot_capture_makes_the_backup_all_the_same(shop: Connections) -> None:
    execute(
        shop.database.url,
        "CREATE ROLE lowly LOGIN PASSWORD 'low'",
        f"ALTER DATABASE {shop.database.name} OWNER TO lowly",
    )
    execute(shop.database.url, "ALTER TABLE orders OWNER TO lowly", "GRANT pg_read_all_data TO lowly")
    try:
        lowly = replace(shop, database=Database(make_conninfo(shop.database.url, user="lowly", password="low")))
        made = create_backup(lowly, reason="test", triggered_by="test", capture=True)
        assert preparations(shop) == ()
        assert replay_method(lowly, made.backup_id) is ReplayMethod.DIFFERENCE
    finally:
        execute(shop.database.url, f"ALTER DATABASE {shop.database.name} OWNER TO CURRENT_USER")
        execute(shop.database.url, "REASSIGN OWNED BY lowly TO CURRENT_USER", "DROP OWNED BY lowly", "DROP ROLE lowly")


def test_a_server_that_keeps_any_amount_of_wal_for_a_forgotten_capture_is_warned_of(
    postgres: EmbeddedPostgres, connections: Connections
) -> None:
    assert check_bound(connections).detail == "the server keeps 10GB of WAL for them at most"
    execute(postgres.url(), "ALTER SYSTEM SET max_slot_wal_keep_size = -1", "SELECT pg_reload_conf()")
    try:
        while query(postgres.url(), "SHOW max_slot_wal_keep_size") != [("-1",)]:  # the server reads it in its own time
            time.sleep(0.01)
        check = check_bound(connections)
        assert (check.outcome, check.action) == (
            Outcome.WARNING,
            "Set max_slot_wal_keep_size = 10GB on the server.",
        )
        rollback = RollbackSettings(replay=ReplayMethod.DIFFERENCE)
        compared = connections.settings.model_copy(update={"rollback": rollback})
        assert check_bound(replace(connections, settings=compared)).outcome is Outcome.PASSED
    finally:
        execute(postgres.url(), "ALTER SYSTEM RESET max_slot_wal_keep_size", "SELECT pg_reload_conf()")
