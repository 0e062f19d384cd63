from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import cast

import pytest

from runbook.clients.embedded_postgres import EmbeddedPostgres
from runbook.clients.postgres import Database
from runbook.clients.write_capture import end_capture
from runbook.connections import Connections
from runbook.errors import InvalidInputError, RefusedError
from runbook.manifest import Fingerprint, Verification, VerificationState
from runbook.reports import (
    DeployReport,
    FinalState,
    Legality,
    RollbackReport,
    RollbackScope,
    RollbackVerdict,
)
from runbook.rules.identifiers import new_backup_id
from runbook.settings import ReplayMethod
from runbook.stages.backup import create_backup, verify_backup
from runbook.stages.rollback import RollbackPlan, RollbackRequest, plan_rollback
from tests.fakes.application_host import MemoryHost
from tests.runbook.helpers import commit, execute
from tests.runbook.manifests import manifest

FULL, APP_ONLY, DB_ONLY = RollbackScope.FULL, RollbackScope.APP_ONLY, RollbackScope.DB_ONLY
VERIFIED, UNVERIFIED, FAILED = VerificationState.VERIFIED, VerificationState.UNVERIFIED, VerificationState.FAILED
START = datetime(2025, 1, 4, 12, tzinfo=UTC)
EMPTY = Fingerprint(schema_sha256="0", tables={}, migrations=())


@dataclass
class Shop:
    """An environment with a past: each deploy makes a commit, a backup before it, a release and a report."""

    connections: Connections
    host: MemoryHost
    minutes: int = 0
    shas: dict[str, str] = field(default_factory=dict[str, str])

    def now(self) -> datetime:
        self.minutes += 1
        return START + timedelta(minutes=self.minutes)

    def commit(self, version: str, migration: str | None = None) -> str:
        files = {"version.txt": version, "smoke.toml": f'[[request]]\nname = "{version}"\npath = "/"\n'}
        if migration:
            files[f"migrations/{migration}.sql"] = "SELECT 1;"
        self.shas[version] = commit(self.connections.repository.path, files, version)
        return self.shas[version]

    def back_up(
        self, state: VerificationState = VERIFIED, *, migrations: tuple[str, ...] = (), found: Fingerprint = EMPTY
    ) -> str:
        at = self.now()
        active = self.host.active()
        backup_id = new_backup_id(at)
        self.connections.store.reserve(backup_id, triggered_by="test", at=at)
        made = manifest(
            backup_id,
            created_at=at,
            active_git_sha=active.git_sha if active else None,
            fingerprint=found.model_copy(update={"migrations": migrations}),
            verification=Verification(state=state, at=at, restore_s=2.5, detail="as the test says"),
        )
        self.connections.store.publish(made)
        return backup_id

    def deploy(
        self,
        version: str,
        state: FinalState = FinalState.VERIFIED,
        *,
        success: bool = True,
        migration: str | None = None,
        verdict: tuple[RollbackVerdict, ...] = (),
    ) -> str:
        """Deploy a version, a new one or one known already; return the id of the backup made before it."""
        sha = self.shas.get(version) or self.commit(version, migration)
        backup_id = self.back_up()
        release = self.host.stage(sha, version)
        if success:
            self.host.promote(release.release_id)
        report = DeployReport(
            environment="test",
            timestamp=self.now(),
            git_ref=version,
            git_sha=sha,
            version=version,
            release_id=release.release_id,
            backup_id=backup_id,
            reason="test",
            triggered_by="test",
            duration=1,
            success=success,
            state=state,
            steps=(),
            verdict=verdict,
        )
        self.connections.store.write_deploy(report)
        return backup_id

    def rolled_back(self, bad: str, to: str, *, success: bool = True) -> None:
        """Write down that a rollback took the traffic from one version and gave it to another."""
        if success:
            [release] = [release for release in self.host.releases() if release.version == to]
            self.host.promote(release.release_id)
        report = RollbackReport(
            environment="test",
            timestamp=self.now(),
            scope=APP_ONLY,
            reason="test",
            triggered_by="test",
            from_git_sha=self.shas[bad],
            to_git_sha=self.shas[to],
            duration=1,
            success=success,
            state=FinalState.VERIFIED,
            steps=(),
        )
        self.connections.store.write_rollback(report)

    def plan(self, scope: RollbackScope, backup_id: str | None = None, *, latest: bool = False) -> RollbackPlan:
        request = RollbackRequest(scope, backup_id, latest, "SEV1", True, "mira")
        return plan_rollback(self.connections, request)

    def target(self, scope: RollbackScope = APP_ONLY, backup_id: str | None = None, *, latest: bool = False) -> str:
        plan = self.plan(scope, backup_id, latest=latest)
        assert plan.target is not None
        return plan.target.version


