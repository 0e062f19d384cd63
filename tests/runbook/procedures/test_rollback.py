from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import cast

import pytest

from runbook.clients.application_host import ApplicationHost, Release, ReleaseState
from runbook.clients.backup_store import BackupStore
from runbook.clients.folder_store import FolderStore
from runbook.clients.git import Repository
from runbook.clients.postgres import Database
from runbook.connections import Connections
from runbook.errors import RefusedError, RejectedError, RunbookError, StageError, TransientError, UnansweredError
from runbook.journal import Entry
from runbook.manifest import Verification, VerificationState
from runbook.procedures.changing import lock_of
from runbook.procedures.rollback import RollbackFailedError, RollbackStages, consent_by_flag, rollback
from runbook.reports import DeployReport, FinalState, RollbackReport, RollbackScope, TableLoss
from runbook.rules.checklist import Check, Outcome
from runbook.rules.smoke import SmokeTest
from runbook.rules.thresholds import Severity
from runbook.settings import ReplayMethod, Settings
from runbook.stages.record import OpenedIncident, open_incident, record_rollback
from runbook.stages.restore import RestoredDatabase, Swap, name_to_keep
from runbook.stages.rollback import RollbackPlan, RollbackRequest, Unattended
from tests.runbook.manifests import manifest

OLD, BAD = "a" * 40, "b" * 40
BACKUP = "backup_20250104_120000"
AT = datetime(2025, 1, 4, 12, tzinfo=UTC)
LIVE, SAVED = "107 orders, 3 migrations", "100 orders, 2 migrations"

FULL, APP_ONLY, DB_ONLY = RollbackScope.FULL, RollbackScope.APP_ONLY, RollbackScope.DB_ONLY
EFFECTS = {
    FULL: ["restore", "warm", "replay", "swap", "switch"],
    APP_ONLY: ["warm", "smoke tests", "switch"],
    DB_ONLY: ["restore", "replay", "swap"],
}
STEPS = [pytest.param(scope, step, id=f"{scope}, {step}") for scope, steps in EFFECTS.items() for step in steps]
ERRORS = (
    pytest.param(StageError("bad result"), id="bad result"),
    pytest.param(TransientError("no answer"), id="no answer"),
    pytest.param(OSError("disk full"), id="unforeseen"),
    pytest.param(KeyboardInterrupt(), id="cancelled"),
)


@dataclass
class World:
    """What a rollback acts on: which commit is served, and what each database holds."""

    served: str = BAD
    databases: dict[str, str] = field(default_factory=lambda: {"shop": LIVE})
    messages: list[tuple[str, str, str]] = field(default_factory=list[tuple[str, str, str]])
    calls: list[str] = field(default_factory=list[str])
    breaks_before: dict[str, BaseException] = field(default_factory=dict[str, BaseException])
    breaks_after: dict[str, BaseException] = field(default_factory=dict[str, BaseException])
    verification: tuple[Check, ...] = ()

    def act(self, stage: str, effect: Callable[[], None] = lambda: None) -> None:
        self.calls.append(stage)
        if error := self.breaks_before.get(stage):
            raise error
        effect()
        if error := self.breaks_after.get(stage):
            raise error

    def serve(self, sha: str) -> None:
        self.served = sha

    def remove(self, name: str) -> None:
        self.databases.pop(name, None)

    def rename(self, *names: tuple[str, str]) -> None:
        for old, new in names:
            self.databases[new] = self.databases.pop(old)


def release(sha: str) -> Release:
    return Release(f"r-{sha[:4]}", sha, f"v-{sha[:1]}", "http://private.test", ReleaseState.READY, AT, AT)


def plan_of(scope: RollbackScope) -> RollbackPlan:
    proof = Verification(state=VerificationState.VERIFIED, at=AT, restore_s=2.0, detail="equal")
    backup = manifest(BACKUP, environment="production", active_git_sha=OLD, verification=proof)
    loss = (TableLoss(table="public.orders", rows_now=107, rows_restored=100, inserted=7, is_exact=True),)
    return RollbackPlan(
        scope=scope,
        active=release(BAD),
        target=None if scope is DB_ONLY else release(OLD),
        smoke_tests=(),
        backup=None if scope is APP_ONLY else backup,
        data_loss=() if scope is APP_ONLY else loss,
    )


