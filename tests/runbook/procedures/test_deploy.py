from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import cast

import pytest

from runbook.clients.application_host import ApplicationHost, Release, ReleaseState, RequestMetrics
from runbook.clients.backup_store import BackupStore
from runbook.clients.folder_store import FolderStore
from runbook.clients.git import Repository
from runbook.clients.migration_history import State
from runbook.clients.postgres import Database
from runbook.connections import Connections
from runbook.errors import DivergedError, RefusedError, RunbookError, StageError, TransientError
from runbook.manifest import BackupManifest, Fingerprint
from runbook.procedures.deploy import DeployFailedError, DeployRequest, DeployStages, deploy
from runbook.reports import (
    DeployReport,
    FinalState,
    Legality,
    Rehearsal,
    RollbackScope,
    StepStatus,
    TableLoss,
    UndoEvidence,
    UndoOutcome,
)
from runbook.rules.checklist import Check, Outcome
from runbook.rules.migration_files import Migration
from runbook.rules.migration_names import Phase
from runbook.rules.migration_steps import Step
from runbook.rules.release_watch import Verdict
from runbook.rules.smoke import SmokeTest
from runbook.rules.thresholds import Action
from runbook.settings import MigrationSettings, RollbackSettings, Settings
from runbook.stages.checklist import ChecklistFailedError, ReleasePlan
from runbook.stages.health import WatchResult
from runbook.stages.migration_plan import MigrationPlan
from runbook.stages.record import record_deploy
from runbook.stages.restore import RestoredDatabase, Swap
from runbook.stages.test_suite import TestReport
from tests.runbook.manifests import manifest

OLD, NEW = "a" * 40, "b" * 40
BACKUP = "backup_20250104_120000"
AT = datetime(2025, 1, 4, 12, tzinfo=UTC)
BEFORE = ("0001_create",)
PENDING = ("0002_add_column", "0003_add_index")

BEFORE_PROMOTION = ("test suite", "backup", "proof", "rehearsal", "migration", "verification", "staging", "smoke tests")
FROM_PROMOTION_ON = ("promotion", "validation", "watch")
ERRORS = (
    pytest.param(StageError("bad result"), id="bad result"),
    pytest.param(TransientError("no answer"), id="no answer"),
    pytest.param(OSError("disk full"), id="unforeseen"),
    pytest.param(KeyboardInterrupt(), id="cancelled"),
)


@dataclass(frozen=True)
class Content:
    migrations: tuple[str, ...]
    rows: int


@dataclass
class World:
    """What a deploy acts on. Stages change it, and the final probe looks at it and at nothing else."""

    served: str | None = OLD
    databases: dict[str, Content] = field(default_factory=lambda: {"shop": Content(BEFORE, 100)})
    backups: dict[str, Content] = field(default_factory=dict[str, Content])
    captures: list[str] = field(default_factory=lambda: ["an earlier one"])
    staged: list[str] = field(default_factory=list[str])
    messages: list[tuple[str, str, str]] = field(default_factory=list[tuple[str, str, str]])
    calls: list[str] = field(default_factory=list[str])
    pending: tuple[str, ...] = PENDING
    second_half: tuple[str, ...] = ()
    rehearsal: Rehearsal | None = None
    down_scripts: bool = True
    breaks_before: dict[str, BaseException] = field(default_factory=dict[str, BaseException])
    breaks_after: dict[str, BaseException] = field(default_factory=dict[str, BaseException])
    validation: tuple[Check, ...] = ()
    verdict: Verdict = Verdict.HEALTHY
    verdicts: list[Verdict] = field(default_factory=list[Verdict])
    stages: list[str] = field(default_factory=list[str])

    def act(self, stage: str, effect: Callable[[], None] = lambda: None) -> None:
        self.calls.append(stage)
        if error := self.breaks_before.get(stage):
            raise error
        effect()
        if error := self.breaks_after.get(stage):
            raise error

    @property
    def live(self) -> Content:
        return self.databases["shop"]

    def migrate(self, migrations: tuple[str, ...]) -> None:
        self.databases["shop"] = replace(self.live, migrations=migrations)

    def serve(self, sha: str) -> None:
        self.served = sha


def release(sha: str) -> Release:
    return Release(f"r-{sha[:4]}", sha, f"v-{sha[:1]}", "http://private.test", ReleaseState.READY, AT, None)


def plan_of(world: World) -> ReleasePlan:
    found = tuple(Migration(name, f"migrations/{name}.sql", (0, int(name[:4]))) for name in BEFORE + world.pending)
    steps = tuple(
        Step((migration,), transactional=True, reason="") for migration in found if migration.name in world.pending
    )
    later = tuple(
        Step((Migration(name, "", (0, 9), Phase.POST),), transactional=True, reason="") for name in world.second_half
    )
    migrations = MigrationPlan(NEW, found, BEFORE, steps, later, {})
    return ReleasePlan("main", NEW, "v-b", world.served, migrations, ())