@pytest.fixture(scope="module")
def shared(postgres: EmbeddedPostgres) -> Database:
    execute(postgres.url(), "CREATE DATABASE rollback_plan")
    return Database(postgres.url("rollback_plan"))


@pytest.fixture
def database(shared: Database) -> Database:
    """The same database for every test of this file, emptied: nothing here makes another one beside it."""
    execute(shared.url, "DROP SCHEMA public CASCADE", "CREATE SCHEMA public")
    return shared


@pytest.fixture
def shop(connections: Connections) -> Shop:
    host = cast("MemoryHost", connections.host)
    host.known.clear()
    host.active_id = None
    connections.store.check()
    return Shop(connections, host)


def test_the_application_goes_back_to_the_last_verified_release(shop: Shop) -> None:
    shop.deploy("v1")
    shop.deploy("v2", FinalState.UNVERIFIED)
    shop.deploy("v3", success=False)
    shop.deploy("v4")
    plan = shop.plan(APP_ONLY)
    assert plan.target is not None
    assert (plan.active.version, plan.target.version) == ("v4", "v1")
    assert (plan.backup, plan.data_loss) == (None, ())
    assert [test.name for test in plan.smoke_tests] == ["v1"], "the target's own smoke tests"


def verdict(**legality: Legality) -> tuple[RollbackVerdict, ...]:
    """What a deploy found out about the scopes `full` and `app_only`."""
    scopes = {"full": FULL, "app_only": APP_ONLY}
    return tuple(
        RollbackVerdict(scope=scopes[name], legality=value, evidence=(f"seen of {name}",), cost="something")
        for name, value in legality.items()
    )


def test_a_rollback_that_the_deploy_has_shown_not_to_work_is_refused_with_what_is_left(shop: Shop) -> None:
    shop.deploy("v1")
    shop.deploy("v2", verdict=verdict(full=Legality.LEGAL, app_only=Legality.ILLEGAL))
    with pytest.raises(RefusedError, match=r"app-only of v2 does not work: seen of app_only\. What is left: full"):
        shop.plan(APP_ONLY)
    assert shop.plan(FULL, latest=True).target is not None


@pytest.mark.parametrize("legality", [Legality.LEGAL, Legality.UNPROVEN])
def test_a_plan_shows_what_the_deploy_found_out(shop: Shop, legality: Legality) -> None:
    shop.deploy("v1")
    shop.deploy("v2", verdict=verdict(app_only=legality))
    assert f"this was {legality}: seen of app_only" in shop.plan(APP_ONLY).render()


def test_a_release_that_was_rolled_back_is_not_gone_back_to(shop: Shop) -> None:
    for version in ("v1", "v2", "v3"):
        shop.deploy(version)
    shop.rolled_back("v3", to="v2")
    shop.deploy("v4")
    assert shop.target() == "v2"


def test_a_rollback_that_failed_marks_no_release_bad(shop: Shop) -> None:
    for version in ("v1", "v2"):
        shop.deploy(version)
    shop.rolled_back("v2", to="v1", success=False)
    shop.deploy("v3")
    assert shop.target() == "v2"


def test_a_release_that_was_deployed_again_and_verified_is_no_longer_bad(shop: Shop) -> None:
    for version in ("v1", "v2"):
        shop.deploy(version)
    shop.rolled_back("v2", to="v1")
    shop.deploy("v2")
    before = shop.deploy("v3")
    assert shop.target() == "v2"
    assert shop.target(FULL, before) == "v2"


