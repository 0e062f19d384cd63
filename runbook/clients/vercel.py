"""Vercel as the application host: releases are production deployments that get their domains only when promoted.

Facts of Vercel that shape this module:
- READY is not live: a deployment is active when the production domain leads to it.
- Promoting a preview builds it anew; so a release is a production deployment from the beginning, without domains.
- An instant rollback turns the automatic assignment of domains off, until the next promote: the project is pinned.
- The answer to a promote or rollback comes before anything has happened, and says nothing.

Source: https://vercel.com/docs/deployments/promoting-a-deployment, https://vercel.com/docs/instant-rollback,
https://vercel.com/docs/rolling-releases.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TypeVar
from urllib.parse import urlsplit

from pydantic import SecretStr

from runbook.clients.application_host import LogLine, Release, ReleaseState, RequestMetrics
from runbook.clients.http_api import LostError, MissingError, Patience, check_url
from runbook.clients.vercel_api import AliasRequest, Deployment, Project, VercelApi
from runbook.errors import DivergedError, InvalidInputError, RejectedError, StageError, TransientError
from runbook.rules.variables import Flaw, Variable, examine, is_secret

API_URL = "https://api.vercel.com"
BYPASS_HEADER = "x-vercel-protection-bypass"

_log = logging.getLogger(__name__)
_LOOKS = 4
_KNOWN = 200  # releases
_LOG_S = 5.0
_ID = re.compile(r"[A-Za-z0-9_.-]{1,100}")
_STATES = {
    "READY": ReleaseState.READY,
    "ERROR": ReleaseState.FAILED,
    "BLOCKED": ReleaseState.FAILED,
    "CANCELED": ReleaseState.STOPPED,
    "DELETED": ReleaseState.STOPPED,
}
_ENDED = {"succeeded", "failed", "skipped"}
_STATUS_NAMES = ("http_status", "httpStatus", "status_code", "statusCode")
_DEPLOYMENT_NAMES = ("deployment_id", "deploymentId")
_Found = TypeVar("_Found")


@dataclass(frozen=True)
class VercelSettings:
    """Which project of which team, the domain that users call, and what messages call the form with the token.

    Raises:
        InvalidInputError: an id cannot be one, or the token would travel in clear.
    """

    project: str
    public_url: str
    team: str | None = None
    api_url: str = API_URL
    block: str = "block Vercel Project"

    def __post_init__(self) -> None:
        for name, value in (("project", self.project), ("team", self.team)):
            if value is not None and _ID.fullmatch(value) is None:
                allowed = "an id or a name: letters, digits, '.', '_' and '-'"
                raise InvalidInputError(name, value, allowed, "Copy it from the settings in Vercel's dashboard.")
        check_url("public_url", self.public_url, "the production domain of the project")
        check_url("api_url", self.api_url, API_URL)


class VercelHost:
    """One project of Vercel; implements `ApplicationHost`.

    Every method raises `TransientError` when Vercel is busy or cannot be reached and `RejectedError` when it says no.
    """

    def __init__(
        self,
        settings: VercelSettings,
        token: SecretStr,
        bypass: SecretStr | None = None,
        patience: Patience | None = None,
    ) -> None:
        self._settings = settings
        self._bypass = bypass
        self._patience = patience or Patience(finish_s=900)
        self._api = VercelApi(
            settings.api_url, settings.project, settings.team, token, self._patience, block=settings.block
        )

    def __repr__(self) -> str:
        return f"VercelHost({self._settings!r})"

    @property
    def public_url(self) -> str:
        """The production domain, as a URL without a trailing slash."""
        return self._settings.public_url.rstrip("/")

    @property
    def private_headers(self) -> Mapping[str, SecretStr]:
        """The header that lets a request pass Vercel's protection of deployments."""
        return {} if self._bypass is None else {BYPASS_HEADER: self._bypass}

    def check(self) -> None:
        """Raise, in words a person can act on, unless project, repository and domain are as they have to be."""
        project = self._api.project()
        if project.link is None:
            raise RejectedError(
                f"Vercel project {project.name} is connected to no git repository, so no commit can be released. "
                "Connect one in its settings, under Git."
            )
        if self._bypass is None and (project.sso_protection or project.password_protection):
            raise RejectedError(
                f"Vercel project {project.name} protects its deployments, and the {self._settings.block} has no secret "
                "for automation: smoke tests in private would fail. Make one in the project's settings, under "
                "Deployment Protection, and put it into the block."
            )
        self.active()

    def pin(self) -> str | None:
        """Say that the project is pinned by an instant rollback, or None."""
        if self._api.project().auto_assign_custom_domains:
            return None
        return "production is pinned by an instant rollback, until the next promote"

    def stage(self, git_sha: str, version: str) -> Release:
        """Build a commit as a production deployment without domains, and wait until it is ready.

        Raises:
            StageError: the build failed; the message ends with its last lines.
            RejectedError: the project is connected to no repository, or Vercel refuses.
            DivergedError: the deployment has got the production domain all the same.
            TransientError: it is not ready in time; repeating goes on waiting for it.
        """
        before = self.active()
        deployment = self._usable(git_sha, version) or self._create(git_sha, version)
        ready = self._wait_until_ready(deployment)
        after = self._aliased()
        if after == ready.name and (before is None or before.release_id != ready.name):
            raise DivergedError(
                f"Vercel has given the traffic to {ready.name} as soon as it was built. Turn off the automatic "
                "assignment of production domains in the project's settings; what runs now was not tested."
            )
        return self._release(ready)

    def promote(self, release_id: str) -> Release:
        """Give the production domains to a staged deployment, and wait until they lead there.

        Raises:
            RejectedError: it is a preview, which a promote would build anew, or not ready; or Vercel refuses.
            StageError: domains were not moved; the message names them.
            TransientError: it waits behind a rolling release, or is not done in time.
        """
        deployment = self._api.deployment(release_id)
        if deployment.target != "production":
            raise RejectedError(
                f"{release_id} is a deployment for {deployment.target or 'preview'}: to promote it would build it "
                "anew, and what was tested would not be what runs. Stage the commit."
            )
        return self._switch(deployment, "promote", self._api.promote)

    def roll_back(self, release_id: str) -> Release:
        """Give the production domains back to a deployment that had them before, without a build.

        A rolling release that is under way ends: the domain leads to the old deployment all the while, and yet a part
        of the traffic goes to the new one.

        Raises:
            As `promote`.
        """
        deployment = self._api.deployment(release_id)
        if deployment.target != "production" or not _was_promoted(deployment):
            raise RejectedError(f"{release_id} never had the traffic; there is nothing to go back to in it.")
        rolling = self._api.rolling_release()
        is_rolling = rolling is not None and rolling.is_active
        return self._switch(deployment, "rollback", self._api.roll_back, is_rolling=is_rolling)

    def active(self) -> Release | None:
        """Return the deployment that the production domain leads to, or None while it leads to none."""
        name = self._aliased()
        return None if name is None else self._release(self._api.deployment(name))

    def releases(self) -> Sequence[Release]:
        """Return the last 200 production deployments, newest first."""
        return [self._release(each) for each in self._api.deployments(limit=_KNOWN)]

    def release(self, release_id: str) -> Release:
        """Return one deployment; `RejectedError` when Vercel does not know it."""
        return self._release(self._api.deployment(release_id))

    def warm(self, release_id: str) -> Release:
        """Return a deployment that can take the traffic at once; it has only to be there."""
        release = self.release(release_id)
        if release.state is not ReleaseState.READY:
            raise StageError(f"{release_id} can not take the traffic: Vercel says that it is {release.state}.")
        return release

    @contextmanager
    def trial(self, release_id: str, database_url: str) -> Generator[str]:
        """Refuse: the variables of a deployment are fixed when it is built."""
        del database_url
        raise RejectedError(f"Vercel cannot run {release_id} against another database")
        yield ""

    def logs(self, release_id: str, *, since: datetime | None = None, limit: int = 100) -> Sequence[LogLine]:
        """Return the newest lines that Vercel still streams of a deployment, oldest first."""
        lines = [
            LogLine(line.timestamp_in_ms, _level(line.level), line.message)
            for line in self._api.runtime_log(release_id, within_s=_LOG_S, limit=10 * limit)
        ]
        return sorted((line for line in lines if since is None or line.at >= since), key=lambda line: line.at)[-limit:]

    def build_log(self, release_id: str) -> Sequence[str]:
        """Return what the build of a deployment has printed."""
        return self._api.build_log(release_id)

    def metrics(self, release_id: str, *, since: datetime) -> RequestMetrics:
        """Return what Vercel has counted for a deployment since a time; latencies only where it measures them.

        Raises:
            RejectedError: the plan has no metrics, or none that tell statuses and deployments apart.
        """
        known = {metric.id: metric for metric in self._api.metrics("vercel.request")}
        count = known.get("vercel.request.count")
        status = next((name for name in _STATUS_NAMES if count and name in count.names), None)
        deployment = next((name for name in _DEPLOYMENT_NAMES if count and name in count.names), None)
        if count is None or status is None or deployment is None:
            raise RejectedError("Vercel has no count of requests by status and deployment for this project")
        body = self._query(since, f"{deployment}:{release_id}", count.id, "sum") | {"groupBy": [status]}
        rows = self._api.measure(body)
        counted = {str(row.dimensions.get(status, "")): int(row.values.get("value") or 0) for row in rows}
        duration = next((each for name, each in known.items() if name.endswith("duration")), None)
        p50_s, p95_s, p99_s = (
            self._quantile(since, f"{deployment}:{release_id}", duration.id, quantile)
            if duration is not None and quantile in duration.aggregations
            else 0.0
            for quantile in ("p50", "p95", "p99")
        )
        errors = sum(number for code, number in counted.items() if code.startswith("5"))
        return RequestMetrics(sum(counted.values()), errors, p50_s, p95_s, p99_s)

    def variables(self) -> Mapping[str, Variable]:
        """Return the names of the variables that production has; of most Vercel does not tell how long the value is.

        Those that everybody in the project can read are examined. What is encrypted stays so, though the API would
        decrypt it for this token: a runbook has no use for production's secrets.
        """
        found = [variable for variable in self._api.variables() if variable.is_for_production]
        plain = examine({one.key: one.value for one in found if one.is_plain})
        readable = {
            name: replace(about, flaws=(*about.flaws, Flaw.READABLE)) if is_secret(name) else about
            for name, about in plain.items()
        }
        return {one.key: readable.get(one.key, Variable(None)) for one in found}

    def start_rolling(self, release_id: str) -> None:
        """Begin to give the traffic to a staged deployment in stages; when the answer is lost, look for it.

        Raises:
            RejectedError: the plan or the project has no rolling releases, or another one is under way.
        """
        if self._rolling_to(release_id):
            return
        self._rolled(lambda: self._api.start_rolling(release_id), lambda: self._rolling_to(release_id))

    def advance_rolling(self, release_id: str) -> bool:
        """Give it the traffic of the next stage, or all of it after the last one; return whether that is all.

        Raises:
            RejectedError: no rolling release to this deployment is under way.
        """
        rolling = self._api.rolling_release()
        if rolling is None or not self._rolling_to(release_id):
            raise RejectedError(f"no rolling release to {release_id} is under way")
        following = rolling.next_stage
        if following is None or int(following.get("targetPercentage") or 100) >= 100:
            self._rolled(lambda: self._api.complete_rolling(release_id), lambda: self._aliased() == release_id)
            return True
        index = int(following.get("index") or 0)
        self._rolled(
            lambda: self._api.approve_stage(release_id, index),
            lambda: self._stage_of(release_id) == index,
        )
        return False

    def _usable(self, git_sha: str, version: str) -> Deployment | None:
        """Return a deployment of this commit that was staged before and can be used, or is still being built."""
        for each in self._api.deployments(git_sha=git_sha):
            known = _STATES.get(each.status)
            if _sha_of(each) == git_sha and known in (ReleaseState.READY, None) and _version_of(each) == version:
                return each
        return None

    def _create(self, git_sha: str, version: str) -> Deployment:
        project = self._api.project()
        if project.link is None:
            self.check()
        body = {
            "name": project.name,
            "project": project.id,
            "target": "production",
            "gitSource": _source(project, git_sha),
            "meta": {"runbookSha": git_sha, "runbookVersion": version},
            "autoAssignCustomDomains": False,
        }
        try:
            return self._api.create(body)
        except LostError as error:
            found = self._seen(lambda: self._usable(git_sha, version))
            if found is None:
                raise TransientError(
                    f"{error} No deployment of {git_sha[:12]} is to be seen, but it may come yet."
                ) from error
            return found

    def _wait_until_ready(self, deployment: Deployment) -> Deployment:
        deadline, pause_s = time.monotonic() + self._patience.finish_s, self._patience.poll_s
        while True:
            state = _STATES.get(deployment.status)
            if state is ReleaseState.READY:
                return deployment
            if state is not None:
                raise StageError(self._why(deployment))
            if time.monotonic() > deadline:
                raise TransientError(
                    f"Vercel, deployment {deployment.name}: still {deployment.status} after "
                    f"{self._patience.finish_s:g} s; it may be ready later."
                )
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, 10 * self._patience.poll_s)
            deployment = self._api.deployment(deployment.name)

    def _why(self, deployment: Deployment) -> str:
        parts = (deployment.error_step, deployment.error_code, deployment.error_message)
        said = f"Vercel, deployment {deployment.name} ended as {deployment.status}: {', '.join(p for p in parts if p)}"
        try:
            return "\n".join([said, *self._api.build_log(deployment.name)[-20:]])
        except (TransientError, RejectedError):
            return said

    def _switch(
        self, deployment: Deployment, kind: str, ask: Callable[[str], bool], *, is_rolling: bool = False
    ) -> Release:
        """Ask for the traffic, once, wait until all domains were moved, and see where the production domain leads."""
        if deployment.status != "READY":
            raise RejectedError(f"{deployment.name} is {deployment.status}, not READY: it can not take the traffic.")
        project = self._api.project()
        is_pinned = kind == "promote" and not project.auto_assign_custom_domains
        if self._aliased() != deployment.name or is_pinned or is_rolling:
            self._ask(deployment.name, project.alias_request, ask)
            self._wait_until_switched(deployment.name, kind)
        if (found := self._aliased()) != deployment.name:
            raise StageError(f"Vercel says that {deployment.name} has the traffic, but the domain leads to {found}.")
        return self._release(self._api.deployment(deployment.name))

    def _ask(self, name: str, before: AliasRequest | None, ask: Callable[[str], bool]) -> None:
        try:
            done = ask(name)
        except LostError as error:
            if self._seen(lambda: _newer(self._api.project().alias_request, before, name)) is None:
                raise TransientError(f"{error} No request of it is to be seen, but it may come yet.") from error
            return
        if not done:
            raise TransientError(f"{name} waits behind a rolling release. Complete or abort that one first.")

    def _wait_until_switched(self, name: str, kind: str) -> None:
        deadline, pause_s = time.monotonic() + self._patience.finish_s, self._patience.poll_s / 2
        while True:
            request = self._api.project().alias_request
            status = request.job_status if request is not None and request.to_deployment_id == name else "pending"
            if status in _ENDED:
                break
            if time.monotonic() > deadline:
                raise TransientError(f"Vercel, {kind} of {name}: {status} for {self._patience.finish_s:g} s.")
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, 10 * self._patience.poll_s)
        if status == "failed":
            domains = ", ".join(self._api.failed_aliases(kind)) or "Vercel does not say which"
            raise StageError(f"Vercel, {kind} of {name}: these domains were not moved: {domains}.")

    def _aliased(self) -> str | None:
        try:
            return self._api.aliased(urlsplit(self.public_url).netloc)
        except MissingError:
            return None

    def _seen(self, look: Callable[[], _Found | None]) -> _Found | None:
        for attempt in range(_LOOKS):
            if attempt:
                time.sleep(self._patience.pause_s)
            if (found := look()) is not None:
                return found
        return None

    def _rolled(self, ask: Callable[[], None], has_happened: Callable[[], bool]) -> None:
        try:
            ask()
        except LostError:
            if self._seen(lambda: has_happened() or None) is None:
                raise

    def _rolling_to(self, release_id: str) -> bool:
        rolling = self._api.rolling_release()
        canary = rolling.canary_deployment if rolling is not None and rolling.is_active else None
        return canary is not None and canary.name == release_id

    def _stage_of(self, release_id: str) -> int | None:
        rolling = self._api.rolling_release()
        stage = rolling.active_stage if rolling is not None and self._rolling_to(release_id) else None
        return None if stage is None else int(stage.get("index") or 0)

    def _query(self, since: datetime, condition: str, metric: str, aggregation: str) -> dict[str, object]:
        project = self._api.project()
        return {
            "scope": {"ownerId": project.account_id, "projectIds": [project.id]},
            "timeRange": {"start": since.isoformat(), "end": datetime.now(UTC).isoformat()},
            "bucketSeconds": 60,
            "filter": f"(environment:production) AND ({condition})",
            "metrics": {"value": {"metric": metric, "aggregation": aggregation}},
            "outputs": ["value"],
        }

    def _quantile(self, since: datetime, condition: str, metric: str, quantile: str) -> float:
        """Return a latency in seconds; Vercel counts in milliseconds."""
        rows = self._api.measure(self._query(since, condition, metric, quantile))
        return max((row.values.get("value") or 0.0 for row in rows), default=0.0) / 1000

    def _release(self, deployment: Deployment) -> Release:
        made = deployment.created_at or deployment.created or datetime.fromtimestamp(0, UTC)
        return Release(
            release_id=deployment.name,
            git_sha=_sha_of(deployment),
            version=_version_of(deployment),
            url=f"{urlsplit(self.public_url).scheme}://{deployment.url}",
            state=_STATES.get(deployment.status, ReleaseState.STARTING),
            created_at=made,
            promoted_at=_promoted_at(deployment, made),
        )


