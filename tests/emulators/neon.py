"""A Neon in memory behind real HTTP: one project, its branches, snapshots and operations; misbehaves on demand.

What a branch holds is one string, or a Postgres server (`tests.emulators.neon_postgres`). The live branch is the one
with the application's compute: `connect` is what an application sees, and it sees a restored state only when the
operations of the restore have finished.
"""

from __future__ import annotations

import asyncio
import re
import socket
import threading
import time
import uuid
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from uvicorn.protocols.http.h11_impl import H11Protocol

JSON = dict[str, Any]
API = "/api/v2"
MAIN = "br-main-000001"
COUNTERS = (
    "cpu_used_sec",
    "active_time_seconds",
    "compute_time_seconds",
    "written_data_bytes",
    "data_transfer_bytes",
)


Content = Any
"""A string, or a server."""


class Contents(Protocol):
    """What branches hold, and how it is copied."""

    @property
    def first(self) -> Content:
        """Return what the live branch holds at the beginning."""
        ...

    def capture(self, content: Content) -> Content:
        """Return a copy of what a branch holds now."""
        ...

    def start(self, content: Content) -> str:
        """Let a branch take connections, and return its URL."""
        ...

    def replace(self, live: Content, content: Content) -> tuple[Content, Content]:
        """Put the content of a branch in the live one's place; return what was live, and what is."""
        ...

    def drop(self, content: Content) -> None:
        """Forget what a branch held."""
        ...


class Words:
    """A branch holds one string."""

    first = ""

    def capture(self, content: str) -> str:
        return content

    def start(self, content: str) -> str:
        return f"postgresql://owner:npg_{uuid.uuid4().hex}@ep-{abs(hash(content)):x}.us-east-2.aws.neon.tech/shop"

    def replace(self, live: str, content: str) -> tuple[str, str]:
        return live, content

    def drop(self, content: str) -> None:
        pass


@dataclass
class Branch:
    """A branch; `states` are what it held, oldest first: (LSN, since, content)."""

    id: str
    name: str
    parent: str | None
    states: list[tuple[int, datetime, Content]]
    created_at: datetime
    parent_lsn: int | None = None
    state: str = "ready"
    expires_at: datetime | None = None
    reset_at: datetime | None = None
    restored_from: str | None = None
    restored_as: str | None = None
    restore_status: str | None = None
    hidden_reads: int = 0
    endpoint: str | None = None

    @property
    def content(self) -> Content:
        return self.states[-1][2]


@dataclass
class Snapshot:
    id: str
    name: str
    source: str
    lsn: int
    content: Content
    created_at: datetime
    expires_at: datetime | None


@dataclass
class Operation:
    id: str
    action: str
    branch: str
    created_at: datetime
    steps: list[str]
    error: str | None
    effect: Callable[[], None]

    @property
    def status(self) -> str:
        return self.steps[0]

    def advance(self) -> None:
        if len(self.steps) > 1:
            self.steps.pop(0)
            if self.status == "finished":
                self.effect()


@dataclass(frozen=True)
class Exchange:
    """One request and its answer; `answer` is None when it was empty, `lost` when nobody got it."""

    method: str
    path: str
    query: dict[str, str]
    body: Any
    status: int
    answer: Any
    lost: bool = False


@dataclass
class Fault:
    """Something that goes wrong with the next `times` requests that fit."""

    method: str
    path: str
    times: int
    status: int | None = None
    message: str = ""
    headers: dict[str, str] = field(default_factory=dict[str, str])
    after_effect: bool = False
    delay_s: float = 0

    def fits(self, method: str, path: str) -> bool:
        return self.times > 0 and self.method == method and re.search(self.path, path) is not None


