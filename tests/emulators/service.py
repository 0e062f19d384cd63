"""What every emulated service has: real HTTP on a free port, recorded exchanges, and misbehaviour on demand."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import threading
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from uvicorn.protocols.http.h11_impl import H11Protocol

JSON = dict[str, Any]
_SECRET = {"authorization", "cookie", "x-api-key"}
_METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE"]


@dataclass(frozen=True)
class Call:
    """One request; names of headers are lower case, and those that hold a key are left out of what is recorded."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    raw: bytes
    query_string: str = ""

    @property
    def body(self) -> Any:  # noqa: ANN401 - whatever was sent
        """What a body in JSON holds; None without a body."""
        return json.loads(self.raw) if self.raw else None


@dataclass(frozen=True)
class Reply:
    """One answer; `content` is sent as JSON, bytes as they are, None as no body at all."""

    status: int
    content: Any = None
    headers: Mapping[str, str] = field(default_factory=dict[str, str])

    @property
    def raw(self) -> bytes:
        if self.content is None or isinstance(self.content, bytes):
            return self.content or b""
        return json.dumps(self.content).encode()


@dataclass(frozen=True)
class Exchange:
    """One request and its answer: `lost` when nobody got it, `emulated` when it is a fault's and not the truth."""

    call: Call
    reply: Reply
    lost: bool = False
    emulated: bool = False


@dataclass
class Fault:
    """Something that goes wrong with the next `times` requests that fit; `reply` instead of the true answer."""

    method: str
    path: str
    times: int
    reply: Reply | None = None
    after_effect: bool = False
    delay_s: float = 0

    def fits(self, call: Call) -> bool:
        return self.times > 0 and self.method == call.method and re.search(self.path, call.path) is not None


class Refusal(Exception):  # noqa: N818 - an answer, not an error of the emulator
    """Raised by a service to answer with an error; nothing has happened."""

    def __init__(self, status: int, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.headers = dict(headers or {})


class Emulator:
    """A service. `handle` is what it does; tests read and change its state between requests.

    `url` is where its API is, `root` the part of it that comes after the port.
    """

    root = ""
    token = ""
    hear: ClassVar[Callable[[Emulator, Exchange], None] | None] = None
    """Told of every exchange of every emulator, when a test run is recorded."""

    def __init__(self) -> None:
        self.url = ""
        self.reset()

    def reset(self) -> None:
        """Forget what was asked and what was to go wrong; a service forgets its state as well."""
        self.exchanges: list[Exchange] = []
        self.faults: list[Fault] = []
        self.too_early = 0
        self._not_before = 0.0

    @property
    def secrets(self) -> list[str]:
        """What must be in no record; a service with more than its token says so."""
        return [self.token]

    def handle(self, call: Call) -> Reply:
        """Do what is asked, or raise `Refusal`."""
        raise NotImplementedError

    def error(self, status: int, message: str) -> Any:  # noqa: ANN401 - whatever the service says
        """Return the content of an answer that refuses, as the service words it."""
        return {"message": message}

    # what can go wrong

    def refuse(
        self,
        method: str,
        path: str,
        status: int,
        *,
        times: int = 1,
        message: str = "",
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """Answer with `status` and do nothing; until a `Retry-After` is over, 429 to everything."""
        reply = Reply(status, self.error(status, message or f"emulated {status}"), headers or {})
        self.faults.append(Fault(method, path, times, reply))

    def lose(self, method: str, path: str, *, times: int = 1, status: int | None = None) -> None:
        """Do what is asked, then close the connection without an answer, or answer with `status`."""
        reply = None if status is None else Reply(status, self.error(status, "upstream"))
        self.faults.append(Fault(method, path, times, reply, after_effect=True))

    def delay(self, method: str, path: str, delay_s: float, *, times: int = 1) -> None:
        """Do what is asked, and answer late."""
        self.faults.append(Fault(method, path, times, after_effect=True, delay_s=delay_s))

    def answer(self, call: Call) -> tuple[Reply, Fault | None]:
        """Return the answer to a call, and the fault that came over it."""
        fault = next((each for each in self.faults if each.fits(call)), None)
        if time.monotonic() < self._not_before:
            self.too_early += 1
            return Reply(429, self.error(429, "too early")), None
        if fault is not None and not fault.after_effect and fault.reply is not None:
            fault.times -= 1
            asked = next((value for name, value in fault.reply.headers.items() if name.lower() == "retry-after"), "")
            self._not_before = time.monotonic() + (float(asked) if asked.isdecimal() else 0)
            return fault.reply, fault
        try:
            reply = self.handle(call)
        except Refusal as refusal:
            return Reply(refusal.status, self.error(refusal.status, str(refusal)), refusal.headers), None
        if fault is not None:
            fault.times -= 1
        return fault.reply if fault is not None and fault.reply is not None else reply, fault

    def application(self, cut: Callable[[Request], None]) -> Starlette:
        async def respond(request: Request) -> Response:
            headers = {name.lower(): value for name, value in request.headers.items()}
            path = request.scope["raw_path"].decode().removeprefix(self.root)
            query, text = dict(request.query_params), request.url.query
            call = Call(request.method, path, query, headers, await request.body(), text)
            reply, fault = self.answer(call)
            lost = fault is not None and fault.after_effect and fault.reply is None and not fault.delay_s
            kept = {name: value for name, value in headers.items() if name not in _SECRET}
            emulated = fault is not None and fault.reply is not None
            exchange = Exchange(replace(call, headers=kept), reply, lost, emulated)
            self.exchanges.append(exchange)
            if Emulator.hear is not None:
                Emulator.hear(self, exchange)
            if fault is not None and fault.delay_s:
                await asyncio.sleep(fault.delay_s)
            elif lost:
                cut(request)
                await asyncio.sleep(0.01)
            kind = {} if reply.content is None else {"content-type": "application/json; charset=utf-8"}
            return Response(reply.raw, reply.status, headers=kind | dict(reply.headers))

        return Starlette(routes=[Route("/{path:path}", respond, methods=_METHODS)])

    @contextmanager
    def serving(self, port: int = 0) -> Generator[None]:
        """Serve on a free port of this machine during the body of a `with`."""
        connections: dict[tuple[str, int] | None, asyncio.Transport] = {}

        class Protocol(H11Protocol):
            def connection_made(self, transport: asyncio.Transport) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
                super().connection_made(transport)
                connections[self.client] = transport

        def cut(request: Request) -> None:
            client = request.client
            connections[None if client is None else (client.host, client.port)].abort()

        with socket.create_server(("127.0.0.1", port)) as listening:
            # Inherited by each connection; asyncio itself leaves it out for a socket made like this one.
            listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            config = uvicorn.Config(
                self.application(cut),
                loop="asyncio",
                http=Protocol,
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
            )
            server = _Server(config)
            thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
            thread.start()
            self.url = f"http://127.0.0.1:{listening.getsockname()[1]}{self.root}"
            try:
                yield
            finally:
                server.stop()
                thread.join(timeout=10)


class _Server(uvicorn.Server):
    """Stops at once: uvicorn looks ten times a second whether it should, and then waits a tenth of a second."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._over = asyncio.Event()
        self._serves = threading.Event()

    async def main_loop(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._serves.set()
        await self._over.wait()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for server in self.servers:
            server.close()
        for connection in list(self.server_state.connections):
            connection.shutdown()

    def stop(self) -> None:
        if self._serves.wait(timeout=10) and self._loop is not None:
            self._loop.call_soon_threadsafe(self._over.set)
