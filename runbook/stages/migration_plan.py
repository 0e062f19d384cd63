"""What a commit's migrations would do to a database: found, compared with its history, put in order, refused.

Nothing in here changes anything. Source: runbook, "Stage 4: Database Migration" ("Pre-migration validation").
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import PurePosixPath

from runbook.clients.fingerprint import applied_migrations
from runbook.clients.migration_history import Applied, MigrationHistory, applied_names, require_rights
from runbook.connections import Connections
from runbook.errors import InvalidInputError
from runbook.rules.checklist import Check, Outcome
from runbook.rules.lint import Finding, Severity
from runbook.rules.migration_checksums import Drift, drift
from runbook.rules.migration_files import (
    Ambiguity,
    Discovery,
    Irregularity,
    Migration,
    discover,
    halves,
    out_of_order,
    pending,
    refuse,
    unknown,
)
from runbook.rules.migration_names import Phase, history_name
from runbook.rules.migration_steps import Step, plan_steps, read_script
from runbook.stages.lint import lint_migrations


@dataclass(frozen=True)
class MigrationPlan:
    """The migrations of one commit, compared with one database.

    `steps` are run before the release gets the traffic, `post_steps` after it was validated. `scripts` holds the text
    of each file by its path.
    """

    git_sha: str
    found: tuple[Migration, ...]
    applied: tuple[str, ...]
    steps: tuple[Step, ...]
    post_steps: tuple[Step, ...]
    scripts: dict[str, str]
    findings: tuple[Finding, ...] = ()
    checks: tuple[Check, ...] = ()

    @property
    def pending(self) -> tuple[str, ...]:
        """Names of the migrations that would be applied, in order."""
        return tuple(migration.name for migration in self.migrations())

    def migrations(self, phase: Phase | None = None) -> tuple[Migration, ...]:
        """Return the migrations that would be applied, in order; those of one phase, or all."""
        return tuple(migration for step in self.steps_of(phase) for migration in step.migrations)

    def steps_of(self, phase: Phase | None) -> tuple[Step, ...]:
        """Return the steps of one phase, or all."""
        return {Phase.PRE: self.steps, Phase.POST: self.post_steps, None: self.steps + self.post_steps}[phase]


@dataclass(frozen=True)
class MigrationStatus:
    """One line of `runbook db:migrations`: applied, edited, pending, interrupted, failed, left out, no file."""

    name: str
    state: str
    at: datetime | None
    detail: str


def required_migrations(connections: Connections, git_sha: str) -> tuple[Migration, ...]:
    """Return the migrations that a commit brings, in order."""
    return _discovery(connections, git_sha).migrations


def applied_to(connections: Connections) -> list[str]:
    """Return the names of the migrations applied to the live database.

    Raises:
        ServiceError: the server does not answer, or the history cannot be read.
    """
    with connections.database.connect() as connection:
        return applied_migrations(connection, connections.settings.migrations.history_table)


def plan_migrations(
    connections: Connections,
    git_sha: str,
    *,
    running_git_sha: str | None,
    only: str | None = None,
    phase: Phase | None = None,
) -> MigrationPlan:
    """Plan what a commit's pending migrations do to the live database.

    Args:
        connections: the environment.
        git_sha: the commit.
        running_git_sha: the commit of the release that has the traffic; None when none has.
        only: name of the one migration to apply; all pending ones when None.
        phase: one half; both when None.

    Raises:
        InvalidInputError: a file, a name or the order is not acceptable.
        RefusedError: the history table is another tool's.
        ServiceError: the database or the repository does not answer, or the role lacks a right.
    """
    history = MigrationHistory(connections.database, connections.settings.migrations)
    rows = history.rows()
    _require_directory(connections, git_sha)
    discovery = _discovery(connections, git_sha)
    refuse([*discovery.ambiguities], connections.settings.migrations.allowed)
    applied = applied_names(rows)
    wanted = _wanted(discovery.migrations, applied, only)
    late = out_of_order(discovery.migrations, applied) if only is None else _before(discovery.migrations, applied, only)
    refuse(late, connections.settings.migrations.allowed)
    pre, post = halves(wanted, has_release=running_git_sha is not None)
    pre, post = ([] if phase is Phase.POST else pre), ([] if phase is Phase.PRE else post)
    scripts = _scripts(connections, git_sha, discovery.migrations, {item.name for item in [*pre, *post]})
    if wanted:
        require_rights(connections.database)
    steps, post_steps = tuple(plan_steps(pre, scripts)), tuple(plan_steps(post, scripts))
    for path in (path for item in [*pre, *post] for path in (item.down, *item.checks) if path):
        read_script(path, scripts[path])
    findings = lint_migrations(connections, [*pre, *post], scripts, running_git_sha=running_git_sha)
    checks = (
        *_history_checks(connections, discovery, rows, scripts),
        *_order_checks(discovery, [*discovery.ambiguities, *late]),
        *_other_tools(history, applied, wanted),
        *_lint_checks(findings),
    )
    return MigrationPlan(
        git_sha, discovery.migrations, tuple(applied), steps, post_steps, scripts, tuple(findings), checks
    )


def recorded_plan(
    connections: Connections, git_sha: str, pending: Sequence[str], *, has_release: bool
) -> MigrationPlan:
    """Return the plan that a run had for a commit, by the names it wrote down, whatever the history says by now."""
    found = _discovery(connections, git_sha).migrations
    wanted = [item for item in found if item.name in pending]
    pre, post = halves(wanted, has_release=has_release)
    scripts = _scripts(connections, git_sha, found, set(pending))
    steps, post_steps = tuple(plan_steps(pre, scripts)), tuple(plan_steps(post, scripts))
    return MigrationPlan(git_sha, found, (), steps, post_steps, scripts)


def migration_status(connections: Connections, git_sha: str) -> list[MigrationStatus]:
    """Return every migration of a commit and of the live database's history, in order; those without a file last.

    Raises:
        InvalidInputError: a file of the commit fits no layout.
        RefusedError: the history table is another tool's.
        ServiceError: the database or the repository does not answer.
    """
    history = MigrationHistory(connections.database, connections.settings.migrations)
    rows, progress = {row.name: row for row in history.rows()}, history.progress()
    discovery = _discovery(connections, git_sha)
    scripts = connections.repository.texts(git_sha, [item.path for item in discovery.migrations])
    found: list[MigrationStatus] = []
    for item in discovery.migrations:
        row = rows.pop(item.name, None)
        at, detail = (row.at if row else None), ""
        if item.name in progress:
            state, detail = "interrupted", f"{progress[item.name].done} statements are done"
        elif row is None or row.status != "completed":
            state = row.status if row else "pending" if item.phase is Phase.PRE else "pending post"
            detail = (row.error or "").split("\n", 1)[0] if row else ""
        else:
            changed = drift(scripts[item.path], row.checksum, row.normalised_checksum)
            state = "edited" if changed is Drift.EDITED else "applied"
            detail = f"{row.duration_ms} ms" if row.duration_ms is not None else ""
        found.append(MigrationStatus(item.name, state, at, detail))
    found += [MigrationStatus(path, "left out", None, "") for path in discovery.left_out]
    found += [MigrationStatus(row.name, "no file", row.at, row.status) for row in rows.values()]
    return found


def baseline_names(
    connections: Connections, git_sha: str, *, through: str | None, migration: str | None
) -> tuple[str, ...]:
    """Return the names of the migrations to be marked as applied: one, or all up to one that are not yet.

    Raises:
        InvalidInputError: the commit has no migration of that name.
    """
    found = _discovery(connections, git_sha).migrations
    name = history_name(PurePosixPath(through or migration or "").name)
    names = [item.name for item in found]
    if name not in names:
        raise InvalidInputError(
            "migration",
            name,
            f"a migration of this commit: {', '.join(names[-10:]) or 'it has none'}",
            "Mend the name.",
        )
    if migration is not None:
        return (name,)
    applied = set(applied_to(connections))
    return tuple(other for other in names[: names.index(name) + 1] if other not in applied)


def migration_checks(connections: Connections, plan: MigrationPlan) -> list[Check]:
    """Return the plan as lines of the checklist: what is pending, what is odd, whether it can be rehearsed."""
    halves_ = f", {len(plan.migrations(Phase.POST))} of them after validation" if plan.post_steps else ""
    names = f"{', '.join(plan.pending)}{halves_}" if plan.pending else "none pending"
    checks = [Check("migrations", Outcome.PASSED, names), *plan.checks]
    backup, settings = connections.settings.backup, connections.settings.migrations
    if plan.pending and settings.rehearse and backup.recipients and backup.identity_file is None:
        checks.append(
            Check(
                "rehearsal",
                Outcome.FAILED,
                "backups are encrypted, and this machine has no key to restore one for the rehearsal",
                "Name the file in `identity_file`, or set `rehearse = false`.",
            )
        )
    return checks


def _discovery(connections: Connections, git_sha: str) -> Discovery:
    settings = connections.settings.migrations
    files = connections.repository.files(git_sha, settings.directory) if settings.directory else []
    return discover(files, settings.directory, left_out=settings.left_out)


def _require_directory(connections: Connections, git_sha: str) -> None:
    settings = connections.settings.migrations
    if settings.directory and not connections.repository.files(git_sha, settings.directory):
        raise InvalidInputError(
            "migrations.directory",
            settings.directory,
            f"a folder of commit {git_sha[:12]} with the migrations in it (a file like .gitkeep is enough)",
            "Name the right folder in the environment's settings, or commit it; empty: there are no migrations.",
        )


def _wanted(found: Sequence[Migration], applied: Collection[str], only: str | None) -> list[Migration]:
    left = pending(found, applied)
    if only is None:
        return left
    name = history_name(PurePosixPath(only).name)
    if chosen := [item for item in left if item.name == name]:
        return chosen
    known = name in {item.name for item in found}
    raise InvalidInputError(
        "migration",
        only,
        f"one that is pending: {', '.join(item.name for item in left) or 'none is'}",
        "It is applied already." if known else "Mend the name, or commit the file.",
    )


def _before(found: Sequence[Migration], applied: Collection[str], only: str) -> list[Ambiguity]:
    """Say which pending migrations one that is applied alone would overtake."""
    name = history_name(PurePosixPath(only).name)
    return out_of_order(found, [*applied, name])


def _scripts(
    connections: Connections, git_sha: str, found: Sequence[Migration], wanted: Collection[str]
) -> dict[str, str]:
    """Read the files: all forward ones, to compare them with the history, and the companions of those to apply."""
    paths = [item.path for item in found]
    paths += [path for item in found if item.name in wanted for path in (item.down, *item.checks) if path]
    scripts = connections.repository.texts(git_sha, paths)
    limit = connections.settings.migrations.maximum_file_mb
    for path in [item.path for item in found if item.name in wanted]:
        size_mb = len(scripts[path].encode()) / 1e6
        if size_mb > limit:
            raise InvalidInputError(
                "migration",
                f"{path} ({size_mb:.1f} MB)",
                f"at most {limit:g} MB (`maximum_file_mb` in the settings)",
                "Load data by itself, not in a migration, or raise the limit.",
            )
    return scripts


def _history_checks(
    connections: Connections, discovery: Discovery, rows: Sequence[Applied], scripts: dict[str, str]
) -> list[Check]:
    allowed = connections.settings.migrations.allowed
    names = {item.name: item.path for item in discovery.migrations}
    cosmetic: list[str] = []
    edited: list[str] = []
    for row in rows:
        if row.status == "completed" and row.name in names:
            kind = drift(scripts[names[row.name]], row.checksum, row.normalised_checksum)
            if kind is Drift.EDITED:
                edited.append(row.name)
            elif kind is Drift.COSMETIC:
                cosmetic.append(row.name)
    checks = [Check("migration history", Outcome.PASSED, f"{len(rows)} rows, {len(names)} files")]
    if missing := unknown(discovery.migrations, applied_names(rows)):
        checks.append(
            Check(
                "migration files",
                Outcome.WARNING if Irregularity.MISSING_FILE in allowed else Outcome.FAILED,
                f"applied, but not in this commit: {', '.join(missing)}",
                "Merge the branch that brought them, or put `missing-file` into `allowed` of the settings.",
            )
        )
    if edited:
        checks.append(
            Check(
                "migration drift",
                Outcome.WARNING if Irregularity.EDITED_FILE in allowed else Outcome.FAILED,
                f"edited after being applied: {', '.join(edited)}",
                "Take the edit back and write a new migration; or, if the database is as the file says now, "
                "`runbook db:baseline --migration=<name>`.",
            )
        )
    if cosmetic:
        detail = f"only comments or white space changed since they were applied: {', '.join(cosmetic)}"
        checks.append(Check("migration drift", Outcome.PASSED, detail))
    return checks


def _order_checks(discovery: Discovery, ambiguities: Sequence[Ambiguity]) -> list[Check]:
    checks = [
        Check("migration order", Outcome.WARNING, f"{item.kind}: {item.detail}", "Allowed by the settings.")
        for item in ambiguities
    ]
    if discovery.left_out:
        detail = f"left out by the settings: {', '.join(discovery.left_out)}"
        checks.append(Check("migrations left out", Outcome.WARNING, detail))
    return checks


def _other_tools(history: MigrationHistory, applied: Collection[str], wanted: Collection[Migration]) -> list[Check]:
    tools = history.other_tools()
    if not tools:
        return []
    detail = ", ".join(f"{table} ({tool})" for table, tool in tools.items())
    new = not applied and bool(wanted)
    return [
        Check(
            "other histories",
            Outcome.WARNING if new else Outcome.PASSED,
            f"other tools keep a history in this database: {detail}",
            "Say what they have applied already with `runbook db:baseline --through=<name>`." if new else "",
        )
    ]


def _lint_checks(findings: Sequence[Finding]) -> list[Check]:
    outcomes = {Severity.ERROR: Outcome.FAILED, Severity.WARNING: Outcome.WARNING}
    return [
        Check(
            f"lint: {finding.rule}",
            outcomes[finding.severity],
            f"{finding.path}:{finding.line}: {finding.message}",
            finding.safer and f"Safer: {finding.safer}",
        )
        for finding in findings
        if finding.severity in outcomes
    ]
