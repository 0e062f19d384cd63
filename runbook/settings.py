"""What the runbook has to know about one environment (`local`, `staging`, `production`, any other name).

The same flows run on every environment; only these settings and the clients differ. Secrets are not in here.
"""

from __future__ import annotations

import tomllib
from datetime import timedelta
from enum import StrEnum
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from runbook.errors import InvalidInputError
from runbook.manifest import DumpFormat, VerificationLevel
from runbook.rules.identifiers import (
    check_environment_name,
    check_identifier,
    check_recipient,
    check_relative_pattern,
)
from runbook.rules.incidents import ESCALATION_PATH, EscalationLevel
from runbook.rules.lint import Severity
from runbook.rules.maintenance import Freeze, MaintenanceWindow
from runbook.rules.migration_files import Irregularity


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class CheckoutCommand(_Section):
    """One command that is run in a clean checkout of the release."""

    name: str = Field(description="What the command checks, for example `unit tests`.")
    argv: tuple[str, ...] = Field(
        min_length=1, description="Program and arguments; `{python}` stands for the Python that runs the runbook."
    )
    timeout_s: float = Field(
        default=900, gt=0, description="Seconds until the command is stopped and counts as failed."
    )


class TestDatabase(StrEnum):
    """The Postgres database that a test command gets in `DATABASE_URL`: none, an empty one, or a migrated one."""

    __test__ = False

    NONE = "none"
    EMPTY = "empty"
    MIGRATED = "migrated"


class TestCommand(CheckoutCommand):
    """One command of the application's own test suite."""

    __test__ = False

    database: TestDatabase = Field(
        default=TestDatabase.NONE,
        description="Postgres database of its own in `DATABASE_URL`, gone afterwards: `empty`, or `migrated` with all "
        "migrations of the commit.",
    )
    junit: Annotated[str, AfterValidator(check_relative_pattern)] = Field(
        default="", description="Results that the command leaves in the checkout, as JUnit's XML: `reports/*.xml`."
    )


class BenchmarkCommand(CheckoutCommand):
    """One command that measures the application and prints what it found as JSON."""

    budgets: dict[str, float] = Field(
        min_length=1,
        description="Highest value of each figure, by its path in the JSON: "
        '`"audits.largest-contentful-paint.numericValue" = 2500`.',
    )


class MigrationBudget(_Section):
    """What a migration may cost the application, by its rehearsal; over it nothing is applied."""

    duration_s: float = Field(default=1800, gt=0, description="Seconds that all pending migrations may take.")
    blocked_s: float = Field(
        default=5, gt=0, description="Seconds that a table with rows may be closed to reading or writing."
    )
    queued_calls: float = Field(
        default=100, gt=0, description="Calls of the application that may wait for one table at the live call rate."
    )


class MigrationSettings(_Section):
    """Where the migrations are, in which order they come, and how long they may wait."""

    directory: str = Field(
        default="migrations",
        description="Folder of the .sql files in the application's repository; empty: it has no migrations.",
    )
    history_table: Annotated[str, AfterValidator(lambda name: check_identifier(name, "history_table"))] = Field(
        default="schema_migrations", description="Table that lists what has been applied."
    )
    allowed: tuple[Irregularity, ...] = Field(
        default=(),
        description="What is ordered as documented instead of refused: `same-version` by name, `out-of-order` by "
        "version, `mixed-versions` by time, `variant` by name.",
    )
    left_out: tuple[str, ...] = Field(
        default=(), description="Names of migrations that are never applied here; each plan shows them."
    )
    maximum_file_mb: float = Field(
        default=5, gt=0, description="Megabytes of a migration; a greater one is data, and loaded by itself."
    )
    lock_timeout_s: float = Field(default=5, gt=0, le=60, description="Seconds a migration waits for a table lock.")
    lock_attempts: Annotated[int, Field(ge=1, le=20)] = Field(
        default=5, description="How often a migration is tried when it does not get its locks, with longer pauses."
    )
    statement_timeout_s: float = Field(default=600, gt=0, description="Seconds one statement may take.")
    maximum_transaction_s: float = Field(
        default=300, gt=0, description="Seconds that another transaction may be open before nothing is begun."
    )
    maximum_replication_lag_s: float = Field(
        default=30, gt=0, description="Seconds that a replica may be behind before nothing is begun."
    )
    lint: dict[str, Severity] = Field(
        default={}, description="Severity of a lint rule by its name: `error` refuses, `warning` is shown, `off`."
    )
    rehearse: bool = Field(
        default=True, description="Try the migrations on the backup, restored beside the live database, beforehand."
    )
    budget: MigrationBudget = MigrationBudget()
    require_compatible: bool = Field(
        default=True,
        description="Refuse migrations with which, in the rehearsal, the running release fails: it still has the "
        "traffic while they are applied.",
    )
    restore_on_failure: bool = Field(
        default=False,
        description="Let a failed migration that no down script undoes be undone by restoring the backup made just "
        "before it; what was written since is replayed, as `rollback.replay` says.",
    )


