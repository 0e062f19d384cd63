"""The daemon of the local application host: `python -m runbook.clients.local_host_daemon <root>`.

It goes to the background, serves the public URL and the admin interface from one event loop, and looks after the
processes of the releases. When it ends, however it ends, the releases go on; the next daemon adopts them.
"""

from __future__ import annotations

import hmac
import logging
import math
import os
import secrets
import signal
import socket
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from types import FrameType
from typing import Any
from urllib.parse import urlsplit

import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from runbook.clients.application_host import Release
from runbook.clients.local_host_files import (
    HostAddress,
    exclusive,
    read_address,
    read_log,
    read_variables,
    write_private,
)
from runbook.clients.local_host_process import listening_socket
from runbook.clients.local_host_proxy import Proxy, RequestCounts
from runbook.clients.local_host_releases import Releases
from runbook.clients.local_host_resources import used_resources
from runbook.clients.local_host_trial import Trials
from runbook.clients.process_id import current_process
from runbook.errors import RejectedError, RunbookError, StageError, TransientError
from runbook.rules.variables import examine

logger = logging.getLogger(__name__)

_SUPERVISE_EVERY_S = 0.2
_STATUS = ((RejectedError, 404), (StageError, 422), (TransientError, 503))


class Admin:
    """The admin interface: the methods of `ApplicationHost` as HTTP, for whoever holds the token."""

    def __init__(self, root: Path, releases: Releases, trials: Trials, counts: RequestCounts) -> None:
        self._root = root
        self._releases = releases
        self._trials = trials
        self._counts = counts

    def application(self, shut_down: Callable[[], None]) -> Starlette:
        """Return the routes; `shut_down` ends the daemon."""
        releases = self._releases

        def act(path: str, do: Callable[[Mapping[str, str]], object], method: str = "GET") -> Route:
            # A plain function, so starlette runs it in a thread and the proxy goes on.
            def endpoint(request: Request) -> JSONResponse:
                return JSONResponse(do(request.query_params))

            return Route(path, endpoint, methods=[method])

        def stop_all(_: Mapping[str, str]) -> None:
            self._trials.end_all()
            releases.shut_down()
            shut_down()

        return Starlette(
            routes=[
                act("/check", lambda _: "ok"),
                act("/stage", lambda q: _release(releases.stage(_given(q, "git_sha"), _given(q, "version"))), "POST"),
                act("/promote", lambda q: _release(releases.promote(_given(q, "release_id"))), "POST"),
                act("/roll_back", lambda q: _release(releases.roll_back(_given(q, "release_id"))), "POST"),
                act("/warm", lambda q: _release(releases.warm(_given(q, "release_id"))), "POST"),
                act("/active", lambda _: _release(releases.active())),
                act("/releases", lambda _: [_release(release) for release in releases.newest_first()]),
                act("/release", lambda q: _release(releases.describe(releases.find(_given(q, "release_id"))))),
                Route("/trial", self._begin_trial, methods=["POST"]),
                act("/trial", lambda q: self._trials.end(_given(q, "trial_id")), "DELETE"),
                act("/logs", self._logs),
                Route("/metrics", self._metrics, methods=["GET"]),
                Route("/slow", self._slow, methods=["GET"]),
                act("/resources", self._resources),
                act("/variables", self._variables),
                act("/shutdown", stop_all, "POST"),
            ],
            exception_handlers={RunbookError: _explain},
        )

    def _variables(self, _: Mapping[str, str]) -> dict[str, dict[str, Any]]:
        return {name: asdict(about) for name, about in examine(read_variables(self._root)).items()}

    def _logs(self, query: Mapping[str, str]) -> list[dict[str, str]]:
        release_id = self._releases.find(_given(query, "release_id")).release_id
        since, limit = query.get("since"), query.get("limit", "100")
        if not limit.isdecimal() or int(limit) < 1:
            raise RejectedError(f"limit {limit!r} is not a positive whole number")
        lines = read_log(
            self._root / "logs" / f"{release_id}.log", since=_time(since) if since else None, limit=int(limit)
        )
        return [{"at": line.at.isoformat(), "level": line.level, "message": line.message} for line in lines]

    def _resources(self, query: Mapping[str, str]) -> dict[str, Any]:
        release = self._releases.find(_given(query, "release_id"))
        used = used_resources(release.process, self._root)
        return asdict(used) | {"at": used.at.isoformat()}

    async def _begin_trial(self, request: Request) -> JSONResponse:
        # In the body, because a URL may be logged; a database's holds its password.
        asked = await request.json()
        trial = await run_in_threadpool(self._trials.begin, _given(asked, "release_id"), _given(asked, "database_url"))
        return JSONResponse({"trial_id": trial.trial_id, "url": trial.url})

    async def _metrics(self, request: Request) -> JSONResponse:
        # On the event loop, where the proxy counts.
        release = self._releases.find(_given(request.query_params, "release_id"))
        since = _time(_given(request.query_params, "since"))
        return JSONResponse(asdict(self._counts.since(release.release_id, since)))

    async def _slow(self, request: Request) -> JSONResponse:
        release = self._releases.find(_given(request.query_params, "release_id"))
        since = _time(_given(request.query_params, "since"))
        slower_than_s = _seconds(_given(request.query_params, "slower_than_s"))
        return JSONResponse(asdict(self._counts.slow(release.release_id, since, slower_than_s)))