def rehearsal(**changes: object) -> Rehearsal:
    """A rehearsal in which everything went well."""
    found = Rehearsal(
        backup_id=BACKUP,
        restore_s=1.0,
        migrations=PENDING,
        duration_s=0.1,
        wal_bytes=1,
        statements=(),
        blocked=(),
        call_rates="",
        schema_sha256_pre="1",
        schema_sha256_post=None,
        undo=UndoEvidence(outcome=UndoOutcome.RESTORES, detail="schema and rows are as before"),
        compatible=True,
        compatible_at_end=True,
        compatibility=(),
    )
    return found.model_copy(update=changes)


def made_before() -> BackupManifest:
    return manifest(
        BACKUP,
        environment="production",
        active_git_sha=OLD,
        fingerprint=Fingerprint(schema_sha256="0", tables={}, migrations=BEFORE),
        restore_by_hand=("createdb shop_restored", "pg_restore --dbname=shop_restored dump"),
    )


@dataclass
class Stages:
    """The stages of a deploy, acting on a world instead of on servers."""

    world: World

    def plan_release(self, _: Connections, git_ref: str) -> tuple[ReleasePlan, tuple[str, ...]]:
        self.world.act("checklist")
        return plan_of(self.world), ("no OPENAI_API_KEY",)

    def run_test_suite(self, _: Connections, git_sha: str) -> TestReport:
        self.world.act("test suite")
        return TestReport(git_sha=git_sha, results=())

    def create_backup(self, _: Connections, *, reason: str, triggered_by: str, capture: bool) -> BackupManifest:
        assert capture
        self.world.captures.append(BACKUP)
        self.world.act("backup", lambda: self.world.backups.update({BACKUP: self.world.live}))
        self.world.databases["shop"] = replace(self.world.live, rows=self.world.live.rows + 7)  # users keep writing
        return made_before()

    def verify_backup(self, _: Connections, backup_id: str) -> BackupManifest:
        self.world.act("backup verification")
        return made_before()

    def prove_by_copy(self, _: Connections, backup_id: str) -> RestoredDatabase:
        self.world.act("proof", lambda: self.world.databases.update({"shop_rehearsal": self.world.backups[backup_id]}))
        return RestoredDatabase("shop_rehearsal", backup_id, 1.0)

    def rehearse_migrations(self, _: Connections, plan: MigrationPlan, copy: RestoredDatabase) -> Rehearsal:
        try:
            self.world.act("rehearsal")
        finally:
            self.world.databases.pop(copy.name)
        return self.world.rehearsal or rehearsal()

    def drop_copies(self, _: Connections) -> None:
        self.world.databases.pop("shop_rehearsal", None)

    def schema_state(self, _: Connections) -> State:
        return State(frozenset(), frozenset())

    def begun_migrations(self, _: Connections) -> tuple[str, ...]:
        return self.world.live.migrations

    def verify_migrations(self, *_: object, phase: Phase) -> tuple[Check, ...]:
        self.world.act("verification" if phase is Phase.PRE else "verification of the second half")
        return ()

    def copy_backup(self, _: Connections, backup_id: str) -> str | None:
        self.world.act("second copy")
        return "elsewhere"

    def apply_migrations(self, _: Connections, plan: MigrationPlan, *, phase: Phase) -> tuple[str, ...]:
        names = tuple(migration.name for migration in plan.migrations(phase))
        if phase is Phase.POST:
            self.world.act("second half", lambda: self.world.migrate(self.world.live.migrations + names))
            return names
        # The worst that can happen: the first step is committed when the second one breaks.
        self.world.migrate((*BEFORE, names[0]))
        self.world.act("migration", lambda: self.world.migrate(BEFORE + names))
        return names

    def undo_migrations(self, _: Connections, plan: MigrationPlan, before: Fingerprint) -> tuple[str, ...]:
        left = [name for name in self.world.live.migrations if name in plan.pending]
        if left and not self.world.down_scripts:
            raise StageError(f"no down script for {', '.join(left)}")
        self.world.act("undo migrations", lambda: self.world.migrate(before.migrations))
        return tuple(reversed(left))

    def restore_replacement(self, _: Connections, backup_id: str, *, purpose: str) -> RestoredDatabase:
        fill = lambda: self.world.databases.update({"shop_restored": self.world.backups[backup_id]})  # noqa: E731
        self.world.act("restore", fill)
        return RestoredDatabase("shop_restored", backup_id, 1.0)

    def quote_loss(self, _: Connections, backup_id: str) -> tuple[TableLoss, ...]:
        then = self.world.backups[backup_id].rows
        return (TableLoss(table="public.orders", rows_now=self.world.live.rows, rows_restored=then),)

    def replay_writes(self, _: Connections, backup_id: str, name: str) -> None:
        written = self.world.live.rows - self.world.backups[backup_id].rows
        rows = self.world.backups[backup_id].rows + written
        self.world.databases[name] = replace(self.world.databases[name], rows=rows)

    def prepare_rollback(self, connections: Connections, copy: RestoredDatabase, *, keep: bool) -> str:
        assert connections.settings.rollback.prepare, "the settings do not ask for it"
        if not keep:
            self.world.databases.pop(copy.name)
        return "shop_prepared"

    def end_preparations(
        self, _: Connections, *, other_than: str | None = None, since: datetime | None = None
    ) -> tuple[str, ...]:
        self.world.captures = [one for one in self.world.captures if one == other_than]
        return ()

    def swap_in(self, _: Connections, restored: RestoredDatabase) -> Swap:
        def swap() -> None:
            self.world.databases["shop_kept"] = self.world.live
            self.world.databases["shop"] = self.world.databases.pop(restored.name)

        self.world.act("swap", swap)
        return Swap("shop_kept", restored)

    def stage_release(self, _: Connections, plan: ReleasePlan) -> Release:
        self.world.act("staging", lambda: self.world.staged.append(plan.git_sha))
        return release(plan.git_sha)

    def smoke_release(self, _: Connections, staged: Release, smoke_tests: tuple[SmokeTest, ...]) -> None:
        assert self.world.served != staged.git_sha, "smoke tests come before the traffic"
        self.world.act("smoke tests")

    def promote_release(self, _: Connections, staged: Release) -> Release:
        self.world.act("promotion", lambda: self.world.serve(staged.git_sha))
        return staged

    def start_rolling(self, _: Connections, staged: Release) -> None:
        self.world.act("start rolling", lambda: self.world.stages.append("10 %"))

    def advance_rolling(self, _: Connections, staged: Release) -> bool:
        if self.world.stages == ["10 %"]:
            self.world.act("next stage", lambda: self.world.stages.append("50 %"))
            return False
        self.world.act("last stage", lambda: self.world.serve(staged.git_sha))
        return True

    def roll_back_release(self, _: Connections, earlier: Release) -> Release:
        self.world.act("undo promotion", lambda: self.world.serve(earlier.git_sha))
        return earlier

    def validate_release(self, _: Connections, plan: ReleasePlan, new: Release, at: datetime) -> tuple[Check, ...]:
        self.world.act("validation")
        return self.world.validation

    def watch_release(self, _: Connections, plan: ReleasePlan, new: Release, at: datetime) -> WatchResult:
        self.world.act("watch")
        verdict = self.world.verdicts.pop(0) if self.world.verdicts else self.world.verdict
        action = Action.ROLL_BACK if verdict is Verdict.DEGRADED else Action.MONITOR
        return WatchResult(verdict, action, "3 of 20 requests failed", RequestMetrics(20, 3, 0, 0, 0))

    def probe_state(self, _: Connections, git_sha: str | None) -> tuple[Check, ...]:
        self.world.act("probe")
        needed = {OLD: BEFORE, NEW: BEFORE + self.world.pending, None: ()}[git_sha]
        served = self.world.served == git_sha
        fits = set(needed) <= set(self.world.live.migrations)
        return (
            Check("served version", Outcome.PASSED if served else Outcome.FAILED, str(self.world.served)),
            Check("schema", Outcome.PASSED if fits else Outcome.FAILED, str(self.world.live.migrations)),
        )

    def notify(self, _: Connections, level: str, title: str, text: str) -> tuple[str, ...]:
        self.world.act("notification", lambda: self.world.messages.append((level, title, text)))
        return ()

    def record_deploy(self, connections: Connections, report: DeployReport) -> str:
        self.world.act("record")
        return record_deploy(connections, report)

    def all(self) -> DeployStages:
        return DeployStages(**{name: getattr(self, name) for name in DeployStages.__dataclass_fields__})