class _Refusal(Exception):  # noqa: N818 - an answer, not an error of the emulator
    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class NeonEmulator:
    """The project and what goes wrong with it. Tests read and change it between requests."""

    def __init__(self, *, token: str, history: timedelta, page_size: int, polls: int, contents: Contents) -> None:
        self.token = token
        self.project_id = "shiny-wind-028834"
        self.page_size = page_size
        self.url = ""
        self.exchanges: list[Exchange] = []
        self.too_early = 0
        self.snapshots: dict[str, Snapshot] = {}
        self.operations: list[Operation] = []
        self.compute = MAIN
        self._contents = contents
        self._polls = polls
        self._history = history
        self._skew = timedelta()
        self._lsn = 0x1E19478
        self._ids = 1
        self._faults: list[Fault] = []
        self._failures: dict[str, tuple[str, str]] = {}
        self._hidden_reads = 0
        self._token_lasts: int | None = None
        self._not_before = 0.0
        first = (self._lsn, self.now(), contents.first)
        self.branches = {MAIN: Branch(MAIN, "main", None, [first], self.now(), endpoint="ep-main-000001")}

    def now(self) -> datetime:
        return datetime.now(UTC).replace(microsecond=0) + self._skew

    # what an application and a person at the console do

    def write(self, content: str) -> None:
        """Let the application write: replace what the live branch holds."""
        self._lsn += 0x100
        self.branches[self.compute].states.append((self._lsn, self.now(), content))

    def connect(self) -> Content:
        """Return what the application sees through its connection string."""
        return self.branches[self.compute].content

    def named(self, name: str) -> list[Branch]:
        return [branch for branch in self.branches.values() if branch.name == name]

    def add_branch(self, name: str, parent: str | None = MAIN) -> Branch:
        """Add a branch that has been there for long."""
        source = self.branches[parent or MAIN]
        branch = Branch(self._new_id("br"), name, parent, source.states[-1:], self.now())
        self.branches[branch.id] = branch
        return branch

    def pass_time(self, span: timedelta) -> None:
        """Let time pass; what has expired is removed, as Neon's background job does."""
        self._skew += span
        for branch in list(self.branches.values()):
            if branch.expires_at and branch.expires_at <= self.now() and not self._children(branch.id):
                del self.branches[branch.id]
        for snapshot in list(self.snapshots.values()):
            if snapshot.expires_at and snapshot.expires_at <= self.now():
                del self.snapshots[snapshot.id]

    # what can go wrong

    def refuse(self, method: str, path: str, status: int, *, times: int = 1, message: str = "", **headers: str) -> None:
        """Answer with `status` and do nothing; `headers` with `_` for `-`."""
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        self._faults.append(Fault(method, path, times, status, message, names))

    def lose(self, method: str, path: str, *, times: int = 1, status: int | None = None) -> None:
        """Do what is asked, then close the connection without an answer, or answer with `status`."""
        self._faults.append(Fault(method, path, times, status, "upstream", after_effect=True))

    def delay(self, method: str, path: str, delay_s: float, *, times: int = 1) -> None:
        """Do what is asked, and answer late."""
        self._faults.append(Fault(method, path, times, after_effect=True, delay_s=delay_s))

    def fail_operation(self, action: str, error: str, status: str = "failed") -> None:
        """Let the next operation of this kind end badly."""
        self._failures[action] = (status, error)

    def hide_new_branches(self, *, reads: int) -> None:
        """Leave each new branch out of the first `reads` lists."""
        self._hidden_reads = reads

    def expire_token(self, *, after: int) -> None:
        """Refuse the token after so many requests."""
        self._token_lasts = after

    # HTTP

    def application(self, cut: Callable[[Request], None]) -> Starlette:
        async def answer(request: Request) -> Response:
            path = request.url.path.removeprefix(API)
            raw = await request.body()
            body: JSON | None = await request.json() if raw else None
            query = dict(request.query_params)
            fault = next((each for each in self._faults if each.fits(request.method, path)), None)
            status, content = self._answer(request, path, query, body or {}, fault)
            if fault is not None and fault.after_effect and status in {401, 404, 409, 422, 423}:
                fault = None  # it had no effect; the fault waits for one that has
            if fault is not None:
                fault.times -= 1
            lost = fault is not None and fault.after_effect and fault.status is None
            self.exchanges.append(Exchange(request.method, path, query, body, status, content, lost))
            if fault is not None and fault.delay_s:
                await asyncio.sleep(fault.delay_s)
            elif lost:
                cut(request)
                await asyncio.sleep(0.01)
            headers = {} if fault is None else fault.headers
            return Response(status_code=204) if content is None else JSONResponse(content, status, headers=headers)

        return Starlette(routes=[Route("/{path:path}", answer, methods=["GET", "POST", "PATCH", "DELETE"])])

    def _answer(self, request: Request, path: str, query: JSON, body: JSON, fault: Fault | None) -> tuple[int, Any]:
        try:
            self._check_token(request.headers.get("authorization"))
            if time.monotonic() < self._not_before:
                self.too_early += 1
                raise _Refusal(429, "too early")
            if fault is not None and not fault.after_effect and fault.status is not None:
                asked = fault.headers.get("Retry-After", "")
                self._not_before = time.monotonic() + (float(asked) if asked.isdecimal() else 0)
                raise _Refusal(fault.status, fault.message or f"emulated {fault.status}")
            status, content = self._route(request.method, path, query, body)
            if fault is not None and fault.status is not None:
                raise _Refusal(fault.status, fault.message)
        except _Refusal as refusal:
            return refusal.status, {"request_id": str(uuid.uuid4()), "code": "", "message": str(refusal)}
        return status, content

    def _check_token(self, authorization: str | None) -> None:
        if self._token_lasts is not None:
            self._token_lasts -= 1
        if authorization != f"Bearer {self.token}" or (self._token_lasts is not None and self._token_lasts < 0):
            raise _Refusal(401, "authentication failed")

    def _route(self, method: str, path: str, query: JSON, body: JSON) -> tuple[int, Any]:
        project = f"/projects/{self.project_id}"
        table: list[tuple[str, str, Callable[..., tuple[int, Any]]]] = [
            ("GET", "", self._get_project),
            ("GET", "/operations", self._list_operations),
            ("GET", "/operations/([^/]+)", self._get_operation),
            ("GET", "/branches", self._list_branches),
            ("POST", "/branches", self._create_branch),
            ("GET", "/branches/([^/]+)", self._get_branch),
            ("PATCH", "/branches/([^/]+)", self._update_branch),
            ("DELETE", "/branches/([^/]+)", self._delete_branch),
            ("POST", "/branches/([^/]+)/restore", self._restore_branch),
            ("POST", "/branches/([^/]+)/finalize_restore", self._finalize_restore),
            ("POST", "/branches/([^/]+)/snapshot", self._create_snapshot),
            ("GET", "/branches/([^/]+)/endpoints", self._list_endpoints),
            ("POST", "/endpoints", self._create_endpoint),
            ("DELETE", "/endpoints/([^/]+)", self._delete_endpoint),
            ("GET", "/connection_uri", self._connection_uri),
            ("GET", "/snapshots", self._list_snapshots),
            ("DELETE", "/snapshots/([^/]+)", self._delete_snapshot),
            ("POST", "/snapshots/([^/]+)/restore", self._restore_snapshot),
        ]
        for verb, pattern, handler in table:
            match = re.fullmatch(re.escape(project) + pattern, path)
            if match is not None and verb == method:
                return handler(query, body, *match.groups())
        raise _Refusal(404, "this route does not exist or you do not have access to this project")

    def _get_project(self, query: JSON, body: JSON) -> tuple[int, Any]:
        at = _text(self.branches[self.compute].created_at)
        words = {"platform_id": "aws", "region_id": "aws-us-east-2", "proxy_host": "us-east-2.aws.neon.tech"}
        project = {"id": self.project_id, "name": "shop", "owner_id": "org-1", "provisioner": "k8s-neonvm", **words}
        project |= dict.fromkeys((*COUNTERS, "data_storage_bytes_hour"), 0)
        project |= dict.fromkeys(("branch_logical_size_limit", "branch_logical_size_limit_bytes"), 0)
        project |= {"pg_version": 17, "store_passwords": True, "creation_source": "console"}
        project |= {"history_retention_seconds": int(self._history.total_seconds())}
        project |= dict.fromkeys(("created_at", "updated_at", "consumption_period_start", "consumption_period_end"), at)
        return 200, {"project": project}

    def _list_operations(self, query: JSON, body: JSON) -> tuple[int, Any]:
        newest = self.operations[::-1][: int(query.get("limit", 100))]
        page = {"pagination": {"cursor": newest[-1].id}} if newest else {}
        return 200, {"operations": [self._operation(each) for each in newest], **page}

    def _get_operation(self, query: JSON, body: JSON, operation_id: str) -> tuple[int, Any]:
        operation = next((each for each in self.operations if each.id == operation_id), None)
        if operation is None:
            raise _Refusal(404, "operation not found")
        self._advance(operation.branch)
        return 200, {"operation": self._operation(operation)}

    def _list_branches(self, query: JSON, body: JSON) -> tuple[int, Any]:
        visible: list[Branch] = []
        begin = int(query.get("cursor", 0))
        for branch in list(self.branches.values()):
            if branch.hidden_reads == 0 or begin:
                visible.append(branch)
            else:
                branch.hidden_reads -= 1
        visible = [each for each in visible if query.get("search", "") in each.name + " " + each.id]
        end = begin + min(self.page_size, int(query.get("limit", 100)))
        page = {"sort_by": "updated_at", "sort_order": "desc"} | ({"next": str(end)} if end < len(visible) else {})
        branches = [self._branch(each) for each in visible[begin:end]]
        return 200, {"branches": branches, "annotations": {}, "pagination": page}

    def _get_branch(self, query: JSON, body: JSON, branch_id: str) -> tuple[int, Any]:
        annotation: JSON = {"object": {"type": "console/branch", "id": branch_id}, "value": {}}
        return 200, {"branch": self._branch(self._existing(branch_id)), "annotation": annotation}

    def _create_branch(self, query: JSON, body: JSON) -> tuple[int, Any]:
        wanted: JSON = body.get("branch") or {}
        parent = self._existing(wanted.get("parent_id") or MAIN)
        self._check_unlocked(parent.id)
        name = wanted.get("name") or self._new_id("branch")
        self._check_name(name)
        if parent.expires_at is not None:
            raise _Refusal(422, "a branch that expires cannot have children")
        lsn, at, content = self._state_of(parent, wanted.get("parent_lsn"), wanted.get("parent_timestamp"))
        branch = Branch(self._new_id("br"), name, parent.id, [(lsn, at, content)], self.now(), lsn, "init")
        branch.expires_at = self._future(wanted.get("expires_at"), timedelta(days=30))
        branch.hidden_reads = self._hidden_reads
        self.branches[branch.id] = branch

        def ready() -> None:
            branch.state = "ready"

        operations = self._begin(branch.id, "create_branch", effect=ready)
        if body.get("endpoints"):
            branch.endpoint = self._new_id("ep")
            operations += self._begin(branch.id, "start_compute")
        lists: JSON = {"endpoints": self._endpoints(branch), "roles": [], "databases": []}
        return 201, {"branch": self._branch(branch), "operations": operations, **lists}

    def _list_endpoints(self, query: JSON, body: JSON, branch_id: str) -> tuple[int, Any]:
        return 200, {"endpoints": self._endpoints(self._existing(branch_id))}

    def _create_endpoint(self, query: JSON, body: JSON) -> tuple[int, Any]:
        branch = self._existing(body["endpoint"]["branch_id"])
        self._check_unlocked(branch.id)
        if branch.endpoint is not None:
            raise _Refusal(409, "the branch has a read-write endpoint already")
        branch.endpoint = self._new_id("ep")
        operations = self._begin(branch.id, "start_compute")
        return 201, {"endpoint": self._endpoints(branch)[0], "operations": operations}

    def _delete_endpoint(self, query: JSON, body: JSON, endpoint_id: str) -> tuple[int, Any]:
        branch = next((each for each in self.branches.values() if each.endpoint == endpoint_id), None)
        if branch is None:
            return 204, None
        self._check_unlocked(branch.id)
        answer = self._endpoints(branch)[0]
        branch.endpoint = None
        return 200, {"endpoint": answer, "operations": self._begin(branch.id, "suspend_compute")}

    def _connection_uri(self, query: JSON, body: JSON) -> tuple[int, Any]:
        branch = self._existing(query["branch_id"])
        if branch.endpoint is None:
            raise _Refusal(404, "the branch has no endpoint")
        return 200, {"uri": self._contents.start(branch.content)}

    def _update_branch(self, query: JSON, body: JSON, branch_id: str) -> tuple[int, Any]:
        branch, wanted = self._existing(branch_id), body["branch"]
        self._check_unlocked(branch_id)
        if "name" in wanted:
            self._check_name(wanted["name"])
            branch.name = wanted["name"]
        if "expires_at" in wanted:
            branch.expires_at = self._future(wanted["expires_at"], timedelta(days=30))
        return 200, {"branch": self._branch(branch), "operations": []}

    def _delete_branch(self, query: JSON, body: JSON, branch_id: str) -> tuple[int, Any]:
        if branch_id not in self.branches:
            return 204, None
        self._check_unlocked(branch_id)
        branch = self.branches[branch_id]
        if branch.parent is None or branch_id == self.compute:
            raise _Refusal(422, "cannot delete the root or default branch")
        if self._children(branch_id):
            raise _Refusal(422, "cannot delete a branch that has children")
        del self.branches[branch_id]
        self._contents.drop(branch.content)
        return 200, {"branch": self._branch(branch), "operations": self._begin(branch_id, "delete_timeline")}

    def _restore_branch(self, query: JSON, body: JSON, branch_id: str) -> tuple[int, Any]:
        branch, source = self._existing(branch_id), self._existing(body.get("source_branch_id", ""))
        self._check_unlocked(branch_id)
        itself, name = branch is source, body.get("preserve_under_name")
        keeper: Branch | None = None
        at_point = body.get("source_lsn") or body.get("source_timestamp")
        if not name and (itself or self._children(branch_id)):
            raise _Refusal(400, "preserve_under_name is required")
        if itself and not at_point:
            raise _Refusal(400, "source_timestamp or source_lsn is required")
        if source.expires_at is not None:
            raise _Refusal(422, "a branch that expires cannot have children")
        restored = self._state_of(source, body.get("source_lsn"), body.get("source_timestamp"))
        if name:
            self._check_name(name)
            kept = Branch(self._new_id("br"), name, branch.parent, list(branch.states), self.now(), branch.parent_lsn)
            kept.hidden_reads = self._hidden_reads
            self.branches[kept.id] = kept
            keeper = kept
            for child in self._children(branch_id):
                child.parent = kept.id
            branch.parent = None if itself and branch.parent is None else kept.id
        branch.state, branch.reset_at = "resetting", self.now()

        def replace() -> None:
            replaced, live = self._contents.replace(branch.content, restored[2])
            if keeper is not None:
                keeper.states[-1] = (*keeper.states[-1][:2], replaced)
            branch.states = [*branch.states, (*restored[:2], live)]
            branch.state = "ready"

        operations = self._begin(branch_id, "create_timeline", "suspend_compute", "start_compute", effect=replace)
        return 200, {"branch": self._branch(branch), "operations": operations}

    def _create_snapshot(self, query: JSON, body: JSON, branch_id: str) -> tuple[int, Any]:
        branch = self._existing(branch_id)
        self._check_unlocked(branch_id)
        if branch.parent is not None:
            raise _Refusal(422, "snapshots can be created from root branches only")
        lsn, _, content = self._state_of(branch, query.get("lsn"), query.get("timestamp"))
        expires_at = self._future(query.get("expires_at"), None)
        name = query.get("name") or self._new_id("snapshot")
        snapshot = Snapshot(self._new_id("snap"), name, branch_id, lsn, content, self.now(), expires_at)
        self.snapshots[snapshot.id] = snapshot
        return 200, {"snapshot": self._snapshot(snapshot), "operations": self._begin(branch_id, "create_timeline")}

    def _list_snapshots(self, query: JSON, body: JSON) -> tuple[int, Any]:
        return 200, {"snapshots": [self._snapshot(each) for each in self.snapshots.values()]}

    def _delete_snapshot(self, query: JSON, body: JSON, snapshot_id: str) -> tuple[int, Any]:
        snapshot = self.snapshots.pop(snapshot_id, None)
        if snapshot is None:
            raise _Refusal(404, "snapshot not found")
        return 202, {"operations": self._begin(snapshot.source, "delete_timeline")}

    def _restore_snapshot(self, query: JSON, body: JSON, snapshot_id: str) -> tuple[int, Any]:
        if snapshot_id not in self.snapshots:
            raise _Refusal(404, "snapshot not found")
        snapshot = self.snapshots[snapshot_id]
        target = self._existing(body.get("target_branch_id") or snapshot.source)
        self._check_unlocked(target.id)
        name = body.get("name") or self._new_id("restored")
        self._check_name(name)
        states = [(snapshot.lsn, snapshot.created_at, snapshot.content)]
        branch = Branch(self._new_id("br"), name, None, states, self.now(), state="init")
        branch.restored_from, branch.restored_as, branch.restore_status = snapshot_id, target.id, "restored"
        branch.hidden_reads = self._hidden_reads
        self.branches[branch.id] = branch

        def ready() -> None:
            branch.state = "ready"

        operations = self._begin(branch.id, "create_branch", effect=ready)
        if body.get("finalize_restore"):
            operations += self._replace(target, branch, None)
        return 200, {"branch": self._branch(branch), "operations": operations}

    def _finalize_restore(self, query: JSON, body: JSON, branch_id: str) -> tuple[int, Any]:
        branch = self._existing(branch_id)
        self._check_unlocked(branch_id)
        if branch.restore_status != "restored" or branch.restored_as not in self.branches:
            raise _Refusal(422, "the branch is no unfinished restore of a snapshot")
        return 200, {"operations": self._replace(self.branches[branch.restored_as], branch, body.get("name"))}

    def _replace(self, old: Branch, new: Branch, keep_as: str | None) -> list[JSON]:
        if new.endpoint is not None:
            raise _Refusal(422, "the branch has a read-write endpoint of its own")
        kept = keep_as or f"{old.name} (old)"
        self._check_name(kept)
        old.name, new.name, new.restore_status = kept, old.name, "finalized"

        def move_compute() -> None:
            if self.compute == old.id:
                self.compute = new.id
            new.endpoint, old.endpoint = old.endpoint, None
            replaced, live = self._contents.replace(old.content, new.content)
            old.states[-1], new.states[-1] = (*old.states[-1][:2], replaced), (*new.states[-1][:2], live)

        return self._begin(new.id, "suspend_compute", "start_compute", effect=move_compute)

    # rules of the project

    def _begin(self, branch: str, *actions: str, effect: Callable[[], None] = lambda: None) -> list[JSON]:
        begun: list[Operation] = []
        for action in actions:
            end, error = self._failures.pop(action, ("finished", None))
            steps = ["scheduling", *["running"] * self._polls, end]
            last = effect if action == actions[-1] else lambda: None
            operation = Operation(str(uuid.uuid4()), action, branch, self.now(), steps, error, last)
            while self._polls == 0 and len(operation.steps) > 1:
                operation.advance()
            begun.append(operation)
        self.operations += begun
        return [self._operation(each) for each in begun]

    def _check_unlocked(self, branch_id: str) -> None:
        if self._advance(branch_id):
            raise _Refusal(423, "project already has running conflicting operations")

    def _advance(self, branch_id: str) -> bool:
        """Let the first unfinished operation of a branch come a step further; say whether there was one."""
        unfinished = [each for each in self.operations if each.branch == branch_id and len(each.steps) > 1]
        for operation in unfinished[:1]:
            operation.advance()
        return bool(unfinished)

    def _check_name(self, name: str) -> None:
        if self.named(name):
            raise _Refusal(409, f"branch {name} exists already")

    def _existing(self, branch_id: str) -> Branch:
        if branch_id not in self.branches:
            raise _Refusal(404, "branch not found")
        return self.branches[branch_id]

    def _children(self, branch_id: str) -> list[Branch]:
        return [branch for branch in self.branches.values() if branch.parent == branch_id]

    def _state_of(self, branch: Branch, lsn: str | None, timestamp: str | None) -> tuple[int, datetime, Content]:
        states = branch.states
        if lsn:
            states = [state for state in states if state[0] <= int(lsn.partition("/")[2], 16)]
        elif timestamp:
            states = [state for state in states if state[1] <= datetime.fromisoformat(timestamp)]
        if not states:
            raise _Refusal(400, "the point is outside of the history")
        at, since, content = states[-1]
        return at, since, self._contents.capture(content)

    def _future(self, text: str | None, longest: timedelta | None) -> datetime | None:
        if text is None:
            return None
        at = datetime.fromisoformat(text)
        if at <= self.now() or (longest is not None and at > self.now() + longest):
            raise _Refusal(400, "expires_at must be in the future, and for a branch within 30 days")
        return at

    def _new_id(self, prefix: str) -> str:
        self._ids += 1
        return f"{prefix}-quiet-lake-{self._ids:06d}"

    # answers

    def _branch(self, branch: Branch) -> JSON:
        at, default = _text(branch.created_at), branch.id == self.compute
        optional = {
            "parent_id": branch.parent,
            "parent_lsn": None if branch.parent_lsn is None else _lsn(branch.parent_lsn),
            "expires_at": branch.expires_at and _text(branch.expires_at),
            "last_reset_at": branch.reset_at and _text(branch.reset_at),
            "restored_from": branch.restored_from,
            "restored_as": branch.restored_as,
            "restore_status": branch.restore_status,
        }
        return {
            "id": branch.id,
            "project_id": self.project_id,
            "name": branch.name,
            "current_state": branch.state,
            "creation_source": "console",
            "init_source": "parent-data",
            "default": default,
            "protected": False,
            **dict.fromkeys(COUNTERS, 0),
            **dict.fromkeys(("state_changed_at", "created_at", "updated_at"), at),
            **{key: value for key, value in optional.items() if value is not None},
        }

    def _endpoints(self, branch: Branch) -> list[JSON]:
        if branch.endpoint is None:
            return []
        at = _text(branch.created_at)
        return [
            {
                "id": branch.endpoint,
                "host": f"{branch.endpoint}.us-east-2.aws.neon.tech",
                "project_id": self.project_id,
                "branch_id": branch.id,
                "type": "read_write",
                "current_state": "active",
                "autoscaling_limit_min_cu": 0.25,
                "autoscaling_limit_max_cu": 1,
                "region_id": "aws-us-east-2",
                "proxy_host": "us-east-2.aws.neon.tech",
                "settings": {},
                "pooler_enabled": False,
                "pooler_mode": "transaction",
                "disabled": False,
                "passwordless_access": True,
                "creation_source": "console",
                "provisioner": "k8s-neonvm",
                "suspend_timeout_seconds": 0,
                "created_at": at,
                "updated_at": at,
            }
        ]

    def _snapshot(self, snapshot: Snapshot) -> JSON:
        expires = {} if snapshot.expires_at is None else {"expires_at": _text(snapshot.expires_at)}
        return {
            "id": snapshot.id,
            "name": snapshot.name,
            "lsn": _lsn(snapshot.lsn),
            "source_branch_id": snapshot.source,
            "created_at": _text(snapshot.created_at),
            "manual": True,
            **expires,
        }

    def _operation(self, operation: Operation) -> JSON:
        failed = operation.error is not None and operation.status in {"failed", "error", "cancelled"}
        return {
            "id": operation.id,
            "project_id": self.project_id,
            "branch_id": operation.branch,
            "action": operation.action,
            "status": operation.status,
            "failures_count": int(failed),
            "created_at": _text(operation.created_at),
            "updated_at": _text(self.now()),
            "total_duration_ms": 0,
            **({"error": operation.error} if failed else {}),
        }


