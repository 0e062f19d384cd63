"""The part of Neon's API that restore points need: requests, answers, operations.

423, 429 and 503 mean that nothing was done. Any other failure of a POST or DELETE can have had its effect.

Source: https://api-docs.neon.tech/reference.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from http import HTTPStatus
from typing import Any, Literal
from urllib.parse import urlsplit

import httpx
from pydantic import AwareDatetime, SecretStr, ValidationError

from runbook.clients.http_api import Answer, HttpApi, Patience, Service
from runbook.clients.restore_points import ServerAddress
from runbook.errors import RejectedError, StageError, TransientError

__all__ = ["Branch", "Endpoint", "NeonApi", "Operation", "Project", "Snapshot"]

_PORT = 5432
_EAGER_S = 10.0  # so long it is looked often: the application may be waiting
_FINISHED, _FAILED = {"finished", "skipped"}, {"failed", "error", "cancelled"}


class Project(Answer):
    """A project; it holds branches, and their history for `history_retention_seconds`."""

    id: str
    name: str
    history_retention_seconds: int


class Branch(Answer):
    """A branch. `restored_as` is the branch whose place it takes or took, when it was made from a snapshot."""

    id: str
    name: str
    current_state: str
    parent_id: str | None = None
    parent_lsn: str | None = None
    expires_at: AwareDatetime | None = None
    restored_as: str | None = None
    restore_status: str | None = None
    logical_size: int | None = None


class Snapshot(Answer):
    """A snapshot of a branch without a parent."""

    id: str
    name: str
    lsn: str | None = None
    source_branch_id: str | None = None
    expires_at: AwareDatetime | None = None


class Endpoint(Answer):
    """A compute, which makes a branch take connections."""

    id: str
    branch_id: str
    type: str


class Operation(Answer):
    """Something that Neon does after it has answered."""

    id: str
    action: str
    status: str
    branch_id: str | None = None
    error: str | None = None

    @property
    def has_ended(self) -> bool:
        """Whether it finished or failed."""
        return self.status in _FINISHED | _FAILED


class _OneProject(Answer):
    project: Project


class _OneBranch(Answer):
    branch: Branch


class _OneOperation(Answer):
    operation: Operation


class _Page(Answer):
    next: str | None = None


class _Branches(Answer):
    branches: tuple[Branch, ...]
    pagination: _Page = _Page()


class _Snapshots(Answer):
    snapshots: tuple[Snapshot, ...]


class _Operations(Answer):
    operations: tuple[Operation, ...]


class _Endpoints(Answer):
    endpoints: tuple[Endpoint, ...]


class _ConnectionUri(Answer):
    uri: SecretStr


class _Refusal(Answer):
    code: str = ""
    message: str = ""
    request_id: str = ""


class NeonApi:
    """One project of Neon over HTTP; the API key is in no message.

    Every method raises `TransientError` when Neon is busy or cannot be reached, `LostError` when its answer is lost
    and `RejectedError` when it says no; the message has Neon's own words and the id of the request.
    """

    def __init__(self, url: str, project_id: str, key: SecretStr, patience: Patience, *, block: str) -> None:
        self._project_id = project_id
        self._patience = patience
        self._http = HttpApi(
            Service(
                name="Neon",
                url=f"{url.rstrip('/')}/projects/{project_id}",
                key=key,
                words=_words,
                hints={
                    401: f"The API key is wrong, revoked or expired: put a valid one into the {block}.",
                    403: f"The API key of the {block} may not do this: it needs to be one that may change the project.",
                },
                nothing_done=frozenset({423, 429, 503}),
            ),
            patience,
        )

    def project(self) -> Project:
        """Return the project."""
        return self._http.read("", f"read project {self._project_id}", _OneProject).project

    def branch(self, branch_id: str) -> Branch:
        """Return a branch; `MissingError` when it is gone."""
        return self._http.read(f"/branches/{branch_id}", f"read branch {branch_id}", _OneBranch).branch

    def branches(self) -> Sequence[Branch]:
        """Return all branches, page after page."""
        found: dict[str, Branch] = {}
        cursors: list[str] = []
        while True:
            query = {"limit": "1000"} | ({"cursor": cursors[-1]} if cursors else {})
            page = self._http.read("/branches", "list the branches", _Branches, query=query)
            found |= {branch.id: branch for branch in page.branches}
            cursor = page.pagination.next
            if not page.branches or not cursor or cursor in cursors:
                return list(found.values())
            cursors.append(cursor)

    def snapshots(self) -> Sequence[Snapshot]:
        """Return all snapshots."""
        return self._http.read("/snapshots", "list the snapshots", _Snapshots).snapshots

    def endpoints(self, branch_id: str) -> Sequence[Endpoint]:
        """Return the computes of a branch that take writes."""
        path = f"/branches/{branch_id}/endpoints"
        found = self._http.read(path, f"list the computes of {branch_id}", _Endpoints).endpoints
        return [endpoint for endpoint in found if endpoint.type == "read_write"]

    def address(self, branch_id: str, *, database: str, role: str) -> ServerAddress:
        """Return where a branch takes connections; the password that Neon tells with it is forgotten at once."""
        query = {"branch_id": branch_id, "database_name": database, "role_name": role, "pooled": "false"}
        answer = self._http.read("/connection_uri", f"find the address of {branch_id}", _ConnectionUri, query=query)
        parts = urlsplit(answer.uri.get_secret_value())
        return ServerAddress(parts.hostname or "", parts.port or _PORT)

    def change(
        self,
        method: Literal["POST", "PATCH", "DELETE"],
        path: str,
        what: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | None = None,
    ) -> Sequence[Operation]:
        """Change something and return the operations that it began. A POST or DELETE has its effect once at most."""
        response = self._http.send(method, path, what, query=query, body=body)
        if response.status_code == HTTPStatus.NO_CONTENT:  # the answer to deleting what was deleted before
            return ()
        return self._http.parse(response, what, _Operations).operations

    def operations(self, branches: Collection[str]) -> Sequence[Operation]:
        """Return the latest operations of these branches."""
        recent = self._http.read("/operations", "list the operations", _Operations, query={"limit": "100"}).operations
        return [operation for operation in recent if operation.branch_id in branches]

    def wait(self, operations: Sequence[Operation], what: str) -> None:
        """Return when all operations have finished.

        Raises:
            StageError: one failed or was cancelled; the message says which, and Neon's reason.
            TransientError: one takes longer than `finish_s`.
            RejectedError: they can no longer be followed, for example because the key was revoked meanwhile.
        """
        deadline, eager_until = time.monotonic() + self._patience.finish_s, time.monotonic() + _EAGER_S
        for begun in operations:
            operation, pause_s = begun, self._patience.poll_s
            while operation.status not in _FINISHED:
                said = f"Neon, {what}: operation {operation.action} ({operation.id})"
                if operation.status in _FAILED:
                    raise StageError(f"{said} ended as {operation.status}: {operation.error or 'no reason given'}.")
                if time.monotonic() >= deadline:
                    waited = f"after {self._patience.finish_s:g} s"
                    raise TransientError(f"{said} is still {operation.status} {waited}; it may finish yet.")
                time.sleep(pause_s)
                if time.monotonic() > eager_until:
                    pause_s = min(2 * pause_s, 10 * self._patience.poll_s)
                operation = self._later(operation, said)

    def _later(self, operation: Operation, said: str) -> Operation:
        """Return the operation as it is now, or as it was when Neon does not answer: it runs on all the same."""
        try:
            return self._http.read(f"/operations/{operation.id}", "read an operation", _OneOperation).operation
        except TransientError:
            return operation
        except RejectedError as error:
            raise RejectedError(f"{said} was {operation.status} and can no longer be followed. {error}") from error


def _words(response: httpx.Response) -> str:
    try:
        refusal = _Refusal.model_validate_json(response.content)
    except ValidationError:
        return ""
    request = f"(request {refusal.request_id})" if refusal.request_id else ""
    return " ".join(part for part in (refusal.code, refusal.message[:500], request) if part)