@dataclass
class Host:
    world: World

    def active(self) -> Release | None:
        return release(self.world.served) if self.world.served else None


class RollingHost(Host):
    """A host that splits the traffic; what is done with it, the stages of the world do."""

    def start_rolling(self, release_id: str) -> None: ...

    def advance_rolling(self, release_id: str) -> bool: ...


@dataclass
class Outcomes:
    """How a deploy ended: the report recorded last, and what was raised."""

    report: DeployReport
    raised: BaseException | None


@dataclass
class Deploying:
    """A world, and a way to deploy into it."""

    world: World
    connections: Connections

    def run(self) -> Outcomes:
        raised: BaseException | None = None
        try:
            deploy(self.connections, DeployRequest("main", "scheduled release", "ci"), Stages(self.world).all())
        except BaseException as error:  # noqa: BLE001 - a cancellation is one of the endings looked at
            raised = error
        history = self.connections.store.history()
        assert len(history) == 1, "every deploy that began leaves one report"
        report = history[0]
        assert isinstance(report, DeployReport)
        return Outcomes(report, raised)

    def roll_out_in_stages(self) -> None:
        settings = self.connections.settings.model_copy(update={"rolling_release": True})
        host = cast("ApplicationHost", RollingHost(self.world))
        self.connections = replace(self.connections, settings=settings, host=host)

    def restore_on_failure(self) -> None:
        settings = self.connections.settings.model_copy(
            update={"migrations": MigrationSettings(restore_on_failure=True)}
        )
        self.connections = replace(self.connections, settings=settings)


