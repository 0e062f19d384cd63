"""PagerDuty: somebody is woken, by the Events API v2.

An alert is known by its `dedup_key`: sending the same twice does no more than once, so what was lost is sent again.

Source: https://developer.pagerduty.com/docs/events-api-v2-overview.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field
from typing import Literal

import httpx
from pydantic import BaseModel, Field, SecretStr, ValidationError

from runbook.clients.channels import Notification
from runbook.clients.http_api import Answer, HttpApi, Patience, Service, check_url
from runbook.errors import InvalidInputError

API_URL = "https://events.pagerduty.com"
_LONGEST = 1024  # characters of a summary
_KEY = re.compile("[A-Za-z0-9]{32}")
_LEVELS = {"info": "info", "warning": "warning", "error": "critical"}


class _Refusal(BaseModel):
    message: str = ""
    errors: list[str] = Field(default_factory=list[str])


class _Accepted(Answer):
    status: str
    dedup_key: str


def dedup_key(environment: str, title: str) -> str:
    """Return the key of the alert that a notification with this title opens."""
    return hashlib.sha256(f"{environment}\n{title}".encode()).hexdigest()


@dataclass(frozen=True)
class PagerDuty:
    """A service of PagerDuty, as a channel: what is an error wakes somebody, all else is not sent.

    Every method raises `TransientError` or `RejectedError` in words that name the block, without the key.
    """

    key: SecretStr
    http: HttpApi = field(repr=False)
    run_url: str | None = None
    name: str = "PagerDuty"

    def send(self, notification: Notification) -> None:
        """Trigger an alert for an error; the same error of the same environment again is the same alert."""
        if notification.level != "error":
            return
        self.trigger(
            dedup_key(notification.environment, notification.title),
            f"{notification.title} ({notification.environment})",
            source=notification.environment,
            level=notification.level,
            text=notification.text,
        )

    def trigger(self, dedup_key: str, summary: str, *, source: str, level: str = "error", text: str = "") -> None:
        """Open an alert, or add to the one that is open under this key.

        Args:
            dedup_key: by it the alert is acknowledged and resolved.
            summary: in a line, what is wrong.
            source: where: the environment.
            level: `info`, `warning` or `error`.
            text: all that is to be said.
        """
        payload: dict[str, object] = {"summary": summary[:_LONGEST], "source": source, "severity": _LEVELS[level]}
        payload |= {"custom_details": {"text": text}} if text else {}
        links: list[dict[str, str]] = [{"href": self.run_url, "text": "log of the run"}] if self.run_url else []
        self._enqueue("trigger", dedup_key, {"payload": payload, "links": links, "client": "MantisNXT runbook"})

    def acknowledge(self, dedup_key: str) -> None:
        """Say that somebody works on it."""
        self._enqueue("acknowledge", dedup_key, {})

    def resolve(self, dedup_key: str) -> None:
        """Say that it is over."""
        self._enqueue("resolve", dedup_key, {})

    def check(self) -> str:
        """Return what is known without waking anybody: PagerDuty answers no question with this kind of key."""
        return "PagerDuty: a key of the right shape; whether it works only an alert can tell"

    def _enqueue(
        self, action: Literal["trigger", "acknowledge", "resolve"], dedup_key: str, more: dict[str, object]
    ) -> None:
        key = self.key.get_secret_value()
        body = {"routing_key": key, "event_action": action, "dedup_key": dedup_key, **more}
        answer = self.http.send("POST", "/v2/enqueue", f"{action} an alert", body=body, repeatable=True)
        self.http.parse(answer, f"{action} an alert", _Accepted)


def pager_duty(
    key: SecretStr,
    *,
    url: str = API_URL,
    run_url: str | None = None,
    block: str = "block",
    patience: Patience | None = None,
) -> PagerDuty:
    """Return the client of a service; `InvalidInputError`, without the key, when key or address cannot be right."""
    if _KEY.fullmatch(key.get_secret_value()) is None:
        allowed, action = "32 letters and digits", f"Copy the integration key (Events API v2) into the {block}."
        raise InvalidInputError("routing_key", "(secret)", allowed, action)
    hints = {400: f"Put the integration key (Events API v2) of the service into the {block}."}
    service = Service("PagerDuty", check_url("api_url", url, API_URL), key, _words, hints, headers={})
    return PagerDuty(key, HttpApi(service, patience), run_url)


def _words(answer: httpx.Response) -> str:
    try:
        refusal = _Refusal.model_validate_json(answer.content)
    except ValidationError:
        return ""
    return "; ".join([refusal.message, *refusal.errors])[:300]
