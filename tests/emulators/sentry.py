"""A Sentry in memory behind real HTTP: one project, its releases, their deploys, its issues, and errors by the minute.

It has the traps of the real one: a path without its last slash is not found, a release that is there is answered with
208 and not with 409, issues are `is:unresolved` unless something else is asked for, the last interval of a series is
incomplete, and session statistics have no interval below an hour.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qs, unquote

from tests.emulators.service import JSON, Call, Emulator, Refusal, Reply

ORGANIZATION, PROJECT, PROJECT_ID = "mantis", "shop", 4711
EVERYTHING = {"org:read", "project:read", "project:releases", "event:read"}
_DAY_S = 86400
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": _DAY_S, "w": 7 * _DAY_S}


@dataclass
class Deploy:
    id: int
    environment: str
    name: str | None
    url: str | None
    started: str | None
    finished: str


@dataclass
class Release:
    id: int
    version: str
    projects: list[str]
    created: str
    ref: str | None = None
    url: str | None = None
    released: str | None = None
    deploys: list[Deploy] = field(default_factory=list[Deploy])


@dataclass
class Issue:
    """An issue; `first_release` is the release in which it was first seen."""

    id: int
    title: str
    first_release: str
    status: str = "unresolved"
    count: int = 1


@dataclass
class Errors:
    """So many errors at a time, in seconds since 1970."""

    at_s: float
    count: int
    release: str
    environment: str


class SentryEmulator(Emulator):
    """The project and what goes wrong with it."""

    root = "/api/0"

    def __init__(self, *, token: str) -> None:
        self.token = token
        super().__init__()

    def reset(self) -> None:
        """Forget everything; the token may do all."""
        super().reset()
        self.scopes = set(EVERYTHING)
        self.releases: dict[str, Release] = {}
        self.issues: list[Issue] = []
        self.errors: list[Errors] = []
        self.page_size = 100
        self._ids = 0

    # what an application does

    def add_issue(self, title: str, first_release: str, *, status: str = "unresolved", count: int = 1) -> Issue:
        """Let an application report something that Sentry has not seen before."""
        issue = Issue(self._id(), title, first_release, status, count)
        self.issues.append(issue)
        return issue

    def add_errors(self, count: int, release: str, *, ago_s: float = 60, environment: str = "production") -> None:
        """Let an application report errors."""
        self.errors.append(Errors(time.time() - ago_s, count, release, environment))

    # HTTP

    def error(self, status: int, message: str) -> JSON:
        return {"detail": message}

    def handle(self, call: Call) -> Reply:
        if call.headers.get("authorization") != f"Bearer {self.token}":
            raise Refusal(401, "Invalid token")
        of = f"(?:/organizations/{ORGANIZATION}|/projects/{ORGANIZATION}/{PROJECT})"
        table: list[tuple[str, str, str, Callable[..., Reply]]] = [
            ("GET", "/releases/", "project:releases", self._list_releases),
            ("POST", "/releases/", "project:releases", self._create_release),
            ("GET", "/releases/([^/]+)/", "project:releases", self._get_release),
            ("PUT", "/releases/([^/]+)/", "project:releases", self._update_release),
            ("GET", "/releases/([^/]+)/deploys/", "project:releases", self._list_deploys),
            ("POST", "/releases/([^/]+)/deploys/", "project:releases", self._create_deploy),
            ("GET", "/issues/", "event:read", self._list_issues),
            ("GET", "/events-timeseries/", "org:read", self._series),
            ("GET", "/sessions/", "org:read", self._sessions),
        ]
        for verb, pattern, scope, handler in table:
            match = re.fullmatch(of + pattern, call.path)
            if match is None or verb != call.method:
                continue
            if scope not in self.scopes:
                raise Refusal(403, "You do not have permission to perform this action.")
            return handler(call, *(unquote(each) for each in match.groups()))
        raise Refusal(404, "The requested resource does not exist")

    def _list_releases(self, call: Call) -> Reply:
        wanted = call.query.get("query", "")
        found = [each for each in reversed(self.releases.values()) if wanted in each.version]
        return self._page(call, [self._release(each) for each in found])

    def _create_release(self, call: Call) -> Reply:
        body: JSON = call.body
        known = self.releases.get(body["version"])
        unknown = [each for each in body["projects"] if each != PROJECT]
        if unknown:
            return Reply(400, {"projects": [f"Invalid project ids or slugs: {', '.join(unknown)}"]})
        if known is None:
            known = Release(self._id(), body["version"], [PROJECT], _now())
            self.releases[known.version] = known
            self._change(known, body)
            return Reply(201, self._release(known))
        self._change(known, body)
        return Reply(208, self._release(known))

    def _get_release(self, call: Call, version: str) -> Reply:
        return Reply(200, self._whole_release(self._existing(version)))

    def _update_release(self, call: Call, version: str) -> Reply:
        release = self._existing(version)
        self._change(release, call.body)
        return Reply(200, self._whole_release(release))

    def _change(self, release: Release, body: JSON) -> None:
        release.ref = body.get("ref") or release.ref
        release.url = body.get("url") or release.url
        release.released = body.get("dateReleased") or release.released

    def _list_deploys(self, call: Call, version: str) -> Reply:
        return self._page(call, [_deploy(each) for each in reversed(self._existing(version).deploys)])

    def _create_deploy(self, call: Call, version: str) -> Reply:
        release, body = self._existing(version), call.body
        if not body.get("environment"):
            return Reply(400, {"environment": ["This field is required."]})
        made = Deploy(
            self._id(),
            body["environment"],
            body.get("name"),
            body.get("url"),
            body.get("dateStarted"),
            body.get("dateFinished") or _now(),
        )
        release.deploys.append(made)
        return Reply(201, _deploy(made))

    def _list_issues(self, call: Call) -> Reply:
        asked = call.query.get("query", "is:unresolved").split()
        status = next((each.removeprefix("is:") for each in asked if each.startswith("is:")), None)
        first = next((each.partition(":")[2].strip('"') for each in asked if each.startswith("firstRelease:")), None)
        found = [
            issue
            for issue in reversed(self.issues)
            if (status in (None, issue.status)) and (first in (None, issue.first_release))
        ]
        return self._page(call, [self._issue(each) for each in found])

    def _series(self, call: Call) -> Reply:
        query = parse_qs(call.query_string)
        interval_s = int(query.get("interval", ["60000"])[0]) // 1000
        start, end = _span(query)
        release = next(iter(re.findall(r"release:\"?([^\s\"]+)", query.get("query", [""])[0])), None)
        environments = query.get("environment")
        values: list[JSON] = []
        at = start - start % interval_s
        while at < end:
            counted = sum(
                each.count
                for each in self.errors
                if at <= each.at_s < at + interval_s
                and release in (None, each.release)
                and (environments is None or each.environment in environments)
            )
            values.append({"timestamp": int(at * 1000), "value": counted, "incomplete": at + interval_s > time.time()})
            at += interval_s
        meta = {"valueType": "integer", "valueUnit": None, "interval": interval_s * 1000}
        whole = {"dataset": query["dataset"][0], "start": int(start * 1000), "end": int(end * 1000)}
        y_axis = query.get("yAxis", ["count()"])[0]
        return Reply(200, {"timeSeries": [{"yAxis": y_axis, "values": values, "meta": meta}], "meta": whole})

    def _sessions(self, call: Call) -> Reply:
        query = parse_qs(call.query_string)
        interval = query.get("interval", ["1h"])[0]
        if _seconds(interval) < _UNITS["h"]:
            raise Refusal(400, "The interval has to be a multiple of the minimum interval of one hour.")
        start, end = _span(query)
        groups = [
            {"by": {"release": each}, "totals": dict.fromkeys(query["field"], 1), "series": {}}
            for each in self.releases
        ]
        about = {"start": _text(start), "end": _text(end), "intervals": [_text(start)]}
        return Reply(200, about | {"groups": groups, "query": query.get("query", [""])[0]})

    def _page(self, call: Call, items: Sequence[Any]) -> Reply:
        size = min(self.page_size, int(call.query.get("limit", call.query.get("per_page", 100))))
        at = int(call.query.get("cursor", "0:0:0").split(":")[1])
        more = at + size < len(items)
        links = [
            f'<{self.url}{call.path}>; rel="{rel}"; results="{results}"; cursor="0:{cursor}:0"'
            for rel, results, cursor in (
                ("previous", "true" if at else "false", max(0, at - size)),
                ("next", "true" if more else "false", at + size),
            )
        ]
        return Reply(200, list(items[at : at + size]), {"Link": ", ".join(links)})

    def _existing(self, version: str) -> Release:
        if version not in self.releases:
            raise Refusal(404, "The requested resource does not exist")
        return self.releases[version]

    def _id(self) -> int:
        self._ids += 1
        return self._ids

    # answers, with all that Sentry promises in them

    def _release(self, release: Release) -> JSON:
        deploys = release.deploys
        return {
            **{"id": release.id, "version": release.version, "shortVersion": release.version[:12]},
            **{"ref": release.ref, "url": release.url, "data": {}, "authors": [], "commitCount": 0},
            **{"dateCreated": release.created, "dateReleased": release.released},
            **{"deployCount": len(deploys), "lastDeploy": _deploy(deploys[-1]) if deploys else None},
            **dict.fromkeys(("firstEvent", "lastEvent", "lastCommit", "owner")),
            "newGroups": sum(each.first_release == release.version for each in self.issues),
            "projects": [{"name": each, "slug": each} for each in release.projects],
        }

    def _whole_release(self, release: Release) -> JSON:
        groups = self._release(release)["newGroups"]
        about = {"id": PROJECT_ID, "slug": PROJECT, "name": PROJECT, "platform": "javascript"}
        about |= {"platforms": ["javascript"], "hasHealthData": False, "newGroups": groups}
        version = {"package": None, "version": {"raw": release.version}, "buildHash": None}
        return self._release(release) | {
            "status": "open",
            "versionInfo": version | {"description": release.version},
            "projects": [about],
        }

    def _issue(self, issue: Issue) -> JSON:
        at = _now()
        return {
            **{"id": str(issue.id), "shareId": "", "shortId": f"SHOP-{issue.id}", "title": issue.title},
            **{"culprit": None, "logger": None, "level": "error", "status": issue.status, "statusDetails": {}},
            **{"permalink": f"https://{ORGANIZATION}.sentry.io/issues/{issue.id}/", "count": str(issue.count)},
            **dict.fromkeys(
                ("substatus", "priority", "priorityLockedAt", "seerFixabilityScore", "subscriptionDetails")
            ),
            **dict.fromkeys(("seerAutofixLastTriggered", "filtered")),
            **dict.fromkeys(
                ("isPublic", "isBookmarked", "isSubscribed", "hasSeen", "latestEventHasAttachments"), False
            ),
            **{"isUnhandled": True, "platform": "javascript", "type": "error", "issueType": "error"},
            **{"issueCategory": "error", "metadata": {}, "numComments": 0, "userCount": 1, "sessionCount": 0},
            "project": {"id": str(PROJECT_ID), "name": PROJECT, "slug": PROJECT, "platform": "javascript"},
            "assignedTo": {"type": "team", "id": "1", "name": "on-call"},
            **{key: [] for key in ("annotations", "pluginActions", "pluginIssues", "integrationIssues")},
            **{"sentryAppIssues": [], "firstSeen": at, "lastSeen": at, "stats": {}, "lifetime": {}},
            "inbox": {"reason": 0, "reason_details": None, "date_added": at},
            "owners": {"type": "suspectCommit", "owner": "team:1", "date_added": at},
        }


def _deploy(deploy: Deploy) -> JSON:
    about = {"id": str(deploy.id), "environment": deploy.environment, "name": deploy.name, "url": deploy.url}
    return about | {"dateStarted": deploy.started, "dateFinished": deploy.finished}


def _span(query: dict[str, list[str]]) -> tuple[float, float]:
    """Return the span of time that was asked for, in seconds since 1970."""
    if "start" not in query or "end" not in query:
        now = time.time()
        return now - _seconds(query.get("statsPeriod", ["24h"])[0]), now
    return _moment(query["start"][0]), _moment(query["end"][0])


def _moment(text: str) -> float:
    at = datetime.fromisoformat(text)
    return at.replace(tzinfo=at.tzinfo or UTC).timestamp()


def _seconds(text: str) -> int:
    match = re.fullmatch("([0-9]+)([smhdw])", text)
    if match is None:
        raise Refusal(400, f"Invalid period: {text}")
    return int(match[1]) * _UNITS[match[2]]


def _now() -> str:
    return _text(time.time())


def _text(at_s: float) -> str:
    return f"{datetime.fromtimestamp(at_s, UTC):%Y-%m-%dT%H:%M:%S.%fZ}"


@contextmanager
def sentry_emulator(*, token: str, port: int = 0) -> Generator[SentryEmulator]:
    """Serve an emulator on a free port of this machine, with `url` as the API's address."""
    emulator = SentryEmulator(token=token)
    with emulator.serving(port):
        yield emulator