@pytest.fixture
def deploying(tmp_path: Path) -> Deploying:
    world = World()
    connections = Connections(
        settings=Settings(name="production", repository="", database="shop"),
        repository=Repository(tmp_path),
        database=Database("postgresql://nobody@127.0.0.1:1/shop"),
        host=cast("ApplicationHost", Host(world)),
        store=BackupStore(FolderStore(tmp_path)),
        channels=(),
    )
    return Deploying(world, connections)


def check_raised(outcome: Outcomes, error: BaseException) -> None:
    """A cancellation goes on as it came; everything else becomes one error that carries the report."""
    if isinstance(error, Exception):
        assert isinstance(outcome.raised, DeployFailedError)
        assert outcome.raised.report == outcome.report
        assert outcome.raised.__cause__ is error
    else:
        assert outcome.raised is error
    assert outcome.report.error == (str(error) or type(error).__name__)


def test_a_deploy_takes_a_commit_through_all_stages(deploying: Deploying) -> None:
    outcome = deploying.run()
    world, report = deploying.world, outcome.report
    assert outcome.raised is None
    assert (world.served, world.live.migrations) == (NEW, BEFORE + PENDING)
    assert (report.success, report.state, report.undone) == (True, FinalState.VERIFIED, ())
    assert (report.git_sha, report.previous_git_sha, report.backup_id) == (NEW, OLD, BACKUP)
    assert (report.migrations, report.warnings, report.findings) == (PENDING, ("no OPENAI_API_KEY",), ())
    assert [step.step for step in report.steps] == [
        "Stage 1: Pre-Deployment Validation",
        "Stage 2: Test Suite",
        "Stage 3: Database Backup",
        "Stage 3: Backup Verification",
        "Stage 4: Rehearsal",
        "Stage 4: Database Migration",
        "Stage 4: Verification",
        "Stage 5: Staging",
        "Stage 5: Smoke Tests in Private",
        "Stage 5: Promotion",
        "Stage 6: Validation",
        "Stage 6: Watch",
        "Final State",
    ]
    [(level, title, _)] = world.messages
    assert (level, title) == ("info", "v-b released to production: VERIFIED")


def test_a_rolling_release_gets_the_next_stage_only_once_the_watch_says_that_it_is_healthy(
    deploying: Deploying,
) -> None:
    deploying.roll_out_in_stages()
    deploying.world.verdicts = [Verdict.INCONCLUSIVE, Verdict.NO_DATA, Verdict.HEALTHY, Verdict.HEALTHY]
    outcome = deploying.run()
    calls = deploying.world.calls
    assert outcome.report.success
    assert (deploying.world.served, deploying.world.stages) == (NEW, ["10 %", "50 %"])
    rolled = calls[calls.index("start rolling") : calls.index("validation")]
    assert rolled == ["start rolling", "watch", "watch", "watch", "next stage", "watch", "last stage"]
    assert "promotion" not in calls


@pytest.mark.parametrize(
    ("verdicts", "looks"),
    [
        ([Verdict.DEGRADED], 1),
        ([Verdict.INCONCLUSIVE] * 3, 3),
        ([Verdict.HEALTHY, Verdict.NO_DATA, Verdict.INCONCLUSIVE, Verdict.NO_DATA], 4),
    ],
)
def test_a_rolling_release_that_is_not_shown_to_be_healthy_gives_all_traffic_back(
    deploying: Deploying, verdicts: list[Verdict], looks: int
) -> None:
    deploying.roll_out_in_stages()
    deploying.world.verdicts = verdicts
    outcome = deploying.run()
    assert not outcome.report.success
    assert "the rolling release does not go on: 3 of 20 requests failed" in str(outcome.report.error)
    assert (deploying.world.calls.count("watch"), deploying.world.served) == (looks, OLD)
    assert "undo promotion" in deploying.world.calls
    assert "last stage" not in deploying.world.calls


def test_a_host_that_cannot_split_the_traffic_refuses_before_anything_is_done(deploying: Deploying) -> None:
    settings = deploying.connections.settings.model_copy(update={"rolling_release": True})
    connections = replace(deploying.connections, settings=settings)
    with pytest.raises(RefusedError, match="this application host cannot split the traffic"):
        deploy(connections, DeployRequest("main", "scheduled release", "ci"), Stages(deploying.world).all())
    assert deploying.world.calls == ["checklist"]


def test_without_pending_migrations_the_database_is_left_alone(deploying: Deploying) -> None:
    deploying.world.pending = ()
    assert deploying.run().report.success
    assert "migration" not in deploying.world.calls