class RetentionSettings(_Section):
    """Which backups are kept. Only verified ones count; those of the newest, of each day, week and month add up."""

    keep_last: int = Field(default=7, ge=1, description="The newest verified backups, whatever their age.")
    keep_daily: int = Field(default=7, ge=0, description="The newest of each of so many days that have one.")
    keep_weekly: int = Field(default=4, ge=0, description="The newest of each of so many weeks that have one.")
    keep_monthly: int = Field(default=12, ge=0, description="The newest of each of so many months that have one.")
    minimum_kept: int = Field(default=3, ge=1, description="So many verified backups are never gone below.")
    unverified_days: float = Field(
        default=7, ge=1, description="Days an unverified or failed backup is kept, for somebody to look at."
    )


class DrillSettings(_Section):
    """When a restore drill is due, and what it may take. A deploy is refused when it is overdue or over budget."""

    maximum_age_days: float | None = Field(
        default=None, gt=0, description="Days until the last drill is too old; empty: no drill is asked for."
    )
    rto_budget_s: float | None = Field(default=None, gt=0, description="Seconds a restore may take.")
    rpo_budget_s: float | None = Field(default=None, gt=0, description="Seconds of writes a failure may cost.")


class BackupSettings(_Section):
    """How backups are made, proven and kept."""

    dump_format: DumpFormat = Field(
        default=DumpFormat.DIRECTORY, description="`stream` on a machine without room for the dump."
    )
    jobs: Annotated[int, Field(ge=1, le=16)] = Field(default=2, description="Tables dumped, or restored, at a time.")
    work_directory: str | None = Field(
        default=None, description="Folder for dumps on their way to or from the store; `<records>/work` when empty."
    )
    recipients: tuple[Annotated[str, AfterValidator(check_recipient)], ...] = Field(
        default=(), description="age public keys (`age1...`) that backups are encrypted for; none: not encrypted."
    )
    identity_file: str | None = Field(
        default=None,
        description="File with the age key that decrypts, on machines that may restore. Elsewhere it is asked for.",
    )
    verification: VerificationLevel = Field(
        default=VerificationLevel.FULL, description="How a backup is proven before a migration may begin."
    )
    sample_pct: float = Field(default=10, gt=0, le=100, description="Percent of all rows that a sample restores.")
    rollback_deadline_h: float = Field(
        default=24, gt=0, le=360, description="Hours after a deploy in which an instant restore point has to be usable."
    )
    drill: DrillSettings = DrillSettings()
    retention: RetentionSettings = RetentionSettings()

    @property
    def rollback_deadline(self) -> timedelta:
        """Time after a deploy in which an instant restore point has to be usable."""
        return timedelta(hours=self.rollback_deadline_h)


_Path = Annotated[str, Field(pattern=r"^/[^\s\x00-\x1f\x7f]*$")]


