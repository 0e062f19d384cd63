"""Stage 4: database migrations, and undoing them.

Source: runbook, "Stage 4: Database Migration" (validation, execution, verification, automatic rollback on failure).
"""

from __future__ import annotations

import logging

from runbook.clients.fingerprint import applied_migrations, fingerprint
from runbook.clients.migration_history import MigrationHistory, Script
from runbook.connections import Connections
from runbook.errors import DivergedError, StageError
from runbook.manifest import Fingerprint
from runbook.rules.migrations import Migration
from runbook.rules.sql import controls_transaction, needs_own_transaction, statements
from runbook.stages.checklist import ReleasePlan

_log = logging.getLogger(__name__)


def apply_migrations(connections: Connections, plan: ReleasePlan) -> tuple[str, ...]:
    """Apply the pending migrations of a plan and return their names.

    Consecutive migrations that allow it share one transaction. Safe to repeat: what the history lists is left out.

    Raises:
        RefusedError: another migration runs.
        TransientError: a table lock was not to be had in time; its transaction is rolled back.
        StageError: a script failed; its transaction is rolled back, steps before it stay (see `undo_migrations`).
        DivergedError: everything ran, yet the history does not list what it has to.
    """
    history = _history(connections)
    with history.locked():
        for step in plan.steps:
            done = _applied(connections)
            scripts = [
                Script(migration.name, migration.path, plan.scripts[migration.path])
                for migration in step.migrations
                if migration.name not in done
            ]
            if scripts:
                history.run(scripts, transactional=step.transactional)
                _log.info("applied %s", ", ".join(script.migration for script in scripts))
        if missing := set(plan.pending) - set(_applied(connections)):
            raise DivergedError(f"not in the history after they ran: {', '.join(sorted(missing))}")
    return plan.pending


def undo_migrations(connections: Connections, plan: ReleasePlan, before: Fingerprint) -> tuple[str, ...]:
    """Undo what a plan's migrations left behind, by their down scripts, newest first; return the names undone.

    Afterwards the schema has to equal `before`, the fingerprint of the backup made ahead of the migration.

    Raises:
        StageError: a migration has no down script, or it failed.
        DivergedError: the down scripts ran, yet the schema is another one than before.
    """
    history = _history(connections)
    with history.locked():
        done = _applied(connections)
        left = [migration for migration in plan.found if migration.name in done and migration.name in plan.pending]
        if missing := [migration.name for migration in left if migration.down is None]:
            raise StageError(f"no down script for {', '.join(missing)}")
        for migration in reversed(left):
            script = _down(plan, migration)
            found = statements(script.text)
            alone = any(needs_own_transaction(statement) or controls_transaction(statement) for statement in found)
            history.run([script], transactional=not alone)
            _log.info("undid %s", migration.name)
        if f"public.{connections.settings.migrations.history_table}" not in before.tables:
            history.drop()
    now = fingerprint(connections.database, connections.settings.migrations.history_table)
    if now.schema_sha256 != before.schema_sha256 or now.migrations != before.migrations:
        raise DivergedError("the down scripts ran, but the schema is not what it was before the migration")
    return tuple(migration.name for migration in reversed(left))


def _history(connections: Connections) -> MigrationHistory:
    return MigrationHistory(connections.database, connections.settings.migrations)


def _applied(connections: Connections) -> list[str]:
    with connections.database.connect() as connection:
        return applied_migrations(connection, connections.settings.migrations.history_table)


def _down(plan: ReleasePlan, migration: Migration) -> Script:
    path = migration.down or ""
    return Script(migration.name, path, plan.scripts[path], forward=False)