@dataclass
class Stages:
    """The stages of a rollback, acting on a world instead of on servers."""

    world: World

    def plan_rollback(self, _: Connections, request: RollbackRequest) -> RollbackPlan:
        self.world.act("plan")
        return plan_of(request.scope)

    def ask_consent(self, connections: Connections, plan: RollbackPlan, request: RollbackRequest) -> str:
        return consent_by_flag(connections, plan, request)

    def restore_replacement(self, _: Connections, backup_id: str, *, purpose: str) -> RestoredDatabase:
        try:
            self.world.act("restore", lambda: self.world.databases.update({"shop_restored": SAVED}))
        except BaseException:
            self.world.databases.pop("shop_restored", None)
            raise
        return RestoredDatabase("shop_restored", backup_id, 2.0)

    def drop_restored(self, _: Connections, restored: RestoredDatabase) -> None:
        self.world.act("drop", lambda: self.world.remove(restored.name))

    def drop_copies(self, _: Connections) -> None:
        self.world.act("drop copies", lambda: self.world.remove("shop_restored"))

    def warm_release(self, _: Connections, release_id: str) -> Release:
        self.world.act("warm")
        return release(OLD)

    def smoke_release(self, _: Connections, warm: Release, smoke_tests: tuple[SmokeTest, ...]) -> None:
        self.world.act("smoke tests")

    def replay_writes(self, _: Connections, backup_id: str, name: str) -> None:
        self.world.act("replay")

    def take_prepared(self, _: Connections, backup_id: str, *, purpose: str) -> RestoredDatabase | None:
        return None

    def end_preparations(self, connections: Connections, *, name: str) -> tuple[str, ...]:
        assert name == name_to_keep(connections)
        self.world.act("end preparations")
        return ()

    def swap_in(self, connections: Connections, restored: RestoredDatabase) -> Swap:
        kept = name_to_keep(connections)
        self.world.act("swap", lambda: self.world.rename(("shop", kept), (restored.name, "shop")))
        return Swap(kept, restored)

    def has_swapped(self, connections: Connections) -> bool:
        return name_to_keep(connections) in self.world.databases

    def undo_swap(self, _: Connections, swapped: Swap) -> None:
        def undo() -> None:
            self.world.rename(("shop", swapped.restored.name), (swapped.kept, "shop"))
            self.world.remove(swapped.restored.name)

        self.world.act("undo swap", undo)

    def roll_back_release(self, _: Connections, target: Release) -> Release:
        self.world.act("switch" if target.git_sha == OLD else "switch back", lambda: self.world.serve(target.git_sha))
        return target

    def verify_rollback(self, connections: Connections, plan: RollbackPlan) -> tuple[Check, ...]:
        self.world.act("verification")
        return (*self._served((plan.target or plan.active).git_sha), *self.world.verification)

    def probe_state(self, _: Connections, git_sha: str | None) -> tuple[Check, ...]:
        self.world.act("probe")
        return self._served(git_sha)

    def _served(self, git_sha: str | None) -> tuple[Check, ...]:
        outcome = Outcome.PASSED if self.world.served == git_sha else Outcome.FAILED
        return (Check("served version", outcome, self.world.served),)

    def notify(self, _: Connections, level: str, title: str, text: str) -> tuple[str, ...]:
        self.world.act("notification", lambda: self.world.messages.append((level, title, text)))
        return ()

    def open_incident(
        self, connections: Connections, report: RollbackReport, entries: Sequence[Entry]
    ) -> OpenedIncident:
        self.world.act("incident")
        return open_incident(connections, report, entries)

    def record_rollback(self, connections: Connections, report: RollbackReport) -> str:
        self.world.act("record")
        return record_rollback(connections, report)

    def all(self) -> RollbackStages:
        return RollbackStages(**{name: getattr(self, name) for name in RollbackStages.__dataclass_fields__})


def request_of(scope: RollbackScope, *, yes: bool = True) -> RollbackRequest:
    return RollbackRequest(scope, None, scope is not APP_ONLY, "SEV1: outage", yes, "mira")


