"""One HTTP request that always ends in time with a finding, whatever the other side does."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx
from pydantic import SecretStr

_LIMIT_BYTES = 1 << 20


@dataclass(frozen=True)
class Answer:
    """What came back. `status` is None when nothing did; `problem` then says why. `elapsed_s` in seconds."""

    status: int | None
    headers: dict[str, str] = field(default_factory=dict[str, str])
    text: str = ""
    elapsed_s: float = 0.0
    problem: str = ""


def probe(
    url: str,
    *,
    method: str = "GET",
    body: Mapping[str, Any] | None = None,
    headers: Mapping[str, SecretStr] | None = None,
    timeout_s: float = 5,
) -> Answer:
    """Send one request and read at most 1 MiB of its answer, all within `timeout_s`. Redirects are not followed."""
    shown = {name: value.get_secret_value() for name, value in (headers or {}).items()}
    begun = time.monotonic()
    answer = Answer(None)
    try:
        with (
            _cut_off_after(timeout_s) as extensions,
            httpx.Client(timeout=timeout_s, follow_redirects=False, trust_env=False) as client,
            client.stream(method, url, json=body, headers=shown, extensions=extensions) as response,
        ):
            answer = _read(response)
    except httpx.TimeoutException:
        answer = Answer(None, problem=f"no answer within {timeout_s:g} s")
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        answer = Answer(None, problem=str(error) or type(error).__name__)
    elapsed_s = time.monotonic() - begun
    # An answer that was cut off can look whole: without a length, the end of the connection is its end.
    if elapsed_s >= timeout_s:
        return Answer(None, elapsed_s=elapsed_s, problem=f"no whole answer within {timeout_s:g} s")
    return Answer(answer.status, answer.headers, answer.text, elapsed_s, answer.problem)


def _read(response: httpx.Response) -> Answer:
    content = bytearray()
    for chunk in response.iter_bytes():
        content += chunk
        if len(content) > _LIMIT_BYTES:
            return Answer(None, problem=f"the answer is larger than {_LIMIT_BYTES} bytes")
    headers = {name.lower(): value for name, value in response.headers.items()}
    return Answer(response.status_code, headers, content.decode(errors="replace"))


@contextlib.contextmanager
def _cut_off_after(timeout_s: float) -> Generator[dict[str, Any]]:
    """Yield extensions for one request, whose connection is shut down when the time is over.

    httpx limits each read, not their sum: a server that sends a byte a second would never run into a time-out.
    """
    connections: list[socket.socket] = []

    def remember(event: str, details: Mapping[str, Any]) -> None:
        if event in {"connection.connect_tcp.complete", "connection.start_tls.complete"}:
            connections.append(details["return_value"].get_extra_info("socket"))

    def cut_off() -> None:
        for connection in connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    timer = threading.Timer(timeout_s, cut_off)
    timer.daemon = True
    timer.start()
    try:
        yield {"trace": remember}
    finally:
        timer.cancel()
