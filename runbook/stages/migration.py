"""Stage 4: database migrations: applied, verified, undone by their down scripts, marked as applied.

Source: runbook, "Stage 4: Database Migration" (validation, execution, verification, automatic rollback on failure).
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Sequence

from runbook.clients.database_activity import require_calm
from runbook.clients.fingerprint import fingerprint
from runbook.clients.migration_history import MigrationHistory, State, applied_names
from runbook.clients.migration_run import Measure, Script, run_alone, run_together
from runbook.clients.psql import LockTimeoutError, Piece, SqlError, run_psql
from runbook.connections import Connections
from runbook.errors import DivergedError, StageError
from runbook.manifest import Fingerprint
from runbook.reports import Rehearsal
from runbook.rules.checklist import Check, Outcome
from runbook.rules.migration_files import Migration
from runbook.rules.migration_names import Phase
from runbook.rules.migration_steps import Step, why_alone
from runbook.rules.sql import statements
from runbook.stages.migration_plan import MigrationPlan, required_migrations

_log = logging.getLogger(__name__)
_LONGEST_PAUSE_S = 30


def apply_migrations(connections: Connections, plan: MigrationPlan, *, phase: Phase = Phase.PRE) -> tuple[str, ...]:
    """Apply the pending migrations of one phase and return their names.

    Consecutive migrations that allow it share one transaction. Safe to repeat: what the history lists is left out, and
    a file that commits statement by statement goes on where it ended. A lock that is not to be had is tried again
    here, `lock_attempts` times.

    Raises:
        RefusedError: another migration runs, or the history table is another tool's.
        TransientError: the connection was lost, or the database is busy with a long transaction or a late replica.
        StageError: a script failed or did not get its locks; its transaction is rolled back, steps before it stay
            (see `undo_migrations`).
        DivergedError: everything ran, yet the history does not list what it has to.
    """
    history = MigrationHistory(connections.database, connections.settings.migrations)
    wanted = tuple(migration.name for migration in plan.migrations(phase))
    with history.locked():
        for step in plan.steps_of(phase):
            require_calm(connections.database, connections.settings.migrations)
            _apply_step(history, plan, step)
        history.end_progress(wanted)  # a run that died may have recorded a file and not come to this
        if missing := set(wanted) - set(applied_names(history.rows())):
            raise DivergedError(f"not in the history after they ran: {', '.join(sorted(missing))}")
    return wanted


def apply_step(history: MigrationHistory, plan: MigrationPlan, step: Step, measure: Measure | None = None) -> str:
    """Run one step of a plan once, leaving out what the history lists; return what psql printed when measured.

    Raises:
        As `runbook.clients.migration_run.run_together` and `run_alone`.
    """
    done = applied_names(history.rows())
    scripts = [
        Script(migration.name, migration.path, plan.scripts[migration.path])
        for migration in step.migrations
        if migration.name not in done
    ]
    if not scripts:
        return ""
    later = [name for name in plan.pending if name not in done]
    later = later[later.index(scripts[-1].migration) + 1 :]
    if step.transactional:
        printed = run_together(history, scripts, later=later, measure=measure)
    else:
        printed = run_alone(history, scripts[0], later=later, measure=measure)
    _log.info("applied %s to %s", ", ".join(script.migration for script in scripts), history.database.name)
    return printed


def schema_state(connections: Connections) -> State:
    """Return what is invalid or unchecked in the live schema now."""
    return MigrationHistory(connections.database, connections.settings.migrations).state()


def begun_migrations(connections: Connections) -> tuple[str, ...]:
    """Return the names of the migrations that left anything in the live database: applied, or ended in the middle."""
    history = MigrationHistory(connections.database, connections.settings.migrations)
    return tuple(sorted({*applied_names(history.rows()), *history.progress()}))


def verify_migrations(
    connections: Connections, plan: MigrationPlan, rehearsal: Rehearsal | None, before: State, *, phase: Phase
) -> tuple[Check, ...]:
    """Look at the database after migrating: schema, indexes, constraints, the files' own checks, the history.

    Args:
        connections: the environment.
        plan: what was applied.
        rehearsal: what is to be expected; None when there was none.
        before: what was invalid before; see `MigrationHistory.state`.
        phase: the half that was applied.

    Source: runbook, "Stage 4: Database Migration" ("Verify migration success").
    """
    history = MigrationHistory(connections.database, connections.settings.migrations)
    now = history.state()
    missing = {item.name for item in plan.migrations(phase)} - set(applied_names(history.rows()))
    checks = [_check("history", f"not listed: {', '.join(sorted(missing))}" if missing else "", "all are listed")]
    expected = None if rehearsal is None else rehearsal.schema_after(phase)
    if expected is not None:
        found = fingerprint(
            connections.database, connections.settings.migrations.history_table, tables=()
        ).schema_sha256
        problem = "" if found == expected else "differs from the rehearsal's: somebody or something else changed it"
        checks.append(_check("schema", problem, "equals the rehearsal's"))
    invalid = sorted(".".join(index) for index in now.invalid_indexes - before.invalid_indexes)
    checks.append(_check("indexes", f"invalid: {', '.join(invalid)}" if invalid else "", "none is invalid"))
    unchecked = sorted(now.unchecked_constraints - before.unchecked_constraints)
    problem = f"NOT VALID, so old rows were not checked: {', '.join(unchecked)}" if unchecked else ""
    checks.append(_check("constraints", problem, "all are validated", Outcome.WARNING))
    return (*checks, *run_checks(history, plan, phase, only_harmless=True))


def run_checks(
    history: MigrationHistory, plan: MigrationPlan, phase: Phase | None, *, only_harmless: bool
) -> tuple[Check, ...]:
    """Run the `_VALIDATION` and `_TESTS` files of the migrations, each in a transaction that is rolled back.

    A file that begins or ends transactions itself cannot be rolled back; with `only_harmless` it is left out.
    """
    return tuple(
        _run_check(history, path, plan.scripts[path], only_harmless=only_harmless)
        for migration in plan.migrations(phase)
        for path in migration.checks
    )


def undo_migrations(connections: Connections, plan: MigrationPlan, before: Fingerprint) -> tuple[str, ...]:
    """Undo what a plan's migrations left behind, by their down scripts, newest first; return the names undone.

    A migration that ended in the middle is undone, too. Afterwards the schema has to equal `before`, the fingerprint
    of the backup made ahead of the migration.

    Raises:
        StageError: a migration has no down script, or it failed.
        DivergedError: the down scripts ran, yet the schema is another one than before.
    """
    history = MigrationHistory(connections.database, connections.settings.migrations)
    with history.locked():
        names = undo_in(history, plan, before)
    now = fingerprint(connections.database, connections.settings.migrations.history_table, tables=())
    if now.schema_sha256 != before.schema_sha256 or now.migrations != before.migrations:
        raise DivergedError("the down scripts ran, but the schema is not what it was before the migration")
    return names


def undo_in(history: MigrationHistory, plan: MigrationPlan, before: Fingerprint) -> tuple[str, ...]:
    """Run the down scripts of what a plan left in a database; the migration lock is held by the caller.

    Raises:
        StageError: a migration has no down script, or it failed.
    """
    begun = {*applied_names(history.rows()), *history.progress()}
    left = [migration for migration in plan.migrations() if migration.name in begun]
    if missing := [migration.name for migration in left if migration.down is None]:
        raise StageError(f"no down script for {', '.join(missing)}")
    for migration in reversed(left):
        script = _down(plan, migration)
        if why_alone(statements(script.text)) is None:
            _retried(history, lambda script=script: run_together(history, [script]))
        else:
            _retried(history, lambda script=script: run_alone(history, script))
        history.end_progress([migration.name])
        _log.info("undid %s in %s", migration.name, history.database.name)
    history.withdraw(existed=f"public.{history.settings.history_table}" in before.tables)
    return tuple(migration.name for migration in reversed(left))


def baseline_migrations(connections: Connections, git_sha: str, names: Sequence[str]) -> None:
    """Write migrations down as applied, as their files are in a commit, without running them; all or none.

    Raises:
        RefusedError: another migration runs, or the history table is another tool's.
    """
    known = {migration.name: migration.path for migration in required_migrations(connections, git_sha)}
    scripts = connections.repository.texts(git_sha, [known[name] for name in names])
    history = MigrationHistory(connections.database, connections.settings.migrations)
    with history.locked():
        history.baseline([(name, scripts[known[name]]) for name in names])
        history.end_progress(names)
    _log.info("marked as applied: %s", ", ".join(names))


def _apply_step(history: MigrationHistory, plan: MigrationPlan, step: Step) -> None:
    try:
        _retried(history, lambda: apply_step(history, plan, step))
    except SqlError as error:
        failed = next((item for item in step.migrations if item.path == error.path), step.migrations[-1])
        text = plan.scripts[failed.path]
        history.record_failure(failed.name, text, str(error), rolled_back=step.transactional)
        raise


def _retried(history: MigrationHistory, run: Callable[[], object]) -> None:
    """Run something that may not get its locks, several times, with longer and longer pauses in between.

    Retried here and not by Prefect: nothing before it is done again, and the migration lock is kept.
    """
    attempts = history.settings.lock_attempts
    for attempt in range(1, attempts + 1):
        try:
            run()
        except LockTimeoutError as error:
            if attempt == attempts:
                raise StageError(f"no lock in {attempts} attempts: {error}") from error
            pause_s = min(_LONGEST_PAUSE_S, history.settings.lock_timeout_s * 2 ** (attempt - 1))
            pause_s *= random.uniform(0.5, 1)  # noqa: S311 - two that wait for each other must not do so in step
            _log.warning("attempt %d of %d, again in %.1f s: %s", attempt, attempts, pause_s, error)
            time.sleep(pause_s)
        else:
            return


def _run_check(history: MigrationHistory, path: str, text: str, *, only_harmless: bool) -> Check:
    name = f"check {path}"
    alone = why_alone(statements(text))
    if alone and only_harmless:
        return Check(name, Outcome.PASSED, f"ran in the rehearsal only: {alone}")
    file = Piece(text, path, range(1, text.count("\n") + 2))
    opening, closing = history.begin_sql(), "RESET ALL;"
    pieces = [Piece(opening, path), file, Piece(closing, path)]
    if not alone:
        pieces = [Piece(opening, path), Piece("BEGIN;", path), file, Piece("ROLLBACK;", path)]
    try:
        run_psql(history.database, pieces, one_transaction=False, lock_timeout_s=history.settings.lock_timeout_s)
    except LockTimeoutError as error:
        return Check(name, Outcome.COULD_NOT_RUN, str(error))
    except StageError as error:
        return Check(name, Outcome.FAILED, str(error))
    return Check(name, Outcome.PASSED, "passed")


def _check(name: str, problem: str, fine: str, outcome: Outcome = Outcome.FAILED) -> Check:
    return Check(f"after migrating: {name}", outcome if problem else Outcome.PASSED, problem or fine)


def _down(plan: MigrationPlan, migration: Migration) -> Script:
    path = migration.down or ""
    return Script(migration.name, path, plan.scripts[path], forward=False)