class WatchSettings(_Section):
    """How long a release is watched after it got the traffic, how often, and what may be done about it.

    First by the deploy itself, then, for what the runbook calls the first thirty minutes, by a run of its own.
    """

    served_within_s: float = Field(
        default=10,
        gt=0,
        le=300,
        description="Seconds until the public URL has to serve a release that got the traffic.",
    )
    duration_s: float = Field(default=60, gt=0, le=1800, description="Seconds a deploy watches its release.")
    interval_s: float = Field(default=2, gt=0, description="Seconds between two looks of a deploy.")
    first_s: float = Field(
        default=1800, gt=0, le=3600, description="Seconds after a deploy that a run of its own watches the release."
    )
    first_interval_s: float = Field(default=15, gt=0, le=60, description="Seconds between two looks of that run.")
    roll_back: bool = Field(
        default=True,
        description="Let that run take the application back alone, above 10 % errors and where the deploy has shown "
        "that this works; otherwise it asks a person.",
    )
    page_paths: tuple[_Path, ...] = Field(
        default=("/",), description="Pages whose load time is measured at each look; they have to be harmless."
    )
    login_paths: tuple[_Path, ...] = Field(
        default=(),
        description="Paths that answer 200 while people can log in, asked at each look; empty: those of `health_paths` "
        "below `/auth/`.",
    )


class MonitoringSettings(_Section):
    """What a scheduled sampling looks back on, and how long samples are kept to say what is normal."""

    window_s: float = Field(
        default=60, gt=0, le=3600, description="Seconds of requests and log lines that one sampling looks at."
    )
    history_days: int = Field(default=14, ge=1, le=90, description="Days that samples are kept.")
    active_sessions_query: str = Field(
        default="",
        description="SELECT with one number, how many sessions of users are active; empty: nobody counts them.",
    )


class AlertSettings(_Section):
    """What alerts are measured by, and when nobody is told of them. The thresholds are those of the runbook."""

    objective_pct: float = Field(
        default=99.9,
        ge=90,
        lt=100,
        description="Percent of requests that are to be answered well; what is left is the error budget.",
    )


class MaintenanceSettings(_Section):
    """When changes are made, and when none is."""

    windows: tuple[MaintenanceWindow, ...] = Field(
        default=(),
        description="Times in which the queue of approved changes is worked off, and nobody is told of alerts; only of "
        "their beginning and end.",
    )
    freezes: tuple[Freeze, ...] = Field(
        default=(), description="Times in which nothing is deployed and no database is migrated."
    )
    reserve_s: float = Field(
        default=300,
        ge=0,
        le=7200,
        description="Seconds of a window that have to be left when a change is expected to end.",
    )


class IncidentSettings(_Section):
    """Who is called when something is wrong, and what users are told."""

    escalation: tuple[EscalationLevel, ...] = Field(
        default=ESCALATION_PATH, min_length=1, description="Who is called, level by level."
    )
    reopen_within_h: float = Field(
        default=24, ge=0, le=720, description="Hours in which the same alert opens a resolved incident again."
    )
    roll_back: bool = Field(
        default=True,
        description="Let the emergency flow take the application back alone for a SEV1 or above 10 % errors, where the "
        "deploy has shown that this works; otherwise it asks a person.",
    )
    open_channel: bool = Field(default=True, description="Open a channel of Slack for each SEV1 and SEV2.")
    slack_people: tuple[str, ...] = Field(default=(), description="Member ids of Slack who are invited to it.")
    components: tuple[str, ...] = Field(default=(), description="What users know the application by: `the shop`.")
    page_name: str = Field(default="MantisNXT", min_length=1, description="Name of the status page.")
    public_title: str = Field(
        default="Problems with our application", min_length=1, description="Title of an incident for users."
    )


class LockSettings(_Section):
    """How soon the owner of the environment's lock is taken for dead."""

    heartbeat_s: float = Field(default=10, gt=0, description="Seconds between two signs of life.")
    expires_s: float = Field(
        default=60, gt=0, description="Seconds without one until another run may take over, by the store's clock."
    )


class ReplayMethod(StrEnum):
    """How the writes after a backup get into the database restored from it.

    AUTO: as SLOT where the server allows it, otherwise as DIFFERENCE. SLOT: from a replication slot made with the
    backup. DIFFERENCE: by comparing. NONE: they are lost.
    """

    AUTO = "auto"
    SLOT = "slot"
    DIFFERENCE = "difference"
    NONE = "none"