def _given(query: Mapping[str, str], name: str) -> str:
    if not query.get(name):
        raise RejectedError(f"{name} is missing")
    return query[name]


def _time(text: str) -> datetime:
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise RejectedError(f"since: {text!r} is not an ISO 8601 time") from None
    if at.tzinfo is None:
        raise RejectedError(f"since: {text!r} has no time zone")
    return at


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds < math.inf:
        raise RejectedError(f"slower_than_s: {text!r} is not a number of seconds")
    return seconds


def _release(release: Release | None) -> dict[str, Any] | None:
    if release is None:
        return None
    promoted_at = release.promoted_at.isoformat() if release.promoted_at else None
    return asdict(release) | {"created_at": release.created_at.isoformat(), "promoted_at": promoted_at}


def _explain(_: Request, exc: Exception) -> JSONResponse:
    status = next((status for kind, status in _STATUS if isinstance(exc, kind)), 500)
    return JSONResponse({"error": type(exc).__name__, "message": str(exc)}, status_code=status)


class Front:
    """The ASGI application of both ports: tells admin from public by the port that the request came in on."""

    def __init__(self, admin: Starlette, proxy: Proxy, address: HostAddress) -> None:
        self._admin = admin
        self._proxy = proxy
        self._admin_netloc = urlsplit(address.admin_url).netloc.encode()
        self._admin_port = urlsplit(address.admin_url).port
        self._authorization = f"Bearer {address.token}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["server"][1] != self._admin_port:
            await self._proxy(scope, receive, send)
            return
        headers = dict(Headers(scope=scope).raw)
        # The Host header is checked as well: a web page must not reach this port under a name of its own.
        allowed = hmac.compare_digest(headers.get(b"authorization", b""), self._authorization)
        if allowed and headers.get(b"host") == self._admin_netloc:
            await self._admin(scope, receive, send)
        else:
            refusal = JSONResponse({"error": "RejectedError", "message": "token or Host not accepted"}, 401)
            await refusal(scope, receive, send)


def serve(root: Path) -> None:
    """Serve the root until a shutdown is asked for or the process is told to end."""
    before = read_address(root)
    public = listening_socket(urlsplit(before.public_url).port if before else None)
    admin = listening_socket(None)
    me = current_process()
    address = HostAddress(_url(admin), _url(public), secrets.token_urlsafe(32), me.pid, me.create_time)
    releases, counts = Releases(root), RequestCounts()
    trials = Trials(root, releases)
    trials.end_leftovers()
    releases.supervise()

    def shut_down() -> None:
        server.should_exit = True

    application = Admin(root, releases, trials, counts).application(shut_down)
    config = uvicorn.Config(
        Front(application, Proxy(releases, counts), address),
        loop="asyncio",
        http="h11",
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        date_header=False,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=5,
    )
    server = uvicorn.Server(config)
    over = threading.Event()
    threading.Thread(target=_supervise_until, args=(over, releases, trials), daemon=True).start()
    # The server gives a signal on once it has ended; by default that would end this process before its trials.
    signal.signal(signal.SIGTERM, _leave)
    write_private(root / "host.json", asdict(address))
    try:
        server.run(sockets=[public, admin])
    finally:
        over.set()
        trials.end_all()


def _leave(_signal: int, _frame: FrameType | None) -> None:
    sys.exit(0)


def _url(listening: socket.socket) -> str:
    return f"http://127.0.0.1:{listening.getsockname()[1]}"


def _supervise_until(over: threading.Event, releases: Releases, trials: Trials) -> None:
    while not over.wait(_SUPERVISE_EVERY_S):
        try:
            releases.supervise()
            trials.end_overdue()
        except Exception:  # the supervisor must outlive a config.json that cannot be read
            logger.exception("supervising failed")


def main(root: Path) -> None:
    """Go to the background and serve. Whoever started this sees it end at once, and never has a child to reap."""
    if os.fork():
        os._exit(0)
    os.setsid()  # leads a group of its own, so it can be stopped as one
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    try:
        with exclusive(root / "daemon.lock", timeout_s=5):
            serve(root)
    except RunbookError as exc:
        logger.critical("%s", exc)
        sys.exit(exc.exit_code)


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
