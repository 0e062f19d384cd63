from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import cast

import pytest

from runbook.clients.backup_store import BackupStore
from runbook.clients.embedded_postgres import EmbeddedPostgres
from runbook.clients.folder_store import FolderStore
from runbook.clients.git import Repository
from runbook.clients.postgres import Database
from runbook.connections import Connections
from runbook.errors import InvalidInputError, RejectedError, TransientError
from runbook.reports import DeployReport, FinalState
from runbook.rules.checklist import MANUAL_ITEMS, Check, Outcome
from runbook.rules.manual_items import ManualItem
from runbook.rules.migration_files import Irregularity
from runbook.rules.variables import Variable
from runbook.settings import BenchmarkCommand, MigrationSettings, TestCommand
from runbook.stages.checklist import Checklist, ChecklistFailedError, plan_release, run_checklist
from runbook.stages.manual_verification import attest
from tests.fakes.application_host import MemoryHost
from tests.runbook.helpers import commit, execute

CRITICAL = {"DATABASE_URL": 40, "NEXTAUTH_SECRET": 32, "NEXTAUTH_URL": 20, "JWT_SECRET": 32}
OPTIONAL = {"ANTHROPIC_API_KEY": 40, "OPENAI_API_KEY": 40, "SLACK_WEBHOOK_URL": 60}
SMOKE = '[[request]]\nname = "home"\npath = "/"\n'


OF_THE_SAME_CAUSE = ("lint: drop-column", "breaking changes", "Performance benchmarks met")
"""Checks that warn of what another one warns of, too."""


@dataclass
class Shop:
    """An environment in which the checklist passes, with all that a test may want to break."""

    connections: Connections
    host: MemoryHost
    recorded: int = 0

    def commit(self, files: Mapping[str, str | None], message: str = "feat: change files") -> str:
        path = self.connections.repository.path
        for name in [name for name, text in files.items() if text is None]:
            (path / name).unlink()
        return commit(path, {name: text for name, text in files.items() if text is not None}, message)

    def change(self, **settings: object) -> None:
        changed = self.connections.settings.model_copy(update=settings)
        self.connections = replace(self.connections, settings=changed)

    def attest(self) -> None:
        """Let a person answer for all manual items of the commit."""
        for item in ManualItem:
            attest(self.connections, "main", item, by="Ada", note="seen", valid=timedelta(hours=1))

    def ask(self, *, strict: bool = False) -> Checklist:
        return run_checklist(self.connections, "main", strict=strict)

    def answer(self, name: str, *, strict: bool = False) -> Check:
        [check] = [check for check in self.ask(strict=strict).checks if check.name == name]
        return check

    def refuses(self) -> str:
        """Return what the deploy is refused with, after making sure that asking changed nothing."""
        with pytest.raises(ChecklistFailedError) as caught:
            plan_release(self.connections, "main")
        assert caught.value.exit_code == 3
        assert "nothing was changed" in str(caught.value)
        assert len(self.host.known) == 1, "nothing was staged"
        assert not self.connections.store.manifests()
        assert len(self.connections.store.history()) == self.recorded
        return str(caught.value)


@pytest.fixture(scope="module")
def shared(postgres: EmbeddedPostgres) -> Database:
    execute(postgres.url(), "CREATE DATABASE checklist")
    return Database(postgres.url("checklist"))


@pytest.fixture
def database(shared: Database) -> Database:
    """The same database for every test of this file, emptied: nothing here makes another one beside it."""
    execute(shared.url, "DROP SCHEMA public CASCADE", "CREATE SCHEMA public")
    return shared


@pytest.fixture
def shop(connections: Connections) -> Shop:
    host = cast("MemoryHost", connections.host)
    host.environment = {name: Variable(length) for name, length in {**CRITICAL, **OPTIONAL}.items()}
    found = Shop(connections, host)
    found.change(tests=(TestCommand(name="unit tests", argv=("true",)),))
    found.commit({"smoke.toml": SMOKE})
    return found