def test_the_application_alone_is_released_without_tests_backup_and_migration_and_the_report_says_so(
    deploying: Deploying,
) -> None:
    deploying.world.pending = ()
    request = DeployRequest("main", "CI is down", "somebody", application_only=True)
    report = deploy(deploying.connections, request, Stages(deploying.world).all())
    assert (deploying.world.served, report.success, report.state) == (NEW, True, FinalState.VERIFIED)
    assert [step.step for step in report.steps] == [
        "Stage 1: Pre-Deployment Validation",
        "Stage 5: Staging",
        "Stage 5: Smoke Tests in Private",
        "Stage 5: Promotion",
        "Stage 6: Validation",
        "Stage 6: Watch",
        "Final State",
    ]
    assert report.findings == ("neither tested nor backed up: the application alone was to be released",)
    assert deploying.world.captures == ["an earlier one"]


def test_the_test_suite_is_skipped_for_a_reason_and_the_report_says_which(deploying: Deploying) -> None:
    request = DeployRequest("main", "hotfix", "ci", skip_tests="the login is down, CI has passed")
    report = deploy(deploying.connections, request, Stages(deploying.world).all())
    assert report.success
    assert "the test suite was skipped: the login is down, CI has passed" in report.findings
    assert "test suite" not in deploying.world.calls
    assert "backup" in deploying.world.calls


def test_a_flaky_test_is_a_finding(deploying: Deploying) -> None:
    def tested(_: Connections, git_sha: str) -> TestReport:
        return TestReport(git_sha=git_sha, results=(), flaky=("cart / adds",))

    stages = replace(Stages(deploying.world).all(), run_test_suite=tested)
    report = deploy(deploying.connections, DeployRequest("main", "scheduled release", "ci"), stages)
    assert report.success
    assert "flaky: cart / adds failed and passed with the same commit" in report.findings


def test_the_application_alone_is_refused_while_a_migration_is_pending(deploying: Deploying) -> None:
    request = DeployRequest("main", "CI is down", "somebody", application_only=True)
    with pytest.raises(RefusedError, match=r"not applied yet: to release the application alone would break it"):
        deploy(deploying.connections, request, Stages(deploying.world).all())
    assert (deploying.world.served, deploying.connections.store.history()) == (OLD, [])


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("stage", BEFORE_PROMOTION)
@pytest.mark.parametrize("when", ["breaks_before", "breaks_after"])
def test_a_failure_before_the_traffic_leaves_everything_as_it_was(
    deploying: Deploying, stage: str, error: BaseException, when: str
) -> None:
    world = deploying.world
    getattr(world, when)[stage] = error
    outcome = deploying.run()
    assert (world.served, world.live.migrations) == (OLD, BEFORE)
    assert "promotion" not in world.calls
    report = outcome.report
    assert (report.success, report.state) == (False, FinalState.VERIFIED)
    migrated = {"migration": 1 if when == "breaks_before" else 2, "verification": 2, "staging": 2, "smoke tests": 2}
    names = ", ".join(reversed(PENDING[: migrated.get(stage, 0)]))
    undone = (
        f"migrations undone by their down scripts, without loss: {names}; the rehearsal had shown that they restore it"
    )
    assert report.undone == ((undone,) if names else ())
    check_raised(outcome, error)
    if isinstance(outcome.raised, DeployFailedError):
        assert outcome.raised.exit_code == 1
    failed = [step for step in report.steps if step.status is StepStatus.FAILED]
    assert [step.error for step in failed] == [report.error]
    [(level, title, _)] = world.messages
    assert (level, title) == ("error", "v-b not released to production: VERIFIED")


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("stage", FROM_PROMOTION_ON)
@pytest.mark.parametrize("when", ["breaks_before", "breaks_after"])
def test_a_failure_with_the_traffic_gives_it_back_and_keeps_the_migrations(
    deploying: Deploying, stage: str, error: BaseException, when: str
) -> None:
    world = deploying.world
    getattr(world, when)[stage] = error
    outcome = deploying.run()
    assert (world.served, world.live.migrations) == (OLD, BEFORE + PENDING)
    report = outcome.report
    assert (report.success, report.state) == (False, FinalState.VERIFIED)
    assert report.undone == ("the traffic went back to v-a",)
    assert "these migrations stay applied: 0002_add_column, 0003_add_index" in report.findings
    check_raised(outcome, error)
    assert [level for level, _, _ in world.messages] == ["error"]


def test_a_failed_validation_gives_the_traffic_back(deploying: Deploying) -> None:
    deploying.world.validation = (
        Check("GET /api/health", Outcome.FAILED, "answered 503"),
        Check("error log", Outcome.WARNING, "2x slow query"),
    )
    outcome = deploying.run()
    assert isinstance(outcome.raised, DeployFailedError)
    assert outcome.report.error == "validation failed: GET /api/health: answered 503"
    assert "error log: 2x slow query" in outcome.report.findings
    assert (deploying.world.served, outcome.report.state) == (OLD, FinalState.VERIFIED)


def test_a_check_that_could_not_run_does_not_take_a_release_back(deploying: Deploying) -> None:
    deploying.world.validation = (Check("error log", Outcome.COULD_NOT_RUN, "no answer"),)
    report = deploying.run().report
    assert (report.success, deploying.world.served) == (True, NEW)
    assert "error log: no answer" in report.findings


