"""The order in which migrations are backed up, rehearsed, applied, verified, and undone when that fails.

Shared by a deploy and by a migration of the database alone.
Source: runbook, "Stage 3: Database Backup", "Stage 4: Database Migration".
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from runbook.clients.journals import Journal
from runbook.clients.migration_history import State
from runbook.connections import Connections
from runbook.errors import DivergedError, RunbookError, StageError
from runbook.journal import Effect, EntryKind
from runbook.manifest import BackupManifest, Fingerprint
from runbook.reports import Rehearsal, StepLog, TableLoss
from runbook.rules.checklist import Check, Outcome
from runbook.rules.migration_names import Phase
from runbook.rules.verdict import undo_reason
from runbook.stages import backup, migration, notification, preparation, quote, recovery, rehearsal, replay, restore
from runbook.stages.migration_plan import MigrationPlan
from runbook.stages.replay import in_words
from runbook.stages.restore import RestoredDatabase, Swap


@dataclass(frozen=True)
class MigrationStages:
    """The stages of a migration; by default the plain functions."""

    create_backup: Callable[..., BackupManifest] = backup.create_backup
    verify_backup: Callable[[Connections, str], BackupManifest] = backup.verify_backup
    prove_by_copy: Callable[[Connections, str], RestoredDatabase] = backup.prove_by_copy
    copy_backup: Callable[[Connections, str], str | None] = backup.copy_backup
    rehearse_migrations: Callable[[Connections, MigrationPlan, RestoredDatabase], Rehearsal] = (
        rehearsal.rehearse_migrations
    )
    begun_migrations: Callable[[Connections], tuple[str, ...]] = migration.begun_migrations
    schema_state: Callable[[Connections], State] = migration.schema_state
    apply_migrations: Callable[..., tuple[str, ...]] = migration.apply_migrations
    verify_migrations: Callable[..., tuple[Check, ...]] = migration.verify_migrations
    undo_migrations: Callable[[Connections, MigrationPlan, Fingerprint], tuple[str, ...]] = migration.undo_migrations
    restore_replacement: Callable[..., RestoredDatabase] = restore.restore_replacement
    quote_loss: Callable[[Connections, str], tuple[TableLoss, ...]] = quote.quote_loss
    replay_writes: Callable[[Connections, str, str], None] = replay.replay_writes
    swap_in: Callable[[Connections, RestoredDatabase], Swap] = restore.swap_in
    prepare_rollback: Callable[..., str] = preparation.prepare_rollback
    end_preparations: Callable[..., tuple[str, ...]] = preparation.end_preparations
    drop_copies: Callable[[Connections], None] = recovery.drop_copies
    notify: Callable[[Connections, str, str, str], tuple[str, ...]] = notification.notify


@dataclass
class Migrating:
    """How far a migration got, for undoing it. `no_down` says why the down scripts are not to be used, if so.

    `restore_s` is how long restoring the backup took, in seconds; None when it was not restored.
    """

    plan: MigrationPlan
    steps: StepLog
    journal: Journal
    findings: list[str] = field(default_factory=list[str])
    undone: list[str] = field(default_factory=list[str])
    backup: BackupManifest | None = None
    restore_s: float | None = None
    rehearsal: Rehearsal | None = None
    no_down: str | None = None


def back_up_and_rehearse(
    connections: Connections, stages: MigrationStages, run: Migrating, *, reason: str, triggered_by: str
) -> None:
    """Make a backup and prove it; with migrations pending, by restoring it to the copy that they are rehearsed on.

    Raises:
        StageError: the backup is not what it should be, or the rehearsal speaks against the migrations; nothing was
            changed.
    """
    with run.journal.effect(Effect.BACKUP):
        made = run.steps.run(
            "Stage 3: Database Backup",
            stages.create_backup,
            connections,
            reason=reason,
            triggered_by=triggered_by,
            capture=True,
        )
    run.backup = made
    copy: RestoredDatabase | None = None
    settings = connections.settings
    rehearses = bool(run.plan.pending) and settings.migrations.rehearse
    if run.plan.pending and not rehearses:
        run.findings.append("the migrations were not rehearsed: the settings say `rehearse = false`")
    with run.journal.effect(Effect.COPY, backupId=made.backup_id):
        prepares = settings.rollback.prepare and connections.restore_points is None  # a branch is there at once
        if rehearses or prepares:
            copy = run.steps.run("Stage 3: Backup Verification", stages.prove_by_copy, connections, made.backup_id)
            run.restore_s = copy.restore_s
        else:
            made = run.steps.run("Stage 3: Backup Verification", stages.verify_backup, connections, made.backup_id)
            run.backup, run.restore_s = made, made.verification.restore_s
        if copy is not None and prepares:
            run.steps.run("Stage 3: Prepared Rollback", stages.prepare_rollback, connections, copy, keep=rehearses)
    if connections.second_store is not None:
        try:
            run.steps.run("Stage 3: Second Copy", stages.copy_backup, connections, made.backup_id)
        except RunbookError as error:  # a proven one is in the first store
            run.findings.append(f"{made.backup_id} has no copy in the second store: {error}")
    if copy is not None and rehearses:
        run.rehearsal = run.steps.run("Stage 4: Rehearsal", stages.rehearse_migrations, connections, run.plan, copy)
        run.no_down = undo_reason(run.rehearsal)
        if run.rehearsal.refusals:
            raise StageError("the rehearsal speaks against it: " + "; ".join(run.rehearsal.refusals))


def migrate(connections: Connections, stages: MigrationStages, run: Migrating, phase: Phase) -> None:
    """Apply one half of the pending migrations and verify it.

    Raises:
        StageError: a migration failed, or what was found afterwards is not what was rehearsed.
    """
    if not run.plan.steps_of(phase):
        return
    name = "Stage 4: Database Migration" if phase is Phase.PRE else "Stage 6: Second Half of the Migration"
    before = stages.schema_state(connections)
    made = run.backup.backup_id if run.backup else None
    with run.journal.effect(Effect.MIGRATE, phase=phase, backupId=made, noDown=run.no_down):
        run.steps.run(name, stages.apply_migrations, connections, run.plan, phase=phase)
    checks = run.steps.run(
        "Stage 4: Verification", stages.verify_migrations, connections, run.plan, run.rehearsal, before, phase=phase
    )
    run.findings += [f"{check.name}: {check.detail}" for check in checks if check.outcome is not Outcome.PASSED]
    if failed := [check for check in checks if check.outcome is Outcome.FAILED]:
        raise StageError("; ".join(f"{check.name}: {check.detail}" for check in failed))


def undo(connections: Connections, stages: MigrationStages, run: Migrating, *, by_hand: Callable[[], str]) -> None:
    """Undo what migrations left, least loss first: their own transaction, the down scripts, a restore.

    Args:
        connections: the environment.
        stages: the stages.
        run: how far it got.
        by_hand: returns the command that restores the backup, for the message.

    Raises:
        StageError: it could not be undone without losing rows, and the settings do not allow that.

    Source: runbook, "Stage 4: Database Migration" ("Automatic rollback on failure").
    """
    _drop_copies(connections, stages, run)
    made = run.backup
    begun = [intent for intent in run.journal.open_intents() if intent.effect is Effect.MIGRATE]
    if made is None or not begun:
        return
    try:
        if run.no_down is not None and set(stages.begun_migrations(connections)) & set(run.plan.pending):
            raise StageError(run.no_down)
        names = run.steps.run("Undo: Migrations", stages.undo_migrations, connections, run.plan, made.fingerprint)
    except RunbookError as error:
        undoable = isinstance(error, StageError | DivergedError)  # else the server or another run is in the way
        if not undoable or not connections.settings.migrations.restore_on_failure:
            raise StageError(
                f"{error}. Restore the backup made before it, if its loss is acceptable: {by_hand()}"
            ) from error
        _restore(connections, stages, run, made, error)
    else:
        _say_undone(run, names)
    for intent in begun:
        run.journal.undone(intent)


def settle_preparations(
    connections: Connections, stages: MigrationStages, run: Migrating, *, started: datetime, error: BaseException | None
) -> None:
    """Keep a rollback of what succeeded ready, and of nothing else.

    What failed needs no rollback any more; the caller does not ask when it could not be undone.
    """
    try:
        if error is not None:
            stages.end_preparations(connections, since=started)
        elif run.backup is not None:
            stages.end_preparations(connections, other_than=run.backup.backup_id)
    except RunbookError as failure:  # the server keeps more than it has to, until retention sees to it
        run.findings.append(f"more is kept ready for a rollback than needed: {failure}")


def _drop_copies(connections: Connections, stages: MigrationStages, run: Migrating) -> None:
    """Drop the copies that nobody else drops when a run was interrupted between two stages; they are no way back."""
    try:
        stages.drop_copies(connections)
    except RunbookError as error:
        run.findings.append(f"a copy that this run had made may still be there: {error}")


def _say_undone(run: Migrating, names: Sequence[str]) -> None:
    if names:
        proof = "; the rehearsal had shown that they restore it" if run.rehearsal else ""
        run.undone.append(f"migrations undone by their down scripts, without loss: {', '.join(names)}{proof}")
    else:
        run.undone.append("migrations undone: by their own transaction, which left nothing")


def _restore(
    connections: Connections, stages: MigrationStages, run: Migrating, made: BackupManifest, why: Exception
) -> None:
    with run.journal.effect(Effect.COPY, backupId=made.backup_id):
        restored = run.steps.run(
            "Undo: Restore", stages.restore_replacement, connections, made.backup_id, purpose="restored"
        )
    losses = run.steps.run("Undo: Quote Loss", stages.quote_loss, connections, made.backup_id)
    run.steps.run("Undo: Replay Writes", stages.replay_writes, connections, made.backup_id, restored.name)
    with run.journal.effect(Effect.SWAP, restored=restored.name):
        swapped = run.steps.run("Undo: Swap", stages.swap_in, connections, restored)
    changed = "; ".join(loss.render() for loss in losses)
    run.undone.append(
        f"{made.backup_id} restored because {why}; the replaced database is kept as {swapped.kept}; "
        f"written since then: {changed or 'nothing'}; {in_words(swapped.replay)}"
    )


def recall(connections: Connections, run: Migrating) -> None:
    """Learn from the journal how far the migration of a dead run came."""
    for entry in run.journal.entries:
        if entry.effect is Effect.MIGRATE and entry.kind is EntryKind.INTENT:
            backup_id, no_down = entry.detail["backupId"], entry.detail["noDown"]
            run.backup = connections.store.manifest(str(backup_id)) if backup_id else None
            run.restore_s = run.backup.verification.restore_s if run.backup else None
            run.no_down = str(no_down) if no_down else None
