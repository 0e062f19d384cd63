"""A GitHub in memory behind real HTTP: one repository, what is said of its commits, and its deployments.

It has the traps of the real one: a commit without statuses is `pending`, a deployment without `auto_merge: false`
merges and without `required_contexts: []` waits for statuses, deployments to production stay active until somebody
retires them, lists come in pages, and a token that may not do something gets 403 like one that asks too often.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import unquote

from tests.emulators.service import JSON, Call, Emulator, Refusal, Reply

REPOSITORY = "mantisnxt/shop"
VERSIONS = ("2022-11-28", "2026-03-10")
EVERYTHING = {
    "metadata": "read",
    "statuses": "read",
    "checks": "read",
    "pull_requests": "read",
    "contents": "read",
    "actions": "read",
    "deployments": "write",
}
STATES = {"error", "failure", "inactive", "in_progress", "queued", "pending", "success"}
_START = datetime(2025, 1, 4, 12, tzinfo=UTC)
_LINKS = (
    *("archive", "assignees", "blobs", "branches", "collaborators", "comments", "commits", "compare", "contents"),
    *("contributors", "deployments", "downloads", "events", "forks", "git_commits", "git_refs", "git_tags", "hooks"),
    *("issue_comment", "issue_events", "issues", "keys", "labels", "languages", "merges", "milestones"),
    *("notifications", "pulls", "releases", "stargazers", "statuses", "subscribers", "subscription", "tags", "teams"),
    "trees",
)
_USER_LINKS = (
    *("followers", "following", "gists", "starred", "subscriptions", "organizations", "repos", "events"),
    "received_events",
)


_FEATURES = ("has_issues", "has_projects", "has_pages", "has_wiki", "has_downloads", "has_discussions")
_COUNTS = ("forks", "forks_count", "stargazers_count", "watchers", "watchers_count", "open_issues", "open_issues_count")


@dataclass
class Pull:
    number: int
    head: str
    author: str = "author"
    base: str = "main"
    merged: bool = False
    commits: set[str] = field(default_factory=set[str])
    reviews: list[tuple[str, str, str]] = field(default_factory=list[tuple[str, str, str]])


@dataclass
class Status:
    id: int
    state: str
    description: str
    log_url: str
    environment_url: str


@dataclass
class Deployment:
    id: int
    sha: str
    environment: str
    task: str
    description: str
    payload: Any
    production: bool
    statuses: list[Status] = field(default_factory=list[Status])
    hidden_reads: int = 0

    @property
    def state(self) -> str:
        return self.statuses[-1].state if self.statuses else "pending"

    @property
    def states(self) -> list[str]:
        return [status.state for status in self.statuses]


class GitHubEmulator(Emulator):
    """The repository and what goes wrong with it."""

    def __init__(self, *, token: str) -> None:
        self.token = token
        super().__init__()

    def reset(self) -> None:
        """Forget everything: a repository with one commit, `main` at it, and a token that may do all."""
        super().reset()
        self.permissions = dict(EVERYTHING)
        self.page_size = 100
        self.first = "0" * 39 + "1"
        self.parents: dict[str, str | None] = {self.first: None}
        self.tips = {"main": self.first}
        self.statuses: dict[str, list[tuple[str, str]]] = {}
        self.runs: dict[str, list[tuple[str, str, str | None]]] = {}
        self.pulls: list[Pull] = []
        self.rules: list[JSON] = []
        self.protected_contexts: list[str] | None = None
        self.protection_rules: dict[str, list[str]] = {}
        self.deployments: list[Deployment] = []
        self.merged_base_into: list[str] = []
        self.moved_to: str | None = None
        self.answers_about: str | None = None
        self.payload_as_text = False
        self.next_page: str | None = None
        self._hidden_reads = 0
        self._ids = 0

    # what people, CI and other tools do

    def commit(self, sha: str, parent: str | None = None, *, branch: str = "main") -> str:
        """Push a commit onto a branch, or onto a parent."""
        self.parents[sha] = parent or self.tips[branch]
        self.tips[branch] = sha
        return sha

    def add_pull(self, number: int, *, head: str, merged: bool = False, commits: Collection[str] = ()) -> Pull:
        """Open a pull request; once `merged` it has `commits` on the base branch."""
        pull = Pull(number, head, merged=merged, commits=set(commits))
        self.pulls.append(pull)
        return pull

    def deploy_elsewise(self, sha: str, environment: str, state: str) -> Deployment:
        """Let another tool deploy."""
        made = Deployment(self._id(), sha, environment, "deploy", "", {}, environment == "production")
        made.statuses.append(Status(self._id(), state, "", "", ""))
        self.deployments.append(made)
        return made

    def hide_new_deployments(self, *, reads: int) -> None:
        """Leave each new deployment out of the first `reads` lists."""
        self._hidden_reads = reads

    # HTTP

    def error(self, status: int, message: str) -> JSON:
        return {"message": message, "documentation_url": "https://docs.github.com/rest", "status": str(status)}

    def handle(self, call: Call) -> Reply:
        path = unquote(call.path)
        common = {"x-github-request-id": f"C0DE:{len(self.exchanges):04d}", "x-ratelimit-remaining": "4999"}
        if call.headers.get("authorization") not in {f"Bearer {self.token}", f"token {self.token}"}:
            raise Refusal(401, "Bad credentials", common)
        if not call.headers.get("user-agent"):
            raise Refusal(403, "Request forbidden by administrative rules.", common)
        if call.headers.get("x-github-api-version", VERSIONS[0]) not in VERSIONS:
            raise Refusal(400, "API version is not supported", common)
        if self.moved_to is not None:
            raise Refusal(301, "Moved Permanently", common | {"Location": f"{self.url}/repositories/1"})
        for verb, pattern, needed, handler in self._table():
            match = re.fullmatch(f"/repos/{re.escape(REPOSITORY)}{pattern}", path)
            if match is None or verb != call.method:
                continue
            kind, level = needed.split("=")
            if self.permissions.get(kind) not in {level, "write"}:
                why = "Resource not accessible by personal access token"
                raise Refusal(403, why, common | {"x-accepted-github-permissions": needed})
            reply = handler(call, *match.groups())
            return Reply(reply.status, reply.content, {**common, **reply.headers})
        raise Refusal(404, "Not Found", common)

    def _table(self) -> list[tuple[str, str, str, Callable[..., Reply]]]:
        sha = "([^/]+)"
        return [
            ("GET", "/branches/(.+)", "contents=read", self._branch),
            ("GET", "/rules/branches/(.+)", "metadata=read", self._rules),
            ("GET", f"/commits/{sha}/status", "statuses=read", self._combined),
            ("GET", f"/commits/{sha}/check-runs", "checks=read", self._check_runs),
            ("GET", f"/commits/{sha}/pulls", "pull_requests=read", self._pulls),
            ("GET", "/pulls/([0-9]+)/reviews", "pull_requests=read", self._reviews),
            ("GET", "/environments/(.+)", "actions=read", self._environment),
            ("GET", r"/compare/(.+)\.\.\.(.+)", "contents=read", self._compare),
            ("GET", "/deployments", "deployments=read", self._list_deployments),
            ("POST", "/deployments", "deployments=write", self._create_deployment),
            ("GET", "/deployments/([0-9]+)/statuses", "deployments=read", self._list_statuses),
            ("POST", "/deployments/([0-9]+)/statuses", "deployments=write", self._create_status),
        ]

    def _branch(self, call: Call, name: str) -> Reply:
        if name not in self.tips:
            raise Refusal(404, "Branch not found")
        protected, contexts = self.protected_contexts is not None, self.protected_contexts or []
        checks = [{"context": context, "app_id": None} for context in contexts]
        required = {"enforcement_level": "everyone" if contexts else "off", "contexts": contexts, "checks": checks}
        return Reply(
            200,
            {
                "name": name,
                "commit": self._commit(self.tips[name]),
                "_links": {"html": self._html(f"tree/{name}"), "self": self._api(f"branches/{name}")},
                "protected": protected or bool(self.rules),
                "protection": {"enabled": protected, "required_status_checks": required},
                "protection_url": self._api(f"branches/{name}/protection"),
            },
        )

    def _rules(self, call: Call, branch: str) -> Reply:
        about = {"ruleset_source_type": "Repository", "ruleset_source": REPOSITORY, "ruleset_id": 42}
        return self._page(call, [about | rule for rule in self.rules])

    def _combined(self, call: Call, sha: str) -> Reply:
        self._check_commit(sha)
        said = self.statuses.get(sha, [])
        states = {state for _, state in said}
        bad = states & {"failure", "error"}
        combined = "failure" if bad else "success" if states == {"success"} else "pending"
        page = self._page(call, [self._status(sha, context, state) for context, state in said])
        content = {
            "state": combined,
            "statuses": page.content,
            "sha": self.answers_about or sha,
            "total_count": len(said),
            "repository": self._repository(),
            "commit_url": self._api(f"commits/{sha}"),
            "url": self._api(f"commits/{sha}/status"),
        }
        return Reply(200, content, page.headers)

    def _check_runs(self, call: Call, sha: str) -> Reply:
        self._check_commit(sha)
        runs = self.runs.get(sha, [])
        page = self._page(call, [self._run(self.answers_about or sha, *run) for run in runs])
        return Reply(200, {"total_count": len(runs), "check_runs": page.content}, page.headers)

    def _pulls(self, call: Call, sha: str) -> Reply:
        self._check_commit(sha)
        return self._page(call, [self._pull(pull) for pull in self.pulls if sha in {pull.head} | pull.commits])

    def _reviews(self, call: Call, number: str) -> Reply:
        pull = next((each for each in self.pulls if each.number == int(number)), None)
        if pull is None:
            raise Refusal(404, "Not Found")
        return self._page(call, [self._review(pull, *review) for review in pull.reviews])

    def _environment(self, call: Call, name: str) -> Reply:
        if name not in self.protection_rules:
            raise Refusal(404, "Not Found")
        rules = [{"id": 1, "node_id": "GA_1", "type": each} for each in self.protection_rules[name]]
        about = {"id": 1, "node_id": "EN_1", "name": name, "created_at": _text(_START), "updated_at": _text(_START)}
        links = {"url": self._api(f"environments/{name}"), "html_url": self._html("deployments")}
        return Reply(200, about | links | {"protection_rules": rules, "deployment_branch_policy": None})

    def _compare(self, call: Call, base: str, head: str) -> Reply:
        old, new = self._ancestors(base), self._ancestors(head)
        ahead = [sha for sha in new if sha not in old]
        behind = [sha for sha in old if sha not in new]
        both = "diverged" if ahead and behind else "ahead" if ahead else "behind" if behind else "identical"
        common = next(sha for sha in new if sha in old)
        page = self._page(call, [self._commit(sha) for sha in reversed(ahead)])
        content = {
            **{f"{name}url": self._html(f"compare/{base}...{head}") for name in ("", "html_", "diff_", "patch_")},
            "permalink_url": self._html(f"compare/{base}...{head}"),
            "base_commit": self._commit(base),
            "merge_base_commit": self._commit(common),
            "status": both,
            "ahead_by": len(ahead),
            "behind_by": len(behind),
            "total_commits": len(ahead),
            "commits": page.content,
        }
        return Reply(200, content, page.headers)

    def _list_deployments(self, call: Call) -> Reply:
        found: list[Deployment] = []
        for each in reversed(self.deployments):
            if each.hidden_reads:
                each.hidden_reads -= 1
            elif all(call.query.get(key, getattr(each, key)) == getattr(each, key) for key in ("environment", "sha")):
                found.append(each)
        return self._page(call, [self._deployment(each) for each in found])

    def _create_deployment(self, call: Call) -> Reply:
        body = call.body
        sha = self.tips.get(body["ref"], body["ref"])
        if sha not in self.parents:
            raise Refusal(422, f"No ref found for: {body['ref']}")
        environment = body.get("environment", "production")
        if body.get("auto_merge", True) and self.tips["main"] not in self._ancestors(sha):
            self.merged_base_into.append(body["ref"])
            return Reply(202, {"message": f"Auto-merged main into {body['ref']} on deployment."})
        said = self.statuses.get(sha, [])
        wanted = body.get("required_contexts", [context for context, _ in said])
        if any((context, "success") not in said for context in wanted):
            raise Refusal(409, f"Conflict: Commit status checks failed for {body['ref']}.")
        made = Deployment(
            id=self._id(),
            sha=sha,
            environment=environment,
            task=body.get("task", "deploy"),
            description=_short(body.get("description") or ""),
            payload=body.get("payload", {}),
            production=body.get("production_environment", environment == "production"),
            hidden_reads=self._hidden_reads,
        )
        self.deployments.append(made)
        return Reply(201, self._deployment(made))

    def _list_statuses(self, call: Call, deployment_id: str) -> Reply:
        made = self._existing(deployment_id)
        return self._page(call, [self._deployment_status(made, status) for status in reversed(made.statuses)])

    def _create_status(self, call: Call, deployment_id: str) -> Reply:
        made, body = self._existing(deployment_id), call.body
        if body.get("state") not in STATES:
            raise Refusal(422, "Validation Failed: state is not included in the list")
        urls = [body.get(name) or "" for name in ("log_url", "environment_url")]
        if any(url and not re.match("https?://", url) for url in urls):
            raise Refusal(422, "Validation Failed: url must use http(s) scheme")
        status = Status(self._id(), body["state"], _short(body.get("description") or ""), *urls)
        made.statuses.append(status)
        if body["state"] == "success" and body.get("auto_inactive", True):
            for each in self.deployments:
                prior = each.id < made.id and each.environment == made.environment
                if prior and not each.production and each.state == "success":
                    each.statuses.append(Status(self._id(), "inactive", "", "", ""))
        return Reply(201, self._deployment_status(made, status))

    def _page(self, call: Call, items: Sequence[Any]) -> Reply:
        size = min(self.page_size, int(call.query.get("per_page", 30)), 100)
        number = int(call.query.get("page", 1))
        query = "&".join(f"{key}={value}" for key, value in {**call.query, "page": str(number + 1)}.items())
        following = self.next_page or f"{self.url}{call.path}?{query}"
        more = number * size < len(items)
        headers = {"Link": f'<{following}>; rel="next", <{self.url}{call.path}>; rel="last"'} if more else {}
        return Reply(200, list(items[(number - 1) * size : number * size]), headers)

    def _check_commit(self, sha: str) -> None:
        if sha not in self.parents:
            raise Refusal(422, f"No commit found for SHA: {sha}")

    def _existing(self, deployment_id: str) -> Deployment:
        found = next((each for each in self.deployments if each.id == int(deployment_id)), None)
        if found is None:
            raise Refusal(404, "Not Found")
        return found

    def _ancestors(self, sha: str) -> list[str]:
        if sha not in self.parents:
            raise Refusal(404, "Not Found")
        found = [sha]
        while (parent := self.parents[found[-1]]) is not None:
            found.append(parent)
        return found

    def _id(self) -> int:
        self._ids += 1
        return self._ids

    # answers, with all that GitHub promises in them

    def _api(self, path: str) -> str:
        return f"{self.url}/repos/{REPOSITORY}/{path}"

    def _html(self, path: str) -> str:
        return f"https://github.com/{REPOSITORY}/{path}"

    def _user(self, login: str) -> JSON:
        about = {"login": login, "id": 1, "node_id": "U_1", "gravatar_id": "", "type": "User", "site_admin": False}
        links = {f"{name}_url": f"{self.url}/users/{login}/{name}" for name in _USER_LINKS}
        me = {"avatar_url": "https://a.test/u/1", "url": f"{self.url}/users/{login}", "html_url": "https://github.com"}
        return about | links | me

    def _repository(self) -> JSON:
        owner, _, name = REPOSITORY.partition("/")
        about = {"id": 1, "node_id": "R_1", "name": name, "full_name": REPOSITORY, "owner": self._user(owner)}
        links = {f"{each}_url": self._api(each) for each in _LINKS}
        me = {"url": self._api("").rstrip("/"), "html_url": self._html("").rstrip("/")}
        me |= {f"{kind}_url": f"https://github.com/{REPOSITORY}.git" for kind in ("git", "clone", "svn")}
        me |= {"ssh_url": f"git@github.com:{REPOSITORY}.git", "private": True, "default_branch": "main", "size": 1}
        me |= dict.fromkeys(("created_at", "updated_at", "pushed_at"), _text(_START))
        me |= dict.fromkeys(("description", "homepage", "language", "license", "mirror_url"))
        me |= dict.fromkeys(("fork", "archived", "disabled", *_FEATURES), False)
        return about | links | me | dict.fromkeys(_COUNTS, 0)

    def _commit(self, sha: str) -> JSON:
        person = {"name": "Ann", "email": "ann@example.invalid", "date": _text(_START)}
        parents = [{"sha": each, "url": self._api(f"commits/{each}")} for each in [self.parents[sha]] if each]
        tree = {"sha": sha, "url": self._api(f"git/trees/{sha}")}
        inner = {"author": person, "committer": person, "message": "Change files", "tree": tree, "comment_count": 0}
        urls = {"url": self._api(f"commits/{sha}"), "html_url": self._html(f"commit/{sha}")}
        comments = {"comments_url": self._api(f"commits/{sha}/comments")}
        inner |= {"url": self._api(f"git/commits/{sha}")}
        more = {"author": self._user("ann"), "committer": self._user("ann"), "parents": parents}
        return {"sha": sha, "node_id": "C_1", "commit": inner, **urls, **comments, **more}

    def _status(self, sha: str, context: str, state: str) -> JSON:
        about = {"id": 1, "node_id": "SC_1", "state": state, "context": context, "description": None}
        urls = {"target_url": None, "avatar_url": None, "url": self._api(f"statuses/{sha}")}
        return about | urls | {"created_at": _text(_START), "updated_at": _text(_START)}

    def _run(self, sha: str, name: str, status: str, conclusion: str | None) -> JSON:
        ended = _text(_START) if status == "completed" else None
        about = {"id": 1, "node_id": "CR_1", "name": name, "head_sha": sha, "external_id": "", "status": status}
        urls = {"url": self._api("check-runs/1"), "html_url": None, "details_url": None}
        output = {"title": None, "summary": None, "text": None, "annotations_count": 0}
        output |= {"annotations_url": self._api("check-runs/1/annotations")}
        more = {"conclusion": conclusion, "started_at": _text(_START), "completed_at": ended, "output": output}
        return about | urls | more | {"check_suite": {"id": 1}, "app": None, "pull_requests": []}

    def _pull(self, pull: Pull) -> JSON:
        url, merged = self._api(f"pulls/{pull.number}"), _text(_START) if pull.merged else None
        names = ("diff", "patch", "issue", "commits", "review_comments", "review_comment", "comments", "statuses")
        links = ("comments", "commits", "statuses", "html", "issue", "review_comments", "review_comment", "self")
        side = {"repo": self._repository(), "user": self._user(pull.author)}
        return {
            "url": url,
            "html_url": self._html(f"pull/{pull.number}"),
            **{f"{name}_url": f"{url}/{name}" for name in names},
            **{"id": pull.number, "node_id": "PR_1", "number": pull.number, "locked": False, "title": "Change files"},
            "state": "closed" if pull.merged else "open",
            "user": self._user(pull.author),
            **dict.fromkeys(("body", "milestone", "assignee", "auto_merge", "merge_commit_sha")),
            "labels": [],
            **{"created_at": _text(_START), "updated_at": _text(_START), "closed_at": merged, "merged_at": merged},
            "head": {"label": f"mantisnxt:change-{pull.number}", "ref": f"change-{pull.number}", "sha": pull.head}
            | side,
            "base": {"label": f"mantisnxt:{pull.base}", "ref": pull.base, "sha": self.first} | side,
            "_links": {name: {"href": f"{url}/{name}"} for name in links},
            "author_association": "MEMBER",
        }

    def _review(self, pull: Pull, reviewer: str, state: str, sha: str) -> JSON:
        url, html = self._api(f"pulls/{pull.number}"), self._html(f"pull/{pull.number}")
        links = {"html": {"href": html}, "pull_request": {"href": url}}
        about = {"id": 1, "node_id": "PRR_1", "user": self._user(reviewer), "body": "", "state": state}
        more = {"html_url": html, "pull_request_url": url, "_links": links, "commit_id": sha}
        return about | more | {"submitted_at": _text(_START), "author_association": "MEMBER"}

    def _deployment(self, made: Deployment) -> JSON:
        at = _text(_START + timedelta(seconds=made.id))
        payload = json.dumps(made.payload) if self.payload_as_text else made.payload
        about = {"id": made.id, "node_id": "DE_1", "sha": made.sha, "ref": made.sha, "task": made.task}
        return {
            **about,
            "url": self._api(f"deployments/{made.id}"),
            "payload": payload,
            "environment": made.environment,
            "description": made.description or None,
            "creator": self._user("runbook"),
            **{"created_at": at, "updated_at": at},
            "statuses_url": self._api(f"deployments/{made.id}/statuses"),
            "repository_url": self._api("").rstrip("/"),
            "production_environment": made.production,
        }

    def _deployment_status(self, made: Deployment, status: Status) -> JSON:
        at = _text(_START + timedelta(seconds=status.id))
        return {
            **{"id": status.id, "node_id": "DES_1", "state": status.state, "description": status.description},
            **{"log_url": status.log_url, "target_url": status.log_url, "environment_url": status.environment_url},
            "url": self._api(f"deployments/{made.id}/statuses/{status.id}"),
            "environment": made.environment,
            "creator": self._user("runbook"),
            **{"created_at": at, "updated_at": at},
            "deployment_url": self._api(f"deployments/{made.id}"),
            "repository_url": self._api("").rstrip("/"),
        }


@contextmanager
def github_emulator(*, token: str, port: int = 0) -> Generator[GitHubEmulator]:
    """Serve an emulator on a free port of this machine, with `url` as the API's address."""
    emulator = GitHubEmulator(token=token)
    with emulator.serving(port):
        yield emulator


def _short(text: str) -> str:
    if len(text) > 140:
        raise Refusal(422, "Validation Failed: description is too long (maximum is 140 characters)")
    return text


def _text(at: datetime) -> str:
    return f"{at:%Y-%m-%dT%H:%M:%SZ}"
