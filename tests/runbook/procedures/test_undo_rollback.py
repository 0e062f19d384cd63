"""Undoing a rollback, on a real Postgres; the application host is one in memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from click.testing import CliRunner

from deployments.cli import cli
from runbook.clients.application_host import Release
from runbook.clients.database_copies import allow_sessions, drop
from runbook.clients.embedded_postgres import EmbeddedPostgres
from runbook.clients.fingerprint import fingerprint
from runbook.clients.git import Repository
from runbook.clients.migration_history import MigrationHistory
from runbook.clients.migration_run import Script, run_together
from runbook.connections import Connections
from runbook.errors import InvalidInputError, RefusedError, StageError, TransientError
from runbook.manifest import Fingerprint
from runbook.procedures.changing import hold_of
from runbook.procedures.environment import drop_kept_database
from runbook.procedures.rollback import RollbackFailedError, RollbackStages, rollback
from runbook.procedures.undo_rollback import UNDO_STAGES, undo_rollback
from runbook.reports import DeployReport, FinalState, MigrateReport, RollbackReport, RollbackScope
from runbook.rules.checklist import Check, Outcome
from runbook.stages.backup import create_backup, verify_backup
from runbook.stages.kept import kept_databases
from runbook.stages.rollback import RollbackPlan, RollbackRequest, release_history
from runbook.stages.undo_rollback import UndoRequest, plan_undo
from tests.fakes.application_host import MemoryHost
from tests.runbook.helpers import commit, execute, query

FULL, APP_ONLY = RollbackScope.FULL, RollbackScope.APP_ONLY
SMOKE = '[[request]]\nname = "home"\npath = "/"\n'


def _verified(_connections: Connections, _plan: object) -> tuple[Check, ...]:
    return (Check("all", Outcome.PASSED, "as the test says"),)


def _fits(_connections: Connections, _release: Release, _tests: object) -> None:
    pass


def _switched(connections: Connections, release: Release) -> Release:
    return connections.host.roll_back(release.release_id)


def in_memory(stages: RollbackStages) -> RollbackStages:
    """Leave out what asks the application over HTTP."""
    return replace(
        stages,
        verify_rollback=_verified,
        probe_state=_verified,
        roll_back_release=_switched,
        smoke_release=_fits,
    )


@dataclass
class Shop:
    """A shop whose v2 has brought a migration; a backup was made before it, and orders came in since."""

    connections: Connections
    host: MemoryHost

    @property
    def url(self) -> str:
        return self.connections.database.url

    def look(self) -> Fingerprint:
        return fingerprint(self.connections.database, "schema_migrations")

    def look_at(self, name: str) -> Fingerprint:
        allow_sessions(self.connections.database, name, allowed=True)
        try:
            return fingerprint(self.connections.database, "schema_migrations", name=name)
        finally:
            allow_sessions(self.connections.database, name, allowed=False)

    def served(self) -> str:
        active = self.host.active()
        assert active is not None
        return active.version

    def roll_back(self, scope: RollbackScope = FULL, *, discard: bool = False) -> RollbackReport:
        request = RollbackRequest(scope, None, scope is not APP_ONLY, "SEV1", True, "mira", discard_writes=discard)
        return rollback(self.connections, request, in_memory(RollbackStages()))

    def undo(self, **stages: object) -> RollbackReport:
        request = UndoRequest("it was not the release", True, "ada")
        return undo_rollback(self.connections, request, replace(in_memory(UNDO_STAGES), **stages))  # pyright: ignore[reportArgumentType] - names of stages

    def plan(self) -> RollbackPlan:
        return plan_undo(self.connections, UndoRequest("it was not the release", False, "ada"))

    def deployed(self, version: str, sha: str) -> None:
        release = self.host.stage(sha, version)
        self.host.promote(release.release_id)
        self.connections.store.write_deploy(
            DeployReport(
                environment="test",
                timestamp=datetime.now(UTC),
                git_ref=version,
                git_sha=sha,
                version=version,
                release_id=release.release_id,
                reason="a test",
                triggered_by="tests",
                duration=1,
                success=True,
                state=FinalState.VERIFIED,
                steps=(),
            )
        )

    def migrate(self, name: str, sql: str) -> None:
        history = MigrationHistory(self.connections.database, self.connections.settings.migrations)
        with history.locked():
            run_together(history, [Script(name, f"{name}.sql", sql)])


@pytest.fixture
def shop(connections: Connections, repository: Repository) -> Shop:
    host = MemoryHost()
    made = Shop(replace(connections, host=host), host)
    made.deployed("v1", commit(repository.path, {"smoke.toml": SMOKE}))
    execute(
        made.url,
        "CREATE TABLE orders (id bigserial PRIMARY KEY, item text NOT NULL)",
        "CREATE TABLE visits (page text)",
        "INSERT INTO orders (item) SELECT 'item ' || number FROM generate_series(1, 100) number",
    )
    backup = create_backup(made.connections, reason="a test", triggered_by="tests")
    verify_backup(made.connections, backup.backup_id)
    column = "ALTER TABLE orders ADD COLUMN note text DEFAULT 'none';\n"
    made.migrate("0001_note", column)
    made.deployed("v2", commit(repository.path, {"migrations/0001_note.sql": column}))
    execute(made.url, "INSERT INTO orders (item, note) SELECT 'new', 'by v2' FROM generate_series(1, 10)")
    return made


def is_open(postgres: EmbeddedPostgres, name: str) -> bool:
    [(found,)] = query(postgres.url(), "SELECT datallowconn FROM pg_database WHERE datname = %s", name)
    return bool(found)


def test_undoing_a_full_rollback_brings_back_application_schema_and_rows(
    shop: Shop, postgres: EmbeddedPostgres, beside: Callable[[], list[str]]
) -> None:
    before = shop.look()
    rolled_back = shop.roll_back()
    after = shop.look()
    assert (shop.served(), after != before) == ("v1", True)
    undone = shop.undo()
    assert (shop.served(), shop.look()) == ("v2", before)
    assert (undone.success, undone.state, undone.undoes) == (True, FinalState.VERIFIED, rolled_back.timestamp)
    assert undone.kept_database is not None
    assert beside() == [undone.kept_database], "the other one is kept under a name of its own"
    assert not is_open(postgres, undone.kept_database)
    assert shop.look_at(undone.kept_database) == after


def test_the_environment_stays_held_until_somebody_releases_it(shop: Shop) -> None:
    shop.roll_back()
    shop.undo()
    hold = hold_of(shop.connections).current()
    assert hold is not None
    assert hold.reason.endswith("UTC was undone: it was not the release")
    assert (hold.by, hold.bad_version) == ("ada", None)


def test_what_was_written_since_the_rollback_is_carried_along_and_what_cannot_be_is_said(shop: Shop) -> None:
    shop.roll_back()
    execute(
        shop.url,
        "INSERT INTO orders (item) VALUES ('after the rollback')",
        "UPDATE orders SET item = 'changed' WHERE id = 105",
        "DELETE FROM orders WHERE id = 1",
        "INSERT INTO visits VALUES ('/')",
        "CREATE TABLE later (id int PRIMARY KEY)",
        "INSERT INTO later VALUES (1)",
    )
    shown = shop.plan().render()
    assert "public.orders: 2 rows\n" in shown
    assert "public.visits: 1 rows, LEFT in the database that is kept: nothing tells its rows apart" in shown
    assert "what was deleted since comes back" in shown
    undone = shop.undo()
    rows = query(shop.url, "SELECT id, item, note FROM orders WHERE id IN (1, 105, 110, 111) ORDER BY id")
    assert rows == [
        (1, "item 1", "none"),
        (105, "changed", "by v2"),
        (110, "new", "by v2"),
        (111, "after the rollback", "none"),
    ]
    assert query(shop.url, "SELECT nextval('orders_id_seq')") == [(112,)]
    assert undone.replay is not None
    [carried] = undone.replay.tables
    assert (carried.table, carried.inserted, carried.updated, carried.deleted) == ("public.orders", 1, 1, 0)
    assert sorted(undone.replay.left_behind) == ["public.later", "public.visits"]
    assert query(shop.url, "SELECT to_regnamespace('runbook_replay')") == [(None,)]


def test_after_a_rollback_that_discarded_writes_nothing_is_mixed(shop: Shop) -> None:
    before = shop.look()
    shop.roll_back(discard=True)
    execute(shop.url, "INSERT INTO orders (item) VALUES ('the same number as another order')")
    shown = shop.plan().render()
    assert "then only in the database that is kept:\n  - public.orders: 1 rows added or changed" in shown
    undone = shop.undo()
    assert shop.look() == before
    assert undone.replay is None
    assert [(one.table, one.rows) for one in undone.written] == [("public.orders", 1)]


def test_undoing_the_undoing_is_the_rollback_again(shop: Shop, beside: Callable[[], list[str]]) -> None:
    before = shop.look()
    shop.roll_back()
    after = shop.look()
    first = shop.undo()
    marks = {record.version: record.marked_bad for record in release_history(shop.connections.store.history())}
    assert marks == {"v1": False, "v2": False}
    execute(shop.url, "INSERT INTO orders (item, note) VALUES ('by v2 again', 'x')")
    second = shop.undo()
    assert second.undoes == first.timestamp
    assert (shop.served(), shop.look().schema_sha256) == ("v1", after.schema_sha256)
    assert query(shop.url, "SELECT item FROM orders WHERE id = 111") == [("by v2 again",)]
    marks = {record.version: record.marked_bad for record in release_history(shop.connections.store.history())}
    assert marks == {"v1": False, "v2": True}
    shop.undo()
    assert shop.look().schema_sha256 == before.schema_sha256
    assert query(shop.url, "SELECT count(*) FROM orders") == [(111,)]
    assert len(beside()) == 1


def test_undoing_a_rollback_of_the_application_touches_no_database(shop: Shop, beside: Callable[[], list[str]]) -> None:
    before = shop.look()
    shop.roll_back(APP_ONLY)
    undone = shop.undo()
    assert (shop.served(), shop.look(), undone.kept_database) == ("v2", before, None)
    assert beside() == []


def test_a_rollback_after_a_rollback_goes_further_back(shop: Shop, repository: Repository) -> None:
    shop.deployed("v3", commit(repository.path, {"version.txt": "v3"}))
    assert (shop.roll_back(APP_ONLY).to_version, shop.roll_back(APP_ONLY).to_version) == ("v2", "v1")
    shop.undo()
    assert shop.served() == "v2"
    assert shop.roll_back(APP_ONLY).to_version == "v1", "never to v3, which is marked bad"


@pytest.mark.parametrize("error", [StageError("bad result"), TransientError("no answer"), KeyboardInterrupt()])
def test_an_undoing_that_fails_puts_everything_back(
    shop: Shop, postgres: EmbeddedPostgres, beside: Callable[[], list[str]], error: BaseException
) -> None:
    before = shop.look()
    rolled_back = shop.roll_back()
    after = shop.look()
    failing = iter([error])

    def switch(connections: Connections, release: Release) -> Release:
        if problem := next(failing, None):
            raise problem
        return _switched(connections, release)

    with pytest.raises((RollbackFailedError, KeyboardInterrupt)):
        shop.undo(roll_back_release=switch)
    assert (shop.served(), shop.look()) == ("v1", after)
    assert beside() == [rolled_back.kept_database]
    assert not is_open(postgres, str(rolled_back.kept_database))
    report = shop.connections.store.history()[-1]
    assert isinstance(report, RollbackReport)
    assert (report.success, report.state, report.kept_database) == (False, FinalState.VERIFIED, None)
    execute(shop.url, "INSERT INTO orders (item) VALUES ('after that')")
    assert "public.orders: 1 rows\n" in shop.plan().render(), "what is written since the rollback is still known"
    shop.undo()
    assert (shop.served(), shop.look().schema_sha256) == ("v2", before.schema_sha256)
    assert query(shop.url, "SELECT item FROM orders WHERE id = 111") == [("after that",)]


def test_what_was_written_to_a_database_that_came_back_for_a_moment_is_not_overwritten(shop: Shop) -> None:
    kept = shop.roll_back().kept_database

    def switch(connections: Connections, release: Release) -> Release:
        if release.version == "v2":
            execute(shop.url, "INSERT INTO orders (item) VALUES ('while it was back')")
            raise StageError("bad result")
        return _switched(connections, release)

    with pytest.raises(RollbackFailedError, match=f"are only in {kept}, which is kept: public.orders 1"):
        shop.undo(roll_back_release=switch)
    execute(shop.url, "INSERT INTO orders (item) VALUES ('the same number as another order')")
    assert "then only in the database that is kept:\n  - public.orders: 1 rows" in shop.plan().render()
    shop.undo()
    assert query(shop.url, "SELECT item FROM orders WHERE id = 111") == [("while it was back",)]


def test_a_swap_back_that_does_not_happen_closes_the_kept_database_again(
    shop: Shop, postgres: EmbeddedPostgres, beside: Callable[[], list[str]]
) -> None:
    rolled_back = shop.roll_back()

    def swap_in(connections: Connections, kept: object) -> object:
        allow_sessions(connections.database, str(rolled_back.kept_database), allowed=True)
        raise StageError("the names did not change")

    with pytest.raises(RollbackFailedError, match="undo of rollback full failed: the names did not change"):
        shop.undo(swap_in=swap_in)
    assert beside() == [rolled_back.kept_database]
    assert not is_open(postgres, str(rolled_back.kept_database))


def test_without_a_rollback_there_is_nothing_to_undo(shop: Shop) -> None:
    with pytest.raises(RefusedError, match="no rollback of test is on record"):
        shop.undo()


def test_a_kept_database_that_is_gone_cannot_come_back(shop: Shop) -> None:
    kept = shop.roll_back().kept_database
    drop_kept_database(shop.connections, str(kept), by="ada")
    with pytest.raises(RefusedError, match=f"{kept} is gone.*db:backups"):
        shop.undo()


def test_after_a_deploy_or_a_migration_the_rollback_cannot_be_undone(shop: Shop, repository: Repository) -> None:
    shop.roll_back()
    shop.migrate("0002_parcels", "CREATE TABLE parcels (id int)")
    with pytest.raises(RefusedError, match=r"migrations were applied or marked since.*db:kept:drop"):
        shop.undo()
    made = MigrateReport(
        environment="test",
        timestamp=datetime.now(UTC),
        git_ref="main",
        git_sha="c" * 40,
        dry_run=False,
        migrations=("0002_parcels",),
        reason="a test",
        triggered_by="tests",
        duration=1,
        success=True,
        state=FinalState.VERIFIED,
        steps=(),
    )
    shop.connections.store.write_migrate(made)
    shop.deployed("v3", commit(repository.path, {"version.txt": "v3"}))
    with pytest.raises(RefusedError, match=r"the deploy of v3, the migration 0002_parcels came after"):
        shop.undo()


def test_a_release_that_the_host_has_forgotten_cannot_get_the_traffic_back(shop: Shop) -> None:
    shop.roll_back(APP_ONLY)
    del shop.host.known["r2"]
    with pytest.raises(RefusedError, match="the host does not know a release of"):
        shop.undo()


def test_a_release_that_somebody_switched_since_is_not_overruled(shop: Shop) -> None:
    shop.roll_back(APP_ONLY)
    shop.host.promote("r2")
    with pytest.raises(RefusedError, match="v2 has the traffic, not v1"):
        shop.undo()


def test_without_consent_the_quote_is_shown_and_nothing_is_changed(shop: Shop) -> None:
    kept = shop.roll_back().kept_database
    with pytest.raises(RefusedError, match=f"{kept} is swapped back(?s:.*)Pass --yes"):
        undo_rollback(shop.connections, UndoRequest("why", False, "ada"), in_memory(UNDO_STAGES))
    assert shop.served() == "v1"


def test_the_terminal_shows_the_quote_and_asks_for_the_name_of_the_environment(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[str] = []

    def connect(_environment: str) -> Connections:
        return shop.connections

    def run_deployment(flow: str, environment: str, _parameters: object) -> None:
        started.append(f"{flow}/{environment}")

    monkeypatch.setattr("deployments.cli.connect", connect)
    monkeypatch.setattr("deployments.cli.run_deployment", run_deployment)
    kept = shop.roll_back().kept_database
    argv = ["deploy:rollback:undo", "--environment=test", "--reason=too soon"]
    refused = CliRunner().invoke(cli, argv, input="production\n")
    assert (refused.exit_code, started) == (3, [])
    assert f"{kept} is swapped back" in refused.output
    assert CliRunner().invoke(cli, argv, input="test\n").exit_code == 0
    assert started == ["undo-rollback/test"]


def test_kept_databases_are_listed_and_dropped_on_purpose_only(
    shop: Shop, beside: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def connect(_environment: str) -> Connections:
        return shop.connections

    monkeypatch.setattr("deployments.database_commands.connect", connect)
    kept = str(shop.roll_back().kept_database)
    execute(shop.connections.database.url_of("postgres"), f"CREATE DATABASE {shop.connections.database.name}_other")
    [found] = kept_databases(shop.connections)
    listed = CliRunner().invoke(cli, ["db:kept"]).output
    assert listed == f"{found.render()}\n"
    assert listed.startswith(kept)
    assert "of the rollback full of" in listed
    shown = CliRunner().invoke(cli, ["db:kept:drop", f"--name={kept}"])
    assert (shown.exit_code, kept in beside()) == (3, True)
    assert "Pass --yes to drop it" in shown.output
    dropped = CliRunner().invoke(cli, ["db:kept:drop", f"--name={kept}", "--yes"])
    assert (dropped.exit_code, kept in beside()) == (0, False)
    [run] = (Path(shop.connections.settings.records) / "journal" / "test").glob("drop-kept_*")
    assert f'"database": "{kept}"' in (run / "0002.json").read_text()
    assert CliRunner().invoke(cli, ["db:kept"]).output == "no database is kept\n"


@pytest.mark.parametrize("suffix", ["", "_other", "_before_rollback_20250104", "_prepared_20250104_120000"])
def test_what_is_no_kept_database_of_the_environment_is_never_dropped(shop: Shop, suffix: str) -> None:
    name = f"{shop.connections.database.name}{suffix}"
    if suffix:
        execute(shop.connections.database.url_of("postgres"), f"CREATE DATABASE {name}")
    with pytest.raises(InvalidInputError, match=r"there is none.*db:kept"):
        drop_kept_database(shop.connections, name, by="ada")
    assert query(shop.connections.database.url_of(name), "SELECT 1") == [(1,)]


def test_a_database_left_by_a_swap_that_was_undone_counts_as_kept(shop: Shop) -> None:
    name = f"{shop.connections.database.name}_undone_20250104_120000_000000"
    execute(shop.connections.database.url_of("postgres"), f"CREATE DATABASE {name}")
    [found] = kept_databases(shop.connections)
    assert (found.name, found.at) == (name, datetime(2025, 1, 4, 12, tzinfo=UTC))
    assert "of no rollback on record" in found.render()
    drop_kept_database(shop.connections, name, by="ada")
    assert kept_databases(shop.connections) == ()


def test_of_a_name_that_had_to_be_cut_only_what_a_run_of_the_environment_kept_is_listed(
    shop: Shop, postgres: EmbeddedPostgres
) -> None:
    long = f"{shop.connections.database.name}_with_a_very_long_name_indeed"
    execute(postgres.url(), f"CREATE DATABASE {long} TEMPLATE {shop.connections.database.name}")
    shop.connections = replace(shop.connections, database=replace(shop.connections.database, url=postgres.url(long)))
    kept = shop.roll_back(discard=True).kept_database
    other = f"{shop.connections.database.short(long)}_before_rollback_20250104_120000_000000"
    execute(postgres.url(), f"CREATE DATABASE {other}")
    assert [found.name for found in kept_databases(shop.connections)] == [kept]
    drop(shop.connections.database, other)
