"""Where each service's official document is, and the part of it that this project relies on."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from tests.conformance.contracts import Contract
from tests.conformance.installed import MODULES
from tests.conformance.openapi import JSON, Operations, pruned, read

VENDORED = Path(__file__).parent / "specs"


@dataclass(frozen=True)
class Service:
    """A document, and the operations of it that clients and emulators may use.

    `root` comes before their paths; `refusal` is the schema of refusals with a status that an operation does not list.
    """

    document: Path
    operations: Operations
    root: str = ""
    refusal: JSON = field(default_factory=dict[str, Any])


_GITHUB = "/repos/{owner}/{repo}"
_NEON = "/projects/{project_id}"
_BRANCH = f"{_NEON}/branches/{{branch_id}}"

SERVICES = {
    "github": Service(
        VENDORED / "github.json",
        {
            f"{_GITHUB}/branches/{{branch}}": ["get"],
            f"{_GITHUB}/rules/branches/{{branch}}": ["get"],
            f"{_GITHUB}/commits/{{ref}}/status": ["get"],
            f"{_GITHUB}/commits/{{ref}}/check-runs": ["get"],
            f"{_GITHUB}/commits/{{commit_sha}}/pulls": ["get"],
            f"{_GITHUB}/pulls/{{pull_number}}/reviews": ["get"],
            f"{_GITHUB}/environments/{{environment_name}}": ["get"],
            f"{_GITHUB}/compare/{{basehead}}": ["get"],
            f"{_GITHUB}/deployments": ["get", "post"],
            f"{_GITHUB}/deployments/{{deployment_id}}/statuses": ["get", "post"],
        },
        refusal={"$ref": "#/components/schemas/basic-error"},
    ),
    # The package is under MIT, the document in it "Proprietary": read where npm has put it, and not copied.
    "neon": Service(
        MODULES / "@neondatabase/api-client/public-v2-for-users.gen.yaml",
        {
            _NEON: ["get"],
            f"{_NEON}/operations": ["get"],
            f"{_NEON}/operations/{{operation_id}}": ["get"],
            f"{_NEON}/branches": ["get", "post"],
            _BRANCH: ["get", "patch", "delete"],
            f"{_BRANCH}/restore": ["post"],
            f"{_BRANCH}/finalize_restore": ["post"],
            f"{_BRANCH}/snapshot": ["post"],
            f"{_BRANCH}/endpoints": ["get"],
            f"{_NEON}/endpoints": ["post"],
            f"{_NEON}/endpoints/{{endpoint_id}}": ["delete"],
            f"{_NEON}/connection_uri": ["get"],
            f"{_NEON}/snapshots": ["get"],
            f"{_NEON}/snapshots/{{snapshot_id}}": ["delete"],
            f"{_NEON}/snapshots/{{snapshot_id}}/restore": ["post"],
        },
        root="/api/v2",
    ),
}


@cache
def contract_of(service: str) -> Contract:
    """Return the contract of a service; reading a document costs up to seconds."""
    about = SERVICES[service]
    return Contract(pruned(read(about.document), about.operations), about.root, about.refusal)
