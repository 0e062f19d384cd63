"""What a run leaves behind: who asked for what and why, each step, and the state that was found afterwards.

Kept as `logs/deploy_*.json` and `logs/rollback_*.json`. Field names are those of the rollback logs in use today
(`timestamp`, `backupId`, `reason`, `triggeredBy`, `duration`, `success`, `steps`), and more.

Source: runbook, "Deployment Logs".
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import ParamSpec, TypeVar

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from runbook.manifest import VerificationLevel

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


class RollbackScope(StrEnum):
    """What a rollback takes back. Source: runbook, "Rollback Types"."""

    FULL = "full"
    APP_ONLY = "app-only"
    DB_ONLY = "db-only"


class TableLoss(_Report):
    """Rows of one table whose content the restore changes: now, and afterwards."""

    table: str
    rows_now: int
    rows_restored: int


class RollbackReport(_Report):
    """One rollback. `kept_database` is the replaced database, closed but whole."""

    environment: str
    timestamp: AwareDatetime
    scope: RollbackScope
    backup_id: str | None = None
    reason: str
    triggered_by: str
    approved_by: str | None = None
    from_git_sha: str | None = None
    to_git_sha: str | None = None
    to_version: str | None = None
    data_loss: tuple[TableLoss, ...] = ()
    kept_database: str | None = None
    duration: float
    success: bool
    state: FinalState
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
    """Runs the steps of a procedure one after the other and remembers how each ended."""

    steps: list[Step] = field(default_factory=list)
    started: float = field(default_factory=time.monotonic)

    def run(self, name: str, stage: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Run one step; what it raises is recorded and passed on."""
        begun = time.monotonic()
        try:
            result = stage(*args, **kwargs)
        except BaseException as error:
            text = str(error) or type(error).__name__
            self.steps.append(
                Step(step=name, status=StepStatus.FAILED, duration=round(time.monotonic() - begun, 3), error=text)
            )
            _log.error("%s: %s", name, text)
            raise
        self.steps.append(Step(step=name, status=StepStatus.COMPLETED, duration=round(time.monotonic() - begun, 3)))
        return result

    @property
    def duration_s(self) -> float:
        """Seconds since the first step could have begun."""
        return round(time.monotonic() - self.started, 3)
