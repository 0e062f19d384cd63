"""What the runbook has to know about one environment (`local`, `staging`, `production`, any other name).

The same flows run on every environment; only these settings and the clients differ. Secrets are not in here.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from runbook.errors import InvalidInputError
from runbook.rules.identifiers import check_environment_name, check_identifier


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class TestCommand(_Section):
    """One command of the application's own test suite, run in a clean checkout of the release."""

    __test__ = False

    name: str = Field(description="What the command checks, for example `unit tests`.")
    argv: tuple[str, ...] = Field(
        min_length=1, description="Program and arguments; `{python}` stands for the Python that runs the runbook."
    )
    timeout_s: float = Field(
        default=900, gt=0, description="Seconds until the command is stopped and counts as failed."
    )


class MigrationSettings(_Section):
    """Where the migrations are and how long they may wait."""

    directory: str = Field(
        default="migrations", description="Folder of the .sql files in the application's repository."
    )
    history_table: Annotated[str, AfterValidator(lambda name: check_identifier(name, "history_table"))] = Field(
        default="schema_migrations", description="Table that lists what has been applied."
    )
    lock_timeout_s: float = Field(default=5, gt=0, le=60, description="Seconds a migration waits for a table lock.")
    statement_timeout_s: float = Field(default=600, gt=0, description="Seconds one statement may take.")
    restore_on_failure: bool = Field(
        default=False,
        description="Let a failed migration that no down script undoes be undone by restoring the backup made just "
        "before it. Rows written since that backup are then lost; their number is reported.",
    )


class WatchSettings(_Section):
    """How long a release is watched after it got the traffic, and how often."""

    duration_s: float = Field(default=60, gt=0, le=1800, description="Seconds a new release is watched.")
    interval_s: float = Field(default=2, gt=0, description="Seconds between two looks.")
    minimum_requests: int = Field(default=20, ge=1, description="Requests needed before an error rate means anything.")


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
    migrations: MigrationSettings = MigrationSettings()
    watch: WatchSettings = WatchSettings()


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
