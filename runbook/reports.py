"""What a run leaves behind: who asked for what and why, each step, and the state that was found afterwards.

Kept as `logs/deploy_*.json` and `logs/rollback_*.json`. Field names are those of the rollback logs in use today
(`timestamp`, `backupId`, `reason`, `triggeredBy`, `duration`, `success`, `steps`), and more.

Source: runbook, "Deployment Logs".
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import ParamSpec, TypeVar

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from runbook.manifest import VerificationLevel
from runbook.rules.migration_names import Phase
from runbook.rules.thresholds import Severity
from runbook.settings import ReplayMethod

P = ParamSpec("P")
R = TypeVar("R")
_log = logging.getLogger(__name__)


class FinalState(StrEnum):
    """What independent probes say after a run: never taken from an exit code.

    VERIFIED: application, schema and data are what the run says. UNVERIFIED: a probe could not run.
    DIVERGED: a probe found something else; a person has to look.
    """

    VERIFIED = "VERIFIED"
    UNVERIFIED = "UNVERIFIED"
    DIVERGED = "DIVERGED"


class StepStatus(StrEnum):
    """How one step ended."""

    COMPLETED = "completed"
    FAILED = "failed"


class _Report(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", alias_generator=to_camel, populate_by_name=True)


class Step(_Report):
    """One step of a run; `duration` in seconds."""

    step: str
    status: StepStatus
    duration: float
    error: str | None = None


class RollbackScope(StrEnum):
    """What a rollback takes back. Source: runbook, "Rollback Types"."""

    FULL = "full"
    APP_ONLY = "app-only"
    DB_ONLY = "db-only"


class Legality(StrEnum):
    """Whether a rollback works after a release. UNPROVEN: nothing speaks against it, but it was not tried."""

    LEGAL = "legal"
    ILLEGAL = "illegal"
    UNPROVEN = "unproven"


class RollbackVerdict(_Report):
    """Whether one scope of rollback works after a release, by what evidence, and what it costs."""

    scope: RollbackScope
    legality: Legality
    evidence: tuple[str, ...]
    cost: str


class StatementCost(_Report):
    """What one statement of a migration cost in the rehearsal; `line` is counted from 1.

    `wal_bytes` is what the whole server wrote meanwhile, so at most that. `locks` and `rewrites` name tables that
    were there before.
    """

    path: str
    line: int
    statement: str
    duration_s: float
    locks: tuple[str, ...]
    rewrites: tuple[str, ...]
    wal_bytes: int


class TableBlock(_Report):
    """For how long a table is closed, and to how many calls at the live rate."""

    table: str
    closed_to: str
    held_s: float
    calls_per_s: float
    queued_calls: float


class UndoOutcome(StrEnum):
    """What the down scripts do in the rehearsal: only RESTORES makes them fit for use."""

    RESTORES = "restores"
    MISSING = "missing"
    FAILS = "fails"
    DIFFERS = "differs"


class UndoEvidence(_Report):
    """How the down scripts of all pending migrations did in the rehearsal."""

    outcome: UndoOutcome
    detail: str
    duration_s: float = 0


class Rehearsal(_Report):
    """The pending migrations, tried on a restored backup. Durations in seconds.

    `compatible` is what the running release had to say to the new schema: before the traffic changes, and, when
    there is a second half, after it. None where it could not be tried.
    """

    backup_id: str
    restore_s: float
    migrations: tuple[str, ...]
    duration_s: float
    wal_bytes: int
    statements: tuple[StatementCost, ...]
    blocked: tuple[TableBlock, ...]
    call_rates: str
    schema_sha256_pre: str
    schema_sha256_post: str | None
    undo: UndoEvidence
    compatible: bool | None
    compatible_at_end: bool | None
    compatibility: tuple[str, ...]
    refusals: tuple[str, ...] = Field(default=(), description="Why nothing may be applied: over budget, and more.")

    def schema_after(self, phase: Phase) -> str | None:
        """Return the schema's hash that is to be expected after a phase."""
        return self.schema_sha256_pre if phase is Phase.PRE else self.schema_sha256_post


class DeployReport(_Report):
    """One deploy. `success` says that the new release has the traffic; `state` is about what runs now."""

    environment: str
    timestamp: AwareDatetime
    git_ref: str
    git_sha: str
    version: str
    release_id: str | None = None
    previous_git_sha: str | None = None
    backup_id: str | None = None
    migrations: tuple[str, ...] = ()
    rehearsal: Rehearsal | None = None
    verdict: tuple[RollbackVerdict, ...] = Field(default=(), description="Which rollbacks work after this release.")
    undone: tuple[str, ...] = Field(default=(), description="What was undone after a failure, in order.")
    reason: str
    triggered_by: str
    duration: float
    success: bool
    state: FinalState
    warnings: tuple[str, ...] = Field(default=(), description="What the checklist warned of beforehand.")
    findings: tuple[str, ...] = Field(default=(), description="What was found that is not as it should be.")
    error: str | None = None
    steps: tuple[Step, ...]


class TableLoss(_Report):
    """What the application wrote to one table since a backup, in rows: what a restore loses unless it is replayed.

    `rows_now` and `rows_restored` are all rows of the table, now and in the backup. Exact by primary key with
    `is_exact`, otherwise an estimate. `cannot_replay` says why a replay would leave the table out, if so. In `obscured`
    rows, a replay by comparing cannot see what was written before a migration changed them. With `revives`, it replays
    no deletion: a migration has deleted rows as well, and nothing tells which; `deleted` is not known then.
    """

    table: str
    rows_now: int
    rows_restored: int
    inserted: int = 0
    updated: int = 0
    deleted: int = 0
    is_exact: bool = False
    cannot_replay: str = ""
    obscured: int = 0
    revives: bool = False

    @property
    def rows(self) -> int:
        """How many rows were written."""
        return self.inserted + self.updated + self.deleted

    def render(self) -> str:
        """Return it in words, in one line."""
        written = f"{self.inserted} inserted, {self.updated} updated, {self.deleted} deleted"
        return (
            f"{self.table}: {written}{'' if self.is_exact else ' (estimate)'}; {self.rows_now} rows now, "
            f"{self.rows_restored} in the backup"
        )