class _Server(uvicorn.Server):
    """Stops at once: uvicorn looks ten times a second whether it should, and then waits a tenth of a second."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._over = asyncio.Event()
        self._serves = threading.Event()

    async def main_loop(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._serves.set()
        await self._over.wait()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for server in self.servers:
            server.close()
        for connection in list(self.server_state.connections):
            connection.shutdown()

    def stop(self) -> None:
        if self._serves.wait(timeout=10) and self._loop is not None:
            self._loop.call_soon_threadsafe(self._over.set)


def _text(at: datetime) -> str:
    return f"{at:%Y-%m-%dT%H:%M:%SZ}"


def _lsn(lsn: int) -> str:
    return f"0/{lsn:X}"


@contextmanager
def neon_emulator(
    *,
    token: str,
    history: timedelta = timedelta(days=7),
    page_size: int = 100,
    polls: int = 1,
    port: int = 0,
    contents: Contents | None = None,
) -> Generator[NeonEmulator]:
    """Serve an emulator on a free port of this machine, with `url` as the API's address.

    Operations end after they were asked for `polls` + 2 times; with 0 they have ended when they are first seen.
    """
    emulator = NeonEmulator(
        token=token, history=history, page_size=page_size, polls=polls, contents=contents or Words()
    )
    connections: dict[tuple[str, int] | None, asyncio.Transport] = {}

    class Protocol(H11Protocol):
        def connection_made(self, transport: asyncio.Transport) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
            super().connection_made(transport)
            connections[self.client] = transport

    def cut(request: Request) -> None:
        client = request.client
        connections[None if client is None else (client.host, client.port)].abort()

    with socket.create_server(("127.0.0.1", port)) as listening:
        # Inherited by each connection; asyncio itself leaves it out for a socket made like this one.
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        config = uvicorn.Config(
            emulator.application(cut),
            loop="asyncio",
            http=Protocol,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
        )
        server = _Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        emulator.url = f"http://127.0.0.1:{listening.getsockname()[1]}{API}"
        try:
            yield emulator
        finally:
            server.stop()
            thread.join(timeout=10)
