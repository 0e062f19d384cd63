"""Stage 1: the pre-deployment checklist, and the plan of the release that comes out of it.

Nothing in here changes anything. Source: runbook, "Pre-Deployment Checklist" and "Stage 1: Pre-Deployment Validation".
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from runbook.clients.browser import require_browser
from runbook.clients.encryption import read_identities
from runbook.clients.restore_points import RestorePoints
from runbook.connections import Connections
from runbook.errors import InvalidInputError, RefusedError, RunbookError, TransientError
from runbook.manifest import VerificationLevel
from runbook.rules import checklist
from runbook.rules.checklist import Check, Outcome
from runbook.rules.drills import duration_in_words, overdue
from runbook.rules.maintenance import freeze_at
from runbook.rules.migration_names import Phase
from runbook.rules.smoke import SmokeTest, parse_smoke_tests
from runbook.rules.variables import required_variables
from runbook.settings import DrillSettings
from runbook.stages.breaking_changes import breaking_changes
from runbook.stages.drill import last_drill
from runbook.stages.github_checks import github_checks, history_check
from runbook.stages.manual_verification import manual_verification
from runbook.stages.migration_plan import MigrationPlan, migration_checks, plan_migrations
from runbook.stages.performance import performance_budgets
from runbook.stages.preparation import check_bound
from runbook.stages.security_audit import security_audit
from runbook.stages.traffic import check_traffic


@dataclass(frozen=True)
class ReleasePlan:
    """What a deploy of one commit would do."""

    git_ref: str
    git_sha: str
    version: str
    previous_git_sha: str | None
    migrations: MigrationPlan
    smoke_tests: tuple[SmokeTest, ...]


@dataclass(frozen=True)
class Checklist:
    """The answers of the checklist for one commit; `plan` is None when they do not allow one.

    `manual` are the items that a person would tick, each answered by evidence or by who has attested it.
    """

    git_ref: str
    git_sha: str
    version: str
    checks: tuple[Check, ...]
    manual: tuple[Check, ...]
    refusals: tuple[Check, ...]
    plan: ReleasePlan | None


class ChecklistFailedError(RefusedError):
    """The checklist refuses the deploy; the message lists what is wrong and what to do about each.

    `answers` are all of them, where a whole checklist was asked for.
    """

    def __init__(self, refusals: tuple[Check, ...], answers: Checklist | None = None) -> None:
        lines = [f"- {check.name}: {check.detail} {check.action}".rstrip() for check in refusals]
        super().__init__("the checklist refuses; nothing was changed:\n" + "\n".join(lines))
        self.answers = answers


def run_checklist(connections: Connections, git_ref: str, *, strict: bool) -> Checklist:
    """Answer every check of the runbook for the commit that `git_ref` means, the manual ones too.

    `strict` turns warnings into refusals, manual items without evidence and without a person's word among them; a check
    that could not run refuses always.

    Raises:
        InvalidInputError: the ref is malformed or unknown.
    """
    repository = connections.repository
    git_sha = repository.resolve(git_ref)
    version = repository.version(git_sha)
    checks = [
        _ask("working tree", lambda: _clean_tree(connections)),
        _ask("freeze", lambda: _no_freeze(connections)),
        *_backup_checks(connections),
        _ask("database", lambda: _database(connections)),
        _checked("captured writes", lambda: check_bound(connections)),
        _ask("application host", lambda: connections.host.check()),
        _ask("smoke tests", lambda: _smoke_tests(connections, git_sha)),
        _test_suite(connections),
        *security_audit(connections, git_sha, strict=strict),
        *performance_budgets(connections, git_sha, strict=strict),
        *github_checks(connections, git_sha, strict=strict),
    ]
    plan = None
    if not checklist.refusals(checks, strict=False):
        checks += _variables(connections)
        checks.append(_traffic(connections))
        try:
            plan = _plan(connections, git_ref, git_sha, version)
        except RunbookError as error:
            checks.append(_answer("migrations", error))
        else:
            checks += migration_checks(connections, plan.migrations)
            checks.append(breaking_changes(connections, plan.previous_git_sha, plan.migrations))
            checks += history_check(connections, plan.previous_git_sha, git_sha, strict=strict)
    pending = plan.migrations.pending if plan else None
    manual = manual_verification(connections, git_sha, checks, pending=pending)
    refusals = tuple(checklist.refusals([*checks, *manual], strict=strict))
    return Checklist(git_ref, git_sha, version, tuple(checks), manual, refusals, plan)


def plan_release(connections: Connections, git_ref: str) -> tuple[ReleasePlan, tuple[str, ...]]:
    """Run the checklist and return the plan of the release and the checklist's warnings.

    Raises:
        InvalidInputError: the ref is malformed or unknown.
        ChecklistFailedError: the checklist refuses.
    """
    answers = run_checklist(connections, git_ref, strict=connections.settings.strict)
    if answers.refusals or answers.plan is None:
        raise ChecklistFailedError(answers.refusals)
    warnings = [f"{check.name}: {check.detail}" for check in answers.checks if check.outcome is Outcome.WARNING]
    return answers.plan, tuple(warnings)


def plan_database(
    connections: Connections, git_ref: str, *, only: str | None, phase: Phase | None
) -> tuple[MigrationPlan, tuple[str, ...]]:
    """Plan a migration of the database alone; return the plan and the warnings.

    Args:
        connections: the environment.
        git_ref: branch, tag or commit that the migrations are taken from.
        only: name of the one migration to apply; all pending ones when None.
        phase: the half to apply; both when None.

    Raises:
        InvalidInputError: the ref, a name or a file is not acceptable.
        ChecklistFailedError: something speaks against it; nothing was changed.
    """
    git_sha = connections.repository.resolve(git_ref)
    checks = [
        _ask("freeze", lambda: _no_freeze(connections)),
        *_backup_checks(connections),
        _ask("database", lambda: _database(connections)),
    ]
    if not checklist.refusals(checks, strict=False):
        active = connections.host.active()
        running = active.git_sha if active else None
        plan = plan_migrations(connections, git_sha, running_git_sha=running, only=only, phase=phase)
        checks += migration_checks(connections, plan)
        if not (refusals := checklist.refusals(checks, strict=connections.settings.strict)):
            warnings = [f"{check.name}: {check.detail}" for check in checks if check.outcome is Outcome.WARNING]
            return plan, tuple(warnings)
    else:
        refusals = checklist.refusals(checks, strict=False)
    raise ChecklistFailedError(tuple(refusals))


def smoke_tests(connections: Connections, git_sha: str) -> tuple[SmokeTest, ...]:
    """Return the smoke tests that a commit brings.

    Raises:
        InvalidInputError: it brings none, or they are not acceptable.
    """
    name = connections.settings.smoke_file
    text = connections.repository.text(git_sha, name)
    if text is None:
        raise InvalidInputError(
            "smoke_file", name, f"a file of commit {git_sha[:12]}", "Add it: a release without smoke tests is unproven."
        )
    return parse_smoke_tests(text, name)


def _smoke_tests(connections: Connections, git_sha: str) -> str:
    tests = smoke_tests(connections, git_sha)
    pages = [test for test in tests if test.visible]
    if pages:
        require_browser()
    return f"{len(tests)} requests{f', {len(pages)} of them in a browser' if pages else ''}"


def _plan(connections: Connections, git_ref: str, git_sha: str, version: str) -> ReleasePlan:
    active = connections.host.active()
    running = active.git_sha if active else None
    return ReleasePlan(
        git_ref=git_ref,
        git_sha=git_sha,
        version=version,
        previous_git_sha=running,
        migrations=plan_migrations(connections, git_sha, running_git_sha=running),
        smoke_tests=smoke_tests(connections, git_sha),
    )


def _ask(name: str, question: Callable[[], str | None]) -> Check:
    try:
        return Check(name, Outcome.PASSED, question() or "in order")
    except RunbookError as error:
        return _answer(name, error)


def _checked(name: str, check: Callable[[], Check]) -> Check:
    try:
        return check()
    except RunbookError as error:
        return _answer(name, error)


def _answer(name: str, error: RunbookError) -> Check:
    outcome = Outcome.COULD_NOT_RUN if isinstance(error, TransientError) else Outcome.FAILED
    return Check(name, outcome, str(error))


def _clean_tree(connections: Connections) -> str:
    changed = connections.repository.uncommitted()
    if changed:
        raise InvalidInputError(
            "repository",
            ", ".join(changed[:5]),
            "a checkout without uncommitted changes",
            "Commit or stash them: a release is made from a commit, not from a folder.",
        )
    return "no uncommitted changes"


def _no_freeze(connections: Connections) -> str:
    freeze = freeze_at(connections.settings.maintenance.freezes, datetime.now(UTC))
    if freeze is None:
        return "no freeze"
    raise RefusedError(
        f"nothing is deployed until {freeze.end.astimezone(UTC):%Y-%m-%d %H:%M} UTC: {freeze.reason}. Wait, or take "
        "the freeze out of the settings (`maintenance.freezes`); a rollback is always allowed."
    )


def _database(connections: Connections) -> str:
    programs = connections.database.programs()
    return f"{connections.database.name} at {connections.database.place}, pg_dump {programs.version}"


def _backup_checks(connections: Connections) -> list[Check]:
    checks = [_ask("backup store", lambda: connections.store.check())]
    second, points = connections.second_store, connections.restore_points
    if second is not None:
        checks.append(_ask("second backup store", lambda: second.check()))
    if connections.settings.backup.recipients:
        checks.append(_ask("backup encryption", lambda: _identity(connections)))
    if points is not None:
        checks.append(_ask("instant restore point", lambda: _restore_horizon(connections, points)))
    if connections.settings.backup.drill != DrillSettings():
        checks.append(_ask("restore drill", lambda: _drill(connections)))
    return checks


def _identity(connections: Connections) -> str:
    backup = connections.settings.backup
    if backup.identity_file is not None:
        return f"{len(read_identities(Path(backup.identity_file)))} keys to decrypt"
    if backup.verification is not VerificationLevel.CHECKSUMS:
        raise InvalidInputError(
            "identity_file",
            None,
            f"a file with an age secret key, or the verification level {VerificationLevel.CHECKSUMS}",
            f"Backups are encrypted, and the level {backup.verification} restores them before the migration.",
        )
    return "backups are encrypted; this machine cannot decrypt them"


def _restore_horizon(connections: Connections, points: RestorePoints) -> str:
    """Refuse while the provider forgets sooner than a rollback may still be asked for."""
    deadline, horizon = connections.settings.backup.rollback_deadline, points.horizon()
    reach = (
        f"the provider restores {duration_in_words(horizon.total_seconds())} back, the rollback deadline is "
        f"{duration_in_words(deadline.total_seconds())}"
    )
    if horizon < deadline:
        raise RefusedError(
            f"{reach}. Lengthen the provider's history, or shorten `rollback_deadline_h` in the settings."
        )
    return f"{points.check()}; {reach}"


def _drill(connections: Connections) -> str:
    last = last_drill(connections)
    if findings := overdue(last, connections.settings.backup.drill, now=datetime.now(UTC)):
        raise RefusedError("; ".join(findings) + " Start one with `runbook db:drill`.")
    return f"last one {last.timestamp:%Y-%m-%d %H:%M} UTC, {last.backup_id}" if last else "none yet, none asked for"


def _variables(connections: Connections) -> list[Check]:
    try:
        return required_variables(connections.host.variables())
    except RunbookError as error:
        return [_answer("environment variables", error)]


def _traffic(connections: Connections) -> Check:
    try:
        return check_traffic(connections)
    except RunbookError as error:
        return _answer("traffic", error)


def _test_suite(connections: Connections) -> Check:
    commands = connections.settings.tests
    if commands:
        return Check("test suite", Outcome.PASSED, ", ".join(command.name for command in commands))
    return Check("test suite", Outcome.WARNING, "no command is configured", "Add `[[tests]]` to the settings.")