def test_a_degraded_release_gives_the_traffic_back(deploying: Deploying) -> None:
    deploying.world.verdict = Verdict.DEGRADED
    outcome = deploying.run()
    assert isinstance(outcome.raised, DeployFailedError)
    assert (deploying.world.served, outcome.report.error) == (OLD, "3 of 20 requests failed")


def test_a_second_copy_that_fails_is_a_finding_and_stops_nothing(deploying: Deploying, tmp_path: Path) -> None:
    deploying.connections = replace(deploying.connections, second_store=BackupStore(FolderStore(tmp_path / "second")))
    deploying.world.breaks_before["second copy"] = TransientError("no answer")
    report = deploying.run().report
    assert report.success
    assert f"{BACKUP} has no copy in the second store" in report.findings[0]


def test_a_watch_that_saw_too_little_leaves_the_release_unverified(deploying: Deploying) -> None:
    deploying.world.verdict = Verdict.INCONCLUSIVE
    outcome = deploying.run()
    assert outcome.raised is None
    assert deploying.world.served == NEW
    assert (outcome.report.success, outcome.report.state) == (True, FinalState.UNVERIFIED)
    assert "watch: 3 of 20 requests failed" in outcome.report.findings


def test_a_release_that_is_lost_after_the_watch_is_never_called_a_success(deploying: Deploying) -> None:
    deploying.world.verdict = Verdict.INCONCLUSIVE
    stages = replace(Stages(deploying.world).all(), watch_release=lose_the_traffic(deploying.world))
    with pytest.raises(DeployFailedError, match="what runs is not what was released: served version") as caught:
        deploy(deploying.connections, DeployRequest("main", "scheduled release", "ci"), stages)
    assert deploying.world.served == OLD
    assert (caught.value.report.success, caught.value.report.state) == (False, FinalState.VERIFIED)


def lose_the_traffic(world: World) -> Callable[[Connections, ReleasePlan, Release, datetime], WatchResult]:
    def watch(connections: Connections, plan: ReleasePlan, new: Release, at: datetime) -> WatchResult:
        world.serve("c" * 40)
        return Stages(world).watch_release(connections, plan, new, at)

    return watch


def test_a_probe_that_cannot_run_leaves_the_release_unverified_and_the_report_written(deploying: Deploying) -> None:
    deploying.world.breaks_before["probe"] = TransientError("no answer")
    outcome = deploying.run()
    assert outcome.raised is None
    assert (outcome.report.success, outcome.report.state) == (True, FinalState.UNVERIFIED)
    assert "the state could not be probed: no answer" in outcome.report.findings


def test_a_probe_that_cannot_run_hides_no_failure(deploying: Deploying) -> None:
    deploying.world.breaks_before |= {"probe": TransientError("no answer"), "watch": StageError("degraded")}
    outcome = deploying.run()
    assert isinstance(outcome.raised, DeployFailedError)
    assert (outcome.report.error, outcome.report.state) == ("degraded", FinalState.UNVERIFIED)


@pytest.mark.parametrize(("stage", "undo"), [("watch", "undo promotion"), ("smoke tests", "undo migrations")])
@pytest.mark.parametrize(
    "undo_error",
    [
        pytest.param(StageError("stuck"), id="bad result"),
        pytest.param(TransientError("stuck"), id="no answer"),
        pytest.param(DivergedError("stuck"), id="diverged"),
        pytest.param(OSError("stuck"), id="unforeseen"),
        pytest.param(KeyboardInterrupt("stuck"), id="cancelled again"),
    ],
)
def test_an_undo_that_fails_leaves_the_state_diverged(
    deploying: Deploying, stage: str, undo: str, undo_error: BaseException
) -> None:
    deploying.world.breaks_before |= {stage: StageError("bad result"), undo: undo_error}
    outcome = deploying.run()
    assert isinstance(outcome.raised, DeployFailedError)
    assert outcome.raised.exit_code == 4
    assert (outcome.report.state, outcome.report.undone) == (FinalState.DIVERGED, ())
    assert outcome.report.error == "bad result"
    assert any(finding.startswith("undo failed: stuck") for finding in outcome.report.findings)
    assert "undo failed: stuck" in str(outcome.raised)
    [(level, title, text)] = deploying.world.messages
    assert (level, title) == ("error", "v-b not released to production: DIVERGED")
    assert "undo failed: stuck" in text


def test_an_undo_that_only_seems_to_work_leaves_the_state_diverged(deploying: Deploying) -> None:
    deploying.world.breaks_before["watch"] = StageError("degraded")
    stages = replace(Stages(deploying.world).all(), roll_back_release=change_nothing)
    with pytest.raises(DeployFailedError) as caught:
        deploy(deploying.connections, DeployRequest("main", "scheduled release", "ci"), stages)
    assert (caught.value.exit_code, deploying.world.served) == (4, NEW)


def change_nothing(_: Connections, earlier: Release) -> Release:
    return earlier


