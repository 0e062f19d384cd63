"""The part of Neon's API that restore points need: requests, answers, operations.

423, 429 and 503 mean that nothing was done. Any other failure of a POST or DELETE can have had its effect.

Source: https://api-docs.neon.tech/reference.
"""

from __future__ import annotations

import re
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Literal, TypeVar

import httpx
from pydantic import AwareDatetime, BaseModel, ConfigDict, SecretStr, ValidationError

from runbook.errors import RejectedError, StageError, TransientError

_REFUSALS = 5  # how often a request that Neon did not act on is sent again
_LOST = 2  # how often a request is sent again that changes nothing, or the same twice, and got no answer
_LONGEST_PAUSE_S = 60.0
_FINISHED, _FAILED = {"finished", "skipped"}, {"failed", "error", "cancelled"}
_HINTS = {
    401: " The API key is wrong, revoked or expired: put a valid one into the block.",
    403: " The API key may not do this: use one that may change the project.",
}


@dataclass(frozen=True)
class Patience:
    """How long to wait, in seconds.

    `answer_s` for one answer; `pause_s` before trying or looking again, when Neon does not say how long; `poll_s`
    before looking at an operation again, twice as long each time, up to ten times that; `finish_s` for the operations
    of one step altogether.
    """

    answer_s: float = 20.0
    pause_s: float = 3.0
    poll_s: float = 0.5
    finish_s: float = 300.0


class Answer(BaseModel):
    """Base of what Neon answers; fields that it adds as it grows are no error."""

    model_config = ConfigDict(frozen=True, extra="ignore")


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


class Snapshot(Answer):
    """A snapshot of a branch without a parent."""

    id: str
    name: str
    lsn: str | None = None
    source_branch_id: str | None = None
    expires_at: AwareDatetime | None = None


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


class _Refusal(Answer):
    code: str = ""
    message: str = ""
    request_id: str = ""


_Model = TypeVar("_Model", bound=Answer)


class LostError(TransientError):
    """No answer, or none that can be read: whether the request had its effect is not known."""


class MissingError(RejectedError):
    """HTTP 404: there is no such thing."""


class TakenError(RejectedError):
    """HTTP 409: it exists already."""


class _NothingDoneError(TransientError):
    """The request had no effect; it may be sent again `repeats` times, each time after `pause_s` seconds."""

    def __init__(self, message: str, *, repeats: int, pause_s: float) -> None:
        super().__init__(message)
        self.repeats = repeats
        self.pause_s = pause_s