def test_a_release_in_order_gets_a_plan(shop: Shop) -> None:
    sha = shop.commit({"migrations/0001_create.sql": "CREATE TABLE orders (id int);\n"})
    open_ones = shop.ask(strict=True)
    assert [check.name for check in open_ones.refusals] == list(MANUAL_ITEMS), "nobody has said a word"
    shop.attest()
    answers = shop.ask(strict=True)
    assert {check.name for check in answers.checks if check.outcome is not Outcome.PASSED} == {"CI", "code review"}
    assert answers.refusals == (), "without GitHub a person looks at both"
    plan, warnings = plan_release(shop.connections, "main")
    assert (plan.git_sha, plan.migrations.pending, warnings) == (sha, ("0001_create",), ())
    assert plan.migrations.scripts == {"migrations/0001_create.sql": "CREATE TABLE orders (id int);\n"}
    assert [test.name for test in plan.smoke_tests] == ["home"]
    active = shop.host.active()
    assert active is not None
    assert plan.previous_git_sha == active.git_sha


@pytest.mark.parametrize("git_ref", ["no-such-branch", "--upload-pack=x", "main~1", "", "a b", "0" * 40])
def test_a_commit_that_is_not_known_is_refused(shop: Shop, git_ref: str) -> None:
    with pytest.raises(InvalidInputError, match="git_ref"):
        plan_release(shop.connections, git_ref)


def test_uncommitted_changes_are_named(shop: Shop) -> None:
    (shop.connections.repository.path / "smoke.toml").write_text("", encoding="utf-8")
    assert "smoke.toml" in shop.refuses()
    assert shop.answer("working tree").outcome is Outcome.FAILED


def test_a_database_that_does_not_answer_could_not_be_checked(shop: Shop) -> None:
    shop.connections = replace(shop.connections, database=Database("postgresql://me:hunter2@127.0.0.1:1/shop"))
    message = shop.refuses()
    assert "database shop at 127.0.0.1:1 does not answer" in message
    assert "hunter2" not in message
    assert shop.answer("database").outcome is Outcome.COULD_NOT_RUN


def test_a_store_that_cannot_be_written_to_is_refused(shop: Shop, tmp_path: Path) -> None:
    (tmp_path / "a file").touch()
    shop.connections = replace(shop.connections, store=BackupStore(FolderStore(tmp_path / "a file")))
    assert f"the backup store {tmp_path / 'a file'}" in shop.refuses()
    assert shop.answer("backup store").outcome is Outcome.FAILED


@pytest.mark.parametrize(
    ("method", "name"),
    [("check", "application host"), ("variables", "environment variables"), ("active", "migrations")],
)
@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        pytest.param(TransientError("the host is down"), Outcome.COULD_NOT_RUN, id="no answer"),
        pytest.param(RejectedError("the host says no"), Outcome.FAILED, id="rejected"),
    ],
)
def test_a_host_that_does_not_help_is_refused_in_its_own_words(
    shop: Shop, method: str, name: str, error: Exception, outcome: Outcome
) -> None:
    shop.host.breaks[method] = error
    assert str(error) in shop.refuses()
    assert shop.answer(name).outcome is outcome


def test_a_history_that_cannot_be_read_is_refused(shop: Shop) -> None:
    execute(shop.connections.database.url, "CREATE TABLE schema_migrations (version text)")
    assert "no migration_name" in shop.refuses()
    assert shop.answer("migrations").outcome is Outcome.FAILED


@pytest.mark.parametrize(
    ("smoke", "said"),
    [
        pytest.param(None, "a release without smoke tests is unproven", id="missing"),
        pytest.param("request = ", "valid TOML", id="not TOML"),
        pytest.param('[[request]]\nname = "x"\npath = "http://other"\n', "request.0.path", id="bad field"),
        pytest.param("", "request", id="empty"),
    ],
)
def test_a_release_without_usable_smoke_tests_is_refused(shop: Shop, smoke: str | None, said: str) -> None:
    shop.commit({"smoke.toml": smoke})
    assert said in shop.refuses()
    assert shop.answer("smoke tests").outcome is Outcome.FAILED


@pytest.mark.parametrize("name", CRITICAL)
def test_a_missing_critical_variable_is_named(shop: Shop, name: str) -> None:
    del shop.host.environment[name]
    message = shop.refuses()
    assert f"Set {name}" in message
    assert [other for other in CRITICAL if other in message] == [name]


def test_a_short_secret_is_refused_without_showing_it(shop: Shop) -> None:
    shop.host.environment["NEXTAUTH_SECRET"] = Variable(31)
    assert "31 characters, at least 32 are needed" in shop.refuses()


