"""Statuspage: what users are told of an incident, and which components are affected.

One request a second at most. An incident whose answer was lost is looked for by its name among those that are not over,
an update in the incident.

Source: https://developer.statuspage.io.
"""

from __future__ import annotations

import time
from enum import StrEnum
from urllib.parse import quote

import httpx
from pydantic import BaseModel, Field, RootModel, SecretStr, ValidationError

from runbook.clients.http_api import Answer, HttpApi, LostError, Patience, Service, check_url
from runbook.rules.incident_messages import PublicIncidentStatus

API_URL = "https://api.statuspage.io/v1"
_PAUSE_S = 1.0  # the service takes one request a second, and answers more with 420 or 429


class ComponentStatus(StrEnum):
    """How a component does."""

    OPERATIONAL = "operational"
    UNDER_MAINTENANCE = "under_maintenance"
    DEGRADED_PERFORMANCE = "degraded_performance"
    PARTIAL_OUTAGE = "partial_outage"
    MAJOR_OUTAGE = "major_outage"


class _Update(Answer):
    body: str | None = None
    status: str = ""


class PublicIncident(Answer):
    """An incident as users see it, the newest update first."""

    id: str
    name: str
    status: PublicIncidentStatus
    shortlink: str = ""
    incident_updates: list[_Update] = Field(default_factory=list[_Update])

    def ends_with(self, body: str, status: PublicIncidentStatus) -> bool:
        """Whether this is what was said last."""
        newest = self.incident_updates[0] if self.incident_updates else None
        return newest is not None and (newest.body, newest.status) == (body, status)


class _Page(Answer):
    name: str


class _Incidents(RootModel[list[PublicIncident]]):
    """Incidents that are not over."""


class _Refusal(BaseModel):
    error: str | list[str] = ""


class Statuspage:
    """One page, over HTTP; the key is in no message.

    Every method raises `TransientError` when the service is busy or cannot be reached, `LostError` when its answer is
    lost and `RejectedError` when it says no; the message names the block.

    Args:
        page: id of the page.
        key: of a user who may manage it.
        pause_s: seconds between two requests.
    """

    def __init__(
        self,
        page: str,
        key: SecretStr,
        *,
        url: str = API_URL,
        block: str = "block",
        patience: Patience | None = None,
        pause_s: float = _PAUSE_S,
    ) -> None:
        mend = f"Put a key that may manage the page into the {block}."
        hints = {401: mend, 403: mend, 404: f"Mend the page in the {block}."}
        self._pause_s = pause_s
        self._not_before = 0.0
        self._page = f"/pages/{quote(page, safe='')}"
        self._http = HttpApi(
            Service(
                "Statuspage",
                check_url("api_url", url, API_URL),
                key,
                _words,
                hints,
                headers={"Authorization": "OAuth {key}"},
                nothing_done=frozenset({420, 429}),
            ),
            patience,
        )

    def check(self) -> str:
        """Return the name of the page."""
        self._wait()
        return f"Statuspage {self._http.read(self._page, 'read the page', _Page).name}"

    def open_incident(
        self,
        name: str,
        body: str,
        *,
        status: PublicIncidentStatus,
        components: dict[str, ComponentStatus],
        notify: bool,
    ) -> PublicIncident:
        """Publish an incident.

        Args:
            name: its title; by it the incident is found again when the answer is lost.
            body: what users read.
            status: how far it is.
            components: how the components do, by their ids.
            notify: tell those who have subscribed.
        """
        incident = {"name": name, "status": status, "body": body, "deliver_notifications": notify}
        incident |= {"component_ids": list(components), "components": components}
        self._wait()
        try:
            answer = self._http.send("POST", f"{self._page}/incidents", "publish", body={"incident": incident})
        except LostError:
            found = self._open_incident(name)
            if found is None:
                raise
            return found
        return self._http.parse(answer, "publish", PublicIncident)

    def update_incident(
        self, incident_id: str, body: str, *, status: PublicIncidentStatus, components: dict[str, ComponentStatus]
    ) -> PublicIncident:
        """Publish how it goes on; when the answer is lost, look whether users can read it already."""
        incident: dict[str, object] = {"status": status, "body": body}
        incident |= {"component_ids": list(components), "components": components} if components else {}
        path = f"{self._page}/incidents/{quote(incident_id, safe='')}"
        self._wait()
        what = "publish how it goes on"
        try:
            answer = self._http.send("PATCH", path, what, body={"incident": incident}, repeatable=False)
        except LostError:
            self._wait()
            found = self._http.read(path, "look at the incident", PublicIncident)
            if not found.ends_with(body, status):
                raise
            return found
        return self._http.parse(answer, what, PublicIncident)

    def set_component(self, component_id: str, status: ComponentStatus) -> None:
        """Say how a component does."""
        path = f"{self._page}/components/{quote(component_id, safe='')}"
        self._wait()
        self._http.send("PATCH", path, "say how a component does", body={"component": {"status": status}})

    def _open_incident(self, name: str) -> PublicIncident | None:
        self._wait()
        known = self._http.read(f"{self._page}/incidents/unresolved", "list the incidents", _Incidents).root
        return next((each for each in known if each.name == name), None)

    def _wait(self) -> None:
        time.sleep(max(0.0, self._not_before - time.monotonic()))
        self._not_before = time.monotonic() + self._pause_s


def _words(answer: httpx.Response) -> str:
    try:
        error = _Refusal.model_validate_json(answer.content).error
    except ValidationError:
        return ""
    return (error if isinstance(error, str) else "; ".join(error))[:300]
