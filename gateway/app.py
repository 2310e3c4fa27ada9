"""The gateway as an ASGI app: routes to the services, and its own health."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from functools import partial

from prometheus_client import REGISTRY, CollectorRegistry
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from gateway.cache import Cache
from gateway.caching import CachingProxy
from gateway.callers import callers_of
from gateway.checkout import CHECKOUT, COMMAND_MARGIN_S, Checkout
from gateway.errors import GATEWAY_ERRORS
from gateway.estimates import Estimates
from gateway.guard import Guard, Limits
from gateway.overview import OVERVIEW, Overview
from gateway.owners import Owners
from gateway.positions import PositionStream
from gateway.proxy import Proxy, ProxyRoute
from gateway.public import open_to_public
from gateway.routes import ROUTES, Upstream
from gateway.services import Services
from gateway.stock import StockCheck
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
            Upstream.COMMANDS: settings.command_service_instances or settings.command_service_url,
            Upstream.QUERIES: settings.query_service_url,
        },
        answer_timeout_s=longest_s + ANSWER_MARGIN_S,
    )
    limits = Limits(
        queries=settings.gateway_queries_per_minute, commands=settings.gateway_commands_per_minute
    )
    guard = Guard(callers_of(settings), Owners(services.ask), limits)
    streams_max = settings.gateway_streams_per_caller_max
    cache = Cache(settings.gateway_cache_bytes_max)
    proxy = CachingProxy(services, guard, streams_max, cache)
    positions = PositionStream(services, cache)
    overview = Overview(services, guard, streams_max)
    checkout = _checkout(settings, services, guard)

    @asynccontextmanager
    async def life() -> AsyncIterator[None]:
        registry.register(services)
        registry.register(proxy)
        registry.register(checkout.counts)
        services.watch()
        positions.watch()
        checkout.watch()
        try:
            yield
        finally:
            registry.unregister(checkout.counts)
            registry.unregister(proxy)
            registry.unregister(services)
            await checkout.close()
            await positions.close()
            await services.close()

    service = build_service(
        name="gateway",
        version=__version__,
        routes=routes(proxy, overview, checkout),
        problems=GATEWAY_ERRORS,
        checks=_checks(services),
        lifespan=life,
        registry=registry,
        instance=settings.instance,
    )
    open_to_public(service.app, settings.gateway_cors_origins)
    return service


def _checkout(settings: Settings, services: Services, guard: Guard) -> Checkout:
    stock = StockCheck(settings.query_service_grpc)
    services.others.append(stock)
    deadline_s = settings.command_timeout_ms / 1_000 + COMMAND_MARGIN_S
    return Checkout(services, guard, stock, Estimates(services.ask), deadline_s)


def routes(proxy: Proxy, overview: Overview, checkout: Checkout) -> list[BaseRoute]:
    """The pages of the gateway's own problems, then the table."""
    return [
        *_own_pages(),
        ProxyRoute(OVERVIEW, overview),
        ProxyRoute(CHECKOUT, checkout),
        *(ProxyRoute(routed, proxy) for routed in ROUTES),
    ]


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


def _checks(services: Services) -> list[ReadinessCheck]:
    """A gateway is of use while any service answers: with one of them down, the rest goes on.

    Were it not ready then, whoever spreads the load would take every gateway away at once, and
    with it the routes that need nothing of what is down.
    """

    async def any_service() -> str | None:
        found = await asyncio.gather(*(services.problem(each) for each in Upstream))
        return None if None in found else "no service answers"

    each = [
        ReadinessCheck(name=upstream.value, check=partial(services.problem, upstream), vital=False)
        for upstream in Upstream
    ]
    return [*each, ReadinessCheck(name="any service", check=any_service)]
