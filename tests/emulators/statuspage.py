"""A page of Statuspage behind real HTTP: its components and its incidents."""

from __future__ import annotations

import re
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field

from tests.emulators.service import JSON, Call, Emulator, Refusal, Reply

PAGE = "kctbh9vrtdwd"
_STATUSES = {"investigating", "identified", "monitoring", "resolved"}
_COMPONENTS = {"operational", "under_maintenance", "degraded_performance", "partial_outage", "major_outage"}


@dataclass
class Incident:
    id: str
    name: str
    status: str
    bodies: list[str] = field(default_factory=list[str])


class StatuspageEmulator(Emulator):
    root = "/v1"

    def __init__(self, *, key: str) -> None:
        self.token = key
        super().__init__()

    def reset(self) -> None:
        super().reset()
        self.incidents: list[Incident] = []
        self.components = {"web": "operational", "database": "operational"}

    def error(self, status: int, message: str) -> JSON:
        return {"error": message}

    def handle(self, call: Call) -> Reply:
        if call.headers.get("authorization") != f"OAuth {self.token}":
            raise Refusal(401, "Could not authenticate")
        match = re.fullmatch(rf"/pages/{PAGE}(/.*)?", call.path)
        if match is None:
            raise Refusal(404, "Page not found")
        where = f"{call.method} {match[1] or ''}".strip()
        if where == "GET":
            return Reply(200, {"id": PAGE, "name": "Mantis"})
        if where == "GET /incidents/unresolved":
            return Reply(200, [_shown(each) for each in self.incidents if each.status != "resolved"])
        if where == "POST /incidents":
            given = self._checked(call.body["incident"])
            made = Incident(f"i{len(self.incidents)}", given["name"], given["status"], [given["body"]])
            self.incidents.append(made)
            return Reply(201, _shown(made))
        if known := re.fullmatch("PATCH /incidents/(.+)", where):
            return Reply(200, _shown(self._update(known[1], self._checked(call.body["incident"]))))
        if known := re.fullmatch("PATCH /components/(.+)", where):
            self._set({known[1]: call.body["component"]["status"]})
            return Reply(200, {"id": known[1], "status": self.components[known[1]]})
        raise Refusal(404, "Not found")

    def _update(self, incident_id: str, given: JSON) -> Incident:
        incident = next((each for each in self.incidents if each.id == incident_id), None)
        if incident is None:
            raise Refusal(404, "Incident not found")
        incident.status = given["status"]
        incident.bodies.append(given["body"])
        return incident

    def _checked(self, given: JSON) -> JSON:
        if given.get("status") not in _STATUSES:
            raise Refusal(422, "status is invalid")
        self._set(given.get("components", {}))
        return given

    def _set(self, components: dict[str, str]) -> None:
        if not set(components) <= set(self.components):
            raise Refusal(422, "component is unknown")
        if not set(components.values()) <= _COMPONENTS:
            raise Refusal(422, "component status is invalid")
        self.components |= components


def _shown(incident: Incident) -> JSON:
    about = {"id": incident.id, "name": incident.name, "status": incident.status, "page_id": PAGE}
    return about | {"shortlink": f"https://stspg.io/{incident.id}", "incident_updates": []}


@contextmanager
def statuspage_emulator(*, key: str) -> Generator[StatuspageEmulator]:
    """Serve an emulator on a free port of this machine."""
    emulator = StatuspageEmulator(key=key)
    with emulator.serving():
        yield emulator