class RollbackSettings(_Section):
    """How a rollback of the database keeps what was written since the backup, and how long it waits for consent."""

    replay: ReplayMethod = Field(
        default=ReplayMethod.AUTO, description="`none` loses what was written since the backup; it is quoted."
    )
    watch_s: float = Field(
        default=600, ge=0, le=3600, description="Seconds the error rate is watched after a rollback."
    )
    prepare: bool = Field(
        default=False,
        description="Keep the backup of a deploy restored, so that a rollback has only to catch up and swap. It takes "
        "as much room as the database.",
    )
    keep_h: float = Field(
        default=24, gt=0, description="Hours after a deploy until what is kept ready for its rollback is given up."
    )
    maximum_wal_gb: float = Field(
        default=10,
        gt=0,
        description="Gigabytes of WAL the server may keep for captured writes; then they are given up.",
    )
    consent_within_s: float = Field(
        default=900, gt=0, le=86_400, description="Seconds that a run waits for somebody to consent in the UI."
    )
    unattended_sev1_after_s: float | None = Field(
        default=None,
        gt=0,
        le=86_400,
        description="Seconds without an answer after which a rollback with the severity SEV1 takes the application "
        "back alone, where the deploy has shown that this works; empty: never.",
    )


class Settings(_Section):
    """The settings of one environment.

    Source: seeded from `deployments/environments/<name>.toml`, kept in the Prefect block `environment/<name>`.
    """

    name: Annotated[str, AfterValidator(check_environment_name)] = Field(description="Name of the environment.")
    strict: bool = Field(default=False, description="Warnings of the checklist refuse a deploy.")
    repository: str = Field(description="Path of the git repository that releases are made from.")
    records: str = Field(
        default=".", description="Folder that holds `logs/` and, in a folder store, `database/backups/`."
    )
    database: Annotated[str, AfterValidator(lambda name: check_identifier(name, "database"))] = Field(
        description="Name of the application's database."
    )
    health_paths: tuple[str, ...] = Field(
        default=("/api/health", "/api/health/database", "/api/auth/health"),
        min_length=1,
        description="Paths that answer 200 when the application, its database and its authentication work.",
    )
    release_header: Annotated[str, AfterValidator(str.lower)] = Field(
        default="x-release-sha", description="Response header in which the application names the commit that it runs."
    )
    smoke_file: str = Field(default="smoke.toml", description="Smoke tests in the application's repository.")
    tests: tuple[TestCommand, ...] = Field(default=(), description="The application's test suite, in order.")
    audits: tuple[CheckoutCommand, ...] = Field(
        default=(),
        description="Security audits of a release, whose report in JSON is read: `npm audit --json` or `pip-audit "
        "--format=json -r requirements.txt`.",
    )
    benchmarks: tuple[BenchmarkCommand, ...] = Field(
        default=(),
        description="Measurements of a release before it is deployed, such as Lighthouse, and their budgets.",
    )
    api_document: str = Field(
        default="",
        description="OpenAPI document in the application's repository: what it takes away from callers is a warning.",
    )
    backup: BackupSettings = BackupSettings()
    migrations: MigrationSettings = MigrationSettings()
    rolling_release: bool = Field(
        default=False,
        description="Give a release the traffic in the stages that the host has for this project, the next one only "
        "when the watch has shown that the release is healthy. Vercel has them in some plans.",
    )
    watch: WatchSettings = WatchSettings()
    lock: LockSettings = LockSettings()
    monitoring: MonitoringSettings = MonitoringSettings()
    alerts: AlertSettings = AlertSettings()
    incidents: IncidentSettings = IncidentSettings()
    maintenance: MaintenanceSettings = MaintenanceSettings()
    rollback: RollbackSettings = RollbackSettings()

    @property
    def login_paths(self) -> tuple[str, ...]:
        """Paths that answer 200 while people can log in."""
        return self.watch.login_paths or tuple(path for path in self.health_paths if "/auth/" in path)


def load_settings(path: Path) -> Settings:
    """Read the settings of an environment from a TOML file.

    Raises:
        InvalidInputError: the file is missing, is not TOML, or a field in it is unknown or not acceptable.
    """
    try:
        return Settings.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise InvalidInputError("settings", str(path), "a readable TOML file", str(error)) from error
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        field = ".".join(str(part) for part in first["loc"])
        raise InvalidInputError("settings", f"{path}: {field}", first["msg"], "Mend the file.") from error
    except (ValueError, RecursionError) as error:  # bytes that are not UTF-8, too, are no TOML error
        raise InvalidInputError("settings", str(path), "valid TOML in UTF-8", f"Mend the file: {error}") from error
