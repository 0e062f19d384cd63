"""Sentry: which errors a release brought, and where Sentry shows that it was released.

Every path ends in a slash: without it Sentry answers 404. A release that is known is answered with 208, so that telling
of it twice is harmless; a deploy is not, and is looked for by its name.

Source: https://docs.sentry.io/api/; permissions: https://docs.sentry.io/api/permissions/.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal
from urllib.parse import quote

import httpx
from pydantic import Field, JsonValue, RootModel, SecretStr, ValidationError

from runbook.clients.http_api import Answer, HttpApi, LostError, MissingError, Patience, Service, check_url

API_URL = "https://us.sentry.io/api/0"
_NEXT = re.compile(r'rel="next"; results="true"; cursor="([^"]+)"')
_INTERVAL_MS = 60_000


@dataclass(frozen=True)
class SentrySettings:
    """Where errors are reported to.

    `named_by` says what the application reports as its release: the commit, as Sentry's plugins for Vercel and Next.js
    do, or the version. `block` is what a message calls the place to mend.
    """

    organization: str
    project: str
    api_url: str = API_URL
    named_by: Literal["sha", "version"] = "sha"
    block: str = "block"


class ErrorCount(Answer):
    """How many errors there were in the minute from `at` on."""

    at: datetime
    count: int


class Issue(Answer):
    """Something that went wrong, all its events together."""

    short_id: str = Field(alias="shortId")
    title: str
    permalink: str
    count: int


class _Value(Answer):
    timestamp: int
    value: float | None
    incomplete: bool = False


class _Series(Answer):
    values: list[_Value]


class _TimeSeries(Answer):
    time_series: list[_Series] = Field(alias="timeSeries")


class _Issues(RootModel[list[Issue]]):
    """A page of issues."""


class _Deploy(Answer):
    name: str | None = None
    environment: str


class _Deploys(RootModel[list[_Deploy]]):
    """A page of deploys."""


class _Detail(Answer):
    detail: JsonValue = None


class Sentry:
    """One project of an organization, over HTTP; the token is in no message.

    Every method raises `TransientError` when Sentry is busy or cannot be reached, `LostError` when its answer is lost
    and `RejectedError` when it says no; the message has Sentry's own words, and names the block and the scopes.

    Scopes of the token: `org:read` and `event:read` to read, `project:releases` to tell of releases.
    """

    def __init__(self, settings: SentrySettings, token: SecretStr, patience: Patience | None = None) -> None:
        self.settings = settings
        url = check_url("api_url", settings.api_url, API_URL)
        mend = f"Put a token with the scopes org:read, event:read and project:releases into the {settings.block}."
        hints = {
            401: mend,
            403: mend,
            404: f"Mend organization and project in the {settings.block}; the address names the region.",
        }
        self._http = HttpApi(Service("Sentry", url, token, _words, hints), patience)

    def check(self) -> str:
        """Return what was found there, after reading all that the runbook reads."""
        errors = self.errors(minutes=5)
        self._http.send("GET", self._path("releases"), "list the releases")
        self._http.send("GET", self._path("issues"), "list the issues", query={"query": self._of_project, "limit": "1"})
        name = f"{self.settings.organization}/{self.settings.project}"
        return f"Sentry project {name}: {sum(minute.count for minute in errors)} errors in the last minutes"

    def release_name(self, git_sha: str, version: str) -> str:
        """Return what Sentry calls a release."""
        return git_sha if self.settings.named_by == "sha" else version

    def errors(self, *, minutes: int, release: str | None = None, environment: str | None = None) -> list[ErrorCount]:
        """Return how many errors there were in each of the last minutes; one that is not over yet is left out.

        Args:
            minutes: how far back.
            release: only those that this one reported, as Sentry calls it.
            environment: only those of this one.
        """
        query = {
            **{"dataset": "errors", "yAxis": "count()", "interval": str(_INTERVAL_MS), "statsPeriod": f"{minutes}m"},
            "query": self._of_project + (f' release:"{release}"' if release else ""),
            **({"environment": environment} if environment else {}),
        }
        found = self._http.read(self._path("events-timeseries"), "count the errors", _TimeSeries, query=query)
        return [
            ErrorCount(at=datetime.fromtimestamp(minute.timestamp / 1000, UTC), count=round(minute.value or 0))
            for series in found.time_series
            for minute in series.values
            if not minute.incomplete
        ]

    def new_issues(self, release: str) -> list[Issue]:
        """Return the unresolved issues that were seen in a release for the first time, newest first."""
        query = {"query": f'is:unresolved firstRelease:"{release}" {self._of_project}', "limit": "100"}
        what, found = f"list the issues that are new in {release}", list[Issue]()
        while True:
            page = self._http.send("GET", self._path("issues"), what, query=query)
            found += self._http.parse(page, what, _Issues).root
            following = _NEXT.search(page.headers.get("Link", ""))
            if following is None:
                return found
            query |= {"cursor": following[1]}

    def mark_release(self, release: str, git_sha: str) -> None:
        """Tell of a release; one that Sentry knows stays."""
        body = {"version": release, "projects": [self.settings.project], "ref": git_sha}
        self._http.send("POST", self._path("releases"), f"tell of {release}", body=body, repeatable=True)

    def mark_deploy(self, release: str, environment: str, name: str, *, url: str | None = None) -> None:
        """Tell that a release was deployed; `name`, unique, is that of the run. Telling it twice leaves one deploy."""
        if self._is_deployed(release, name):
            return
        body = {"environment": environment, "name": name, "dateFinished": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"}
        body |= {"url": url} if url else {}
        path = self._path("releases", release, "deploys")
        try:
            self._http.send("POST", path, f"tell of the deploy of {release}", body=body)
        except LostError:
            if not self._is_deployed(release, name):
                raise

    def _is_deployed(self, release: str, name: str) -> bool:
        """Return whether Sentry knows a deploy; among the newest, which are listed first."""
        what, path = f"list the deploys of {release}", self._path("releases", release, "deploys")
        try:
            known = self._http.read(path, what, _Deploys).root
        except MissingError:
            return False
        return any(deploy.name == name for deploy in known)

    @property
    def _of_project(self) -> str:
        return f"project:{self.settings.project}"

    def _path(self, *parts: str) -> str:
        return "/".join(
            ["/organizations", *(quote(part, safe="") for part in (self.settings.organization, *parts)), ""]
        )


def _words(answer: httpx.Response) -> str:
    try:
        detail = _Detail.model_validate_json(answer.content).detail
    except ValidationError:
        return ""
    return str(detail)[:300] if detail is not None else answer.text[:300]
