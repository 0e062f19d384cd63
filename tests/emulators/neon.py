"""A Neon in memory behind real HTTP: one project, its branches, snapshots and operations; misbehaves on demand.

What a branch holds is one string, or a Postgres server (`tests.emulators.neon_postgres`). The live branch is the one
with the application's compute: `connect` is what an application sees, and it sees a restored state only when the
operations of the restore have finished.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

from tests.emulators.service import JSON, Call, Emulator, Fault, Refusal, Reply

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


class NeonEmulator(Emulator):
    """One project, what it holds and what goes wrong with it."""

    root = "/api/v2"

    def __init__(self, *, token: str, history: timedelta, page_size: int, polls: int, contents: Contents) -> None:
        super().__init__()
        self.token = token
        self.project_id = "shiny-wind-028834"
        self.page_size = page_size
        self.snapshots: dict[str, Snapshot] = {}
        self.operations: list[Operation] = []
        self.compute = MAIN
        self._contents = contents
        self._polls = polls
        self._history = history
        self._skew = timedelta()
        self._lsn = 0x1E19478
        self._ids = 1
        self._failures: dict[str, tuple[str, str]] = {}
        self._hidden_reads = 0
        self._token_lasts: int | None = None
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

    def error(self, status: int, message: str) -> JSON:
        return {"request_id": str(uuid.uuid4()), "code": "", "message": message}

    def answer(self, call: Call) -> tuple[Reply, Fault | None]:
        if self._token_lasts is not None:
            self._token_lasts -= 1
        if call.headers.get("authorization") != f"Bearer {self.token}" or (self._token_lasts or 0) < 0:
            return Reply(401, self.error(401, "authentication failed")), None
        return super().answer(call)

    def handle(self, call: Call) -> Reply:
        status, content = self._route(call.method, call.path, call.query, call.body or {})
        return Reply(status, content)

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
        raise Refusal(404, "this route does not exist or you do not have access to this project")

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
            raise Refusal(404, "operation not found")
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
            raise Refusal(422, "a branch that expires cannot have children")
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
            raise Refusal(409, "the branch has a read-write endpoint already")
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
            raise Refusal(404, "the branch has no endpoint")
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
            raise Refusal(422, "cannot delete the root or default branch")
        if self._children(branch_id):
            raise Refusal(422, "cannot delete a branch that has children")
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
            raise Refusal(400, "preserve_under_name is required")
        if itself and not at_point:
            raise Refusal(400, "source_timestamp or source_lsn is required")
        if source.expires_at is not None:
            raise Refusal(422, "a branch that expires cannot have children")
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
            raise Refusal(422, "snapshots can be created from root branches only")
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
            raise Refusal(404, "snapshot not found")
        return 202, {"operations": self._begin(snapshot.source, "delete_timeline")}

    def _restore_snapshot(self, query: JSON, body: JSON, snapshot_id: str) -> tuple[int, Any]:
        if snapshot_id not in self.snapshots:
            raise Refusal(404, "snapshot not found")
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
            raise Refusal(422, "the branch is no unfinished restore of a snapshot")
        return 200, {"operations": self._replace(self.branches[branch.restored_as], branch, body.get("name"))}

    def _replace(self, old: Branch, new: Branch, keep_as: str | None) -> list[JSON]:
        if new.endpoint is not None:
            raise Refusal(422, "the branch has a read-write endpoint of its own")
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
            raise Refusal(423, "project already has running conflicting operations")

    def _advance(self, branch_id: str) -> bool:
        """Let the first unfinished operation of a branch come a step further; say whether there was one."""
        unfinished = [each for each in self.operations if each.branch == branch_id and len(each.steps) > 1]
        for operation in unfinished[:1]:
            operation.advance()
        return bool(unfinished)

    def _check_name(self, name: str) -> None:
        if self.named(name):
            raise Refusal(409, f"branch {name} exists already")

    def _existing(self, branch_id: str) -> Branch:
        if branch_id not in self.branches:
            raise Refusal(404, "branch not found")
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
            raise Refusal(400, "the point is outside of the history")
        at, since, content = states[-1]
        return at, since, self._contents.capture(content)

    def _future(self, text: str | None, longest: timedelta | None) -> datetime | None:
        if text is None:
            return None
        at = datetime.fromisoformat(text)
        if at <= self.now() or (longest is not None and at > self.now() + longest):
            raise Refusal(400, "expires_at must be in the future, and for a branch within 30 days")
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
    with emulator.serving(port):
        yield emulator
