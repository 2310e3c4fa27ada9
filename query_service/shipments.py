"""`GET /shipments/{order_id}`: where an order's parcel is, from the carrier's first answer on."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from query_service.reads import Reads
from query_service.rows import RowQuery, Shown

SHIPMENT = Shown(
    projection="shipment_status",
    key="order_id",
    fields={
        "order_id": "order_id",
        "status": "status",
        "carrier": "carrier",
        "tracking": "tracking",
    },
)


class Shipments:
    """The queries over shipments."""

    def __init__(self, reads: Reads) -> None:
        self._shipment = RowQuery(
            reads, SHIPMENT, unknown="No carrier has answered for such an order yet."
        )

    async def one(self, request: Request) -> Response:
        """The shipment of one order."""
        return await self._shipment.answer(request)
