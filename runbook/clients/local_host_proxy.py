"""The public URL of the local application host: a reverse proxy that chooses a release per request and counts.

A request stays with the release it began on. Every request gets an upstream connection of its own, because an idle
one that the release closes in the wrong moment would fail a request that cannot safely be sent again.
"""

from __future__ import annotations

import asyncio
import random
import ssl
import time
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass, field
from datetime import datetime

import httpx
from starlette.types import Message, Receive, Scope, Send

from runbook.clients.application_host import RequestMetrics, SlowRequests
from runbook.clients.local_host_releases import HostedRelease, Releases

_HOP_BY_HOP = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",  # codespell:ignore te
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)
_TIMEOUT = {"connect": 5.0, "read": 120.0, "write": 120.0, "pool": None}
_CONNECT_AGAIN_AFTER_S = 0.05
_KEPT_S = 3600
_SAMPLES_PER_SECOND = 200  # latencies kept of one second and release: an hour at any rate stays within megabytes

_Headers = list[tuple[bytes, bytes]]


@dataclass
class _Second:
    requests: int = 0
    errors: int = 0
    latencies_s: list[float] = field(default_factory=list[float])


class RequestCounts:
    """Requests of the last hour by second and release; used from the proxy's event loop alone."""

    def __init__(self) -> None:
        self._seconds: deque[tuple[int, dict[str, _Second]]] = deque(maxlen=_KEPT_S)

    def add(self, release_id: str, *, failed: bool, latency_s: float) -> None:
        """Count one request, now."""
        now = int(time.time())
        if not self._seconds or self._seconds[-1][0] != now:
            self._seconds.append((now, {}))
        second = self._seconds[-1][1].setdefault(release_id, _Second())
        second.requests += 1
        second.errors += failed
        if len(second.latencies_s) < _SAMPLES_PER_SECOND:
            second.latencies_s.append(latency_s)
        elif (slot := random.randrange(second.requests)) < _SAMPLES_PER_SECOND:  # noqa: S311 - a sample, no secret
            second.latencies_s[slot] = latency_s

    def since(self, release_id: str, since: datetime) -> RequestMetrics:
        """Return what was counted for a release from the second of `since` on, at most an hour back."""
        seconds = self._since(release_id, since)
        latencies_s = sorted(latency_s for second in seconds for latency_s in second.latencies_s)
        return RequestMetrics(
            requests=sum(second.requests for second in seconds),
            errors=sum(second.errors for second in seconds),
            p50_s=_quantile(latencies_s, 0.50),
            p95_s=_quantile(latencies_s, 0.95),
            p99_s=_quantile(latencies_s, 0.99),
        )

    def slow(self, release_id: str, since: datetime, slower_than_s: float) -> SlowRequests:
        """Return how many of the requests that were timed took longer than that; otherwise as `since`."""
        latencies_s = [one for second in self._since(release_id, since) for one in second.latencies_s]
        return SlowRequests(timed=len(latencies_s), slow=sum(one > slower_than_s for one in latencies_s))

    def _since(self, release_id: str, since: datetime) -> list[_Second]:
        first = max(int(since.timestamp()), int(time.time()) - _KEPT_S)
        return [by_id[release_id] for at, by_id in self._seconds if at >= first and release_id in by_id]


def _quantile(ascending: list[float], share: float) -> float:
    """Return the nearest-rank quantile, 0 of nothing."""
    return ascending[min(len(ascending) - 1, int(share * len(ascending)))] if ascending else 0.0


class ClientGoneError(Exception):
    """The caller closed its connection before it had sent its request or had all of the answer."""


