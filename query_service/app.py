"""The query service as an ASGI app: its routes, its readiness, its life."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import APIRouter
from prometheus_client import REGISTRY, CollectorRegistry
from starlette.responses import Response

from query_service.orders import Orders
from query_service.reads import WAIT_MS_DEFAULT, WAIT_MS_MAX, Database, Reads
from query_service.stock import PAGE_DEFAULT, PAGE_MAX, Stock
from schemas import CONTEXTS
from tidelog import __version__
from tidelog.http.ports import ReadinessCheck
from tidelog.http.service import Service, build_service
from tidelog.postgres.listener import PositionListener
from tidelog.settings import Settings


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

    @asynccontextmanager
    async def life() -> AsyncIterator[None]:
        await database.open()
        listening = asyncio.create_task(listener.run())
        try:
            yield
        finally:
            listening.cancel()
            await asyncio.wait({listening})
            await database.close()

    async def listens() -> str | None:
        return listener.trouble

    return build_service(
        name="query_service",
        version=__version__,
        routers=[router(reads)],
        checks=[
            ReadinessCheck(name="postgres", check=database.problem),
            ReadinessCheck(name="listener", check=listens),
        ],
        lifespan=life,
        registry=registry,
        instance=settings.instance,
    )


def router(reads: Reads) -> APIRouter:
    """Every query, by its path."""
    orders, stock = Orders(reads), Stock(reads)
    routes = APIRouter(default_response_class=Response)
    for path, query, parameters in (
        ("/orders/{order_id}", orders.one, [_path("order_id")]),
        ("/stock/{sku}", stock.one, [_path("sku")]),
        ("/stock", stock.list, _PAGE),
    ):
        routes.add_api_route(
            path,
            query,
            methods=["GET"],
            response_model=None,
            openapi_extra={"parameters": [*parameters, *_SETTLED]},
        )
    return routes


def _path(name: str) -> dict[str, Any]:
    return {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}


_PAGE = [
    {
        "name": "limit",
        "in": "query",
        "schema": {
            "type": "integer",
            "minimum": 1,
            "maximum": PAGE_MAX,
            "default": PAGE_DEFAULT,
        },
    },
    {"name": "cursor", "in": "query", "schema": {"type": "string"}},
]
_SETTLED = [
    {
        "name": "wait_ms",
        "in": "query",
        "schema": {
            "type": "integer",
            "minimum": 0,
            "maximum": WAIT_MS_MAX,
            "default": WAIT_MS_DEFAULT,
        },
    },
    {
        "name": "Consistency-Token",
        "in": "header",
        "description": "Positions that the answer must include: orders:3:1042",
        "schema": {"type": "string"},
    },
]