@pytest.mark.parametrize("stage", FROM_PROMOTION_ON)
def test_a_first_release_cannot_give_the_traffic_back(deploying: Deploying, stage: str) -> None:
    deploying.world.served = None
    deploying.world.breaks_after[stage] = StageError("bad result")
    outcome = deploying.run()
    assert isinstance(outcome.raised, DeployFailedError)
    assert outcome.raised.exit_code == 4
    assert outcome.report.state is FinalState.DIVERGED
    assert any("no earlier one to give the traffic back to" in finding for finding in outcome.report.findings)
    assert any(finding.startswith("these migrations stay applied") for finding in outcome.report.findings)


@pytest.mark.parametrize("stage", BEFORE_PROMOTION)
def test_a_first_release_that_fails_before_the_traffic_leaves_none(deploying: Deploying, stage: str) -> None:
    deploying.world.served = None
    deploying.world.breaks_before[stage] = StageError("bad result")
    outcome = deploying.run()
    assert (deploying.world.served, deploying.world.live.migrations) == (None, BEFORE)
    assert outcome.report.state is FinalState.VERIFIED


def without_down_scripts(world: World) -> None:
    world.down_scripts = False


def with_down_scripts_that_leave_another_schema(world: World) -> None:
    world.breaks_after["undo migrations"] = DivergedError("the schema is not what it was")


def verdicts(report: DeployReport) -> dict[RollbackScope, Legality]:
    return {verdict.scope: verdict.legality for verdict in report.verdict}


def test_a_release_says_which_rollbacks_work_after_it(deploying: Deploying) -> None:
    report = deploying.run().report
    assert verdicts(report) == {
        RollbackScope.FULL: Legality.LEGAL,
        RollbackScope.APP_ONLY: Legality.LEGAL,
        RollbackScope.DB_ONLY: Legality.ILLEGAL,
    }
    assert report.rehearsal == rehearsal()


def test_a_backup_that_was_restored_to_prepare_the_rollback_counts_as_restored(deploying: Deploying) -> None:
    deploying.world.pending = ()
    settings = deploying.connections.settings.model_copy(update={"rollback": RollbackSettings(prepare=True)})
    deploying.connections = replace(deploying.connections, settings=settings)
    report = deploying.run().report
    assert verdicts(report)[RollbackScope.FULL] is Legality.LEGAL
    assert report.state is FinalState.VERIFIED


def test_a_release_that_the_earlier_one_does_not_survive_rules_out_the_application_alone(deploying: Deploying) -> None:
    deploying.world.rehearsal = rehearsal(compatible_at_end=False, compatibility=("smoke: orders: 500",))
    [app_only] = [v for v in deploying.run().report.verdict if v.scope is RollbackScope.APP_ONLY]
    assert (app_only.legality, app_only.evidence) == (Legality.ILLEGAL, ("smoke: orders: 500",))


def test_what_speaks_against_the_migrations_in_the_rehearsal_stops_the_deploy(deploying: Deploying) -> None:
    deploying.world.rehearsal = rehearsal(refusals=("public.orders is closed for 9.0 s",))
    outcome = deploying.run()
    assert "migration" not in deploying.world.calls
    assert (deploying.world.live.migrations, outcome.report.state) == (BEFORE, FinalState.VERIFIED)
    assert "public.orders is closed for 9.0 s" in str(outcome.raised)


def test_down_scripts_that_failed_in_the_rehearsal_are_not_tried_on_production(deploying: Deploying) -> None:
    deploying.restore_on_failure()
    fails = UndoEvidence(outcome=UndoOutcome.FAILS, detail='relation "x" does not exist')
    deploying.world.rehearsal = rehearsal(undo=fails)
    deploying.world.breaks_before["smoke tests"] = StageError("bad result")
    outcome = deploying.run()
    assert "undo migrations" not in deploying.world.calls
    [undone] = outcome.report.undone
    assert "the rehearsal showed that the down scripts do not undo it" in undone
    assert deploying.world.live == Content(BEFORE, 107)


def test_the_second_half_runs_after_the_validation(deploying: Deploying) -> None:
    deploying.world.second_half = ("0004_drop_old",)
    report = deploying.run().report
    calls = deploying.world.calls
    assert calls.index("migration") < calls.index("promotion") < calls.index("watch") < calls.index("second half")
    assert deploying.world.live.migrations == (*BEFORE, *PENDING, "0004_drop_old")
    assert (report.success, report.state) == (True, FinalState.VERIFIED)


def test_a_second_half_that_fails_takes_nothing_back(deploying: Deploying) -> None:
    deploying.world.second_half = ("0004_drop_old",)
    deploying.world.breaks_before["second half"] = StageError("no lock in 5 attempts")
    report = deploying.run().report
    assert (deploying.world.served, deploying.world.live.migrations) == (NEW, BEFORE + PENDING)
    assert (report.success, report.state) == (True, FinalState.UNVERIFIED)
    assert any("runbook db:migrate --phase=post" in finding for finding in report.findings)