@dataclass
class RollingBack:
    """A world, and a way to roll back in it."""

    world: World
    connections: Connections

    def run(self, scope: RollbackScope) -> tuple[RollbackReport, BaseException | None]:
        raised: BaseException | None = None
        try:
            rollback(self.connections, request_of(scope), Stages(self.world).all())
        except BaseException as error:  # noqa: BLE001 - a cancellation is one of the endings looked at
            raised = error
        history = self.connections.store.history()
        assert len(history) == 1, "every rollback that was approved leaves one report"
        report = history[0]
        assert isinstance(report, RollbackReport)
        return report, raised


@pytest.fixture
def rolling(tmp_path: Path) -> RollingBack:
    connections = Connections(
        settings=Settings(name="production", repository="", database="shop"),
        repository=Repository(tmp_path),
        database=Database("postgresql://nobody@127.0.0.1:1/shop"),
        host=cast("ApplicationHost", None),
        store=BackupStore(FolderStore(tmp_path)),
        channels=(),
    )
    return RollingBack(World(), connections)


@pytest.mark.parametrize(
    ("scope", "served", "databases"),
    [
        pytest.param(FULL, OLD, {"live": SAVED, "kept": LIVE}, id="full"),
        pytest.param(APP_ONLY, OLD, {"live": LIVE}, id="app-only"),
        pytest.param(DB_ONLY, BAD, {"live": SAVED, "kept": LIVE}, id="db-only"),
    ],
)
def test_a_rollback_takes_back_what_its_scope_says_and_no_more(
    rolling: RollingBack, scope: RollbackScope, served: str, databases: dict[str, str]
) -> None:
    report, raised = rolling.run(scope)
    assert raised is None
    names = {"live": "shop", "kept": report.kept_database}
    assert rolling.world.served == served
    assert rolling.world.databases == {names[which]: content for which, content in databases.items()}
    after = [] if scope is APP_ONLY else ["end preparations"]
    assert rolling.world.calls == [
        "plan",
        *EFFECTS[scope],
        *after,
        "verification",
        "incident",
        "record",
        "notification",
    ]
    assert (report.success, report.state, report.findings) == (True, FinalState.VERIFIED, ())
    assert (report.approved_by, report.reason) == ("mira (--yes)", "SEV1: outage")
    assert (report.kept_database is None) is (scope is APP_ONLY)
    assert report.backup_id == (None if scope is APP_ONLY else BACKUP)
    assert (report.from_git_sha, report.to_git_sha) == ((None, None) if scope is DB_ONLY else (BAD, OLD))
    [(level, title, _)] = rolling.world.messages
    assert (level, title) == ("warning", f"rollback {scope} on production: VERIFIED")


@pytest.mark.parametrize("scope", RollbackScope)
def test_without_consent_the_plan_is_shown_and_nothing_is_changed(rolling: RollingBack, scope: RollbackScope) -> None:
    with pytest.raises(RefusedError, match=r"Nothing was changed\. Pass --yes") as caught:
        rollback(rolling.connections, request_of(scope, yes=False), Stages(rolling.world).all())
    assert rolling.world == World(calls=["plan"])
    assert not rolling.connections.store.history()
    quoted = "7 inserted, 0 updated, 0 deleted; 107 rows now, 100 in the backup" in str(caught.value)
    assert quoted is (scope is not APP_ONLY)


@pytest.mark.parametrize("error", [RefusedError("no release has the traffic"), TransientError("no answer")])
def test_what_cannot_be_planned_changes_and_records_nothing(rolling: RollingBack, error: RunbookError) -> None:
    rolling.world.breaks_before["plan"] = error
    with pytest.raises(type(error)):
        rollback(rolling.connections, request_of(FULL), Stages(rolling.world).all())
    assert rolling.world.calls == ["plan"]
    assert not rolling.connections.store.history()


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize(("scope", "step"), STEPS)
def test_a_step_that_fails_puts_everything_back(
    rolling: RollingBack, scope: RollbackScope, step: str, error: BaseException
) -> None:
    rolling.world.breaks_before[step] = error
    report, raised = rolling.run(scope)
    assert (rolling.world.served, rolling.world.databases["shop"]) == (BAD, LIVE)
    assert "verification" not in rolling.world.calls
    assert not report.success
    assert report.kept_database is None
    assert rolling.world.databases == {"shop": LIVE}
    assert (report.state, report.findings) == (FinalState.VERIFIED, ())
    if isinstance(error, Exception):
        assert isinstance(raised, RollbackFailedError)
        assert raised.exit_code == 1
    else:
        assert raised is error
    [(level, title, _)] = rolling.world.messages
    assert (level, title) == ("error", f"rollback {scope} on production failed: {report.state}")


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("scope", [FULL, APP_ONLY])
def test_a_switch_that_fails_half_way_puts_everything_back(
    rolling: RollingBack, scope: RollbackScope, error: BaseException
) -> None:
    rolling.world.breaks_after["switch"] = error
    report, _ = rolling.run(scope)
    assert (rolling.world.served, rolling.world.databases) == (BAD, {"shop": LIVE})
    assert (report.success, report.state) == (False, FinalState.VERIFIED)
    undone = [call for call in rolling.world.calls if call in {"switch back", "undo swap", "drop"}]
    assert undone == (["switch back", "undo swap"] if scope is FULL else ["switch back"])