class NeonApi:
    """One project of Neon over HTTP; the API key is in no message.

    Every method raises `TransientError` when Neon is busy or cannot be reached, `LostError` when its answer is lost
    and `RejectedError` when it says no; the message has Neon's own words and the id of the request.
    """

    def __init__(self, url: str, project_id: str, key: SecretStr, patience: Patience) -> None:
        self._project_id = project_id
        self._url = f"{url.rstrip('/')}/projects/{project_id}"
        self._key = key
        self._patience = patience
        self._tls = httpx.create_ssl_context(trust_env=False)

    def project(self) -> Project:
        """Return the project."""
        return self._call("GET", "", f"read project {self._project_id}", _OneProject).project

    def branch(self, branch_id: str) -> Branch:
        """Return a branch; `MissingError` when it is gone."""
        return self._call("GET", f"/branches/{branch_id}", f"read branch {branch_id}", _OneBranch).branch

    def branches(self) -> Sequence[Branch]:
        """Return all branches, page after page."""
        found: dict[str, Branch] = {}
        cursors: list[str] = []
        while True:
            query = {"limit": "1000"} | ({"cursor": cursors[-1]} if cursors else {})
            page = self._call("GET", "/branches", "list the branches", _Branches, query=query)
            found |= {branch.id: branch for branch in page.branches}
            cursor = page.pagination.next
            if not page.branches or not cursor or cursor in cursors:
                return list(found.values())
            cursors.append(cursor)

    def snapshots(self) -> Sequence[Snapshot]:
        """Return all snapshots."""
        return self._call("GET", "/snapshots", "list the snapshots", _Snapshots).snapshots

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
        return self._call(method, path, what, _Operations, query=query, body=body).operations

    def operations(self, branches: Collection[str]) -> Sequence[Operation]:
        """Return the latest operations of these branches."""
        recent = self._call("GET", "/operations", "list the operations", _Operations, query={"limit": "100"}).operations
        return [operation for operation in recent if operation.branch_id in branches]

    def wait(self, operations: Sequence[Operation], what: str) -> None:
        """Return when all operations have finished.

        Raises:
            StageError: one failed or was cancelled; the message says which, and Neon's reason.
            TransientError: one takes longer than `finish_s`.
            RejectedError: they can no longer be followed, for example because the key was revoked meanwhile.
        """
        deadline = time.monotonic() + self._patience.finish_s
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
                pause_s = min(2 * pause_s, 10 * self._patience.poll_s)
                operation = self._later(operation, said)

    def _later(self, operation: Operation, said: str) -> Operation:
        """Return the operation as it is now, or as it was when Neon does not answer: it runs on all the same."""
        try:
            return self._call("GET", f"/operations/{operation.id}", "read an operation", _OneOperation).operation
        except TransientError:
            return operation
        except RejectedError as error:
            raise RejectedError(f"{said} was {operation.status} and can no longer be followed. {error}") from error

    def _call(
        self,
        method: str,
        path: str,
        what: str,
        model: type[_Model],
        *,
        query: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | None = None,
    ) -> _Model:
        headers = {"Authorization": f"Bearer {self._key.get_secret_value()}", "Accept": "application/json"}
        request = httpx.Request(method, self._url + path, params=query, json=body, headers=headers)
        attempts = 0
        while True:
            attempts += 1
            try:
                return self._send(request, what, model)
            except _NothingDoneError as error:
                if attempts > error.repeats:
                    raise TransientError(str(error)) from None
                pause_s = error.pause_s
            except LostError:
                if method not in {"GET", "PATCH"} or attempts > _LOST:
                    raise
                pause_s = self._patience.pause_s
            time.sleep(pause_s)

    def _send(self, request: httpx.Request, what: str, model: type[_Model]) -> _Model:
        try:
            with httpx.Client(verify=self._tls, trust_env=False, timeout=self._patience.answer_s) as client:
                response = client.send(request, follow_redirects=False)
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            said = f"Neon, {what}: {request.url.host} cannot be reached: {_said(error)}."
            raise _NothingDoneError(said, repeats=_LOST, pause_s=self._patience.pause_s) from None
        except httpx.TimeoutException:
            raise LostError(f"Neon, {what}: no answer within {self._patience.answer_s:g} s.") from None
        except httpx.RequestError as error:
            raise LostError(f"Neon, {what}: the answer was lost: {_said(error)}.") from None
        if not response.is_success:
            raise self._refused(response, what)
        try:
            # 204 is the answer to deleting what was deleted before
            return model.model_validate_json(b'{"operations": []}' if response.status_code == 204 else response.content)
        except ValidationError as error:
            where = ".".join(str(part) for part in error.errors()[0]["loc"]) or "its beginning"
            said = f"Neon, {what}: HTTP {response.status_code}, but the answer is not as agreed at {where}."
            raise LostError(said) from None

    def _refused(self, response: httpx.Response, what: str) -> Exception:
        status = response.status_code
        said = f"Neon, {what}: HTTP {status}{self._words(response)}."
        if status in {423, 429, 503}:
            pause_s = _retry_after_s(response.headers.get("Retry-After"), self._patience.pause_s)
            if pause_s > _LONGEST_PAUSE_S:
                return _NothingDoneError(f"{said} It asks to wait for {pause_s:.0f} s.", repeats=0, pause_s=0)
            return _NothingDoneError(said, repeats=_REFUSALS, pause_s=pause_s)
        if response.is_server_error or status == 408:
            return LostError(said)
        if response.is_redirect:
            place = httpx.URL(response.headers["Location"]).host or "elsewhere"
            return RejectedError(f"{said} It points to {place}, where the API key is not sent to: mend api_url.")
        kind = {404: MissingError, 409: TakenError}.get(status, RejectedError)
        return kind(said + _HINTS.get(status, ""))

    def _words(self, response: httpx.Response) -> str:
        """Return what Neon says about a refusal; without the key, should it ever repeat that."""
        try:
            refusal = _Refusal.model_validate_json(response.content)
        except ValidationError:
            return ""
        parts = (refusal.code, refusal.message[:500], f"(request {refusal.request_id})" if refusal.request_id else "")
        words = " ".join(part for part in parts if part)
        return f": {words}".replace(self._key.get_secret_value(), "**********") if words else ""


def _said(error: httpx.RequestError) -> str:
    return str(error).rstrip(".") or type(error).__name__


def _retry_after_s(header: str | None, otherwise_s: float) -> float:
    """Return the pause that a Retry-After header asks for, in seconds: it is a number of them, or a date."""
    if header is None:
        return otherwise_s
    if re.fullmatch(r"[0-9]{1,9}", header.strip()):
        return float(header)
    try:
        return max(0.0, (parsedate_to_datetime(header) - datetime.now(UTC)).total_seconds())
    except (TypeError, ValueError):
        return otherwise_s