def test_a_release_that_was_deployed_again_and_not_verified_stays_bad(shop: Shop) -> None:
    for version in ("v1", "v2"):
        shop.deploy(version)
    shop.rolled_back("v2", to="v1")
    shop.deploy("v2", FinalState.UNVERIFIED)
    shop.deploy("v3")
    assert shop.target() == "v1"


def test_a_first_release_has_nothing_to_go_back_to(shop: Shop) -> None:
    shop.deploy("v1")
    with pytest.raises(RefusedError, match="it is the first one recorded"):
        shop.plan(APP_ONLY)


def test_a_full_rollback_goes_back_to_the_release_of_the_backup(shop: Shop) -> None:
    shop.deploy("v1")
    of_v1 = shop.deploy("v2")
    of_v2 = shop.deploy("v3")
    assert shop.target(FULL, of_v2) == "v2"
    assert shop.target(FULL, of_v1) == "v1"
    assert shop.target(FULL, latest=True) == "v2"
    plan = shop.plan(FULL, of_v1)
    assert plan.backup is not None
    assert plan.backup.backup_id == of_v1
    assert [test.name for test in plan.smoke_tests] == ["v1"]


def test_a_full_rollback_skips_backups_of_the_bad_release_and_unproven_ones(shop: Shop) -> None:
    shop.deploy("v1")
    before = shop.deploy("v2")
    shop.host.roll_back("r1")
    shop.back_up(UNVERIFIED)
    shop.back_up(FAILED)
    shop.host.promote("r2")
    shop.back_up()
    backup = shop.plan(FULL, latest=True).backup
    assert backup is not None
    assert backup.backup_id == before


def test_the_database_alone_goes_back_to_the_newest_proven_backup(shop: Shop) -> None:
    shop.deploy("v1")
    newest = shop.back_up()
    shop.back_up(UNVERIFIED)
    plan = shop.plan(DB_ONLY, latest=True)
    assert plan.backup is not None
    assert plan.backup.backup_id == newest
    assert plan.target is None
    assert [test.name for test in plan.smoke_tests] == ["v1"]


@pytest.mark.parametrize("scope", [FULL, DB_ONLY])
def test_without_a_proven_backup_there_is_nothing_to_restore(shop: Shop, scope: RollbackScope) -> None:
    shop.commit("v1")
    shop.host.promote(shop.host.stage(shop.shas["v1"], "v1").release_id)
    shop.back_up(UNVERIFIED)
    with pytest.raises(RefusedError, match="no verified backup to go back to"):
        shop.plan(scope, latest=True)


@pytest.mark.parametrize("state", [UNVERIFIED, FAILED])
@pytest.mark.parametrize("scope", [FULL, DB_ONLY])
def test_a_backup_that_is_not_proven_is_refused_by_name(
    shop: Shop, scope: RollbackScope, state: VerificationState
) -> None:
    shop.deploy("v1")
    backup_id = shop.back_up(state)
    with pytest.raises(RefusedError, match=f"{backup_id} is {state}: as the test says"):
        shop.plan(scope, backup_id)


def test_a_full_rollback_with_a_backup_of_the_running_release_is_refused(shop: Shop) -> None:
    shop.deploy("v1")
    backup_id = shop.back_up()
    with pytest.raises(RefusedError, match=r"made while v1 was active already.*or the scope db-only"):
        shop.plan(FULL, backup_id)


@pytest.mark.parametrize("state", [FinalState.UNVERIFIED, FinalState.DIVERGED])
def test_a_full_rollback_to_a_release_nobody_verified_is_refused(shop: Shop, state: FinalState) -> None:
    shop.deploy("v1", state)
    backup_id = shop.deploy("v2")
    with pytest.raises(RefusedError, match="not recorded as VERIFIED"):
        shop.plan(FULL, backup_id)