def test_a_second_half_waits_while_the_release_is_not_known_to_be_healthy(deploying: Deploying) -> None:
    deploying.world.second_half = ("0004_drop_old",)
    deploying.world.verdict = Verdict.INCONCLUSIVE
    report = deploying.run().report
    assert "second half" not in deploying.world.calls
    assert any("the second half of the migration waits" in finding for finding in report.findings)


@pytest.mark.parametrize("cannot_be_undone", [without_down_scripts, with_down_scripts_that_leave_another_schema])
def test_what_no_down_script_undoes_is_restored_where_the_settings_allow_it(
    deploying: Deploying, cannot_be_undone: Callable[[World], None]
) -> None:
    deploying.restore_on_failure()
    world = deploying.world
    cannot_be_undone(world)
    world.breaks_before["migration"] = StageError("syntax error")
    report = deploying.run().report
    assert (world.served, world.live) == (OLD, Content(BEFORE, 107))
    assert world.databases["shop_kept"].rows == 107
    assert report.state is FinalState.VERIFIED
    [undone] = report.undone
    assert BACKUP in undone
    assert "kept as shop_kept" in undone
    assert "107 rows now, 100 in the backup" in undone


@pytest.mark.parametrize("cannot_be_undone", [without_down_scripts, with_down_scripts_that_leave_another_schema])
def test_what_no_down_script_undoes_is_left_to_a_person_with_the_command_to_run(
    deploying: Deploying, cannot_be_undone: Callable[[World], None]
) -> None:
    world = deploying.world
    cannot_be_undone(world)
    world.breaks_before["migration"] = StageError("syntax error")
    outcome = deploying.run()
    assert world.live.rows == 107, "no row is lost without consent"
    assert set(world.databases) == {"shop"}
    assert outcome.report.state is FinalState.DIVERGED
    command = f"runbook deploy:rollback --db-only --backup-id={BACKUP} --environment=production --reason="
    assert any(command in finding for finding in outcome.report.findings)
    assert command in str(outcome.raised)


def test_a_first_release_is_restored_by_hand_because_a_rollback_would_refuse(deploying: Deploying) -> None:
    deploying.world.served = None
    deploying.world.down_scripts = False
    deploying.world.breaks_before["migration"] = StageError("syntax error")
    findings = deploying.run().report.findings
    assert any("createdb shop_restored && pg_restore" in finding for finding in findings)
    assert not any("deploy:rollback" in finding for finding in findings)


@pytest.mark.parametrize("obstacle", [TransientError("no answer"), RefusedError("another migration runs")])
def test_a_restore_never_answers_an_obstacle_that_may_pass(deploying: Deploying, obstacle: RunbookError) -> None:
    deploying.restore_on_failure()
    deploying.world.breaks_before |= {"smoke tests": StageError("bad result"), "undo migrations": obstacle}
    outcome = deploying.run()
    assert "restore" not in deploying.world.calls
    assert outcome.report.state is FinalState.DIVERGED


@pytest.mark.parametrize("step", ["restore", "swap"])
def test_a_restore_that_fails_leaves_the_state_diverged(deploying: Deploying, step: str) -> None:
    deploying.restore_on_failure()
    deploying.world.down_scripts = False
    deploying.world.breaks_before |= {"migration": StageError("syntax error"), step: StageError("stuck")}
    outcome = deploying.run()
    assert (outcome.report.state, outcome.report.undone) == (FinalState.DIVERGED, ())
    assert "undo failed: stuck" in outcome.report.findings


@pytest.mark.parametrize("refusal", [ChecklistFailedError(()), TransientError("no answer")])
def test_what_stops_in_the_checklist_changes_and_records_nothing(deploying: Deploying, refusal: RunbookError) -> None:
    deploying.world.breaks_before["checklist"] = refusal
    with pytest.raises(type(refusal)):
        deploy(deploying.connections, DeployRequest("main", "why", "ci"), Stages(deploying.world).all())
    assert deploying.world.calls == ["checklist"]
    assert not deploying.connections.store.history()


@pytest.mark.parametrize("stage", ["record", "notification"])
@pytest.mark.parametrize("error", [None, StageError("degraded")], ids=["success", "failure"])
def test_a_report_that_cannot_be_kept_or_sent_changes_nothing_about_the_run(
    deploying: Deploying, stage: str, error: StageError | None
) -> None:
    world = deploying.world
    world.breaks_before[stage] = OSError("disk full")
    if error:
        world.breaks_before["watch"] = error
    request = DeployRequest("main", "scheduled release", "ci")
    try:
        report = deploy(deploying.connections, request, Stages(world).all())
    except DeployFailedError as failed:
        report = failed.report
    assert report.error == ("degraded" if error else None)
    assert report.state is FinalState.VERIFIED
    assert world.served == (OLD if error else NEW)
    if stage == "record":
        assert "the report could not be kept: disk full" in report.findings
        assert "disk full" in world.messages[0][2]
    else:
        assert deploying.connections.store.history() == [report]
