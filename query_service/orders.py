"""`GET /orders/{id}`: one order as its customer sees it."""

from __future__ import annotations

from typing import Any

from msgspec import Raw
from sqlalchemy import Select, Text, bindparam, cast, column, select, table
from starlette.requests import Request
from starlette.responses import Response

from query_service.reads import (
    Reads,
    checked_id,
    checked_parameters,
    compiled,
    document,
)
from tidelog.errors import Unknown

PROJECTION = "order_summary"


class Orders:
    """The queries over orders."""

    def __init__(self, reads: Reads) -> None:
        self._reads = reads
        self._by_id = compiled(_by_id(reads.database.schema))

    async def one(self, request: Request) -> Response:
        """The order, or 404."""
        checked_parameters(request, ("wait_ms",))
        order_id = checked_id(request, "order_id")
        as_of = await self._reads.settle(request, PROJECTION)
        found = await self._reads.database.rows(self._by_id, {"id": order_id})
        if not found:
            raise Unknown("There is no such order.")
        body = _document(found[0])
        return document(request, body, body["version"], as_of)


# The document: its names, in order, and where each value stands in the read model.
_COLUMNS = {
    "id": "order_id",
    "version": "version",
    "status": "status",
    "customer_id": "customer_id",
    "currency": "currency",
    "lines": "lines",
    "total": "total",
    "ship_to": "ship_to",
    "cancel_reason": "cancel_reason",
    "placed_at": "created_at",
    "updated_at": "updated_at",
    "position": "position",
}
_NESTED = ("lines", "ship_to")


def _by_id(schema: str) -> Select[Any]:
    orders = table(PROJECTION, *map(column, _COLUMNS.values()), schema=schema)
    shown = (
        # Nested values go out as they are stored.
        cast(orders.c[name], Text) if name in _NESTED else orders.c[name]
        for name in _COLUMNS.values()
    )
    return select(*shown).where(orders.c.order_id == bindparam("id", type_=Text))


def _document(row: tuple[Any, ...]) -> dict[str, Any]:
    body = dict(zip(_COLUMNS, row, strict=True))
    for name in _NESTED:
        body[name] = Raw(body[name])
    return body
