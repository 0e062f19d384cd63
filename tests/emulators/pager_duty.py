"""The Events API v2 of PagerDuty behind real HTTP: one service and its alerts, by key.

What is triggered again under a key is the same alert; what is acknowledged or resolved and was never triggered is
accepted all the same, and does nothing.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass

from tests.emulators.service import JSON, Call, Emulator, Refusal, Reply


@dataclass
class Alert:
    summary: str
    severity: str
    state: str = "triggered"
    events: int = 1


class PagerDutyEmulator(Emulator):
    def __init__(self, *, routing_key: str) -> None:
        self.token = routing_key
        super().__init__()

    def reset(self) -> None:
        super().reset()
        self.alerts: dict[str, Alert] = {}

    def error(self, status: int, message: str) -> JSON:
        return {"status": "invalid event", "message": message, "errors": []}

    def handle(self, call: Call) -> Reply:
        if (call.method, call.path) != ("POST", "/v2/enqueue"):
            raise Refusal(404, "Not Found")
        event: JSON = call.body
        if event.get("routing_key") != self.token:
            raise Refusal(400, "'routing_key' is invalid")
        key, action = event["dedup_key"], event["event_action"]
        if action == "trigger":
            self._trigger(key, event)
        elif (alert := self.alerts.get(key)) is not None:
            alert.state = {"acknowledge": "acknowledged", "resolve": "resolved"}[action]
        return Reply(202, {"status": "success", "message": "Event processed", "dedup_key": key})

    def _trigger(self, key: str, event: JSON) -> None:
        payload = event.get("payload", {})
        missing = [name for name in ("summary", "source", "severity") if not payload.get(name)]
        if missing or payload["severity"] not in {"critical", "error", "warning", "info"}:
            raise Refusal(400, f"Event object is invalid: {', '.join(missing) or 'severity'}")
        known = self.alerts.get(key)
        if known is not None and known.state != "resolved":
            known.events += 1
            return
        self.alerts[key] = Alert(payload["summary"], payload["severity"])


@contextmanager
def pager_duty_emulator(*, routing_key: str) -> Generator[PagerDutyEmulator]:
    """Serve an emulator on a free port of this machine."""
    emulator = PagerDutyEmulator(routing_key=routing_key)
    with emulator.serving():
        yield emulator
