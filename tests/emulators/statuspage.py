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
    updates: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])

    @property
    def bodies(self) -> list[str]:
        return [body for body, _ in self.updates]


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
            made = Incident(
                f"i{len(self.incidents)}", given["name"], given["status"], [(given["body"], given["status"])]
            )
            self.incidents.append(made)
            return Reply(201, _shown(made))
        if known := re.fullmatch("(GET|PATCH) /incidents/(.+)", where):
            incident = self._existing(known[2])
            if known[1] == "PATCH":
                given = self._checked(call.body["incident"])
                incident.status = given["status"]
                incident.updates.append((given["body"], given["status"]))
            return Reply(200, _shown(incident))
        if known := re.fullmatch("PATCH /components/(.+)", where):
            self._set({known[1]: call.body["component"]["status"]})
            return Reply(200, {"id": known[1], "status": self.components[known[1]]})
        raise Refusal(404, "Not found")

    def _existing(self, incident_id: str) -> Incident:
        incident = next((each for each in self.incidents if each.id == incident_id), None)
        if incident is None:
            raise Refusal(404, "Incident not found")
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
    updates = [{"body": body, "status": status} for body, status in reversed(incident.updates)]
    return about | {"shortlink": f"https://stspg.io/{incident.id}", "incident_updates": updates}


@contextmanager
def statuspage_emulator(*, key: str) -> Generator[StatuspageEmulator]:
    """Serve an emulator on a free port of this machine."""
    emulator = StatuspageEmulator(key=key)
    with emulator.serving():
        yield emulator