class InterruptedStore(FolderStore):
    """A folder in which a run is cancelled just after it has written the third entry of its journal."""

    def create(self, key: str, data: bytes, *, protected: bool = False) -> None:
        super().create(key, data, protected=protected)
        if key.endswith("/0003.json"):
            raise KeyboardInterrupt


def test_a_copy_of_which_only_the_outcome_was_cut_off_is_dropped(rolling: RollingBack, tmp_path: Path) -> None:
    connections = replace(rolling.connections, store=BackupStore(InterruptedStore(tmp_path)))
    with pytest.raises(KeyboardInterrupt):
        rollback(connections, request_of(FULL), Stages(rolling.world).all())
    assert rolling.world.databases == {"shop": LIVE}


@pytest.mark.parametrize("error", [TransientError("no answer"), KeyboardInterrupt()], ids=["no answer", "cancelled"])
@pytest.mark.parametrize("scope", [FULL, DB_ONLY])
def test_a_swap_of_which_nobody_knows_whether_it_happened_is_looked_at_and_taken_back(
    rolling: RollingBack, scope: RollbackScope, error: BaseException
) -> None:
    rolling.world.breaks_after["swap"] = error
    report, _ = rolling.run(scope)
    assert rolling.world.databases == {"shop": LIVE}
    assert (report.success, report.state) == (False, FinalState.VERIFIED)


def test_an_old_application_that_fails_in_private_gets_no_traffic(rolling: RollingBack) -> None:
    rolling.world.breaks_before["smoke tests"] = StageError("v-a fails on its private URL")
    report, raised = rolling.run(APP_ONLY)
    assert isinstance(raised, RollbackFailedError)
    assert "switch" not in rolling.world.calls
    assert (rolling.world.served, report.state) == (BAD, FinalState.VERIFIED)
    assert report.error == "v-a fails on its private URL"


@pytest.mark.parametrize("scope", RollbackScope)
def test_a_verification_that_fails_after_the_last_effect_is_never_a_success(
    rolling: RollingBack, scope: RollbackScope
) -> None:
    rolling.world.verification = (Check("GET /api/health", Outcome.FAILED, "answered 503"),)
    report, raised = rolling.run(scope)
    assert isinstance(raised, RollbackFailedError)
    assert raised.exit_code == 4
    assert (report.success, report.state) == (False, FinalState.DIVERGED)
    assert report.findings == ("GET /api/health: answered 503",)
    assert "undo swap" not in rolling.world.calls, "nothing is undone after the last effect"
    assert (report.kept_database is None) is (scope is APP_ONLY)


def test_a_rollback_that_is_cancelled_during_its_verification_is_left_to_a_recovery(rolling: RollingBack) -> None:
    rolling.world.breaks_before["verification"] = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        rollback(rolling.connections, request_of(FULL), Stages(rolling.world).all())
    assert rolling.world.served == OLD, "what was done stays"
    assert rolling.connections.store.history() == [], "nobody says how it ended before somebody has looked"
    state = lock_of(rolling.connections).state()
    assert state is not None
    assert state.freed is not None
    assert state.unfinished == (state.owner.run,), "the next one recovers it first"


@pytest.mark.parametrize("error", [error for error in ERRORS if error.id != "cancelled"])
def test_a_verification_that_breaks_off_is_never_a_success(rolling: RollingBack, error: BaseException) -> None:
    rolling.world.breaks_before["verification"] = error
    report, raised = rolling.run(FULL)
    assert raised is not None
    assert (report.success, report.state) == (False, FinalState.DIVERGED)
    assert rolling.world.served == OLD


