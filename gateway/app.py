"""The gateway as an ASGI app: routes to the services, and its own health."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from functools import partial

from prometheus_client import REGISTRY, CollectorRegistry
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from gateway.errors import GATEWAY_ERRORS
from gateway.proxy import ProxyRoute, Services
from gateway.routes import ROUTES, Upstream
from tidelog import __version__
from tidelog.http.ports import ReadinessCheck
from tidelog.http.problem_pages import problem_pages
from tidelog.http.service import Service, build_service
from tidelog.settings import Settings

# Longer than a command or a query may take, so that the service's own answer comes first.
ANSWER_MARGIN_S = 5.0
QUERY_WAIT_S_MAX = 10.0


def build(settings: Settings, registry: CollectorRegistry = REGISTRY) -> Service:
    """The gateway."""
    longest_s = max(settings.command_timeout_ms / 1_000, QUERY_WAIT_S_MAX)
    services = Services(
        {
            Upstream.COMMANDS: settings.command_service_url,
            Upstream.QUERIES: settings.query_service_url,
        },
        answer_timeout_s=longest_s + ANSWER_MARGIN_S,
    )

    @asynccontextmanager
    async def life() -> AsyncIterator[None]:
        try:
            yield
        finally:
            await services.close()

    return build_service(
        name="gateway",
        version=__version__,
        routes=routes(services),
        problems=GATEWAY_ERRORS,
        checks=[ReadinessCheck(name=each.value, check=_check(services, each)) for each in Upstream],
        lifespan=life,
        registry=registry,
        instance=settings.instance,
    )


def routes(services: Services) -> list[BaseRoute]:
    """The pages of the gateway's own problems, then the table."""
    return [*_own_pages(), *(ProxyRoute(routed, services) for routed in ROUTES)]


def _own_pages() -> Iterator[Route]:
    own = {error.slug(): error for error in GATEWAY_ERRORS}
    _, page = problem_pages(own)
    for slug in own:
        yield Route(f"/problems/{slug}", partial(_named, page.endpoint, slug))


async def _named(
    endpoint: Callable[[Request], Awaitable[Response]], name: str, request: Request
) -> Response:
    request.scope["path_params"] = {"name": name}
    return await endpoint(request)


def _check(services: Services, upstream: Upstream) -> Callable[[], Awaitable[str | None]]:
    return lambda: services.problem(upstream)
