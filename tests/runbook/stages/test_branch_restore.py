"""Rollbacks of a database that is not renamed but restored, as Neon does it: real servers, physical copies."""

from __future__ import annotations

import re
import time
from collections.abc import Generator
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from pydantic import SecretStr

from runbook.clients.embedded_postgres import EmbeddedPostgres
from runbook.clients.http_api import Patience
from runbook.clients.neon import NeonRestorePoints, NeonSettings
from runbook.connections import Connections
from runbook.errors import RefusedError, StageError
from runbook.reports import FinalState, RollbackReport, RollbackScope
from runbook.settings import ReplayMethod
from runbook.stages.backup import create_backup, verify_backup
from runbook.stages.kept import drop_kept, kept_databases, require_kept, swap_back, swapped_at
from runbook.stages.recovery import clean_up, has_swapped
from runbook.stages.replay import replay_writes
from runbook.stages.restore import RestoredDatabase, Swap, restore_replacement, swap_in, undo_swap
from runbook.stages.rollback import RollbackRequest, plan_rollback
from tests.emulators.neon import NeonEmulator, neon_emulator
from tests.emulators.neon_postgres import servers
from tests.runbook.helpers import commit, execute, query
from tests.runbook.stages.test_replay import SHOP, contents, migrated, writing

SMOKE = '[[request]]\nname = "home"\npath = "/"\n'
QUICK = Patience(answer_s=20, pause_s=0.005, poll_s=0.002, finish_s=30)

ROLLBACK = RollbackReport(
    environment="test",
    timestamp=datetime(2026, 1, 1, 12, tzinfo=UTC),
    scope=RollbackScope.DB_ONLY,
    backup_id=None,
    reason="bad",
    triggered_by="somebody",
    approved_by="somebody",
    from_git_sha=None,
    to_git_sha=None,
    to_version=None,
    duration=1,
    success=True,
    state=FinalState.VERIFIED,
    findings=(),
    error=None,
    steps=(),
)


@pytest.fixture(scope="module")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Generator[EmbeddedPostgres]:
    """A server of its own: a restore replaces all that is on it."""
    server = EmbeddedPostgres(tmp_path_factory.mktemp("live"))
    server.start()
    try:
        execute(server.url(), "ALTER SYSTEM SET fsync = off", "SELECT pg_reload_conf()")
        yield server
    finally:
        server.remove()


@pytest.fixture
def neon(postgres: EmbeddedPostgres, tmp_path_factory: pytest.TempPathFactory) -> Generator[NeonEmulator]:
    with (
        servers(postgres, tmp_path_factory.mktemp("branches")) as contents,
        neon_emulator(token="token", contents=contents, polls=0) as emulator,
    ):
        yield emulator


@pytest.fixture
def shop(connections: Connections, neon: NeonEmulator) -> Connections:
    execute(connections.database.url, *SHOP)
    points = NeonRestorePoints(NeonSettings(neon.project_id, "main", api_url=neon.url), SecretStr("token"), QUICK)
    database = replace(connections.database, restore_points=points, stamp="20260101_120000_000001")
    return replace(connections, database=database)


def opened(shop: Connections, backup_id: str) -> RestoredDatabase:
    restored = restore_replacement(shop, backup_id, purpose="restored")
    replay_writes(shop, backup_id, restored.name)
    return restored


def roll_back(shop: Connections, backup_id: str) -> Swap:
    return swap_in(shop, opened(shop, backup_id))


def test_no_write_is_lost_under_load(shop: Connections) -> None:
    with writing(shop.database.url) as committed:
        backup = create_backup(shop, reason="test", triggered_by="test", capture=True)
        before = committed()
        time.sleep(0.5)
        swapped = roll_back(shop, backup.backup_id)
        after = committed()
    assert after > before + 50
    assert swapped.replay is not None
    assert (swapped.replay.method, swapped.replay.quarantined) == (ReplayMethod.DIFFERENCE, 0)
    kept = {kept.name for kept in kept_databases(shop)}
    assert kept == {swapped.kept}
    branch = shop.database.branch(swapped.kept)
    assert branch is not None
    assert contents(shop, shop.database.name) == contents(replace(shop, database=branch), branch.name)


def test_a_migration_is_gone_and_the_writes_through_its_schema_stay(shop: Connections) -> None:
    backup_id, url = migrated(
        shop,
        "ALTER TABLE orders RENAME TO purchases; ALTER TABLE purchases RENAME COLUMN code TO reference;"
        "UPDATE purchases SET total = total * 100 WHERE id < 100;",
    )
    execute(url, "INSERT INTO purchases (reference, total) VALUES ('after', 2)")
    swapped = roll_back(shop, backup_id)
    assert query(url, "SELECT code, total FROM orders WHERE id IN (5, 301, 302) ORDER BY id") == [
        ("o5", 5),
        ("before", 1),
        ("after", 2),
    ]
    assert query(url, "SELECT to_regclass('purchases')") == [(None,)]
    assert swapped.transaction is not None


