"""The HTTP side of the service."""

import contextlib
import logging
import time
from collections.abc import AsyncIterator
from typing import Any

import psycopg
from psycopg import Connection
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from shop import pages, tokens
from shop.customers import greeting, read_customer
from shop.database import Pool, UnavailableError
from shop.orders import NotFoundError, OrderRequest, OutOfStockError, place_order, read_orders
from shop.settings import Settings
from shop.stock import read_stock

logger = logging.getLogger("shop.web")


def health(request: Request) -> Response:
    return JSONResponse({"status": "ok", "version": request.app.state.settings.version})


def database_health(request: Request) -> Response:
    try:
        request.app.state.pool.read(lambda connection: connection.execute("SELECT 1 FROM orders LIMIT 1"), wait_s=0.5)
    except (UnavailableError, psycopg.Error) as error:
        logger.warning("database health: %s", type(error).__name__)
        return JSONResponse({"status": "failed", "reason": "the database does not answer"}, 503)
    return JSONResponse({"status": "ok"})


def authentication_health(request: Request) -> Response:
    settings: Settings = request.app.state.settings
    problems = settings.authentication_problems()
    if not problems and not tokens.verify(tokens.sign({"sub": "health"}, settings.jwt_secret), settings.jwt_secret):
        problems = ["a token just signed does not verify"]
    if problems:
        return JSONResponse({"status": "failed", "problems": problems}, 503)
    return JSONResponse({"status": "ok"})


def home(request: Request) -> Response:
    def read(connection: Connection) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        return read_stock(connection, limit=10), read_orders(connection, limit=10)

    stock, orders = request.app.state.pool.read(read)
    return HTMLResponse(pages.home_page(request.app.state.settings.version, stock, orders))


def stock(request: Request) -> Response:
    return JSONResponse(request.app.state.pool.read(read_stock))


def orders(request: Request) -> Response:
    """The last orders of everybody or of one customer."""
    pool: Pool = request.app.state.pool
    customer_id = request.query_params.get("customer_id")
    if customer_id is not None and not customer_id.isdigit():
        return JSONResponse({"error": "customer_id: a number is needed"}, 400)
    found = pool.read(lambda connection: read_orders(connection, None if customer_id is None else int(customer_id)))
    if request.query_params.get("format") == "json" or "application/json" in request.headers.get("accept", ""):
        return JSONResponse({"orders": found})
    welcome = greeting(found[0]["customer"]) if customer_id and found else "All customers"
    return HTMLResponse(pages.orders_page(request.app.state.settings.version, welcome, found))


async def create_order(request: Request) -> Response:
    try:
        order = OrderRequest.from_json(await request.json())
    except ValueError as error:
        return JSONResponse({"error": str(error)}, 400)
    pool: Pool = request.app.state.pool
    try:
        placed = await run_in_threadpool(pool.write, lambda connection: place_order(connection, order))
    except NotFoundError as error:
        return JSONResponse({"error": str(error)}, 404)
    except OutOfStockError as error:
        return JSONResponse({"error": str(error)}, 409)
    except psycopg.errors.UniqueViolation:
        return JSONResponse({"error": f"reference {order.reference} was used before"}, 409)
    return JSONResponse(placed, 201)


def customer(request: Request) -> Response:
    customer_id = request.path_params["customer_id"]
    found = request.app.state.pool.read(lambda connection: read_customer(connection, customer_id))
    return JSONResponse({"error": "no such customer"}, 404) if found is None else JSONResponse(found)


def database_unavailable(_: Request, error: Exception) -> Response:
    logger.error("database unavailable: %s", type(error).__name__)
    return JSONResponse({"error": "the database does not answer"}, 503)


class ReleaseHeaders:
    """Name the release in every answer, write the access line, log what was raised."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app = app
        self._headers = [
            (b"x-release-sha", settings.release_sha.encode()),
            (b"x-app-version", settings.version.encode()),
        ]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, status, path = time.perf_counter(), 500, scope["path"]

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", []), *self._headers]
            await send(message)

        try:
            await self._app(scope, receive, send_with_headers)
        except Exception as error:  # the answer 500 is sent by then
            logger.error("%s: %s", type(error).__name__, error, exc_info=error, extra={"fields": {"path": path}})
        level = logging.DEBUG if "health" in path else logging.INFO
        if logger.isEnabledFor(level):
            duration_ms = round((time.perf_counter() - started) * 1000, 1)
            fields = {"status": status, "duration_ms": duration_ms}
            logger.log(level, "%s %s %s", scope["method"], path, status, extra={"fields": fields})


def create_app(settings: Settings) -> ASGIApp:
    pool = Pool(settings.database_url, name=f"shop {settings.version}")

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        yield
        pool.close()

    app = Starlette(
        routes=[
            Route("/", home),
            Route("/orders", orders),
            Route("/api/health", health),
            Route("/api/health/database", database_health),
            Route("/api/auth/health", authentication_health),
            Route("/api/stock", stock),
            Route("/api/orders", create_order, methods=["POST"]),
            Route("/api/customers/{customer_id:int}", customer),
        ],
        exception_handlers={UnavailableError: database_unavailable},
        lifespan=lifespan,
    )
    app.state.settings = settings
    app.state.pool = pool
    return ReleaseHeaders(app, settings)
