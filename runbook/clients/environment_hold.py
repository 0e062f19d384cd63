"""A hold on an environment: after a rollback nothing is deployed to it until somebody releases it.

holds/<environment>.json
"""

from __future__ import annotations

from pydantic import AwareDatetime, BaseModel, ConfigDict, ValidationError

from runbook.clients.object_store import MissingObjectError, ObjectStore
from runbook.errors import RefusedError, RejectedError
from runbook.rules.identifiers import check_environment_name


class Hold(BaseModel):
    """Why nothing may be deployed, since when, by which run, and which release was taken back."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    reason: str
    by: str
    since: AwareDatetime
    run: str
    bad_version: str | None = None

    def render(self) -> str:
        """Say it in one line."""
        taken_back = f" after {self.bad_version} was taken back" if self.bad_version else ""
        return f"since {self.since:%Y-%m-%d %H:%M:%S} UTC by {self.by}{taken_back}: {self.reason}"


class EnvironmentHold:
    """The hold on one environment, kept in an object store."""

    def __init__(self, objects: ObjectStore, environment: str) -> None:
        self.objects = objects
        self.environment = environment
        self._key = f"holds/{check_environment_name(environment)}.json"

    def current(self) -> Hold | None:
        """Return the hold, or None.

        Raises:
            RejectedError: it cannot be read.
        """
        try:
            return Hold.model_validate_json(self.objects.read(self._key))
        except MissingObjectError:
            return None
        except ValidationError as error:
            raise RejectedError(f"{self._key} in {self.objects.place} cannot be read as a hold; mend it") from error

    def place(self, hold: Hold) -> None:
        """Hold the environment; the latest reason is the one that counts."""
        self.objects.replace(self._key, hold.model_dump_json(indent=2).encode())

    def require_none(self) -> None:
        """Raise `RefusedError` while the environment is held."""
        if hold := self.current():
            raise RefusedError(
                f"{self.environment} is held {hold.render()}. When the cause is mended: "
                f'`runbook deploy:release --environment={self.environment} --reason="..."`.'
            )

    def require(self) -> Hold:
        """Return the hold; raise `RefusedError` when there is none."""
        if hold := self.current():
            return hold
        raise RefusedError(f"{self.environment} is not held; there is nothing to release")

    def remove(self) -> None:
        """Let the environment be deployed to again; no error when it is not held."""
        self.objects.delete([self._key])