def _source(project: Project, git_sha: str) -> dict[str, object]:
    link = project.link
    assert link is not None  # noqa: S101 - looked at before
    source: dict[str, object] = {"type": link.type, "ref": git_sha, "sha": git_sha}
    if link.repo_id is not None:
        return source | {"repoId": link.repo_id}
    return source | {"org": link.org, "repo": link.repo}


def _sha_of(deployment: Deployment) -> str:
    meta = deployment.meta
    return meta.get("githubCommitSha") or meta.get("runbookSha") or ""


def _version_of(deployment: Deployment) -> str:
    return deployment.meta.get("runbookVersion") or _sha_of(deployment)[:12] or deployment.name


def _was_promoted(deployment: Deployment) -> bool:
    return deployment.ready_substate == "PROMOTED" or (
        deployment.ready_substate is None and bool(deployment.alias_assigned)
    )


def _promoted_at(deployment: Deployment, made: datetime) -> datetime | None:
    """Return when a deployment got its domains; lists say so, others only that it did."""
    if not _was_promoted(deployment):
        return None
    at = deployment.alias_assigned
    return made if at is None or isinstance(at, bool) else datetime.fromtimestamp(at / 1000, UTC)


def _newer(request: AliasRequest | None, before: AliasRequest | None, name: str) -> AliasRequest | None:
    """Return a request for a deployment that was not there before."""
    if request is None or request.to_deployment_id != name:
        return None
    return request if before is None or request.requested_at > before.requested_at else None


def _level(level: str) -> str:
    return {"fatal": "critical", "warn": "warning"}.get(level.lower(), level.lower())