def test_a_verification_that_could_not_run_leaves_the_state_unverified(rolling: RollingBack) -> None:
    rolling.world.verification = (Check("schema", Outcome.COULD_NOT_RUN, "no answer"),)
    report, raised = rolling.run(FULL)
    assert raised is None
    assert (report.success, report.state) == (True, FinalState.UNVERIFIED)
    assert report.findings == ("schema: no answer",)


@pytest.mark.parametrize("undo", ["switch back", "undo swap"])
@pytest.mark.parametrize(
    "undo_error",
    [
        pytest.param(StageError("stuck"), id="bad result"),
        pytest.param(OSError("stuck"), id="unforeseen"),
        pytest.param(KeyboardInterrupt("stuck"), id="cancelled again"),
    ],
)
def test_an_undo_that_fails_leaves_the_state_diverged(
    rolling: RollingBack, undo: str, undo_error: BaseException
) -> None:
    rolling.world.breaks_after["switch"] = StageError("bad result")
    rolling.world.breaks_before[undo] = undo_error
    report, raised = rolling.run(FULL)
    assert isinstance(raised, RollbackFailedError)
    assert raised.exit_code == 4
    assert (report.state, report.error, report.findings) == (FinalState.DIVERGED, "bad result", ("undo failed: stuck",))
    assert "undo failed: stuck" in str(raised)
    assert "undo failed: stuck" in rolling.world.messages[0][2]
    # The report names the database that was replaced for as long as it is the replaced one.
    assert (report.kept_database is None) is (undo == "drop")


def test_an_undo_after_which_another_commit_is_served_leaves_the_state_diverged(rolling: RollingBack) -> None:
    rolling.world.served = "c" * 40
    rolling.world.breaks_before["warm"] = StageError("does not start")
    report, raised = rolling.run(APP_ONLY)
    assert isinstance(raised, RollbackFailedError)
    assert (raised.exit_code, report.findings) == (4, (f"served version: {'c' * 40}",))


def test_a_probe_that_cannot_run_after_an_undo_hides_no_failure(rolling: RollingBack) -> None:
    rolling.world.breaks_before |= {"warm": StageError("does not start"), "probe": TransientError("no answer")}
    report, _ = rolling.run(APP_ONLY)
    assert (report.error, report.state) == ("does not start", FinalState.UNVERIFIED)


@pytest.mark.parametrize("stage", ["incident", "record", "notification"])
@pytest.mark.parametrize("error", [None, StageError("does not start")], ids=["success", "failure"])
def test_a_report_that_cannot_be_kept_or_sent_changes_nothing_about_the_run(
    rolling: RollingBack, stage: str, error: StageError | None
) -> None:
    rolling.world.breaks_before[stage] = OSError("disk full")
    if error:
        rolling.world.breaks_before["warm"] = error
    try:
        report = rollback(rolling.connections, request_of(FULL), Stages(rolling.world).all())
    except RollbackFailedError as failed:
        report = failed.report
    assert report.error == (str(error) if error else None)
    assert report.state is FinalState.VERIFIED
    assert rolling.world.served == (BAD if error else OLD)
    if stage == "record":
        assert "the report could not be kept: disk full" in report.findings
    assert (report.incident_report is None) is (stage == "incident")
    if stage == "incident":
        assert report.findings == ("the incident report could not be opened: disk full",)
        [(_, _, text)] = rolling.world.messages
        assert "Incident report: it could not be opened" in text


class FullStore(FolderStore):
    """A folder that takes the journal, the lock and the hold, and no report."""

    def replace(self, key: str, data: bytes) -> None:
        if key.startswith("logs/"):
            raise RejectedError(f"no room for {key}")
        super().replace(key, data)