class TableReplay(_Report):
    """Rows of one table that were written since the backup and replayed; `quarantined` of them did not fit."""

    table: str
    inserted: int = 0
    updated: int = 0
    deleted: int = 0
    quarantined: int = 0


class Replay(_Report):
    """How what was written since the backup came into the restored database.

    `quarantine_file` holds the rows that did not fit. `left_behind` are tables without a key that a migration had
    changed: they are as they were in the backup. `revived` are tables in which no deletion was replayed.
    """

    method: ReplayMethod
    tables: tuple[TableReplay, ...]
    quarantined: int = 0
    quarantine_file: str | None = None
    left_behind: tuple[str, ...] = ()
    revived: tuple[str, ...] = ()


class TableWritten(_Report):
    """How many rows of a table were added or changed since a swap; without a key nothing tells them apart."""

    table: str
    rows: int
    has_key: bool


class RollbackReport(_Report):
    """One rollback, or the undoing of one: `undoes` is the time of that one.

    `kept_database` is the replaced database, closed but whole; `incident_report` is where that is. `passed` says that
    all was done that was to be done, whatever was found afterwards.
    """

    environment: str
    timestamp: AwareDatetime
    scope: RollbackScope
    backup_id: str | None = None
    reason: str
    severity: Severity | None = Field(default=None, description="How bad it was said to be.")
    triggered_by: str
    approved_by: str | None = None
    from_git_sha: str | None = None
    to_git_sha: str | None = None
    to_version: str | None = None
    data_loss: tuple[TableLoss, ...] = ()
    kept_database: str | None = None
    replay: Replay | None = None
    incident_report: str | None = None
    undoes: AwareDatetime | None = None
    written: tuple[TableWritten, ...] = Field(default=(), description="Since the rollback that is undone.")
    swap_transaction: int | None = Field(default=None, description="What was written since has a greater one.")
    passed: bool = False
    duration: float
    success: bool
    state: FinalState
    findings: tuple[str, ...] = ()
    error: str | None = None
    steps: tuple[Step, ...]

    @property
    def what(self) -> str:
        """What it was, in a few words."""
        return f"{'rollback' if self.undoes is None else 'undo of rollback'} {self.scope}"


class MigrateReport(_Report):
    """One run of the database's migrations alone. With `dry_run` they were only rehearsed."""

    environment: str
    timestamp: AwareDatetime
    git_ref: str
    git_sha: str
    backup_id: str | None = None
    dry_run: bool
    migrations: tuple[str, ...] = ()
    rehearsal: Rehearsal | None = None
    undone: tuple[str, ...] = ()
    reason: str
    triggered_by: str
    duration: float
    success: bool
    state: FinalState
    warnings: tuple[str, ...] = ()
    findings: tuple[str, ...] = ()
    error: str | None = None
    steps: tuple[Step, ...]


class DrillReport(_Report):
    """One restore drill: a backup restored and compared, for practice.

    `rto_s` is the measured time to restore, in seconds, None when it failed. `rpo_s` is the longest time between two
    good backups lately, the time since the newest one included: the writes that a failure at the worst moment would
    have cost.
    """

    environment: str
    timestamp: AwareDatetime
    backup_id: str
    triggered_by: str
    level: VerificationLevel
    rto_s: float | None
    rpo_s: float | None
    size_bytes: int
    rows: int
    duration: float
    success: bool
    error: str | None = None


@dataclass
class StepLog:
    """Runs the steps of a procedure one after the other and remembers how each ended.

    Each of `followers` is called with the name of a step that begins; they raise nothing.
    """

    steps: list[Step] = field(default_factory=list)
    followers: list[Callable[[str], None]] = field(default_factory=list)
    started: float = field(default_factory=time.monotonic)

    def run(self, name: str, stage: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Run one step; what it raises is recorded and passed on.

        A cancellation is passed on as one, also when whoever runs the stage fell over it and raised an error instead:
        for a signal between two tasks Prefect raises "Task run is not set".
        """
        begun, handled = time.monotonic(), sys.exception()
        for follower in self.followers:
            follower(name)
        try:
            result = stage(*args, **kwargs)
        except BaseException as raised:
            error = _interruption(raised, handled)
            text = str(error) or type(error).__name__
            self.steps.append(
                Step(step=name, status=StepStatus.FAILED, duration=round(time.monotonic() - begun, 3), error=text)
            )
            _log.error("%s: %s", name, text)
            if error is not raised:
                raise error from None
            raise
        self.steps.append(Step(step=name, status=StepStatus.COMPLETED, duration=round(time.monotonic() - begun, 3)))
        return result

    @property
    def duration_s(self) -> float:
        """Seconds since the first step could have begun."""
        return round(time.monotonic() - self.started, 3)


def _interruption(error: BaseException, handled: BaseException | None) -> BaseException:
    """Return the cancellation that an error was raised over, or the error; not one that is `handled` by undoing."""
    seen: BaseException | None = error
    while isinstance(seen, Exception) and seen is not handled:
        seen = seen.__cause__ or seen.__context__
    return error if seen is None or seen is handled else seen
