"""The migrations rehearsed on the backup just made: what they cost, whether they can be undone, who survives them.

Source: runbook, "Stage 4: Database Migration" ("Pre-migration validation").
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import replace

from runbook.clients.database_activity import rows_written
from runbook.clients.database_copies import carry_properties, drop
from runbook.clients.fingerprint import fingerprint
from runbook.clients.measurement import Held, meter
from runbook.clients.migration_history import MigrationHistory
from runbook.clients.postgres import Database
from runbook.clients.workload import Calls, Workload, failing_queries, read_workload
from runbook.connections import Connections
from runbook.errors import RefusedError, ServiceError, StageError
from runbook.manifest import Fingerprint
from runbook.reports import Rehearsal, StatementCost, TableBlock, UndoEvidence, UndoOutcome
from runbook.rules.checklist import Outcome
from runbook.rules.migration_names import Phase
from runbook.rules.sql import statements
from runbook.settings import MigrationBudget
from runbook.stages.backup import newest_verified_backup
from runbook.stages.compatibility import check_old_release
from runbook.stages.migration import apply_step, run_checks, undo_in
from runbook.stages.migration_plan import MigrationPlan
from runbook.stages.restore import RestoredDatabase, restore_beside

_log = logging.getLogger(__name__)
_IDLE = Calls(0, 0)


def rehearse_migrations(connections: Connections, plan: MigrationPlan, clone: RestoredDatabase) -> Rehearsal:
    """Apply a plan's migrations to a restored backup, look at it with the running release's eyes, and undo them.

    The clone is dropped at the end, also when this fails. Time, locks, rewrites and WAL are measured per statement;
    the locks are weighed with the calls that the application makes now. What speaks against applying the
    migrations is in `refusals`.

    Raises:
        StageError: a migration fails already here; production was not touched.
        TransientError: the server was gone meanwhile.
    """
    copy = Database(connections.database.url_of(clone.name))
    try:
        carry_properties(connections.database, clone.name)
        return _rehearse(connections, plan, clone, MigrationHistory(copy, connections.settings.migrations))
    except StageError as error:
        raise StageError(f"in the rehearsal on {clone.backup_id}; production was not touched: {error}") from error
    finally:
        _drop_quietly(connections, clone.name)


def copy_newest_backup(connections: Connections, plan: MigrationPlan) -> RestoredDatabase:
    """Restore the newest verified backup beside the live database, for a rehearsal that changes nothing.

    Raises:
        RefusedError: there is none, or migrations were applied since it was made.
    """
    manifest = newest_verified_backup(connections)
    if set(manifest.fingerprint.migrations) != set(plan.applied):
        raise RefusedError(
            f"{manifest.backup_id}, the newest verified backup, has other migrations than the live database; "
            "make a new one with `runbook db:backup`"
        )
    return restore_beside(connections, manifest.backup_id, purpose="rehearsal")


def _rehearse(
    connections: Connections, plan: MigrationPlan, clone: RestoredDatabase, history: MigrationHistory
) -> Rehearsal:
    table = connections.settings.migrations.history_table
    workload = read_workload(connections.database)
    failing = failing_queries(connections.database, clone.name, workload.queries)
    before = connections.store.manifest(clone.backup_id).fingerprint
    with history.locked():
        costs, held = _apply(history, plan, Phase.PRE)
        schema_pre = _schema(connections, clone.name)
        checks = [*run_checks(history, plan, Phase.PRE, only_harmless=False)]
        unwritten = rows_written(history.database)
        compatible, evidence = _compatible(connections, clone.name, failing, workload)
        written = rows_written(history.database)
        compatible_at_end, schema_post = compatible, None
        if plan.post_steps:
            more_costs, more_held = _apply(history, plan, Phase.POST)
            costs, held = costs + more_costs, held + more_held
            schema_post = _schema(connections, clone.name)
            checks += run_checks(history, plan, Phase.POST, only_harmless=False)
            compatible_at_end, at_end = _compatible(connections, clone.name, failing, workload)
            evidence += [f"after the second half: {line}" for line in at_end]
        tried = {table for table, rows in written.items() if rows != unwritten.get(table)}
        undo = _undo(connections, plan, history, before.only(before.tables.keys() - tried), clone.name)
    blocked = _blocked(held, workload, table)
    duration_s = round(sum(cost.duration_s for cost in costs), 3)
    refusals = [f"{check.name}: {check.detail}" for check in checks if check.outcome is not Outcome.PASSED]
    refusals += _over_budget(connections.settings.migrations.budget, duration_s, blocked)
    if compatible is False and connections.settings.migrations.require_compatible:
        refusals.append(
            "the running release fails on the new schema while it still has the traffic: "
            + "; ".join(evidence)
            + " Put what takes something away into a file of the second half (.post.sql), or set "
            "`require_compatible = false` to accept the errors."
        )
    _log.info("%d migrations rehearsed in %.1f s; down scripts: %s", len(plan.pending), duration_s, undo.outcome)
    return Rehearsal(
        backup_id=clone.backup_id,
        restore_s=clone.restore_s,
        migrations=plan.pending,
        duration_s=duration_s,
        wal_bytes=sum(cost.wal_bytes for cost in costs),
        statements=tuple(costs),
        blocked=blocked,
        call_rates=workload.source,
        schema_sha256_pre=schema_pre,
        schema_sha256_post=schema_post,
        undo=undo,
        compatible=compatible,
        compatible_at_end=compatible_at_end,
        compatibility=tuple(evidence),
        refusals=tuple(refusals),
    )


def _apply(history: MigrationHistory, plan: MigrationPlan, phase: Phase) -> tuple[list[StatementCost], list[Held]]:
    costs: list[StatementCost] = []
    held: list[Held] = []
    for step in plan.steps_of(phase):
        measured = meter(history.database)
        printed = apply_step(history, plan, step, measured.measure)
        scripts = {item.path: statements(plan.scripts[item.path]) for item in step.migrations}
        step_costs, step_held = measured.read(printed, scripts)
        costs += step_costs
        held += step_held
    return costs, held


def _schema(connections: Connections, name: str) -> str:
    table = connections.settings.migrations.history_table
    return fingerprint(connections.database, table, name=name, tables=()).schema_sha256


def _compatible(
    connections: Connections, name: str, failing: dict[str, str], workload: Workload
) -> tuple[bool | None, list[str]]:
    """Return whether the running release works with the migrated copy, None when it could not be tried, and why."""
    found = check_old_release(connections, name, failing, workload)
    bad = [check for check in found if check.outcome is Outcome.FAILED]
    unknown = [check for check in found if check.outcome is Outcome.COULD_NOT_RUN]
    words = [f"{check.name}: {check.detail}" for check in bad or unknown]
    words = words or [f"{len(found)} checks passed: {', '.join(check.name for check in found)}"]
    return (False if bad else None if unknown else True), words


def _undo(
    connections: Connections, plan: MigrationPlan, history: MigrationHistory, before: Fingerprint, name: str
) -> UndoEvidence:
    begun = time.monotonic()
    if missing := [item.name for item in plan.migrations() if item.down is None]:
        return UndoEvidence(outcome=UndoOutcome.MISSING, detail=f"no down script for {', '.join(missing)}")
    try:
        undo_in(replace(history, settings=history.settings.model_copy(update={"lock_attempts": 1})), plan, before)
    except StageError as error:
        return UndoEvidence(outcome=UndoOutcome.FAILS, detail=str(error))
    duration_s = round(time.monotonic() - begun, 3)
    now = fingerprint(connections.database, history.settings.history_table, name=name, tables=before.tables.keys())
    if differences := before.differences(now):
        detail = f"they run, but leave a difference: {'; '.join(differences[:5])}"
        return UndoEvidence(outcome=UndoOutcome.DIFFERS, detail=detail, duration_s=duration_s)
    detail = f"schema and rows are as before, in {duration_s:.1f} s"
    return UndoEvidence(outcome=UndoOutcome.RESTORES, detail=detail, duration_s=duration_s)


def _blocked(held: Sequence[Held], workload: Workload, history_table: str) -> tuple[TableBlock, ...]:
    """Weigh each lock that keeps the application waiting with the calls that it makes; the most calls first.

    A table can be in it twice: closed to writes for long, and then to reads, too, for a moment.
    """
    blocks: list[TableBlock] = []
    for lock in held:
        if not lock.closed_to or lock.table.startswith(f"public.{history_table}"):
            continue
        rates = workload.calls_per_s.get(lock.table, _IDLE)
        rate = rates.writes_per_s + (rates.reads_per_s if lock.closed_to == "reads and writes" else 0)
        blocks.append(
            TableBlock(
                table=lock.table,
                closed_to=lock.closed_to,
                held_s=lock.held_s,
                calls_per_s=round(rate, 2),
                queued_calls=round(rate * lock.held_s, 1),
            )
        )
    shown: list[TableBlock] = []
    for block in sorted(blocks, key=lambda block: (-block.held_s, -block.queued_calls, block.closed_to)):
        if not any(more.table == block.table and more.queued_calls >= block.queued_calls for more in shown):
            shown.append(block)
    return tuple(sorted(shown, key=lambda block: (-block.queued_calls, -block.held_s, block.table)))


def _over_budget(budget: MigrationBudget, duration_s: float, blocked: Sequence[TableBlock]) -> list[str]:
    found: list[str] = []
    if duration_s > budget.duration_s:
        found.append(f"they take {duration_s:.1f} s, the budget is {budget.duration_s:g} s")
    for block in blocked:
        closed = f"{block.table} is closed to {block.closed_to} for {block.held_s:.1f} s"
        if block.held_s > budget.blocked_s:
            found.append(f"{closed}, the budget is {budget.blocked_s:g} s")
        if block.queued_calls > budget.queued_calls:
            found.append(
                f"{closed}, and about {block.queued_calls:.0f} calls would wait ({block.calls_per_s:g} a second), the "
                f"budget is {budget.queued_calls:g}"
            )
    return found


def _drop_quietly(connections: Connections, name: str) -> None:
    try:
        drop(connections.database, name)
    except ServiceError as error:
        _log.warning("the copy %s of the rehearsal could not be dropped: %s", name, error)
