"""JSON over HTTPS with a service outside: one place for keys, time-outs, trying again, limits and what went wrong.

A request that changes something is sent once, unless the service said that it did nothing. What it did when its
answer is lost (`LostError`), only its client can find out, by looking.
"""

from __future__ import annotations

import contextlib
import re
import time
import weakref
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TypeVar

import httpx
from pydantic import BaseModel, ConfigDict, SecretStr, ValidationError

from runbook.errors import InvalidInputError, RejectedError, TransientError

_REFUSALS = 5  # how often a request that the service did not act on is sent again
_LOST = 2  # how often a request is sent again that changes nothing, or the same twice, and got no answer
_LOOPBACK = {"127.0.0.1", "::1", "localhost"}


@dataclass(frozen=True)
class Patience:
    """How long to wait, in seconds.

    `answer_s` for one answer; `pause_s` before trying or looking again, when the service does not say how long;
    `poll_s` before looking again at something that takes its time, twice as long each time, up to ten times that;
    `finish_s` until it has to be done. A service that asks for a pause longer than `longest_pause_s` is left alone.
    """

    answer_s: float = 20.0
    pause_s: float = 3.0
    poll_s: float = 0.2
    finish_s: float = 300.0
    longest_pause_s: float = 60.0


class Answer(BaseModel):
    """Base of what services answer; fields that they add as they grow are no error."""

    model_config = ConfigDict(frozen=True, extra="ignore", populate_by_name=True)


class LostError(TransientError):
    """No answer, or none that can be read: whether the request had its effect is not known."""


class MissingError(RejectedError):
    """HTTP 404: there is no such thing."""


class TakenError(RejectedError):
    """HTTP 409: it exists already, or something stands in its way."""


class _NothingDoneError(TransientError):
    """The request had no effect; it may be sent again `repeats` times, each time after `pause_s` seconds."""

    def __init__(self, message: str, *, repeats: int, pause_s: float) -> None:
        super().__init__(message)
        self.repeats = repeats
        self.pause_s = pause_s


_Model = TypeVar("_Model", bound=BaseModel)


@dataclass(frozen=True)
class Service:
    """What differs from one service to the next.

    Args:
        name: as people know it; every message begins with it.
        url: what every path is appended to.
        key: sent in `headers`, where `{key}` stands; blotted out of every message.
        words: what an answer that refuses says in its own words, with the id of the request.
        hints: what to do about a status, by status; each a sentence.
        nothing_done: statuses that promise that the request had no effect.
        query: parameters of every request.
    """

    name: str
    url: str
    key: SecretStr
    words: Callable[[httpx.Response], str]
    hints: Mapping[int, str] = field(default_factory=dict[int, str])
    headers: Mapping[str, str] = field(default_factory=lambda: {"Authorization": "Bearer {key}"})
    nothing_done: frozenset[int] = frozenset({429})
    query: Mapping[str, str] = field(default_factory=dict[str, str])


def check_url(field_name: str, url: str, official: str) -> str:
    """Return the address of a service; raise `InvalidInputError` when a key sent there would travel in clear."""
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise InvalidInputError(field_name, url, "an address", f"{error}. The official one is {official}.") from None
    if (parsed.scheme == "https" and parsed.host) or (parsed.scheme == "http" and parsed.host in _LOOPBACK):
        return url
    raise InvalidInputError(field_name, url, "https, or http on this machine", f"The official address is {official}.")