@pytest.mark.parametrize("fault", [None, StageError("does not start")], ids=["success", "failure"])
def test_a_store_that_takes_no_reports_hides_nothing_of_the_outcome(
    rolling: RollingBack, tmp_path: Path, fault: StageError | None
) -> None:
    connections = replace(rolling.connections, store=BackupStore(FullStore(tmp_path)))
    if fault:
        rolling.world.breaks_before["warm"] = fault
    try:
        report = rollback(connections, request_of(FULL), Stages(rolling.world).all())
    except RollbackFailedError as failed:
        report = failed.report
    assert (report.success, report.state) == (fault is None, FinalState.VERIFIED)
    assert (report.error, report.incident_report) == (str(fault) if fault else None, None)
    assert [finding.split(":")[0] for finding in report.findings] == [
        "the incident report could not be opened",
        "the report could not be kept",
    ]
    assert rolling.world.served == (BAD if fault else OLD)


def incident_files(rolling: RollingBack) -> list[str]:
    return [found.key for found in rolling.connections.store.objects.objects("logs/incident_")]


@pytest.mark.parametrize("error", [None, *ERRORS])
@pytest.mark.parametrize("scope", RollbackScope)
def test_every_approved_rollback_opens_one_incident_report_and_people_are_told_where(
    rolling: RollingBack, scope: RollbackScope, error: BaseException | None
) -> None:
    if error:
        rolling.world.breaks_before[EFFECTS[scope][-1]] = error
    report, _ = rolling.run(scope)
    [key] = incident_files(rolling)
    where = Path(str(report.incident_report))
    assert str(where).endswith(key)
    assert key == f"logs/incident_{report.timestamp:%Y%m%d_%H%M%S_%f}.md", "beside its log, with the same time"
    assert where.stat().st_mode & 0o777 == 0o600
    text = where.read_text()
    assert "Severity: SEV1" in text
    assert f"Rollback ended {report.state}" in text
    assert "- Hold the environment against deploys: done" in text or error
    [(_, _, told)] = rolling.world.messages
    assert f"Incident report: {where}" in told


def test_a_rollback_that_nobody_approved_opens_no_incident_report(rolling: RollingBack) -> None:
    with pytest.raises(RefusedError):
        rollback(rolling.connections, request_of(FULL, yes=False), Stages(rolling.world).all())
    assert incident_files(rolling) == []


def test_an_incident_report_that_is_open_is_gone_on_with(rolling: RollingBack) -> None:
    report, _ = rolling.run(FULL)
    where = Path(str(report.incident_report))
    with where.open("a") as file:
        file.write("We saw it at noon.\n")
    again = open_incident(rolling.connections, report.model_copy(update={"state": FinalState.DIVERGED}), ())
    assert (again.where, len(incident_files(rolling))) == (str(where), 1)
    text = where.read_text()
    assert text == again.markdown
    assert text.index("We saw it at noon.") < text.index("another run went on with this rollback")


def test_the_incident_report_says_when_the_release_taken_back_was_deployed(rolling: RollingBack) -> None:
    rolling.connections.store.write_deploy(
        DeployReport(
            environment="production",
            timestamp=AT,
            git_ref="main",
            git_sha=BAD,
            version="v-b",
            reason="scheduled release",
            triggered_by="ci",
            duration=60,
            success=True,
            state=FinalState.VERIFIED,
            steps=(),
        )
    )
    report = rollback(rolling.connections, request_of(APP_ONLY), Stages(rolling.world).all())
    assert "- 2025-01-04 12:01:00 UTC: Deploy of v-b ended VERIFIED" in Path(str(report.incident_report)).read_text()


def test_a_history_that_cannot_be_read_keeps_no_incident_report_from_being_opened(
    rolling: RollingBack, tmp_path: Path
) -> None:
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "deploy_1.json").write_text("{")
    report = rollback(rolling.connections, request_of(APP_ONLY), Stages(rolling.world).all())
    assert "its deploy is not in the records" in Path(str(report.incident_report)).read_text()
    assert report.findings == ()


