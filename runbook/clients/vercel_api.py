"""The part of Vercel's API that releases need: requests, pages, answers.

A promote and a rollback are answered with 201 and nothing else before they have happened: `Project.alias_request` says
how they go on. 202 means queued behind a rolling release.

Source: https://vercel.com/docs/rest-api; the requests of the `vercel` command, where that says nothing.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Annotated, Any, cast

import httpx
from pydantic import BeforeValidator, Field, RootModel, SecretStr, ValidationError
from pydantic.alias_generators import to_camel

from runbook.clients.http_api import Answer, HttpApi, LostError, Patience, Service

_PAGE = 100


class _Camel(Answer):
    model_config = Answer.model_config | {"alias_generator": to_camel}


def _moment(value: object) -> object:
    return datetime.fromtimestamp(value / 1000, UTC) if isinstance(value, int | float) else value


Moment = Annotated[datetime, BeforeValidator(_moment)]
"""Milliseconds since 1970, as an aware time."""


class Deployment(_Camel):
    """A deployment. `alias_assigned` is a time or a truth value, in answers of different age."""

    id: str = Field(validation_alias="id", default="")
    uid: str = ""
    url: str
    target: str | None = None
    project_id: str | None = None
    ready_state: str = ""
    state: str = ""
    ready_substate: str | None = None
    created_at: Moment | None = None
    created: Moment | None = None
    alias_assigned: bool | int | None = None
    alias_error: Mapping[str, Any] | None = None
    error_code: str | None = None
    error_step: str | None = None
    error_message: str | None = None
    meta: Mapping[str, str] = Field(default_factory=dict[str, str])
    inspector_url: str | None = None

    @property
    def name(self) -> str:
        """Its id: lists call it `uid`."""
        return self.id or self.uid

    @property
    def status(self) -> str:
        """How far it is: QUEUED, INITIALIZING, BUILDING, READY, ERROR, CANCELED, BLOCKED or DELETED."""
        return self.ready_state or self.state


class AliasRequest(_Camel):
    """The last promote or rollback of a project, and how far it is."""

    to_deployment_id: str
    job_status: str
    requested_at: Moment
    type: str = ""


class Link(_Camel):
    """The repository that a project is built from."""

    type: str
    repo_id: int | None = None
    org: str | None = None
    repo: str | None = None
    production_branch: str | None = None


class Project(_Camel):
    """A project. `auto_assign_custom_domains` is false after an instant rollback, until the next promote."""

    id: str
    name: str
    account_id: str = ""
    link: Link | None = None
    auto_assign_custom_domains: bool = True
    alias_request: AliasRequest | None = Field(default=None, alias="lastAliasRequest")
    sso_protection: Mapping[str, Any] | None = None
    password_protection: Mapping[str, Any] | None = None


class RollingRelease(_Camel):
    """A release that gets the traffic in stages."""

    state: str
    canary_deployment: Deployment | None = None
    current_deployment: Deployment | None = None
    active_stage: Mapping[str, Any] | None = None
    next_stage: Mapping[str, Any] | None = None

    @property
    def is_active(self) -> bool:
        """Whether it has neither ended nor been aborted."""
        return self.state == "ACTIVE"


class BuildEvent(_Camel):
    """A line of a build."""

    text: str = ""
    payload: Mapping[str, Any] = Field(default_factory=dict[str, Any])

    @property
    def line(self) -> str:
        """What was printed."""
        return self.text or str(self.payload.get("text", ""))


class RuntimeLine(_Camel):
    """A line of what a release logs while it serves."""

    level: str
    message: str
    timestamp_in_ms: Moment


class Variable(_Camel):
    """An environment variable; `value` is readable only where it is stored so."""

    key: str
    type: str = ""
    value: str = Field(default="", repr=False)
    target: Sequence[str] | str = ()

    @property
    def is_plain(self) -> bool:
        """Whether everybody in the project can read the value."""
        return self.type == "plain"

    @property
    def is_for_production(self) -> bool:
        """Whether production has it."""
        return "production" in ([self.target] if isinstance(self.target, str) else self.target)


class Metric(_Camel):
    """A metric that can be asked for, what it can be split by and how it is put together."""

    id: str
    dimensions: Sequence[str | Mapping[str, Any]] = ()
    aggregations: Sequence[str] = ()

    @property
    def names(self) -> set[str]:
        """The names of its dimensions."""
        return {each if isinstance(each, str) else str(each.get("name", "")) for each in self.dimensions}


class MetricRow(_Camel):
    """A number of a metric, by dimensions."""

    dimensions: Mapping[str, Any] = Field(default_factory=dict[str, Any])
    values: Mapping[str, float | None]


class _Alias(_Camel):
    deployment_id: str | None = None


class _Pagination(_Camel):
    next: int | None = None


class _Deployments(_Camel):
    deployments: tuple[Deployment, ...]
    pagination: _Pagination = _Pagination()


class _Rolling(_Camel):
    rolling_release: RollingRelease | None = None


class _Variables(_Camel):
    envs: tuple[Variable, ...]


class _Events(RootModel[tuple[BuildEvent, ...]]):
    pass


def _name(value: object) -> object:
    """Vercel's document has the name of a domain here, its command line reads an object that has it."""
    return cast("Mapping[str, object]", value).get("alias") if isinstance(value, Mapping) else value


