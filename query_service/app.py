"""The query service as an ASGI app: its routes, its readiness, its life."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from typing import Any

from fastapi.routing import APIRoute
from prometheus_client import REGISTRY, CollectorRegistry
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from query_service.as_of import AS_OF
from query_service.availability import STOCK_SERVICE, Availability, StockHandlers
from query_service.customers import Customers
from query_service.durations import Durations
from query_service.live_metrics import LiveMetrics
from query_service.orders import ORDERS, Orders
from query_service.parameters import WAIT_MS, Parameter
from query_service.parked import PARAMETERS as PARKED
from query_service.parked import Parked
from query_service.payments import Payments
from query_service.positions import PositionFeed
from query_service.projections import Projections
from query_service.reads import Database, Reads
from query_service.returns import Returns
from query_service.sagas import PARAMETERS as SAGA_PARAMETERS
from query_service.sagas import Sagas
from query_service.sales import SALES, Sales
from query_service.shipments import Shipments
from query_service.sse import StreamSlots
from query_service.stock import STOCK, Stock
from query_service.timeline import Timeline
from schemas import CONTEXTS
from tidelog import __version__
from tidelog.grpc.server import GrpcServer
from tidelog.http.ports import ReadinessCheck
from tidelog.http.service import Service, build_service
from tidelog.postgres.listener import PositionListener
from tidelog.saga_definitions import load_sagas
from tidelog.settings import Settings

GRPC_GRACE_S = 1.0
"""How long calls under way may take once the service is told to stop: none waits for longer."""

Query = Callable[[Request], Awaitable[Response]]


def build(settings: Settings, registry: CollectorRegistry = REGISTRY) -> Service:
    """The query service."""
    database = Database(
        dsn=settings.postgres_dsn,
        schema=settings.postgres_schema,
        connections_max=settings.postgres_pool_max,
    )
    listener = PositionListener(
        dsn=settings.postgres_dsn,
        schema=settings.postgres_schema,
        waiters_max=settings.consistency_wait_max,
    )
    reads = Reads(
        database=database,
        listener=listener,
        contexts=[context.name for context in CONTEXTS],
        partitions=settings.partitions,
    )

    projections = Projections(settings)
    sagas = Sagas(reads, load_sagas(settings.sagas))
    slots = StreamSlots(
        streams_max=settings.event_streams_max,
        per_caller_max=settings.event_streams_per_caller_max,
    )
    timeline = Timeline(settings, reads, CONTEXTS, slots)
    metrics = LiveMetrics(settings.live_metrics_url, slots)
    positions = PositionFeed(listener, settings.partitions)
    stock = stock_server(reads)

    @asynccontextmanager
    async def life() -> AsyncIterator[None]:
        await stock.start(settings.http_host, settings.grpc_port)
        await database.open()
        registry.register(slots)
        tasks = {asyncio.create_task(listener.run()), asyncio.create_task(timeline.run())}
        try:
            yield
        finally:
            await stock.stop(GRPC_GRACE_S)
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            registry.unregister(slots)
            timeline.close()
            await metrics.close()
            await asyncio.to_thread(projections.close)
            await database.close()

    async def listens() -> str | None:
        return listener.trouble

    return build_service(
        name="query_service",
        version=__version__,
        routes=[
            *routes(reads, projections, sagas, timeline),
            stream("/metrics/live", metrics.stream),
            stream("/positions/live", positions.stream),
        ],
        checks=[
            ReadinessCheck(name="postgres", check=database.problem),
            ReadinessCheck(name="listener", check=listens),
        ],
        lifespan=life,
        registry=registry,
        instance=settings.instance,
    )


def routes(
    reads: Reads, projections: Projections, sagas: Sagas, timeline: Timeline
) -> list[BaseRoute]:
    """Every query: its path, who answers, and the parameters that it takes beside `wait_ms`."""
    orders, stock = Orders(reads, timeline.order_as_of), Stock(reads)
    payments, shipments, returns = Payments(reads), Shipments(reads), Returns(reads)
    customers, sales = Customers(reads), Sales(reads)
    table: tuple[tuple[str, Query, Sequence[Parameter]], ...] = (
        ("/orders/{order_id}", orders.one, (AS_OF,)),
        ("/orders", orders.list, ORDERS.parameters),
        ("/stock/{sku}", stock.one, ()),
        ("/stock", stock.list, STOCK.parameters),
        ("/payments/{order_id}", payments.one, ()),
        ("/shipments/{order_id}", shipments.one, ()),
        ("/returns/{return_id}", returns.one, ()),
        ("/customers/{customer_id}/summary", customers.summary, ()),
        ("/sales/daily", sales.daily, SALES.parameters),
        ("/projections", projections.all, ()),
        ("/sagas", sagas.list, SAGA_PARAMETERS),
        # The id of an instance has a colon in it.
        ("/sagas/durations", Durations(reads.database).answer, ()),
        ("/sagas/{id}", sagas.one, ()),
        ("/parked", Parked(reads).list, PARKED),
        *timeline.routes,
    )
    return [
        QueryRoute(
            path,
            query,
            methods=["GET"],
            summary=(query.__doc__ or "").partition("\n")[0],
            response_class=Response,
            openapi_extra={"parameters": documented(path, (*parameters, WAIT_MS))},
        )
        for path, query, parameters in table
    ]


def stock_server(reads: Reads) -> GrpcServer:
    """What is asked over gRPC at a checkout."""
    handlers = StockHandlers(Availability(reads)).handlers()
    return GrpcServer([(STOCK_SERVICE, handlers)], ready=lambda: reads.listener.trouble is None)


def stream(path: str, query: Query) -> BaseRoute:
    """A stream that reads no read model and takes no token."""
    return QueryRoute(
        path,
        query,
        methods=["GET"],
        summary=(query.__doc__ or "").partition("\n")[0],
        response_class=Response,
    )


class QueryRoute(APIRoute):
    """A route that FastAPI documents, and whose query reads the request itself."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The query as it is: nothing is injected into it, and its answer is ready to send."""
        return self.endpoint


def documented(path: str, parameters: Sequence[Parameter]) -> list[dict[str, Any]]:
    """The parameters of a query as OpenAPI has them."""
    return [
        *(
            {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
            for name in re.findall(r"{(\w+)}", path)
        ),
        *(
            {
                "name": each.name,
                "in": "query",
                "schema": each.schema,
                "description": each.description,
            }
            for each in parameters
        ),
        _TOKEN,
    ]


_TOKEN = {
    "name": "Consistency-Token",
    "in": "header",
    "description": "Positions that the answer must include: orders:3:1042",
    "schema": {"type": "string"},
}
