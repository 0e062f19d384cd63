"""What is written after a backup comes into the database restored from it: by both methods, under load, migrated."""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest

from runbook.clients.fingerprint import fingerprint
from runbook.clients.migration_history import MigrationHistory
from runbook.clients.migration_run import Script, run_alone, run_together
from runbook.clients.write_capture import captures, end_capture
from runbook.connections import Connections
from runbook.settings import ReplayMethod, RollbackSettings
from runbook.stages.backup import create_backup
from runbook.stages.quote import quote_loss
from runbook.stages.replay import replay_writes
from runbook.stages.restore import Swap, restore_beside, swap_in
from tests.runbook.helpers import execute, query

METHODS = [ReplayMethod.SLOT, ReplayMethod.DIFFERENCE]
SEEDS = [pytest.param(seed, marks=[] if seed == 1 else [pytest.mark.chaos]) for seed in range(1, 21)]
SHOP = (
    "CREATE TABLE orders (id bigserial PRIMARY KEY, code text UNIQUE, total numeric, twice numeric"
    " GENERATED ALWAYS AS (total * 2) STORED, note text)",
    "CREATE TABLE lines (order_id bigint REFERENCES orders ON DELETE CASCADE, n int, what text,"
    " PRIMARY KEY (order_id, n))",
    "CREATE TABLE events (at timestamptz DEFAULT clock_timestamp(), what text, detail json)",
    "CREATE TABLE readings (id bigint GENERATED ALWAYS AS IDENTITY, day int, value float8, PRIMARY KEY (id, day))"
    " PARTITION BY RANGE (day)",
    "CREATE TABLE readings_0 PARTITION OF readings FOR VALUES FROM (0) TO (50)",
    "CREATE TABLE readings_1 PARTITION OF readings FOR VALUES FROM (50) TO (100)",
    'CREATE TABLE "Odd Name" ("select" int PRIMARY KEY, "a""b" bytea, tags text[], kind char(3))',
    "CREATE TABLE whole (x int, y text)",
    "ALTER TABLE whole REPLICA IDENTITY FULL",
    "CREATE TABLE audit (n bigserial PRIMARY KEY, what text)",
    "CREATE FUNCTION audited() RETURNS trigger LANGUAGE plpgsql AS"
    " $$ BEGIN INSERT INTO audit (what) VALUES (TG_OP); RETURN NULL; END $$",
    "CREATE TRIGGER audited AFTER INSERT OR UPDATE OR DELETE ON orders FOR EACH ROW EXECUTE FUNCTION audited()",
    "INSERT INTO orders (code, total, note) SELECT 'o' || n, n, repeat('x', n) FROM generate_series(1, 300) n",
    "INSERT INTO lines SELECT n, 1, 'w' FROM generate_series(1, 300) n",
    "INSERT INTO events (what) SELECT 'e' || n % 7 FROM generate_series(1, 100) n",
    "INSERT INTO readings (day, value) SELECT n % 100, n FROM generate_series(1, 200) n",
    "INSERT INTO \"Odd Name\" SELECT n, 'a', '{x}', 'k' FROM generate_series(1, 50) n",
    "INSERT INTO whole SELECT n % 5, 'y' FROM generate_series(1, 40) n",
)


