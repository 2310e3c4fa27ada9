"""The registry over HTTP: the endpoints' table as Starlette routes, errors as JSON, metrics."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

import structlog
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
)
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from tidelog.errors import TidelogError, Unavailable
from tidelog.registry.endpoints import ENDPOINTS, Endpoint, PlainText
from tidelog.registry.errors import ErrorCode, RegistryRefusal
from tidelog.registry.port import MEDIA_TYPE
from tidelog.registry.requests import Call, read_body
from tidelog.registry.service import RegistryService

FOLLOW_INTERVAL_S = 0.5

_log = structlog.get_logger("tidelog.registry")
_Answer = Callable[[Request], Awaitable[Response]]


class Metrics:
    """What /metrics shows; one set per application, so that several may live in one process."""

    def __init__(self, service: RegistryService) -> None:
        self.collectors = CollectorRegistry()
        self.requests = Counter(
            "tidelog_registry_requests",
            "Requests answered.",
            ["method", "path", "status"],
            registry=self.collectors,
        )
        self.seconds = Histogram(
            "tidelog_registry_request_seconds",
            "Time to answer.",
            ["method", "path"],
            registry=self.collectors,
        )
        self._gauge("schemas", "Schemas known.", lambda: len(service.store.texts))
        self._gauge("subjects", "Subjects known.", lambda: len(service.store.subjects))
        self._gauge(
            "takeovers",
            "Times this process became the writer.",
            lambda: service.takeovers,
        )
        self._gauge(
            "ready",
            "1 if the log was read to its end.",
            lambda: service.trouble is None,
        )

    def _gauge(self, name: str, text: str, value: Callable[[], float]) -> None:
        gauge = Gauge(f"tidelog_registry_{name}", text, registry=self.collectors)
        gauge.set_function(value)


def create_app(service: RegistryService) -> Starlette:
    """The application over a service that it opens at start, follows, and closes at the end."""
    metrics = Metrics(service)
    routes = [
        Route(
            endpoint.path,
            _answer(service, metrics, endpoint),
            methods=[endpoint.method],
        )
        for endpoint in ENDPOINTS
    ]
    routes += [
        Route("/livez", _livez),
        Route("/readyz", _readyz(service)),
        Route("/metrics", _metrics(metrics)),
    ]
    return Starlette(
        routes=routes,
        lifespan=_lifespan(service),
        exception_handlers={HTTPException: _http_error, Exception: _unexpected},
    )


def _lifespan(
    service: RegistryService,
) -> Callable[[Starlette], contextlib.AbstractAsyncContextManager[None]]:
    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        await run_in_threadpool(service.open)
        follower = asyncio.create_task(_follow(service))
        follower.add_done_callback(_tell_fault)
        try:
            yield
        finally:
            follower.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await follower
            await run_in_threadpool(service.close)

    return lifespan


def _tell_fault(follower: asyncio.Task[None]) -> None:
    if not follower.cancelled() and (error := follower.exception()) is not None:
        _log.error(
            "the follower of the log failed",
            kind=type(error).__name__,
            error=str(error),
        )


async def _follow(service: RegistryService) -> None:
    """Read what other instances write; trouble is logged once, shown by /readyz, tried again.

    A fault of ours ends the follower: it is logged, and /readyz stays red until a restart.
    """
    reported: str | None = None
    while True:
        await asyncio.sleep(FOLLOW_INTERVAL_S)
        try:
            await run_in_threadpool(service.catch_up)
        except TidelogError as error:
            if str(error) != reported:
                _log.error("the log cannot be read", error=str(error))
            reported = str(error)
        else:
            reported = None


def _answer(service: RegistryService, metrics: Metrics, endpoint: Endpoint) -> _Answer:
    async def answer(request: Request) -> Response:
        started = time.perf_counter()
        response = await _handle(service, endpoint, request)
        elapsed = time.perf_counter() - started
        metrics.seconds.labels(endpoint.method, endpoint.path).observe(elapsed)
        metrics.requests.labels(endpoint.method, endpoint.path, response.status_code).inc()
        return response

    return answer


async def _handle(service: RegistryService, endpoint: Endpoint, request: Request) -> Response:
    try:
        body = await read_body(request, endpoint.members) if endpoint.members else {}
        call = Call(path=request.path_params, query=request.query_params, body=body)
        result = await run_in_threadpool(endpoint.handler, service, call)
    except RegistryRefusal as error:
        return _error(error.http_status, error.code, str(error))
    except Unavailable as error:
        _log.warning("unavailable", path=endpoint.path, error=str(error))
        return _error(503, ErrorCode.NOT_WRITER, str(error), {"Retry-After": "1"})
    except TidelogError as error:
        _log.error("failed", path=endpoint.path, error=str(error))
        return _error(500, ErrorCode.STORE_FAILED, str(error))
    if isinstance(result, PlainText):
        return Response(result.text.encode(), media_type=MEDIA_TYPE)
    return JSONResponse(result, media_type=MEDIA_TYPE)


def _error(
    status: int, code: int, message: str, headers: Mapping[str, str] | None = None
) -> Response:
    content = {"error_code": int(code), "message": message}
    return JSONResponse(content, status, headers=headers, media_type=MEDIA_TYPE)


async def _http_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    status = error.status_code
    return _error(status, status, f"HTTP {status} {error.detail}", error.headers)


async def _unexpected(request: Request, error: Exception) -> Response:
    _log.error("a fault of the registry", path=request.url.path, kind=type(error).__name__)
    return _error(500, ErrorCode.STORE_FAILED, "The registry failed; its log says why.")


async def _livez(_: Request) -> Response:
    return PlainTextResponse("ok")


def _readyz(service: RegistryService) -> _Answer:
    async def readyz(_: Request) -> Response:
        trouble = service.trouble
        if trouble is None:
            return PlainTextResponse("ok")
        return PlainTextResponse(trouble, 503, headers={"Retry-After": "1"})

    return readyz


def _metrics(metrics: Metrics) -> _Answer:
    async def show(_: Request) -> Response:
        text = await run_in_threadpool(generate_latest, metrics.collectors)
        return Response(text, media_type="text/plain; version=0.0.4; charset=utf-8")

    return show
