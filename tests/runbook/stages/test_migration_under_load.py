"""A migration beside a busy application and a long transaction: it waits its turn, and nobody behind it for long."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field

import psycopg
import pytest

from runbook.connections import Connections
from runbook.errors import StageError
from runbook.stages.migration import apply_migrations
from tests.runbook.helpers import execute, query
from tests.runbook.stages.migrations import done, plan_of, with_settings

LOCK_TIMEOUT_S = 1.0
SCHEDULING_S = 1.5  # what a query may take besides, on a machine that does other things, too


@dataclass
class Load:
    """What the application did meanwhile: seconds that each query took."""

    reads_s: list[float] = field(default_factory=list[float])
    writes_s: list[float] = field(default_factory=list[float])
    ended: threading.Event = field(default_factory=threading.Event)


@contextmanager
def load(url: str) -> Generator[Load]:
    """Read and write a table from several sessions during the body of a `with`."""
    found = Load()

    def work(statement: bytes, took: list[float]) -> None:
        with psycopg.connect(url, autocommit=True) as connection:
            while not found.ended.is_set():
                began = time.monotonic()
                connection.execute(statement)
                took.append(time.monotonic() - began)
                time.sleep(0.005)

    write = b"INSERT INTO orders (note) VALUES ('x')"
    threads = [threading.Thread(target=work, args=(b"SELECT count(*) FROM orders WHERE id < 10", found.reads_s))]
    threads += [threading.Thread(target=work, args=(write, found.writes_s)) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        yield found
    finally:
        found.ended.set()
        for thread in threads:
            thread.join()


@pytest.fixture
def shop(connections: Connections) -> Connections:
    execute(
        connections.database.url,
        "CREATE TABLE orders (id serial PRIMARY KEY, note text)",
        "INSERT INTO orders (note) SELECT 'x' FROM generate_series(1, 1000)",
    )
    return with_settings(connections, lock_timeout_s=LOCK_TIMEOUT_S, lock_attempts=6)


CHANGE = {"0001_status": "ALTER TABLE orders ADD status text;\n"}


def test_it_retries_names_who_blocks_it_and_succeeds_when_they_end(
    shop: Connections, caplog: pytest.LogCaptureFixture
) -> None:
    plan = plan_of(shop, CHANGE)
    with (
        psycopg.connect(shop.database.url, application_name="monthly report") as report,
        load(shop.database.url) as seen,
    ):
        report.execute("SELECT count(*) FROM orders WHERE note = 'secret'")
        blocker = report.info.backend_pid
        holder = threading.Timer(3 * LOCK_TIMEOUT_S, report.commit)
        holder.start()
        with caplog.at_level(logging.WARNING, logger="runbook"):
            apply_migrations(shop, plan)
        holder.join()
        written = len(seen.writes_s)
        time.sleep(0.3)
        assert len(seen.writes_s) > written, "the application goes on"
    assert done(shop) == ["0001_status"]
    said = "\n".join(record.getMessage() for record in caplog.records)
    assert f"Blocked by session {blocker} of " in said
    assert "(monthly report, idle in transaction" in said
    assert "SELECT count(*) FROM orders WHERE note = ?" in said
    assert "secret" not in said
    assert max(seen.writes_s + seen.reads_s) < LOCK_TIMEOUT_S + SCHEDULING_S, "nobody queued for longer than that"
    assert max(seen.writes_s + seen.reads_s) > LOCK_TIMEOUT_S / 2, "somebody did queue, so this test sees it"


def test_it_gives_up_in_time_when_they_never_end(shop: Connections) -> None:
    limited = with_settings(shop, lock_timeout_s=0.3, lock_attempts=3)
    plan = plan_of(limited, CHANGE)
    with psycopg.connect(shop.database.url) as report, load(shop.database.url) as seen:
        report.execute("SELECT count(*) FROM orders")
        with pytest.raises(StageError, match=rf"no lock in 3 attempts(?s:.*)session {report.info.backend_pid} of "):
            apply_migrations(limited, plan)
    assert done(shop) == []
    assert query(
        shop.database.url,
        "SELECT count(*) FROM information_schema.columns WHERE table_name = 'orders' AND column_name = 'status'",
    ) == [(0,)]
    assert max(seen.writes_s + seen.reads_s) < 0.3 + SCHEDULING_S


def test_an_index_that_does_not_block_lets_the_application_write(shop: Connections) -> None:
    plan = plan_of(shop, {"0001_index": "CREATE INDEX CONCURRENTLY orders_note ON orders (note);\n"})
    with load(shop.database.url) as seen:
        apply_migrations(shop, plan)
        assert seen.writes_s
    assert query(shop.database.url, "SELECT indisvalid FROM pg_index WHERE indexrelid = 'orders_note'::regclass") == [
        (True,)
    ]
