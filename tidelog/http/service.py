"""The HTTP side of a service: its routes, health, metrics and documents, and how it runs.

A service is put together from explicit lists. Commands go past the framework; everything else is
FastAPI. Whatever happens is answered, and a fault of ours never says more than that it is one.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from time import perf_counter
from typing import Any, Final

import msgspec
from fastapi import APIRouter, FastAPI
from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, CollectorRegistry, generate_latest
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import BaseRoute, Route

from tidelog.errors import Overloaded, TidelogError, Unavailable, Unknown
from tidelog.http.access_log import AccessLog
from tidelog.http.asgi import Body, Disconnected, Message, Receive, Scope, Send
from tidelog.http.command_api import (
    CommandApi,
    CommandRoute,
    Exchange,
    read_headers,
    refuse,
)
from tidelog.http.docs_page import docs_page
from tidelog.http.draining import Draining
from tidelog.http.errors import InternalError
from tidelog.http.headers import check_query, decoded_segments
from tidelog.http.metrics import UNMATCHED, HttpMetrics
from tidelog.http.ndjson import PATH as NDJSON_PATH
from tidelog.http.ndjson import NdjsonApi
from tidelog.http.openapi import openapi_of
from tidelog.http.ports import ONLY_OF_HEADER, OperationStore, ReadinessCheck
from tidelog.http.problem_pages import problem_pages
from tidelog.http.problems import (
    current_trace,
    exception_handlers,
    known_problems,
)
from tidelog.logging import current_correlation_id, get_logger

Lifespan = Callable[[], AbstractAsyncContextManager[None]]

REQUESTS_IN_FLIGHT_MAX: Final = 8_192
READINESS_TIMEOUT_S: Final = 1.0

_HEALTH = frozenset(("/livez", "/readyz", "/metrics"))
_log = get_logger("tidelog.http")


class Service:
    """An ASGI app: commands by the short way, the rest by FastAPI."""

    def __init__(
        self,
        app: FastAPI,
        commands: CommandApi | None,
        metrics: HttpMetrics,
        access_log: AccessLog,
        draining: Draining,
        requests_in_flight_max: int = REQUESTS_IN_FLIGHT_MAX,
    ) -> None:
        self.app: Final = app
        self.draining: Final = draining
        self._commands = commands
        self._many = None if commands is None else NdjsonApi(commands)
        self._metrics = metrics
        self._access_log = access_log
        self._in_flight_max = requests_in_flight_max

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, and count it."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        metrics = self._metrics
        metrics.in_flight += 1
        started = perf_counter()
        route, status = UNMATCHED, 500
        try:
            route, status = await self._serve(scope, receive, send)
        except Disconnected:
            status = 499
        finally:
            metrics.in_flight -= 1
            seconds = perf_counter() - started
            method = scope["method"]
            metrics.observe(route, method, status, seconds)
            self._access_log.record(method, route, status, seconds, current_correlation_id.get())

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> tuple[str, int]:
        """Answer the request; the route's template and the status."""
        answered = _Answered(send)
        try:
            self._check(scope)
            if self._commands is not None:
                found = self._commands.find(scope)
                if found is not None:
                    route, aggregate_id = found
                    return route.template, await self._commands.serve(
                        route, aggregate_id, scope, receive, answered.send
                    )
                if self._many is not None and scope["path"] == NDJSON_PATH:
                    return NDJSON_PATH, await self._many.serve(scope, receive, answered.send)
            await self._serve_other(scope, receive, answered)
        except Disconnected:
            raise
        except Exception as error:
            await _refuse_late(error, scope, receive, answered)
        return _template(scope), answered.status

    def _check(self, scope: Scope) -> None:
        """Refuse a request that is malformed on its first line, or one too many."""
        if b"%" in (scope.get("raw_path") or b""):
            decoded_segments(scope["raw_path"])
        if scope["query_string"]:
            check_query(scope["query_string"])
        full = self._metrics.in_flight > self._in_flight_max
        if full and scope["path"] not in _HEALTH:
            raise Overloaded("Too many requests are in flight. Try again later.")

    async def _serve_other(self, scope: Scope, receive: Receive, answered: _Answered) -> None:
        exchange = Exchange(scope["path"])
        read_headers(scope, exchange)
        current_trace.set(exchange.trace)
        correlation_id = exchange.correlation_id
        if correlation_id is not None:
            answered.add = (b"x-correlation-id", correlation_id.encode("ascii"))
        await self.app(scope, receive, answered.send)


class _Answered:
    """What has been sent of an answer."""

    __slots__ = ("_send", "add", "started", "status")

    def __init__(self, send: Send) -> None:
        self._send = send
        self.status = 500
        self.started = False
        self.add: tuple[bytes, bytes] | None = None

    async def send(self, message: Message) -> None:
        """Send on, and remember the status."""
        if message["type"] == "http.response.start":
            self.started = True
            self.status = message["status"]
            if self.add is not None:
                message["headers"] = [*message.get("headers", ()), self.add]
        await self._send(message)


async def _refuse_late(
    error: Exception, scope: Scope, receive: Receive, answered: _Answered
) -> None:
    """Answer what was raised past all handlers; if an answer has begun it can only be cut off."""
    if answered.started:
        _log.error("a request failed while it was answered", exc_info=error)
        if answered.status < 500:
            raise error
        return
    exchange = Exchange(scope["path"])
    try:
        read_headers(scope, exchange)
    except TidelogError as malformed:
        error = malformed
    if not isinstance(error, TidelogError):
        _log.error("a request failed", exc_info=error)
        error = InternalError()
    await refuse(error, exchange, Body(receive), answered.send)