def write(connection: psycopg.Connection, chance: random.Random) -> None:
    """One transaction of an application, any of those that are awkward to replay."""
    n, big = chance.randrange(1, 400), "".join(chance.choices("abcdef", k=chance.choice([5, 9000])))
    connection.execute(f"SET LOCAL synchronous_commit = {chance.choice(['on', 'off'])}".encode())
    statements: list[tuple[str, list[object]]] = [
        ("INSERT INTO orders (code, total, note) VALUES (%s, %s, %s) ON CONFLICT DO NOTHING", [f"c{n}", n, big]),
        ("UPDATE orders SET total = total + 1 WHERE id = %s", [n]),
        ("UPDATE orders SET note = %s WHERE id = %s", [big, n]),
        ("UPDATE orders SET id = id + 100000 WHERE id = %s AND id NOT IN (SELECT order_id FROM lines)", [n]),
        ("DELETE FROM orders WHERE id = %s", [n]),
        ("INSERT INTO events (what, detail) VALUES (%s, '{\"a\":  1}')", [f"e{n}"]),
        ("UPDATE events SET what = what || '!' WHERE what = %s", [f"e{n % 7}"]),
        ("DELETE FROM events WHERE what = %s", [f"e{n}"]),
        ("INSERT INTO readings (day, value) VALUES (%s, %s)", [n % 100, n / 7]),
        ("UPDATE readings SET day = 99 - day WHERE id = %s", [n]),
        (
            "INSERT INTO \"Odd Name\" VALUES (%s, %s, ARRAY[%s, NULL], 'k') ON CONFLICT DO NOTHING",
            [n, big.encode(), big],
        ),
        ('DELETE FROM "Odd Name" WHERE "select" = %s', [n]),
        ("UPDATE whole SET y = y || 'z' WHERE ctid = (SELECT min(ctid) FROM whole WHERE x = %s)", [n % 5]),
        ("INSERT INTO whole VALUES (%s, NULL)", [n % 5]),
        ("UPDATE orders SET code = CASE id WHEN 1 THEN 'o2' ELSE 'o1' END WHERE false", []),
    ]
    for number in range(chance.randrange(1, 4)):
        statement, values = chance.choice(statements)
        if chance.random() < 0.3:
            connection.execute(f"SAVEPOINT s{number}".encode())
            connection.execute(statement.encode(), values)
            if chance.random() < 0.4:
                connection.execute(f"ROLLBACK TO s{number}".encode())
        else:
            connection.execute(statement.encode(), values)


@contextmanager
def writing(url: str, *, seed: int = 0, writers: int = 2) -> Generator[Callable[[], int]]:
    """Write beside the body of a `with`, until the sessions are ended; give how many transactions were committed."""
    done, stopped = [0] * writers, threading.Event()

    def work(number: int) -> None:
        chance = random.Random(1000 * seed + number)  # noqa: S311 - a load, no secret
        with psycopg.connect(url, autocommit=True) as connection:
            while not stopped.is_set():
                try:
                    with connection.transaction():
                        write(connection, chance)
                except (
                    psycopg.errors.DeadlockDetected,
                    psycopg.errors.UniqueViolation,
                    psycopg.errors.ForeignKeyViolation,
                ):
                    continue
                except psycopg.OperationalError:
                    return
                done[number] += 1

    threads = [threading.Thread(target=work, args=(number,)) for number in range(writers)]
    for thread in threads:
        thread.start()
    try:
        yield lambda: sum(done)
    finally:
        stopped.set()
        for thread in threads:
            thread.join()