def test_a_full_rollback_to_before_the_first_release_is_refused(shop: Shop) -> None:
    backup_id = shop.deploy("v1")
    with pytest.raises(RefusedError, match="no release was active when"):
        shop.plan(FULL, backup_id)


def test_a_backup_without_a_migration_that_the_release_needs_is_refused(shop: Shop) -> None:
    shop.deploy("v1")
    before = shop.deploy("v2", migration="0001_add_channel")
    with pytest.raises(RefusedError, match=r"v2 cannot use the schema of .*: it was made before 0001_add_channel"):
        shop.plan(DB_ONLY, before)
    assert shop.target(FULL, before) == "v1"
    after = shop.back_up(migrations=("0001_add_channel",))
    assert shop.plan(DB_ONLY, after).backup is not None


@pytest.mark.parametrize(
    ("scope", "backup_id", "latest", "said"),
    [
        pytest.param(APP_ONLY, "backup_20250104_120000", False, "Leave it out, or choose", id="app-only, a backup"),
        pytest.param(FULL, "backup_20250104_120000", True, "Leave one of them out", id="full, both"),
        pytest.param(DB_ONLY, "backup_20250104_120000", True, "Leave one of them out", id="db-only, both"),
        pytest.param(FULL, None, False, "Add --latest or --backup-id", id="full, neither"),
        pytest.param(DB_ONLY, None, False, "Add --latest or --backup-id", id="db-only, neither"),
        pytest.param(FULL, "../../etc/passwd", False, "backup_YYYYMMDD_HHMMSS", id="a path"),
        pytest.param(DB_ONLY, "backup_20251304_120000", False, "backup_YYYYMMDD_HHMMSS", id="month 13"),
        pytest.param(
            FULL, "backup_20010101_000000", False, "a backup in the store, newest first: backup_", id="unknown"
        ),
    ],
)
def test_options_that_do_not_fit_are_refused_with_what_to_do(
    shop: Shop, scope: RollbackScope, backup_id: str | None, latest: bool, said: str
) -> None:
    shop.deploy("v1")
    shop.deploy("v2")
    with pytest.raises(InvalidInputError) as caught:
        shop.plan(scope, backup_id, latest=latest)
    assert said in str(caught.value)


@pytest.mark.parametrize("scope", RollbackScope)
def test_without_a_release_there_is_nothing_to_roll_back(shop: Shop, scope: RollbackScope) -> None:
    with pytest.raises(RefusedError, match="no release has the traffic"):
        shop.plan(scope, latest=scope is not APP_ONLY)


def test_a_target_without_smoke_tests_is_refused_in_words(shop: Shop) -> None:
    shop.deploy("v1")
    shop.deploy("v2")
    settings = shop.connections.settings.model_copy(update={"smoke_file": "other.toml"})
    shop.connections = replace(shop.connections, settings=settings)
    with pytest.raises(InvalidInputError, match=f"other.toml.*a file of commit {shop.shas['v1'][:12]}"):
        shop.plan(APP_ONLY)


def test_the_plan_says_what_would_be_lost_in_rows(shop: Shop) -> None:
    shop.deploy("v1")
    database = shop.connections.database
    execute(database.url, "CREATE TABLE orders (id int PRIMARY KEY)", "CREATE TABLE settings (id int)")
    execute(database.url, "INSERT INTO orders SELECT generate_series(1, 100)")
    made = create_backup(shop.connections, reason="test", triggered_by="mira", capture=True)
    backup_id = verify_backup(shop.connections, made.backup_id).backup_id
    assert "Loses 0 rows: nothing was written since that backup" in shop.plan(DB_ONLY, backup_id).render()
    execute(database.url, "INSERT INTO orders SELECT generate_series(101, 107)")
    plan = shop.plan(DB_ONLY, backup_id)
    [loss] = plan.data_loss
    assert (loss.inserted, loss.updated, loss.deleted, loss.is_exact) == (7, 0, 0, True)
    shown = plan.render()
    assert "public.orders: 7 inserted, 0 updated, 0 deleted; 107 rows now, 100 in the backup" in shown
    assert "Time to restore: about" in shown
    assert "as the restore of this very backup took" in shown
    end_capture(database, backup_id)
    assert "Application" not in shown