def _template(scope: Scope) -> str:
    return getattr(scope.get("route"), "path", UNMATCHED)


def build_service(  # noqa: PLR0913 - the lists that make a service, each by its name
    *,
    name: str,
    version: str,
    commands: CommandApi | None = None,
    operations: OperationStore | None = None,
    routes: Sequence[BaseRoute] = (),
    routers: Sequence[APIRouter] = (),
    problems: Sequence[type[TidelogError]] = (),
    checks: Sequence[ReadinessCheck] = (),
    lifespan: Lifespan = nullcontext,
    draining: Draining | None = None,
    registry: CollectorRegistry = REGISTRY,
    instance: str = "1",
    log_every_request: bool = False,
) -> Service:
    """The ASGI app of a service. `lifespan` starts its engine and stops it last.

    Without `draining` it stops as soon as it is told to.
    """
    command_routes: Sequence[CommandRoute] = commands.routes if commands else ()
    metrics = HttpMetrics()
    access_log = AccessLog(name, instance, everything=log_every_request)
    app = FastAPI(
        title=name,
        version=version,
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        lifespan=_lifespan(lifespan, registry, metrics, access_log),
        exception_handlers=exception_handlers(),
    )
    aggregates = {route.aggregate.name: route.aggregate for route in command_routes}
    known = known_problems(aggregates.values(), problems)
    app.router.routes.extend(routes)
    app.router.routes.extend(problem_pages(known))
    leaving = [] if draining is None else [draining.check()]
    app.router.routes.extend(_health([*checks, *leaving], registry))
    if operations is not None:
        app.router.routes.append(_operations(operations))
    for router in routers:
        app.include_router(router)
    app.router.routes.extend(_documents(app, command_routes))
    return Service(app, commands, metrics, access_log, draining or Draining())


def _lifespan(
    lifespan: Lifespan,
    registry: CollectorRegistry,
    metrics: HttpMetrics,
    access_log: AccessLog,
) -> Callable[[FastAPI], AbstractAsyncContextManager[None]]:
    @asynccontextmanager
    async def run(_: FastAPI) -> AsyncIterator[None]:
        registry.register(metrics)
        writer = asyncio.create_task(access_log.run())
        try:
            async with lifespan():
                yield
        finally:
            registry.unregister(metrics)
            writer.cancel()
            await asyncio.wait({writer})

    return run


def _health(checks: Sequence[ReadinessCheck], registry: CollectorRegistry) -> list[BaseRoute]:
    async def read_livez(_: Request) -> Response:
        return _json({"status": "alive"})

    async def read_readyz(request: Request) -> Response:
        found = await asyncio.gather(*(_run(check) for check in checks))
        missing = [
            reason
            for check, reason in zip(checks, found, strict=True)
            if check.vital and reason is not None
        ]
        if "verbose" in request.query_params:
            listed = [
                {"name": check.name, "ready": reason is None, "detail": reason or ""}
                for check, reason in zip(checks, found, strict=True)
            ]
            state = "waiting" if missing else "ready"
            return _json({"status": state, "checks": listed}, 503 if missing else 200)
        if missing:
            raise Unavailable("Not ready yet; /readyz?verbose says what is missing.")
        return _json({"status": "ready"})

    async def read_metrics(_: Request) -> Response:
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)

    return [
        Route("/livez", read_livez),
        Route("/readyz", read_readyz),
        Route("/metrics", read_metrics),
    ]


async def _run(check: ReadinessCheck) -> str | None:
    try:
        async with asyncio.timeout(READINESS_TIMEOUT_S):
            return await check.check()
    except TimeoutError:
        return f"no answer within {READINESS_TIMEOUT_S:g} s"
    except Exception as error:
        _log.warning("a readiness check failed", check=check.name, exc_info=error)
        return "the check itself failed; the log says why"


def _operations(operations: OperationStore) -> Route:
    async def read_operation(request: Request) -> Response:
        only_of = request.headers.get(ONLY_OF_HEADER.decode("ascii"))
        found = await operations.get(request.path_params["id"], only_of)
        if found is None:
            raise Unknown("There is no such operation; they are kept for 24 hours.")
        return _json(found)

    return Route("/operations/{id}", read_operation)


def _documents(app: FastAPI, routes: Sequence[CommandRoute]) -> list[BaseRoute]:
    """/openapi.json and /docs: FastAPI's own document, and the commands beside it."""
    made: dict[str, Any] = {}

    def document() -> dict[str, Any]:
        if not made:
            made.update(merged(app.openapi(), openapi_of(app.title, app.version, routes)))
        return made

    async def read_openapi(_: Request) -> Response:
        return _json(document())

    async def read_docs(_: Request) -> Response:
        return HTMLResponse(docs_page(document()))

    return [Route("/openapi.json", read_openapi), Route("/docs", read_docs)]


def merged(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """Two OpenAPI documents as one; where both say something the second holds."""
    result = dict(one)
    for key, value in other.items():
        both = isinstance(value, dict) and isinstance(result.get(key), dict)
        result[key] = merged(result[key], value) if both else value
    return result


def _json(value: Any, status: int = 200) -> Response:
    return Response(msgspec.json.encode(value), status, media_type="application/json")
