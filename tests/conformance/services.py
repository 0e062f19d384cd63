"""Where each service's official document is, and the part of it that this project relies on."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from tests.conformance.contracts import Contract
from tests.conformance.installed import FOLDER, HERE, MODULES
from tests.conformance.openapi import JSON, Operations, pruned, read, used

_VENDORED = HERE / "specs"


@dataclass(frozen=True)
class Service:
    """A document, and the operations of it that our client uses; `driven` are those that only other clients use.

    `root` comes before their paths; `refusal` is the schema of refusals with a status that an operation does not list;
    `renamed` are paths (patterns) in use that the document has under another name or version.
    """

    document: Path
    operations: Operations
    driven: Operations = field(default_factory=dict[str, Iterable[str]])
    root: str = ""
    refusal: JSON = field(default_factory=dict[str, Any])
    renamed: Mapping[str, str] = field(default_factory=dict[str, str])

    @property
    def known(self) -> Operations:
        """All operations of the document that an emulator has."""
        paths = self.operations.keys() | self.driven.keys()
        return {path: [*self.operations.get(path, ()), *self.driven.get(path, ())] for path in sorted(paths)}


_GITHUB = "/repos/{owner}/{repo}"
_NEON = "/projects/{project_id}"
_SENTRY = "/organizations/{organization_id_or_slug}"
_ROLLING = "/v1/projects/{idOrName}/rolling-release"
_BRANCH = f"{_NEON}/branches/{{branch_id}}"

WITHOUT_DOCUMENT = {"pager_duty", "statuspage"}
"""What these publish has no licence under which it may be kept, or read by a machine; their emulators follow it."""

SERVICES = {
    "github": Service(
        _VENDORED / "github.json",
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
    # What the client in TypeScript knows of the API. It is under FSL-1.1-Apache-2.0: made anew each time, not copied.
    "sentry": Service(
        HERE / "sentry_document.mjs",
        {
            f"{_SENTRY}/releases/": ["get", "post"],
            f"{_SENTRY}/releases/{{version}}/deploys/": ["get", "post"],
            f"{_SENTRY}/issues/": ["get"],
            f"{_SENTRY}/events-timeseries/": ["get"],
        },
        driven={f"{_SENTRY}/releases/{{version}}/": ["get", "put"], f"{_SENTRY}/sessions/": ["get"]},
        root="/api/0",
        refusal={"type": "object"},
    ),
    "slack": Service(
        FOLDER / "slack.json",
        {
            "/chat.postMessage": ["post"],
            "/chat.update": ["post"],
            "/conversations.archive": ["post"],
            "/conversations.create": ["post"],
            "/conversations.history": ["get"],
            "/conversations.invite": ["post"],
            "/conversations.list": ["get"],
            "/conversations.replies": ["get"],
            "/conversations.setTopic": ["post"],
            "/files.info": ["get"],
        },
        root="/api",
        renamed={"^/api(/.*)$": r"\1"},
    ),
    # What the SDK knows of the API, which is under Apache-2.0: the document that it is generated from is in no package.
    "vercel": Service(
        HERE / "vercel_document.mjs",
        {
            "/v7/deployments": ["get"],
            "/v13/deployments": ["post"],
            "/v13/deployments/{idOrUrl}": ["get"],
            "/v3/deployments/{idOrUrl}/events": ["get"],
            "/v9/projects/{idOrName}": ["get"],
            "/v10/projects/{projectId}/promote/{deploymentId}": ["post"],
            "/v1/projects/{projectId}/rollback/{deploymentId}": ["post"],
            "/v1/projects/{projectId}/deployments/{deploymentId}/runtime-logs": ["get"],
            "/v10/projects/{idOrName}/env": ["get"],
            "/v4/aliases/{idOrAlias}": ["get"],
            _ROLLING: ["get"],
            f"{_ROLLING}/start": ["post"],
            f"{_ROLLING}/approve-stage": ["post"],
            f"{_ROLLING}/complete": ["post"],
        },
        refusal={"$ref": "#/components/schemas/Refusal"},
        renamed={
            "^/v6/deployments$": "/v7/deployments",
            # of the command line
            "^/v9(/projects/[^/]+/rollback/[^/]+)$": r"/v1\1",
            "^/v3/now(/deployments/[^/]+/events)$": r"/v3\1",
            "^/now(/deployments/[^/]+/aliases)$": r"/v2\1",
            "^/(?:v3/)?now(/aliases.*)$": r"/v4\1",
            "^(/teams/[^/]+)$": r"/v2\1",
        },
    ),
}


def document_of(service: str) -> JSON:
    """Return the document of a service: what is in a file, or what a script makes of a package."""
    about = SERVICES[service]
    if about.document.suffix != ".mjs":
        document = read(about.document)
        return _of_slack(document) if service == "slack" else document
    argv = ["node", str(about.document), str(MODULES)]
    return json.loads(subprocess.run(argv, capture_output=True, text=True, check=True).stdout)


def _of_slack(document: JSON) -> JSON:
    """Return what Slack's document says, as requests are sent today; it is of 2020.

    It has the token in a header of its own, and forms only. Arguments may be sent as JSON as well; what is JSON in a
    text in a form is JSON itself there. A refusal is answered with 200, too.
    """
    for path, methods in used(document).items():
        for method in methods:
            operation = document["paths"][path][method]
            operation["parameters"] = [each for each in operation["parameters"] if each["name"] != "token"]
            answers = [each["content"]["application/json"]["schema"] for each in operation["responses"].values()]
            either = {"application/json": {"schema": {"anyOf": answers}}}
            operation["responses"] = {"200": {"description": "done, or refused", "content": either}}
            content = operation.get("requestBody", {}).get("content", {})
            for form in list(content.values()):
                members: JSON = {
                    key: {} if key in ("blocks", "attachments") else of for key, of in _members(form).items()
                }
                content["application/json"] = {"schema": {**form["schema"], "properties": members}}
    return document


def _members(content: JSON) -> JSON:
    return content["schema"]["properties"]


@cache
def contract_of(service: str) -> Contract:
    """Return the contract of a service; reading a document costs up to seconds."""
    about = SERVICES[service]
    return Contract(pruned(document_of(service), about.known), about.root, about.refusal, about.renamed)