@pytest.mark.parametrize("discard", [True, False])
def test_without_a_migration_since_the_database_alone_goes_back_to_the_rows_of_the_backup(
    shop: Shop, discard: bool
) -> None:
    shop.deploy("v1")
    database = shop.connections.database
    execute(database.url, "CREATE TABLE orders (id int PRIMARY KEY)")
    backup_id = shop.back_up()
    execute(database.url, "INSERT INTO orders SELECT generate_series(1, 7)")
    request = RollbackRequest(DB_ONLY, backup_id, False, "corrupt rows", True, "mira", discard_writes=discard)
    plan = plan_rollback(shop.connections, request)
    assert (plan.method, plan.is_rewind) == (ReplayMethod.NONE, True)
    shown = plan.render()
    assert "LOSES 7 rows: all that was written since that backup. No migration was applied since" in shown
    assert "kept, closed; `runbook deploy:rollback:undo` swaps it back" in shown
    assert "--discard-writes" not in shown


def test_with_a_migration_since_the_database_alone_replays_unless_told_otherwise(shop: Shop) -> None:
    shop.deploy("v1")
    database = shop.connections.database
    execute(database.url, "CREATE TABLE orders (id int PRIMARY KEY)")
    backup_id = shop.back_up()
    execute(
        database.url,
        "CREATE TABLE schema_migrations (migration_name text, status text)",
        "INSERT INTO schema_migrations VALUES ('0001_a', 'completed')",
        "INSERT INTO orders SELECT generate_series(1, 7)",
    )
    plan = shop.plan(DB_ONLY, backup_id)
    assert (plan.method, plan.is_rewind) == (ReplayMethod.DIFFERENCE, False)
    assert "--discard-writes goes back to the rows of the backup; loses" in plan.render()
    request = RollbackRequest(DB_ONLY, backup_id, False, "corrupt rows", True, "mira", discard_writes=True)
    plan = plan_rollback(shop.connections, request)
    assert (plan.method, plan.is_rewind) == (ReplayMethod.NONE, False)
    assert "without --discard-writes the writes are replayed; loses" in plan.render()


def test_a_full_rollback_shows_every_other_way_with_its_loss(shop: Shop) -> None:
    shop.deploy("v1")
    shop.deploy("v2", verdict=verdict(full=Legality.LEGAL, app_only=Legality.LEGAL))
    execute(shop.connections.database.url, "CREATE TABLE orders (id int PRIMARY KEY)", "INSERT INTO orders VALUES (1)")
    shown = shop.plan(FULL, latest=True).render()
    assert "Instead: --app-only takes the application back to v1; loses 0 rows (legal: seen of app_only)." in shown
    assert "Instead: --db-only keeps v2 on the schema of backup_" in shown
    assert "Instead: --discard-writes goes back to the rows of the backup; loses 1 row." in shown


def test_a_full_rollback_says_which_other_ways_there_are_not(shop: Shop) -> None:
    shop.deploy("v1")
    shop.deploy("v2", verdict=verdict(full=Legality.LEGAL, app_only=Legality.ILLEGAL), migration="0001_a")
    shown = shop.plan(FULL, latest=True).render()
    assert "Instead: not --app-only: a rollback app-only of v2 does not work: seen of app_only" in shown
    assert "--db-only" not in shown, "v2 cannot use the schema of the backup"


def test_discarding_writes_makes_no_sense_for_the_application_alone(shop: Shop) -> None:
    shop.deploy("v1")
    with pytest.raises(InvalidInputError, match="discard_writes"):
        plan_rollback(
            shop.connections, RollbackRequest(APP_ONLY, None, False, "slow", True, "mira", discard_writes=True)
        )


def test_the_plan_for_the_application_alone_promises_no_loss(shop: Shop) -> None:
    shop.deploy("v1")
    shop.deploy("v2")
    shown = shop.plan(APP_ONLY).render()
    assert "back to v1" in shown
    assert "lost" not in shown.lower()
