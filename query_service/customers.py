"""`GET /customers/{id}/summary`: a customer over all their orders."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from query_service.reads import Reads
from query_service.rows import Nested, RowQuery, Shown

SUMMARY = Shown(
    projection="customer_summary",
    key="customer_id",
    fields={
        "customer_id": "customer_id",
        "orders_placed": "orders_placed",
        "orders_confirmed": "orders_confirmed",
        "orders_cancelled": "orders_cancelled",
        "orders_returned": "orders_returned",
        "returns": "returns",
        "lifetime_value": Nested("lifetime_value"),
        "since": "created_at",
        "updated_at": "updated_at",
    },
)


class Customers:
    """The queries over customers."""

    def __init__(self, reads: Reads) -> None:
        self._summary = RowQuery(reads, SUMMARY, unknown="This customer never placed an order.")

    async def summary(self, request: Request) -> Response:
        """How much one customer bought, and what became of it."""
        return await self._summary.answer(request)