def test_the_branch_that_was_replaced_can_be_put_back(shop: Connections) -> None:
    backup_id, url = migrated(shop, "ALTER TABLE orders ADD COLUMN currency text NOT NULL DEFAULT 'EUR'")
    swapped = roll_back(shop, backup_id)
    recovered = ROLLBACK.model_copy(update={"kept_database": swapped.kept, "swap_transaction": None})
    assert swapped_at(shop, recovered, swapped.kept) == swapped.transaction
    later = replace(shop, database=replace(shop.database, stamp="20260101_130000_000001"))
    again = swap_back(later, require_kept(later, swapped.kept))
    assert query(url, "SELECT code FROM orders WHERE currency = 'EUR' AND code IN ('before')") == [("before",)]
    assert has_swapped(later)
    with pytest.raises(StageError, match="is still needed"):
        drop_kept(later, require_kept(later, again.kept))
    assert later.database.branch(again.kept) is not None


def test_a_rollback_that_is_undone_at_once_says_what_was_written_meanwhile(shop: Connections) -> None:
    backup_id, url = migrated(shop, "ALTER TABLE orders ADD COLUMN currency text")
    swapped = roll_back(shop, backup_id)
    execute(url, "INSERT INTO lines VALUES (1, 77, 'meanwhile')")
    said = undo_swap(shop, swapped)
    assert said is not None
    assert re.search(r"only in \S+_undone_\S+, which is kept: public.lines 1$", said)
    assert query(url, "SELECT code, currency FROM orders WHERE id = 301") == [("before", None)]
    execute(url, "INSERT INTO orders (code) VALUES ('open again')")


def test_what_neon_refuses_leaves_the_live_branch_open_and_unchanged(shop: Connections, neon: NeonEmulator) -> None:
    backup = create_backup(shop, reason="test", triggered_by="test")
    restored = opened(shop, backup.backup_id)
    neon.refuse("POST", "/restore$", 422, message="the branch is protected")
    with pytest.raises(StageError, match=r"could not take the place of the live branch.*the branch is protected"):
        swap_in(shop, restored)
    execute(shop.database.url, "INSERT INTO orders (code) VALUES ('still open')")
    assert not has_swapped(shop)
    clean_up(shop)
    assert shop.database.branch(restored.name) is None


def test_a_restore_whose_answer_is_lost_has_happened_and_recovery_leaves_what_it_replaced(
    shop: Connections, neon: NeonEmulator
) -> None:
    backup_id, url = migrated(shop, "ALTER TABLE orders ADD COLUMN currency text")
    restored = opened(shop, backup_id)
    neon.lose("POST", "/restore$")
    swapped = swap_in(shop, restored)
    assert has_swapped(shop)
    assert query(url, "SELECT count(*), max(code) FILTER (WHERE id > 300) FROM orders") == [(300, "before")]
    restore_replacement(shop, backup_id, purpose="restored")
    clean_up(shop)
    points = shop.restore_points
    assert points is not None
    assert set(points.sizes(shop.database.name)) == {swapped.kept}


def test_a_rollback_past_its_restore_point_is_refused_with_the_horizon(shop: Connections, neon: NeonEmulator) -> None:
    commit(shop.repository.path, {"smoke.toml": SMOKE})
    shop.host.promote(shop.host.stage(shop.repository.resolve("main"), "v2").release_id)
    backup = create_backup(shop, reason="test", triggered_by="test")
    verify_backup(shop, backup.backup_id)
    request = RollbackRequest(RollbackScope.DB_ONLY, backup.backup_id, False, "bad", True, "somebody")
    assert plan_rollback(shop, request).backup is not None
    neon.pass_time(timedelta(days=40))
    with pytest.raises(RefusedError, match=r"which is gone; the provider's own history goes back 7 d"):
        plan_rollback(shop, request)


def test_a_branch_that_is_not_as_the_backup_says_takes_no_place(shop: Connections, neon: NeonEmulator) -> None:
    backup = create_backup(shop, reason="test", triggered_by="test")
    point = next(branch for branch in neon.branches.values() if branch.name == f"runbook-{backup.backup_id}")
    other = neon.add_branch("other")
    execute(shop.database.url, "DROP TABLE whole")
    point.states = other.states
    with pytest.raises(StageError, match="came back different"):
        restore_replacement(shop, backup.backup_id, purpose="restored")
