"""A Vercel in memory behind real HTTP: one project, its deployments, its production domain and its rolling releases.

It has the traps of the real one: READY with its own aliases assigned is not live, promoting a preview builds anew, a
promote and a rollback answer 201 with nothing before anything has happened, a rollback turns the assignment of domains
off until the next promote.
Releases can really be served (`Served`): then each deployment is a release of a local application host.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Protocol
from urllib.parse import urlsplit

from runbook.clients.application_host import ApplicationHost
from tests.emulators.service import JSON, Call, Emulator, Fault, Refusal, Reply

PROJECT, TEAM = "prj_shop", "team_mantis"
_STEPS = ("QUEUED", "INITIALIZING", "BUILDING", "READY")


def logged(number: int, at: datetime, level: str, message: str) -> JSON:
    """Return a line of a log as Vercel streams it."""
    return {
        "level": level,
        "message": message,
        "rowId": str(number),
        "source": "serverless",
        "timestampInMs": int(at.timestamp() * 1000),
        "domain": "",
        "messageTruncated": False,
        "requestMethod": "GET",
        "requestPath": "/",
        "responseStatusCode": 200,
    }


class Backend(Protocol):
    """Where the deployments of the emulator run."""

    @property
    def public_url(self) -> str:
        """Where the production domain leads."""
        ...

    def build(self, git_sha: str, version: str) -> tuple[str, str]:
        """Run a commit; return a name for it and the host and port of its private URL."""
        ...

    def wake(self, name: str) -> str:
        """Make sure that it answers, as every deployment of Vercel does; return the host and port of its URL."""
        ...

    def serve(self, name: str) -> None:
        """Let the production domain lead there."""
        ...

    def log(self, name: str) -> list[JSON]:
        """Return lines of what it logs."""
        ...

    def count(self, name: str, since_s: float) -> dict[str, int]:
        """Return how many requests it had since a time, in seconds since 1970, by status."""
        ...


class Nowhere:
    """Nothing runs; what it would log and count is said beforehand."""

    public_url = "https://shop.example"

    def __init__(self, *, lines: list[JSON] | None = None, counts: dict[str, int] | None = None) -> None:
        self.built = 0
        self.served: str | None = None
        self._lines = lines or []
        self._counts = counts or {}
        self._urls: dict[str, str] = {}

    def build(self, git_sha: str, version: str) -> tuple[str, str]:
        self.built += 1
        self._urls[str(self.built)] = f"shop-{git_sha[:9]}-{self.built}.vercel.app"
        return str(self.built), self._urls[str(self.built)]

    def wake(self, name: str) -> str:
        return self._urls[name]

    def serve(self, name: str) -> None:
        self.served = name

    def log(self, name: str) -> list[JSON]:
        return self._lines

    def count(self, name: str, since_s: float) -> dict[str, int]:
        return self._counts


class Served:
    """Deployments are releases of an application host, which really serves them."""

    def __init__(self, host: ApplicationHost) -> None:
        self._host = host

    @property
    def public_url(self) -> str:
        return self._host.public_url

    def build(self, git_sha: str, version: str) -> tuple[str, str]:
        release = self._host.stage(git_sha, version)
        return release.release_id, urlsplit(release.url).netloc

    def wake(self, name: str) -> str:
        return urlsplit(self._host.warm(name).url).netloc

    def serve(self, name: str) -> None:
        self._host.promote(name)

    def log(self, name: str) -> list[JSON]:
        lines = self._host.logs(name, limit=100)
        return [logged(number, line.at, line.level, line.message) for number, line in enumerate(lines)]

    def count(self, name: str, since_s: float) -> dict[str, int]:
        found = self._host.metrics(name, since=datetime.fromtimestamp(since_s, UTC))
        return {"200": found.requests - found.errors, "500": found.errors}


@dataclass
class Deployment:
    """A deployment; `steps` are the states it goes through, the first one is the present."""

    id: str
    url: str
    backend: str
    sha: str
    target: str | None
    meta: dict[str, str]
    created: int
    steps: list[str]
    assigns: bool
    aliased_at: int | None = None
    substate: str | None = None
    error: JSON = field(default_factory=dict[str, Any])
    hidden_reads: int = 0

    @property
    def state(self) -> str:
        return self.steps[0]


class VercelEmulator(Emulator):
    """One project of one team."""

    def __init__(self, *, token: str, backend: Backend) -> None:
        self.token = token
        self.backend = backend
        super().__init__()

    def reset(self) -> None:
        super().reset()
        self.deployments: list[Deployment] = []
        self.production: str | None = None
        self.aliases: dict[str, str] = {}
        self.assigns = True
        self.link: JSON | None = {
            "type": "github",
            "repoId": 4711,
            "org": "mantisnxt",
            "repo": "shop",
            "productionBranch": "main",
            "deployHooks": [],
            "gitCredentialId": "cred_1",
        }
        self.plain_values: dict[str, str] = {}
        self.variables: dict[str, list[str]] = {"DATABASE_URL": ["production"], "PREVIEW_ONLY": ["preview"]}
        self.protection: JSON | None = None
        self.rolling: JSON | None = None
        self.stages: list[int] = []
        self.metrics: list[JSON] = [
            {
                "id": "vercel.request.count",
                "description": "",
                "unit": "count",
                "dimensions": [{"name": "http_status"}, {"name": "deployment_id"}],
                "aggregations": ["sum"],
            }
        ]
        self._request: JSON | None = None
        self._pending: list[str] = []
        self._move: Callable[[], None] = lambda: None
        self._failing_build: JSON | None = None
        self._failing_domains: list[str] = []
        self._token_lasts: int | None = None
        self._hidden_reads = 0
        self._takes_traffic_when_built = False
        self._wrong: str | None = None
        self._page = 100
        self._clock = int(time.time() * 1000)

    # what people do, and what can go wrong

    @property
    def domain(self) -> str:
        return urlsplit(self.backend.public_url).netloc

    def named(self, deployment_id: str) -> Deployment:
        for each in self.deployments:
            if deployment_id in (each.id, each.url):
                return each
        raise Refusal(404, "The deployment was not found", {})

    def add(self, sha: str, *, target: str | None = "production", version: str = "", live: bool = False) -> Deployment:
        """Add a deployment that has been there for long."""
        deployment = self._make(sha, version or sha[:7], target, {"githubCommitSha": sha}, assigns=False)
        deployment.steps = ["READY"]
        if live:
            self._lead(deployment)
        return deployment

    def fail_build(self, code: str, step: str) -> None:
        """Let the next build end with an error."""
        self._failing_build = {"errorCode": code, "errorStep": step, "errorMessage": "Command exited with 1"}

    def fail_domains(self, *domains: str) -> None:
        """Let the next promote or rollback not move these."""
        self._failing_domains = list(domains)

    def serve_something_else(self, deployment_id: str) -> None:
        """Let the next promote or rollback lead the domain to another deployment than was asked for."""
        self._wrong = deployment_id

    def take_traffic_when_built(self) -> None:
        """Give each new deployment the domains as soon as it is ready, whatever was asked for."""
        self._takes_traffic_when_built = True

    def hide_new_deployments(self, *, reads: int) -> None:
        """Leave each new deployment out of the first `reads` lists."""
        self._hidden_reads = reads

    def page_size(self, size: int) -> None:
        self._page = size

    def expire_token(self, *, after: int) -> None:
        """Refuse the token after so many requests."""
        self._token_lasts = after

    # HTTP

    def error(self, status: int, message: str) -> JSON:
        codes = {401: "forbidden", 403: "forbidden", 404: "not_found", 409: "conflict", 429: "rate_limited"}
        limit = {"limit": {"remaining": 0, "reset": 0, "resetMs": 0, "total": 100}} if status == 429 else {}
        return {"error": {"code": codes.get(status, "bad_request"), "message": message, **limit}}

    def answer(self, call: Call) -> tuple[Reply, Fault | None]:
        if self._token_lasts is not None:
            self._token_lasts -= 1
        if call.headers.get("authorization") != f"Bearer {self.token}":
            return Reply(403, self.error(403, "Not authorized")), None
        if (self._token_lasts or 0) < 0:
            return Reply(403, self.error(403, "The request is missing an authentication token")), None
        return super().answer(call)

    def handle(self, call: Call) -> Reply:
        project = rf"/v\d+/projects/(?:{PROJECT}|shop)"
        table: list[tuple[str, str, Callable[..., Reply]]] = [
            ("GET", "/v2/user", self._user),
            ("GET", f"/teams/{TEAM}", self._team),
            ("GET", project, self._project),
            ("GET", r"/v\d+/deployments", self._list),
            ("POST", r"/v\d+/deployments", self._create),
            ("GET", r"/v13/deployments/([^/]+)", self._get),
            ("GET", r"/v3/(?:now/)?deployments/([^/]+)/events", self._events),
            ("GET", r"/v11/deployments/([^/]+)/builds", self._builds),
            ("POST", r"/v2/files", self._upload),
            ("POST", rf"{project}/promote/([^/]+)", self._promote),
            ("POST", rf"{project}/rollback/([^/]+)", self._rollback),
            ("GET", rf"{project}/(?:promote|rollback)/aliases", self._failed),
            ("GET", r"(?:/v4|/now)/aliases/([^/]+)", self._alias),
            ("DELETE", r"(?:/v2|/now)/aliases/([^/]+)", self._remove_alias),
            ("GET", r"/v\d+/(?:now/)?aliases", self._aliases),
            ("POST", r"(?:/v2|/now)/deployments/([^/]+)/aliases", self._assign),
            ("GET", rf"(?:/v9)?/projects/{PROJECT}/custom-environments", self._environments),
            ("GET", "/api/logs/request-logs", self._requests),
            ("GET", rf"{project}/env", self._env),
            ("GET", rf"{project}/deployments/([^/]+)/runtime-logs", self._runtime),
            ("GET", rf"{project}/rolling-release", self._rolling),
            ("POST", rf"{project}/rolling-release/start", self._start),
            ("POST", rf"{project}/rolling-release/approve-stage", self._approve),
            ("POST", rf"{project}/rolling-release/complete", self._complete),
            ("GET", r"/metrics/v1", self._metrics),
            ("POST", r"/metrics/v1", self._measure),
        ]
        if call.query.get("teamId", call.query.get("slug", TEAM)) not in (TEAM, "mantis"):
            raise Refusal(403, "You don't have permission to access this team")
        for verb, pattern, handler in table:
            match = re.fullmatch(pattern, call.path)
            if match is not None and verb == call.method:
                return handler(call, *match.groups())
        raise Refusal(404, f"no route {call.method} {call.path}")

    def _user(self, call: Call) -> Reply:
        return Reply(200, {"user": {"id": "u1", "username": "ops", "email": "ops@shop.example", "defaultTeamId": TEAM}})

    def _team(self, call: Call) -> Reply:
        return Reply(200, {"id": TEAM, "slug": "mantis", "name": "Mantis"})

    def _project(self, call: Call) -> Reply:
        self._go_on()
        answer: JSON = {
            "id": PROJECT,
            "name": "shop",
            "accountId": TEAM,
            "autoAssignCustomDomains": self.assigns,
            "directoryListing": False,
            "nodeVersion": "22.x",
            "alias": [],
            "deploymentExpiration": {},
            **{f"{kind}esourceConfig": {"functionDefaultRegions": ["iad1"]} for kind in ("defaultR", "r")},
        }
        answer |= {"link": self.link} if self.link else {}
        answer |= {"lastAliasRequest": self._request} if self._request else {}
        answer |= {"ssoProtection": self.protection} if self.protection else {}
        return Reply(200, answer)

    def _list(self, call: Call) -> Reply:
        found: list[Deployment] = []
        for each in reversed(self.deployments):
            if each.hidden_reads:
                each.hidden_reads -= 1
            elif self._fits(each, call.query):
                found.append(each)
        page = found[: min(int(call.query.get("limit", 20)), self._page)]
        more = len(found) > len(page)
        following = page[-1].created - 1 if more else None
        first = page[0].created if page else None
        listed = [self._listed(each) for each in page]
        pagination = {"count": len(page), "next": following, "prev": first}
        return Reply(200, {"deployments": listed, "pagination": pagination})

    def _fits(self, deployment: Deployment, query: Mapping[str, str]) -> bool:
        until = int(query["until"]) if "until" in query else None
        wanted = query.get("state", "").upper().split(",") if query.get("state") else None
        return (
            (query.get("target") in (None, deployment.target))
            and (query.get("sha") in (None, deployment.sha))
            and (wanted is None or deployment.state in wanted)
            and (until is None or deployment.created <= until)
        )

    def _create(self, call: Call) -> Reply:
        body: JSON = call.body
        if "deploymentId" in body:  # what promoting a preview and redeploying do
            old = self.named(body["deploymentId"])
            made = self._make(old.sha, "", body.get("target"), body.get("meta", {}), assigns=True)
            return Reply(200, self._whole(made))
        if missing := [each["sha"] for each in body.get("files", []) if each["sha"] not in self._files]:
            content = {"error": {"code": "missing_files", "message": "Missing files", "missing": missing}}
            return Reply(400, content)
        if "files" not in body and body.get("gitSource", {}).get("repoId", 4711) != 4711:
            raise Refusal(400, "The provided GitHub repository can't be found.")
        sha = body.get("gitSource", {}).get("sha", "0" * 40)
        meta = {"githubCommitSha": sha} | body.get("meta", {})
        assigns = body.get("autoAssignCustomDomains", True)
        made = self._make(sha, meta.get("runbookVersion", ""), body.get("target"), meta, assigns=assigns)
        if self._failing_build is not None:
            made.steps, made.error = ["QUEUED", "BUILDING", "ERROR"], self._failing_build
            self._failing_build = None
        return Reply(200, self._whole(made))

    def _make(self, sha: str, version: str, target: str | None, meta: dict[str, str], *, assigns: bool) -> Deployment:
        name, url = self.backend.build(sha, version)
        self._clock = max(self._clock + 1, int(time.time() * 1000))
        made = Deployment(
            f"dpl_{len(self.deployments) + 1:04d}", url, name, sha, target, meta, self._clock, list(_STEPS), assigns
        )
        made.substate = "STAGED" if target == "production" else None
        made.hidden_reads = self._hidden_reads
        self.deployments.append(made)
        return made

    def _get(self, call: Call, name: str) -> Reply:
        deployment = self.named(name)
        if len(deployment.steps) > 1:
            deployment.steps.pop(0)
            takes = self._takes_traffic_when_built or (deployment.assigns and self.assigns)
            if deployment.state == "READY" and deployment.target == "production" and takes:
                self._lead(deployment)
        if deployment.state == "READY":
            deployment.url = self.backend.wake(deployment.backend)
        return Reply(200, self._whole(deployment))

    def _events(self, call: Call, name: str) -> Reply:
        deployment = self.named(name)
        lines = ["Cloning github.com/mantisnxt/shop", "Running build"]
        lines += [deployment.error["errorMessage"]] if deployment.error else []
        at = deployment.created
        about = {"type": "stdout", "created": at, "date": at, "deploymentId": deployment.id}
        about |= {"info": {"type": "build", "name": deployment.id}}
        events = [about | {"text": line, "id": str(number), "serial": str(number)} for number, line in enumerate(lines)]
        if call.query.get("follow") == "1" or call.query.get("format") == "lines":
            text = "".join(json.dumps(event) + "\n" for event in events)
            return Reply(200, text.encode(), {"content-type": "application/stream+json"})
        return Reply(200, events)

    def _builds(self, call: Call, name: str) -> Reply:
        self.named(name)
        return Reply(200, {"builds": []})

    @property
    def _files(self) -> set[str]:
        return {each.call.headers.get("x-now-digest", "") for each in self.exchanges if each.call.path == "/v2/files"}

    def _upload(self, call: Call) -> Reply:
        return Reply(200, {"urls": []})

    def _promote(self, call: Call, name: str) -> Reply:
        deployment = self.named(name)
        if deployment.target != "production":
            raise Refusal(400, "Only production deployments can be promoted without a build")
        return self._switch(deployment, "promote")

    def _rollback(self, call: Call, name: str) -> Reply:
        deployment = self.named(name)
        if deployment.aliased_at is None:
            raise Refusal(400, "The deployment is no rollback candidate")
        self.rolling = None
        return self._switch(deployment, "rollback")

    def _switch(self, deployment: Deployment, kind: str) -> Reply:
        if deployment.state != "READY":
            raise Refusal(400, "The deployment is not ready")
        if self._pending:
            raise Refusal(409, "Another promote or rollback is in progress")
        if kind == "promote" and self.rolling is not None and self.rolling["state"] == "ACTIVE":
            self.rolling["queuedDeploymentId"] = deployment.id
            return Reply(202)
        self._clock = max(self._clock + 1, int(time.time() * 1000))
        self._request = {
            "fromDeploymentId": self.production,
            "toDeploymentId": deployment.id,
            "jobStatus": "pending",
            "requestedAt": self._clock,
            "type": kind,
        }
        self._pending = ["in-progress", "failed" if self._failing_domains else "succeeded"]

        def move() -> None:
            target = self.named(self._wrong) if self._wrong else deployment
            self._wrong = None
            self.assigns = kind == "promote"
            self._lead(target)

        self._move = move if not self._failing_domains else lambda: None
        return Reply(201)

    def _go_on(self) -> None:
        """Let a promote or rollback come a step further, each time the project is looked at."""
        if self._pending and self._request is not None:
            self._request = self._request | {"jobStatus": self._pending.pop(0)}
            if not self._pending:
                self._move()

    def _lead(self, deployment: Deployment) -> None:
        self.backend.serve(deployment.backend)
        self.production = deployment.id
        deployment.aliased_at, deployment.substate = int(time.time() * 1000), "PROMOTED"

    def _failed(self, call: Call) -> Reply:
        to = (self._request or {}).get("toDeploymentId")
        failing = [(each, {"alias": each, "deploymentId": to}) for each in self._failing_domains]
        is_documented = call.path.startswith("/v1/")
        aliases = [
            {"alias": name if is_documented else about, "id": name, "status": "failed"} for name, about in failing
        ]
        self._failing_domains = []
        return Reply(200, {"aliases": aliases, "pagination": {"count": len(aliases), "next": None, "prev": None}})

    def _alias(self, call: Call, name: str) -> Reply:
        for each in self._leading():
            if name in (each["alias"], each["uid"]):
                return Reply(200, each)
        raise Refusal(404, "The alias was not found")

    def _aliases(self, call: Call) -> Reply:
        aliases = self._leading()
        return Reply(200, {"aliases": aliases, "pagination": {"count": len(aliases), "next": None, "prev": None}})

    def _assign(self, call: Call, name: str) -> Reply:
        alias, deployment = call.body["alias"], self.named(name)
        old = self.aliases.get(alias)
        self.aliases[alias] = deployment.id
        answer = {"uid": f"alias_{alias}", "alias": alias, "created": "2025-01-04T12:00:00.000Z"}
        return Reply(200, answer | ({"oldDeploymentId": old} if old else {}))

    def _remove_alias(self, call: Call, name: str) -> Reply:
        alias = name.removeprefix("alias_")
        if self.aliases.pop(alias, None) is None:
            raise Refusal(404, "The alias was not found")
        return Reply(200, {"status": "SUCCESS"})

    def _leading(self) -> list[JSON]:
        """Return what leads to a deployment: the production domain, and the aliases that people have assigned."""
        production = {} if self.production is None else {self.domain: self.production}
        found: list[JSON] = []
        for alias, name in (production | self.aliases).items():
            deployment = self.named(name)
            found.append(
                {
                    "uid": f"alias_{alias}",
                    "alias": alias,
                    "created": "2025-01-04T12:00:00.000Z",
                    "createdAt": 1735992000000,
                    "deploymentId": deployment.id,
                    "deployment": {"id": deployment.id, "url": deployment.url},
                    "projectId": PROJECT,
                }
            )
        return found

    def _env(self, call: Call) -> Reply:
        wanted = call.query.get("target")
        envs = [
            {
                "id": name,
                "key": name,
                "value": self.plain_values.get(name, ""),
                "type": "plain" if name in self.plain_values else "encrypted",
                "target": target,
                "securityIssues": [],
            }
            for name, target in self.variables.items()
            if wanted is None or wanted in target
        ]
        return Reply(200, {"envs": envs, "pagination": {"count": len(envs), "next": None, "prev": None}})

    def _runtime(self, call: Call, name: str) -> Reply:
        lines = self.backend.log(self.named(name).backend)
        text = "".join(json.dumps(line) + "\n" for line in lines)
        return Reply(200, text.encode(), {"content-type": "application/stream+json"})

    def _environments(self, call: Call) -> Reply:
        return Reply(200, {"accountLimit": {"total": 0}, "environments": []})

    def _requests(self, call: Call) -> Reply:
        """Answer as vercel.com does, where the command line reads what requests have logged."""
        name = call.query.get("deploymentId", self.production or "")
        rows = [
            {
                "requestId": line["rowId"],
                "timestamp": datetime.fromtimestamp(line["timestampInMs"] / 1000, UTC).isoformat(),
                "deploymentId": name,
                "requestMethod": line["requestMethod"],
                "requestPath": line["requestPath"],
                "statusCode": line["responseStatusCode"],
                "environment": "production",
                "domain": line["domain"],
                "logs": [{"level": line["level"], "message": line["message"]}],
                "events": [{"source": line["source"]}],
            }
            for line in self.backend.log(self.named(name).backend)
        ]
        return Reply(200, {"rows": rows, "hasMoreRows": False})

    # rolling releases

    def _rolling(self, call: Call) -> Reply:
        return Reply(200, {"rollingRelease": self.rolling})

    def _start(self, call: Call) -> Reply:
        if not self.stages:
            raise Refusal(403, "Rolling releases are not configured for this project")
        canary = self.named(call.body["canaryDeploymentId"])
        assert self.production is not None
        self.rolling = {
            "state": "ACTIVE",
            "substate": None,
            "currentDeployment": self._rolled(self.named(self.production)),
            "canaryDeployment": self._rolled(canary),
            "queuedDeploymentId": None,
            "advancementType": "manual-approval",
            "stages": [self._stage(index) for index in range(len(self.stages))],
            "activeStage": self._stage(0),
            "nextStage": self._stage(1),
            "startedAt": canary.created,
            "updatedAt": canary.created,
        }
        return Reply(200, {"rollingRelease": self.rolling})

    def _stage(self, index: int) -> JSON | None:
        if index >= len(self.stages):
            return None
        last = index == len(self.stages) - 1
        about = {"index": index, "isFinalStage": last, "targetPercentage": self.stages[index]}
        return about | {"requireApproval": True, "duration": None}

    def _rolled(self, deployment: Deployment) -> JSON:
        whole = self._whole(deployment)
        kept = ("id", "name", "url", "target", "source", "createdAt", "readyState")
        return {key: whole[key] for key in kept if key in whole}

    def _approve(self, call: Call) -> Reply:
        rolling, index = self._active(call), call.body["nextStageIndex"]
        if rolling["nextStage"] is None or rolling["nextStage"]["index"] != index:
            raise Refusal(400, "This is not the next stage")
        rolling["activeStage"], rolling["nextStage"] = self._stage(index), self._stage(index + 1)
        return Reply(200, {"rollingRelease": rolling})

    def _complete(self, call: Call) -> Reply:
        rolling = self._active(call)
        rolling["state"] = "COMPLETE"
        self._lead(self.named(call.body["canaryDeploymentId"]))
        return Reply(200, {"rollingRelease": rolling})

    def _active(self, call: Call) -> JSON:
        rolling = self.rolling
        if rolling is None or rolling["state"] != "ACTIVE":
            raise Refusal(404, "There is no active rolling release")
        if rolling["canaryDeployment"]["id"] != call.body["canaryDeploymentId"]:
            raise Refusal(400, "Another deployment is being released")
        return rolling

    # metrics

    def _metrics(self, call: Call) -> Reply:
        found = [each for each in self.metrics if each["id"].startswith(call.query.get("search", ""))]
        return Reply(200, {"metrics": found, "pagination": {"hasMore": False, "nextCursor": None}})

    def _measure(self, call: Call) -> Reply:
        body: JSON = call.body
        name = re.search(r"deployment_id:(\S+?)\)", body["filter"])
        since = datetime.fromisoformat(body["timeRange"]["start"])
        counted = self.backend.count(self.named(name[1]).backend, since.timestamp()) if name else {}
        summary = [
            {"dimensions": {"http_status": code}, "values": {"value": number}} for code, number in counted.items()
        ]
        statistics = {"rowsRead": 1, "bytesRead": 1, "databaseElapsedMs": 1, "elapsedMs": 1}
        return Reply(200, {"summary": summary, "series": [], "meta": {"statistics": statistics, "sources": []}})

    # answers

    def _whole(self, deployment: Deployment) -> JSON:
        answer: JSON = {
            "id": deployment.id,
            "url": deployment.url,
            "name": "shop",
            "target": deployment.target,
            "readyState": deployment.state,
            "status": deployment.state,
            "projectId": PROJECT,
            "ownerId": TEAM,
            "createdAt": deployment.created,
            "aliasAssigned": deployment.state == "READY",
            "aliasError": None,
            "meta": deployment.meta,
            "inspectorUrl": f"https://vercel.com/mantis/shop/{deployment.id}",
            "type": "LAMBDAS",
            "version": 2,
            "creator": {"uid": "u1", "username": "ops"},
            "createdIn": "iad1",
            "regions": ["iad1"],
            "plan": "pro",
            "routes": None,
            "env": [],
            "build": {"env": []},
            "projectSettings": {},
            **dict.fromkeys(("bootedAt", "buildingAt"), deployment.created),
            **dict.fromkeys(("buildSkipped", "public", "isInConcurrentBuildsQueue", "isInSystemBuildsQueue"), False),
        }
        answer |= {"readySubstate": deployment.substate} if deployment.substate else {}
        return answer | (deployment.error if deployment.state == "ERROR" else {})

    def _listed(self, deployment: Deployment) -> JSON:
        return {
            "uid": deployment.id,
            "name": "shop",
            "projectId": PROJECT,
            "url": deployment.url,
            "created": deployment.created,
            "createdAt": deployment.created,
            "type": "LAMBDAS",
            "creator": {"uid": "u1", "username": "ops"},
            "inspectorUrl": f"https://vercel.com/mantis/shop/{deployment.id}",
            "state": deployment.state,
            "readyState": deployment.state,
            "readySubstate": deployment.substate,
            "target": deployment.target,
            "aliasAssigned": deployment.aliased_at or (deployment.created if deployment.state == "READY" else None),
            "meta": deployment.meta,
        }


@contextmanager
def vercel_emulator(*, token: str, backend: Backend | None = None, port: int = 0) -> Generator[VercelEmulator]:
    """Serve an emulator on a free port of this machine, with `url` as the API's address."""
    emulator = VercelEmulator(token=token, backend=backend or Nowhere())
    with emulator.serving(port):
        yield emulator
