"""`GET /orders/{id}` and `GET /orders`: orders as their customers see them."""

from __future__ import annotations

import operator
from datetime import datetime

from starlette.requests import Request
from starlette.responses import Response

from query_service.as_of import AS_OF, AsOf
from query_service.lists import Filter, Listing, ListQuery, Sort
from query_service.parameters import identifier, instant, one_of
from query_service.reads import Reads
from query_service.rows import Nested, RowQuery, Shown

STATUSES = (
    "placed",
    "reserved",
    "paid",
    "confirmed",
    "cancelling",
    "cancelled",
    "delivered",
    "returned",
)

DETAIL = Shown(
    projection="order_detail",
    key="order_id",
    fields={
        "id": "order_id",
        "version": "version",
        "status": "status",
        "customer_id": "customer_id",
        "currency": "currency",
        "lines": Nested("lines"),
        "total": "total",
        "ship_to": Nested("ship_to"),
        "cancel_reason": "cancel_reason",
        "placed_at": "created_at",
        "updated_at": "updated_at",
        "position": "position",
    },
)

SUMMARY = Shown(
    projection="order_summary",
    key="order_id",
    fields={
        "id": "order_id",
        "version": "version",
        "status": "status",
        "customer_id": "customer_id",
        "currency": "currency",
        "units": "units",
        "total": "total",
        "cancel_reason": "cancel_reason",
        "placed_at": "created_at",
        "updated_at": "updated_at",
        "position": "position",
    },
)

BY_PLACED_AT = {"created_at": datetime, "order_id": str}
BY_TOTAL = {"total": int, "order_id": str}

ORDERS = Listing(
    path="/orders",
    shown=SUMMARY,
    sorts={
        "-placed_at": Sort(BY_PLACED_AT, descending=True),
        "placed_at": Sort(BY_PLACED_AT),
        "-total": Sort(BY_TOTAL, descending=True),
        "total": Sort(BY_TOTAL),
    },
    filters=(
        Filter(identifier("customer_id", "Only of this customer."), "customer_id", str),
        Filter(one_of("status", STATUSES, "Only in this status."), "status", str),
        Filter(
            instant("placed_after", "Only placed later than this."),
            "created_at",
            datetime,
            operator.gt,
        ),
        Filter(
            instant("placed_before", "Only placed earlier than this."),
            "created_at",
            datetime,
            operator.lt,
        ),
    ),
    spans=(("placed_after", "placed_before"),),
)


class Orders:
    """The queries over orders."""

    def __init__(self, reads: Reads, as_of: AsOf) -> None:
        self._order = RowQuery(reads, DETAIL, unknown="There is no such order.")
        self._orders = ListQuery(reads, ORDERS)
        self._as_of = as_of

    async def one(self, request: Request) -> Response:
        """One order, with its lines and address; with `as_of` as it was."""
        if AS_OF.name in request.query_params:
            return await self._as_of.answer(request)
        return await self._order.answer(request)

    async def list(self, request: Request) -> Response:
        """Orders in pages, the latest first."""
        return await self._orders.answer(request)