@pytest.mark.parametrize(
    ("now", "method", "refused"),
    [
        pytest.param(DB_ONLY, ReplayMethod.SLOT, True, id="another release"),
        pytest.param(FULL, ReplayMethod.NONE, True, id="the writes would be lost now"),
        pytest.param(FULL, ReplayMethod.DIFFERENCE, False, id="the writes are found in another way"),
    ],
)
def test_what_changed_while_consent_was_awaited_is_not_done(
    rolling: RollingBack, now: RollbackScope, method: ReplayMethod, refused: bool
) -> None:
    plans = iter([replace(plan_of(FULL), method=ReplayMethod.SLOT), replace(plan_of(now), method=method)])

    def plan_rollback(_connections: Connections, _request: RollbackRequest) -> RollbackPlan:
        return next(plans)

    def ask_consent(_connections: Connections, _plan: RollbackPlan, _request: RollbackRequest) -> str:
        return "Ada"

    stages = replace(Stages(rolling.world).all(), plan_rollback=plan_rollback, ask_consent=ask_consent)
    if refused:
        with pytest.raises(RefusedError, match="things changed"):
            rollback(rolling.connections, request_of(FULL, yes=False), stages)
        assert rolling.world == World()
    else:
        report = rollback(rolling.connections, request_of(FULL, yes=False), stages)
        assert (report.approved_by, rolling.world.served) == ("Ada", OLD)


@pytest.mark.parametrize(
    ("method", "expected"), [(ReplayMethod.NONE, ReplayMethod.NONE), (ReplayMethod.SLOT, ReplayMethod.AUTO)]
)
def test_writes_are_discarded_exactly_when_the_plan_says_so(
    rolling: RollingBack, method: ReplayMethod, expected: ReplayMethod
) -> None:
    seen: list[ReplayMethod] = []

    def plan_rollback(_connections: Connections, _request: RollbackRequest) -> RollbackPlan:
        return replace(plan_of(DB_ONLY), method=method)

    def replay_writes(connections: Connections, _backup_id: str, _name: str) -> None:
        seen.append(connections.settings.rollback.replay)

    stages = replace(Stages(rolling.world).all(), plan_rollback=plan_rollback, replay_writes=replay_writes)
    rollback(rolling.connections, request_of(DB_ONLY), stages)
    assert seen == [expected]


@dataclass
class Unanswered:
    """A SEV1 that nobody answers; the policy allows, or does not, and may think otherwise the second time."""

    rolling: RollingBack
    allowed: tuple[bool, bool] = (True, True)
    scope: RollbackScope = FULL
    planned: list[RollbackScope] = field(default_factory=list[RollbackScope])

    def plan_rollback(self, _: Connections, request: RollbackRequest) -> RollbackPlan:
        allowed = self.allowed[len(self.planned)]
        self.planned.append(request.scope)
        alone = plan_of(APP_ONLY) if allowed else None
        unattended = Unattended(300, alone, "" if allowed else "it is unproven")
        return replace(plan_of(request.scope), unattended=unattended, severity=request.severity)

    def ask_consent(self, _connections: Connections, _plan: RollbackPlan, _request: RollbackRequest) -> str:
        raise UnansweredError("nobody consented within 5 min; nothing was changed")

    def run(self) -> RollbackReport:
        world = self.rolling.world
        stages = replace(Stages(world).all(), plan_rollback=self.plan_rollback, ask_consent=self.ask_consent)
        request = replace(request_of(self.scope, yes=False), severity=Severity.SEV1)
        return rollback(self.rolling.connections, request, stages)


@pytest.mark.parametrize("scope", [FULL, APP_ONLY])
def test_a_sev1_that_nobody_answers_takes_the_application_back_alone(
    rolling: RollingBack, scope: RollbackScope
) -> None:
    unanswered = Unanswered(rolling, scope=scope)
    report = unanswered.run()
    assert unanswered.planned == [scope, APP_ONLY], "planned again under the lock"
    assert (report.scope, report.severity, report.state) == (APP_ONLY, Severity.SEV1, FinalState.VERIFIED)
    assert (rolling.world.served, rolling.world.databases) == (OLD, {"shop": LIVE})
    assert report.approved_by == (f"policy for an unattended SEV1: nobody answered for 5 min (asked for: {scope})")


def test_a_sev1_that_nobody_answers_is_refused_where_the_policy_does_not_apply(rolling: RollingBack) -> None:
    with pytest.raises(RefusedError, match=r"nobody consented within 5 min; nothing was changed; it is unproven"):
        Unanswered(rolling, allowed=(False, False)).run()
    assert rolling.world == World()


def test_a_policy_that_no_longer_applies_under_the_lock_does_nothing(rolling: RollingBack) -> None:
    with pytest.raises(RefusedError, match="things changed"):
        Unanswered(rolling, allowed=(True, False)).run()
    assert rolling.world == World()