class _FailedAlias(_Camel):
    alias: Annotated[str, BeforeValidator(_name)]
    status: str = ""


class _FailedAliases(_Camel):
    aliases: tuple[_FailedAlias, ...]


class _Metrics(_Camel):
    metrics: tuple[Metric, ...]


class _Summary(_Camel):
    summary: tuple[MetricRow, ...]


class _Words(_Camel):
    code: str = ""
    message: str = ""


class _Refusal(_Camel):
    error: _Words


class VercelApi:
    """One project of Vercel over HTTP; the token is in no message.

    Every method raises `TransientError` when Vercel is busy or cannot be reached, `LostError` when its answer is lost
    and `RejectedError` when it says no; the message has Vercel's own words and the id of the request.
    """

    def __init__(
        self, url: str, project: str, team: str | None, token: SecretStr, patience: Patience, *, block: str
    ) -> None:
        self._project = project
        scope = {} if team is None else {"teamId" if team.startswith("team_") else "slug": team}
        self._http = HttpApi(
            Service(name="Vercel", url=url, key=token, words=_words, hints=_hints(block, project, team), query=scope),
            patience,
        )

    def project(self) -> Project:
        """Return the project, with its last promote or rollback."""
        query = {"rollbackInfo": "true"}
        return self._http.read(f"/v9/projects/{self._project}", f"read project {self._project}", Project, query=query)

    def deployment(self, deployment_id: str) -> Deployment:
        """Return a deployment; `MissingError` when there is none."""
        return self._http.read(f"/v13/deployments/{deployment_id}", f"read deployment {deployment_id}", Deployment)

    def deployments(self, *, git_sha: str | None = None, limit: int = 200) -> Generator[Deployment]:
        """Yield the production deployments, newest first, page after page, up to `limit`."""
        query = {"projectId": self._project, "target": "production", "limit": str(min(limit, _PAGE))}
        query |= {"sha": git_sha} if git_sha else {}
        found = 0
        while True:
            page = self._http.read("/v6/deployments", "list the deployments", _Deployments, query=query)
            for deployment in page.deployments:
                yield deployment
                found += 1
                if found == limit:
                    return
            if page.pagination.next is None or not page.deployments:
                return
            query["until"] = str(page.pagination.next)

    def create(self, body: Mapping[str, Any]) -> Deployment:
        """Create a deployment, once."""
        what = "create a deployment"
        response = self._http.send("POST", "/v13/deployments", what, query=_NO_QUESTIONS, body=body)
        return self._http.parse(response, what, Deployment)

    def build_log(self, deployment_id: str) -> list[str]:
        """Return the lines that a build has printed."""
        path = f"/v3/deployments/{deployment_id}/events"
        events = self._http.read(path, f"read the build log of {deployment_id}", _Events, query={"limit": "100"})
        return [event.line for event in events.root if event.line]

    def promote(self, deployment_id: str) -> bool:
        """Ask for the traffic for a deployment, once; return False when it waits behind a rolling release."""
        return self._switch(f"/v10/projects/{self._project}/promote/{deployment_id}", f"promote {deployment_id}")

    def roll_back(self, deployment_id: str) -> bool:
        """Ask for an instant rollback, once; return False when it waits behind a rolling release."""
        return self._switch(f"/v1/projects/{self._project}/rollback/{deployment_id}", f"roll back to {deployment_id}")

    def failed_aliases(self, kind: str) -> list[str]:
        """Return the domains that the last promote or rollback could not move."""
        path = f"/v9/projects/{self._project}/{'rollback' if kind == 'rollback' else 'promote'}/aliases"
        query = {"failedOnly": "true", "limit": "20"}
        return [
            each.alias for each in self._http.read(path, "list the failed domains", _FailedAliases, query=query).aliases
        ]

    def aliased(self, domain: str) -> str | None:
        """Return the id of the deployment that a domain leads to; `MissingError` when Vercel does not know it."""
        return self._http.read(f"/v4/aliases/{domain}", f"find where {domain} leads to", _Alias).deployment_id

    def variables(self) -> Sequence[Variable]:
        """Return the environment variables of the project."""
        return self._http.read(f"/v10/projects/{self._project}/env", "list the variables", _Variables).envs

    def runtime_log(self, deployment_id: str, *, within_s: float, limit: int) -> list[RuntimeLine]:
        """Return lines of what a release logs: the stream does not end, so it is left after a while."""
        path = f"/v1/projects/{self._project}/deployments/{deployment_id}/runtime-logs"
        what = f"read the log of {deployment_id}"
        found: list[RuntimeLine] = []
        for line in self._http.lines(path, what, within_s=within_s, limit=limit):
            try:
                found.append(RuntimeLine.model_validate_json(line))
            except ValidationError:
                raise LostError(f"Vercel, {what}: a line is not as agreed.") from None
        return found

    def rolling_release(self) -> RollingRelease | None:
        """Return the rolling release that is under way, or the last one; None without any."""
        path = f"/v1/projects/{self._project}/rolling-release"
        return self._http.read(path, "read the rolling release", _Rolling).rolling_release

    def start_rolling(self, deployment_id: str) -> None:
        """Give a deployment the traffic of the first stage, once."""
        self._roll("start", {"canaryDeploymentId": deployment_id})

    def approve_stage(self, deployment_id: str, next_stage: int) -> None:
        """Give a deployment the traffic of the next stage, once."""
        self._roll("approve-stage", {"nextStageIndex": next_stage, "canaryDeploymentId": deployment_id})

    def complete_rolling(self, deployment_id: str) -> None:
        """Give a deployment all of the traffic, once."""
        self._roll("complete", {"canaryDeploymentId": deployment_id})

    def metrics(self, prefix: str) -> Sequence[Metric]:
        """Return the metrics whose id begins so."""
        query = {"limit": "250", "kind": "system", "search": prefix}
        return self._http.read("/metrics/v1", "list the metrics", _Metrics, query=query).metrics

    def measure(self, body: Mapping[str, Any]) -> Sequence[MetricRow]:
        """Return the numbers of a metric over a span of time."""
        what = "read the metrics"
        response = self._http.send("POST", "/metrics/v1", what, body=body, repeatable=True)
        return self._http.parse(response, what, _Summary).summary

    def _switch(self, path: str, what: str) -> bool:
        return self._http.send("POST", path, what, body={}).status_code != HTTPStatus.ACCEPTED

    def _roll(self, step: str, body: Mapping[str, Any]) -> None:
        self._http.send("POST", f"/v1/projects/{self._project}/rolling-release/{step}", f"{step} rolling", body=body)


_NO_QUESTIONS = {"skipAutoDetectionConfirmation": "1"}


def _words(response: httpx.Response) -> str:
    try:
        said = _Refusal.model_validate_json(response.content).error
    except ValidationError:
        said = _Words()
    request = response.headers.get("x-vercel-id", "")
    return " ".join(part for part in (said.code, said.message[:500], f"(request {request})" if request else "") if part)


def _hints(block: str, project: str, team: str | None) -> dict[int, str]:
    of_team = f" of team {team}" if team else ", and belongs to no team"
    return {
        401: f"The token is wrong, revoked or expired: put a valid one into the {block}.",
        402: "The plan of the account does not have this.",
        403: f"The token of the {block} may not do this: it needs access to project {project}{of_team}.",
        404: f"If it is the project that is not found: the {block} says {project}{of_team}.",
    }
