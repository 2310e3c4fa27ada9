"""`GET /payments/{order_id}`: what was taken for an order, and what was paid back."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from query_service.reads import Reads
from query_service.rows import RowQuery, Shown

PAYMENT = Shown(
    projection="payment_status",
    key="order_id",
    fields={
        "order_id": "order_id",
        "status": "status",
        "currency": "currency",
        "captured": "captured",
        "refunded": "refunded",
    },
)


class Payments:
    """The queries over payments."""

    def __init__(self, reads: Reads) -> None:
        self._payment = RowQuery(
            reads, PAYMENT, unknown="No payment was requested or voided for such an order."
        )

    async def one(self, request: Request) -> Response:
        """The payment of one order."""
        return await self._payment.answer(request)