class Proxy:
    """An ASGI application that hands each request to the active release."""

    def __init__(self, releases: Releases, counts: RequestCounts) -> None:
        self._releases = releases
        self._counts = counts
        # Upstream is plain HTTP on loopback: an empty TLS context spares reading the system's certificates.
        self._transport = httpx.AsyncHTTPTransport(
            verify=ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT),
            trust_env=False,
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=0),
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        for attempt in range(2):
            release = self._releases.enter()
            if release is None:
                await _plain(send, 503, "No release has been promoted yet, so nothing is served here.")
                return
            try:
                await self._serve(release, scope, receive, send)
                return
            except httpx.ConnectError:  # nothing was sent, so another try is safe; it may find another active release
                if attempt:
                    self._counts.add(release.release_id, failed=True, latency_s=0.0)
                    await _plain(send, 502, f"Release {release.release_id} cannot be reached.")
                    return
            finally:
                self._releases.leave(release)
            await asyncio.sleep(_CONNECT_AGAIN_AFTER_S)

    async def _serve(self, release: HostedRelease, scope: Scope, receive: Receive, send: Send) -> None:
        started = time.perf_counter()

        def count(*, failed: bool) -> None:
            self._counts.add(release.release_id, failed=failed, latency_s=time.perf_counter() - started)

        try:
            response = await self._transport.handle_async_request(_upstream_request(release, scope, receive))
        except httpx.ConnectError:
            raise
        except ClientGoneError:
            return
        except httpx.TransportError as exc:
            count(failed=True)
            status, what = (504, "too late") if isinstance(exc, httpx.TimeoutException) else (502, "not")
            await _plain(send, status, f"Release {release.release_id} answered {what}.")
            return
        try:
            await _pass_on(response, receive, send, lambda: count(failed=response.status_code >= 500))
        except httpx.TransportError:
            count(failed=True)  # returning without an end of the answer makes the server cut the connection
        finally:
            await response.aclose()


def _upstream_request(release: HostedRelease, scope: Scope, receive: Receive) -> httpx.Request:
    received: _Headers = scope["headers"]
    has_body = any(name in {b"content-length", b"transfer-encoding"} for name, _ in received)
    target: bytes = scope["raw_path"] + (b"?" + scope["query_string"] if scope["query_string"] else b"")
    client = scope["client"][0].encode() if scope.get("client") else b"unknown"
    hops = [value for name, value in received if name == b"x-forwarded-for"]
    headers = [
        header
        for header in _end_to_end(received)
        if header[0] not in {b"expect", b"x-forwarded-for", b"x-forwarded-proto"}
    ]
    headers += [
        (b"x-forwarded-for", b", ".join([*hops, client])),
        (b"x-forwarded-proto", scope["scheme"].encode()),
        (b"connection", b"close"),
    ]
    return httpx.Request(
        scope["method"],
        f"http://127.0.0.1:{release.record.port}",
        headers=headers,
        content=_body(receive) if has_body else None,
        extensions={"target": target, "timeout": _TIMEOUT},
    )


def _end_to_end(headers: _Headers) -> _Headers:
    """Return the headers that are meant for the other end, not for the next hop."""
    named = {
        token.strip().lower() for name, value in headers if name.lower() == b"connection" for token in value.split(b",")
    }
    return [(name, value) for name, value in headers if name.lower() not in _HOP_BY_HOP | named]


async def _body(receive: Receive) -> AsyncGenerator[bytes]:
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGoneError
        yield message.get("body", b"")
        more = message.get("more_body", False)


async def _pass_on(response: httpx.Response, receive: Receive, send: Send, count: Callable[[], None]) -> None:
    """Send an answer on as it arrives; `count` is called just before its last byte leaves."""

    async def pump() -> None:
        async for chunk in response.aiter_raw():
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        count()
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    headers = _end_to_end(response.headers.raw)
    await send({"type": "http.response.start", "status": response.status_code, "headers": headers})
    if "content-length" in response.headers:
        await pump()
    elif not await _unless_gone(pump(), receive):
        count()


async def _unless_gone(work: Awaitable[None], receive: Receive) -> bool:
    """Do the work unless the caller goes away first: a stream without an end must not outlive its reader."""

    async def gone() -> None:
        message: Message = {"type": ""}
        while message["type"] != "http.disconnect":
            message = await receive()

    working, watching = asyncio.ensure_future(work), asyncio.ensure_future(gone())
    await asyncio.wait({working, watching}, return_when=asyncio.FIRST_COMPLETED)
    finished = working.done()
    watching.cancel()
    if not finished:
        working.cancel()
    await asyncio.gather(watching, *([] if finished else [working]), return_exceptions=True)
    if finished:
        working.result()
    return finished


async def _plain(send: Send, status: int, text: str) -> None:
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", str(len(text) + 1).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": text.encode() + b"\n", "more_body": False})