def contents(connections: Connections, name: str) -> dict[str, object]:
    execute(connections.database.url_of("postgres"), f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS true')
    found = fingerprint(connections.database, "schema_migrations", name=name)
    sequences = query(connections.database.url_of(name), "SELECT sequencename, last_value FROM pg_sequences ORDER BY 1")
    return {**found.tables, "sequences": sequences}


def by_method(connections: Connections, method: ReplayMethod) -> Connections:
    settings = connections.settings.model_copy(update={"rollback": RollbackSettings(replay=method)})
    return replace(connections, settings=settings)


@pytest.fixture
def shop(connections: Connections) -> Generator[Connections]:
    execute(connections.database.url, *SHOP)
    yield connections
    for capture in captures(connections.database):
        end_capture(connections.database, capture.backup_id)
    execute(
        connections.database.url_of("postgres"),
        "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots"
        f" WHERE database LIKE '{connections.database.name}%' AND NOT active",
    )


def roll_back(connections: Connections, backup_id: str) -> Swap:
    restored = restore_beside(connections, backup_id, purpose="restored")
    replay_writes(connections, backup_id, restored.name)
    return swap_in(connections, restored)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("seed", SEEDS)
def test_no_write_is_lost_under_load(shop: Connections, method: ReplayMethod, seed: int) -> None:
    connections = by_method(shop, method)
    with writing(shop.database.url, seed=seed) as committed:
        backup = create_backup(connections, reason="test", triggered_by="test", capture=True)
        before = committed()
        time.sleep(0.5)
        swapped = roll_back(connections, backup.backup_id)
        after = committed()
    assert after > before + 50
    assert swapped.replay is not None
    assert swapped.replay.method is method
    assert (swapped.replay.quarantined, swapped.replay.left_behind) == (0, ())
    assert contents(connections, shop.database.name) == contents(connections, swapped.kept)
    schemas = query(shop.database.url, "SELECT count(*) FROM pg_namespace WHERE nspname = 'runbook_replay'")
    assert schemas == [(0,)]


@pytest.mark.parametrize("method", METHODS)
def test_rows_may_exchange_what_is_unique(shop: Connections, method: ReplayMethod) -> None:
    connections, url = by_method(shop, method), shop.database.url
    backup = create_backup(connections, reason="test", triggered_by="test", capture=True)
    for statement in (
        "UPDATE orders SET code = CASE id WHEN 1 THEN 'spare' ELSE code END",
        "UPDATE orders SET code = 'o1' WHERE id = 2",
        "UPDATE orders SET code = 'o2' WHERE id = 1",
        "DELETE FROM orders WHERE id = 3",
        "INSERT INTO orders (id, code, total) VALUES (5000, 'o3', 1)",
        "TRUNCATE readings_1",
        "CREATE TABLE readings_2 PARTITION OF readings FOR VALUES FROM (100) TO (200)",
    ):
        execute(url, statement)
    swapped = roll_back(connections, backup.backup_id)
    assert swapped.replay is not None
    assert swapped.replay.quarantined == 0
    found = contents(connections, swapped.kept)
    found.pop("public.readings_2")
    assert contents(connections, shop.database.name) == found


def migrate(connections: Connections, *files: str, alone: bool = False) -> None:
    history = MigrationHistory(connections.database, connections.settings.migrations)
    scripts = [Script(f"{number:03d}_change", f"{number:03d}_change.sql", text) for number, text in enumerate(files)]
    with history.locked():
        for script in scripts if alone else [scripts]:
            run_alone(history, script) if isinstance(script, Script) else run_together(history, script)


def migrated(connections: Connections, *files: str, alone: bool = False) -> tuple[str, str]:
    """Back up, write, migrate, write through the new schema; return the backup's id."""
    url = connections.database.url
    backup = create_backup(connections, reason="test", triggered_by="test", capture=True)
    execute(url, "INSERT INTO orders (code, total, note) VALUES ('before', 1, 'n')", "DELETE FROM orders WHERE id = 7")
    migrate(connections, *files, alone=alone)
    return backup.backup_id, url


@pytest.mark.parametrize("method", METHODS)
def test_writes_find_their_way_through_what_a_migration_has_renamed(shop: Connections, method: ReplayMethod) -> None:
    connections = by_method(shop, method)
    backup_id, url = migrated(
        connections,
        "ALTER TABLE orders RENAME TO purchases; ALTER TABLE purchases RENAME COLUMN code TO reference;"
        "ALTER TABLE purchases ADD COLUMN currency text NOT NULL DEFAULT 'EUR';"
        "CREATE TABLE refunds (id int PRIMARY KEY);",
        "ALTER TABLE readings RENAME COLUMN value TO amount",
    )
    execute(
        url,
        "INSERT INTO purchases (reference, total, currency) VALUES ('after', 2, 'USD')",
        "UPDATE purchases SET reference = 'changed' WHERE id = 1",
        "INSERT INTO readings (day, amount) VALUES (3, 4711)",
        "INSERT INTO refunds VALUES (1)",
    )
    swapped = roll_back(connections, backup_id)
    found = query(url, "SELECT code FROM orders WHERE code IN ('before', 'after', 'changed', 'o7') ORDER BY 1")
    assert found == [("after",), ("before",), ("changed",)]
    assert query(url, "SELECT count(*) FROM readings WHERE value = 4711") == [(1,)]
    assert query(url, "SELECT to_regclass('refunds'), to_regclass('purchases')") == [(None, None)]
    assert swapped.replay is not None
    assert swapped.replay.quarantined == 0


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("alone", [False, True])
def test_what_a_migration_did_to_the_data_is_not_replayed(
    shop: Connections, method: ReplayMethod, *, alone: bool
) -> None:
    connections = by_method(shop, method)
    backup_id, url = migrated(
        connections,
        "UPDATE orders SET total = total * 100 WHERE id < 100;\nUPDATE events SET what = 'wrong' WHERE what = 'e1';\n"
        + ("CREATE INDEX CONCURRENTLY late ON orders (total);" if alone else ""),
        alone=alone,
    )
    execute(url, "UPDATE orders SET note = 'since' WHERE id = 200", "INSERT INTO events (what) VALUES ('since')")
    swapped = roll_back(connections, backup_id)
    assert query(url, "SELECT total FROM orders WHERE id IN (5, 200) ORDER BY id") == [(5,), (200,)]
    assert query(url, "SELECT note FROM orders WHERE id = 200") == [("since",)]
    assert query(url, "SELECT count(*) FROM events WHERE what = 'wrong'") == [(0,)]
    assert swapped.replay is not None
    if method is ReplayMethod.SLOT:
        assert query(url, "SELECT count(*) FROM events WHERE what = 'since'") == [(1,)]
    assert swapped.replay.left_behind == ("public.events",)  # no key, and the migration changed it: said, not guessed


@pytest.mark.parametrize("method", METHODS)
def test_a_row_that_does_not_fit_is_put_aside_with_the_reason(shop: Connections, method: ReplayMethod) -> None:
    execute(shop.database.url, "ALTER TABLE lines ADD COLUMN price numeric NOT NULL DEFAULT 1")
    execute(shop.database.url, "ALTER TABLE lines ALTER COLUMN price DROP DEFAULT")
    connections = by_method(shop, method)
    backup_id, url = migrated(connections, "ALTER TABLE lines DROP COLUMN price")
    execute(
        url, "INSERT INTO lines VALUES (1, 2, 'no price'), (2, 2, 'none')", "UPDATE lines SET what = 'v' WHERE n = 1"
    )
    swapped = roll_back(connections, backup_id)
    assert swapped.replay is not None
    assert swapped.replay.quarantine_file is not None
    file = Path(swapped.replay.quarantine_file)
    assert file.stat().st_mode & 0o777 == 0o600
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    assert {row["new"]["what"] for row in rows} >= {"no price", "none"}
    assert all("price" in row["reason"] for row in rows)
    assert query(url, "SELECT count(*) FROM lines WHERE n = 2") == [(0,)]
    # Of a row that was there, the column that the migration has dropped comes back with its value.
    assert query(url, "SELECT count(*), min(what), sum(price) FROM lines WHERE n = 1") == [
        (299, "v", 299)
    ]  # of one the order is gone
    assert swapped.replay.quarantined == 2


@pytest.mark.parametrize("alone", [False, True])
@pytest.mark.parametrize("how", ["DELETE FROM orders WHERE id <= 100", "TRUNCATE lines, orders"])
def test_rows_that_a_migration_has_deleted_come_back_by_comparing_and_it_is_said_what_else_does(
    shop: Connections, how: str, *, alone: bool
) -> None:
    connections = by_method(shop, ReplayMethod.DIFFERENCE)
    text = f"{how};\n" + ("CREATE INDEX CONCURRENTLY late ON orders (total);" if alone else "")
    backup_id, url = migrated(connections, text, alone=alone)  # the application has deleted order 7 before
    execute(url, "INSERT INTO orders (code, total) VALUES ('after', 2)", "DELETE FROM readings WHERE id = 1")
    (quoted,) = [loss for loss in quote_loss(connections, backup_id) if loss.table == "public.orders"]
    swapped = roll_back(connections, backup_id)
    assert query(url, "SELECT count(*) FROM orders WHERE id <= 300") == [(300,)]
    assert query(url, "SELECT count(*) FROM orders WHERE code = 'after'") == [(1,)]
    assert swapped.replay is not None
    assert "public.orders" in swapped.replay.revived
    assert (quoted.revives, quoted.deleted) == (True, 0)
    assert query(url, "SELECT count(*) FROM readings") == [(200 if how.startswith("TRUNCATE") else 199,)]