@pytest.mark.parametrize(
    "migrations",
    [
        pytest.param({"migrations/0001_a.sql": "-- nothing\n"}, id="without a statement"),
        pytest.param({"migrations/0001_a.sql": "SELECT 'open\n"}, id="not SQL"),
        pytest.param({"migrations/0001_a.sql": "SELECT 1;", "migrations/0001_b.sql": "SELECT 1;"}, id="same version"),
        pytest.param({"migrations/create.sql": "SELECT 1;"}, id="without a version"),
    ],
)
def test_migrations_that_cannot_be_planned_are_refused(shop: Shop, migrations: dict[str, str]) -> None:
    shop.commit(migrations)
    assert "migrations" in shop.refuses()
    assert shop.answer("migrations").outcome is Outcome.FAILED


def without_an_optional_variable(shop: Shop) -> None:
    del shop.host.environment["SLACK_WEBHOOK_URL"]


def without_a_test_suite(shop: Shop) -> None:
    shop.change(tests=())


def test_a_page_for_a_browser_is_refused_where_there_is_none(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    shop.commit({"smoke.toml": SMOKE + 'visible = "Shop"\n'})
    git = shutil.which("git")
    assert git is not None
    programs = tmp_path / "programs"
    programs.mkdir()
    (programs / "git").symlink_to(git)
    monkeypatch.setenv("PATH", str(programs))
    check = shop.answer("smoke tests")
    assert check.outcome is Outcome.FAILED
    assert "there is none on this machine" in check.detail


def with_a_breaking_change(shop: Shop) -> None:
    shop.commit({"api.txt": "v2"}, "feat!: drop the old API")


def release(shop: Shop, files: Mapping[str, str | None]) -> None:
    """Let a commit with these files have the traffic, as the only release there is."""
    shop.host.known[""] = replace(shop.host.known.pop("r1"), git_sha=shop.commit(files))
    shop.host.active_id = ""


def with_an_api_that_takes_something_away(shop: Shop) -> None:
    shop.change(api_document="openapi.json")
    release(shop, {"openapi.json": '{"paths": {"/orders": {"get": {}}, "/stock": {"get": {}}}}'})
    shop.commit({"openapi.json": '{"paths": {"/orders": {"get": {}}}}'})


def with_an_api_that_nobody_can_read(shop: Shop) -> None:
    shop.change(api_document="openapi.json")
    release(shop, {"openapi.json": '{"paths": {}}'})
    shop.commit({"openapi.json": "{"})


def with_a_release_over_its_budget(shop: Shop) -> None:
    sized = BenchmarkCommand(name="bundle", argv=("cat", "size.json"), budgets={"js.kb": 300})
    shop.change(benchmarks=(sized,))
    shop.commit({"size.json": '{"js": {"kb": 301}}'})


def with_a_destructive_migration(shop: Shop) -> None:
    execute(shop.connections.database.url, "CREATE TABLE a (b int, c int)")
    shop.commit({"migrations/0001_drop.sql": "SELECT 1;\nALTER TABLE a DROP COLUMN b;\n"})


def with_a_migration_nobody_knows(shop: Shop) -> None:
    execute(
        shop.connections.database.url,
        "CREATE TABLE schema_migrations (migration_name text, status text)",
        "INSERT INTO schema_migrations VALUES ('0007_of_a_branch', 'completed')",
    )
    shop.change(migrations=MigrationSettings(allowed=(Irregularity.MISSING_FILE,)))


def with_a_running_commit_that_is_gone(shop: Shop) -> None:
    shop.host.promote(shop.host.stage("d" * 40, "gone").release_id)
    shop.host.known.pop("r1")


def with_traffic_changed_by_hand(shop: Shop) -> None:
    report = DeployReport(
        environment="test",
        timestamp=datetime(2025, 1, 4, 12, tzinfo=UTC),
        git_ref="v7",
        git_sha="e" * 40,
        version="v7",
        reason="test",
        triggered_by="test",
        duration=1,
        success=True,
        state=FinalState.VERIFIED,
        steps=(),
    )
    shop.connections.store.write_deploy(report)
    shop.recorded = 1


@pytest.mark.parametrize(
    ("prepare", "name", "said"),
    [
        (with_traffic_changed_by_hand, "traffic", "the records say v7"),
        (without_an_optional_variable, "SLACK_WEBHOOK_URL", "Notifications: not set"),
        (without_a_test_suite, "test suite", "no command is configured"),
        (with_a_breaking_change, "breaking changes", "feat!: drop the old API"),
        (with_a_destructive_migration, "lint: drop-column", "migrations/0001_drop.sql:2"),
        (with_a_destructive_migration, "breaking changes", "migrations/0001_drop.sql:2 drops column b of a"),
        (with_an_api_that_takes_something_away, "breaking changes", "/stock is gone"),
        (with_an_api_that_nobody_can_read, "breaking changes", "api_document"),
        (with_a_release_over_its_budget, "performance budgets", "over budget: js.kb 301 of 300"),
        (with_a_migration_nobody_knows, "migration files", "0007_of_a_branch"),
        (with_a_running_commit_that_is_gone, "breaking changes", "not known"),
    ],
)
def test_a_warning_lets_a_deploy_pass_unless_it_is_strict(
    shop: Shop, prepare: Callable[[Shop], None], name: str, said: str
) -> None:
    prepare(shop)
    shop.attest()
    check = shop.answer(name)
    assert check.outcome is Outcome.WARNING
    assert said in check.detail
    refusing = {refusal.name for refusal in shop.ask(strict=True).refusals}
    assert name in refusing
    assert refusing <= {name, *OF_THE_SAME_CAUSE}
    assert not shop.ask().refusals
    _, warnings = plan_release(shop.connections, "main")
    assert any(said in warning for warning in warnings)
    shop.change(strict=True)
    assert said in shop.refuses()


def test_manual_items_are_answered_by_evidence_or_by_a_persons_word_and_stop_only_what_is_strict(shop: Shop) -> None:
    shop.commit({"README.md": "no migration"})
    found = {check.name: check for check in shop.ask().manual}
    assert list(found) == list(MANUAL_ITEMS)
    assert found["Database migrations reviewed"].detail == "none is pending"
    attest(shop.connections, "main", ManualItem.SECURITY, by="Ada", note="npm audit: 0 high", valid=timedelta(hours=1))
    security = next(check for check in shop.ask().manual if check.name == "Security audit passed")
    assert security.outcome is Outcome.PASSED
    assert security.detail.startswith("attested by Ada until 20")
    assert security.detail.endswith(": npm audit: 0 high")
    assert not shop.ask().refusals
    shop.commit({"README.md": "another commit"})
    security = next(check for check in shop.ask().manual if check.name == "Security audit passed")
    assert security.outcome is Outcome.WARNING, "of another commit nobody has said anything"


@pytest.mark.parametrize(
    ("by", "valid", "wrong"), [(" ", timedelta(hours=1), "by"), ("Ada", timedelta(days=8), "valid")]
)
def test_an_attestation_has_a_name_and_an_end(shop: Shop, by: str, valid: timedelta, wrong: str) -> None:
    shop.commit({"README.md": "x"})
    with pytest.raises(InvalidInputError, match=wrong):
        attest(shop.connections, "main", ManualItem.SECURITY, by=by, note="", valid=valid)


def test_everything_that_is_wrong_is_said_at_once(shop: Shop) -> None:
    shop.commit({"smoke.toml": None})
    (shop.connections.repository.path / "README.md").write_text("changed", encoding="utf-8")
    shop.connections = replace(shop.connections, database=Database("postgresql://127.0.0.1:1/shop"))
    message = shop.refuses()
    assert all(said in message for said in ("README.md", "does not answer", "smoke"))


def test_a_commit_is_planned_from_its_own_files(shop: Shop) -> None:
    first = shop.commit({"migrations/0001_a.sql": "SELECT 1;"})
    shop.commit({"migrations/0002_b.sql": "SELECT 1;"})
    plan, _ = plan_release(shop.connections, first)
    assert plan.migrations.pending == ("0001_a",)


def test_a_folder_that_is_no_repository_is_said_to_be_none(shop: Shop, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    shop.connections = replace(shop.connections, repository=Repository(tmp_path / "empty"))
    with pytest.raises(RejectedError, match="not a git repository"):
        plan_release(shop.connections, "main")
