"""What has failed in the test suite of a commit, kept in the environment's store, so that flaky tests are found out.

test-failures/<environment>/<commit>.json    names of the tests and commands that failed at least once
"""

from __future__ import annotations

from collections.abc import Iterable

from pydantic import BaseModel, ConfigDict, ValidationError

from runbook.clients.object_store import MissingObjectError, ObjectStore
from runbook.rules.identifiers import check_environment_name


class _Failures(BaseModel):
    model_config = ConfigDict(frozen=True)

    names: tuple[str, ...]


class TestFailures:
    """The failures of one environment's commits. Every method raises `ServiceError` when the store does not answer."""

    __test__ = False

    def __init__(self, objects: ObjectStore, environment: str) -> None:
        self._objects = objects
        self._folder = f"test-failures/{check_environment_name(environment)}"

    def of(self, git_sha: str) -> tuple[str, ...]:
        """Return what has failed for a commit; nothing when that cannot be read."""
        try:
            return _Failures.model_validate_json(self._objects.read(self._key(git_sha))).names
        except (MissingObjectError, ValidationError):
            return ()

    def add(self, git_sha: str, names: Iterable[str]) -> None:
        """Remember more of what failed for a commit."""
        together = tuple(sorted({*self.of(git_sha), *names}))
        self._objects.replace(self._key(git_sha), _Failures(names=together).model_dump_json(indent=2).encode())

    def _key(self, git_sha: str) -> str:
        return f"{self._folder}/{git_sha}.json"
