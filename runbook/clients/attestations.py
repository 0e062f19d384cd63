"""What people have attested, kept in the environment's store.

attestations/<environment>/<commit>/<item>.json    the newest word on one item
"""

from __future__ import annotations

from pydantic import ValidationError

from runbook.clients.object_store import MissingObjectError, ObjectStore
from runbook.rules.identifiers import check_environment_name
from runbook.rules.manual_items import Attestation


class AttestationRecords:
    """The attestations of one environment. Every method raises `ServiceError` when the store does not answer."""

    def __init__(self, objects: ObjectStore, environment: str) -> None:
        self._objects = objects
        self._folder = f"attestations/{check_environment_name(environment)}"

    def keep(self, attestation: Attestation) -> None:
        """Keep an attestation in place of an earlier one of the same item and commit."""
        key = f"{self._folder}/{attestation.git_sha}/{attestation.item}.json"
        self._objects.replace(key, attestation.model_dump_json(indent=2).encode())

    def of(self, git_sha: str) -> list[Attestation]:
        """Return what was attested for a commit, also what has ended; what cannot be read counts for nothing."""
        found: list[Attestation] = []
        for about in list(self._objects.objects(f"{self._folder}/{git_sha}/")):
            try:
                found.append(Attestation.model_validate_json(self._objects.read(about.key)))
            except (MissingObjectError, ValidationError):
                continue
        return found