class HttpApi:
    """Requests to one service.

    Every method raises `TransientError` when the service is busy or cannot be reached, `LostError` when its answer is
    lost and `RejectedError` when it says no; the message has the service's own words and the id of the request.
    """

    def __init__(self, service: Service, patience: Patience | None = None) -> None:
        self.patience = patience or Patience()
        self._service = service
        self._url = service.url.rstrip("/")
        key = service.key.get_secret_value()
        headers = {name: value.replace("{key}", key) for name, value in service.headers.items()}
        # A company's proxy and certificate authority are used; what runs on this machine is reached without a proxy.
        self._client = httpx.Client(
            headers={"Accept": "application/json"} | headers,
            timeout=self.patience.answer_s,
            trust_env=httpx.URL(self._url).host not in _LOOPBACK,
            follow_redirects=False,
        )
        weakref.finalize(self, self._client.close)

    def read(self, path: str, what: str, model: type[_Model], *, query: Mapping[str, str] | None = None) -> _Model:
        """GET something; `what` says what is being done, for messages."""
        return parse(self.send("GET", path, what, query=query), model, self._said(what))

    def send(
        self,
        method: str,
        path: str,
        what: str,
        *,
        query: Mapping[str, str] | None = None,
        body: object = None,
        content: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        repeatable: bool | None = None,
    ) -> httpx.Response:
        """Send one request and return its successful answer.

        `path` may be a whole address of the same service, as its links to a next page are. `repeatable` says whether
        the same request twice does no more than once: it is, if not said, for GET, PUT and PATCH.
        """
        repeatable = method in {"GET", "PUT", "PATCH"} if repeatable is None else repeatable
        request = self._client.build_request(
            method,
            path if path.startswith(f"{self._url}/") else self._url + path,
            params=dict(self._service.query) | dict(query or {}) or None,
            json=body,
            content=content,
            headers=headers,
        )
        attempts = 0
        while True:
            attempts += 1
            try:
                return self._send(request, what)
            except _NothingDoneError as error:
                if attempts > error.repeats:
                    raise TransientError(str(error)) from None
                pause_s = error.pause_s
            except LostError:
                if not repeatable or attempts > _LOST:
                    raise
                pause_s = self.patience.pause_s
            time.sleep(pause_s)

    def parse(self, response: httpx.Response, what: str, model: type[_Model]) -> _Model:
        """Return what a successful answer holds; `LostError` when it is not as agreed."""
        return parse(response, model, self._said(what))

    def lines(self, path: str, what: str, *, within_s: float, limit: int) -> Generator[str]:
        """Yield the lines of an answer that need not end, until there are `limit`, or for `within_s` seconds.

        Raises:
            LostError: not even its beginning came in time.
        """
        request = self._client.build_request("GET", self._url + path, params=dict(self._service.query) or None)
        request.extensions["timeout"] = httpx.Timeout(self.patience.answer_s, read=within_s).as_dict()
        said, deadline, found = self._said(what), time.monotonic() + within_s, 0
        try:
            response = self._client.send(request, stream=True)
            with contextlib.closing(response):
                if not response.is_success:
                    response.read()
                    raise self._refused(response, said)
                for line in response.iter_lines():
                    if line:
                        yield line
                        found += 1
                    if found == limit or time.monotonic() > deadline:
                        return
        except httpx.ReadTimeout:
            return  # nothing more was said in time
        except httpx.RequestError as error:
            raise LostError(f"{said}: {_reason(error)}.") from None

    def _said(self, what: str) -> str:
        return f"{self._service.name}, {what}"

    def _send(self, request: httpx.Request, what: str) -> httpx.Response:
        said = self._said(what)
        try:
            response = self._client.send(request)
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.ProxyError) as error:
            said = f"{said}: {request.url.host} cannot be reached: {_reason(error)}."
            raise _NothingDoneError(said, repeats=_LOST, pause_s=self.patience.pause_s) from None
        except httpx.TimeoutException:
            raise LostError(f"{said}: no answer within {self.patience.answer_s:g} s.") from None
        except httpx.RequestError as error:
            raise LostError(f"{said}: the answer was lost: {_reason(error)}.") from None
        if response.is_success:
            return response
        raise self._refused(response, said)

    def _refused(self, response: httpx.Response, said: str) -> Exception:
        status = response.status_code
        words = self._service.words(response).strip()
        said = f"{said}: HTTP {status}{f': {words}' if words else ''}."
        said = said.replace(self._service.key.get_secret_value(), "**********")
        if status in self._service.nothing_done or (status in {403, 429} and _limit_reached(response)):
            pause_s = _pause_s(response, self.patience.pause_s)
            if pause_s > self.patience.longest_pause_s:
                return _NothingDoneError(f"{said} It asks to wait for {pause_s:.0f} s.", repeats=0, pause_s=0)
            return _NothingDoneError(said, repeats=_REFUSALS, pause_s=pause_s)
        if status == 403 and "rate limit" in words.lower():  # GitHub's secondary limit may not say for how long
            return _NothingDoneError(said, repeats=0, pause_s=0)
        if response.is_server_error or status == 408:
            return LostError(said)
        if response.is_redirect:
            place = httpx.URL(response.headers["Location"]).host or "elsewhere"
            points = f"It points to {place}, where the key is not sent to: mend the address."
            return RejectedError(f"{said} {self._service.hints.get(status, points)}")
        kind = {404: MissingError, 409: TakenError}.get(status, RejectedError)
        return kind(f"{said} {self._service.hints.get(status, '')}".rstrip())


def parse(response: httpx.Response, model: type[_Model], said: str) -> _Model:
    """Return what an answer holds; `LostError`, without what it held, when it is not as agreed."""
    try:
        return model.model_validate_json(response.content)
    except ValidationError as error:
        where = ".".join(str(part) for part in error.errors()[0]["loc"]) or "its beginning"
        raise LostError(f"{said}: HTTP {response.status_code}, but the answer is not as agreed at {where}.") from None


def _reason(error: httpx.RequestError) -> str:
    return str(error).rstrip(".") or type(error).__name__


def _limit_reached(response: httpx.Response) -> bool:
    """Whether a refusal is about a rate limit, not about a permission: GitHub answers both with 403."""
    return "Retry-After" in response.headers or response.headers.get("x-ratelimit-remaining") == "0"


def _pause_s(response: httpx.Response, otherwise_s: float) -> float:
    """Return the pause an answer asks for, in seconds.

    `Retry-After` is a number of seconds or a date; without it, `x-ratelimit-reset` is the second of the epoch at
    which the limit begins anew.
    """
    asked = response.headers.get("Retry-After", "").strip()
    if re.fullmatch(r"[0-9]{1,9}", asked):
        return float(asked)
    if asked:
        try:
            return max(0.0, (parsedate_to_datetime(asked) - datetime.now(UTC)).total_seconds())
        except (TypeError, ValueError):
            return otherwise_s
    reset = response.headers.get("x-ratelimit-reset", "")
    if response.headers.get("x-ratelimit-remaining") == "0" and re.fullmatch(r"[0-9]{1,12}", reset):
        return max(0.0, int(reset) - time.time()) + 1
    return otherwise_s
