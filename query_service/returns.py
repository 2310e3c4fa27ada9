"""`GET /returns/{id}`: goods on their way back."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from query_service.reads import Reads
from query_service.rows import Nested, RowQuery, Shown

RETURN = Shown(
    projection="return_status",
    key="return_id",
    fields={
        "id": "return_id",
        "version": "version",
        "order_id": "order_id",
        "status": "status",
        "lines": Nested("lines"),
        "reason": "reason",
        "carrier": "carrier",
        "tracking": "tracking",
        "currency": "currency",
        "refunded": "refunded",
        "refusal": "refusal",
        "requested_at": "created_at",
        "updated_at": "updated_at",
        "position": "position",
    },
)


class Returns:
    """The queries over returns."""

    def __init__(self, reads: Reads) -> None:
        self._return = RowQuery(reads, RETURN, unknown="There is no such return.")

    async def one(self, request: Request) -> Response:
        """One return."""
        return await self._return.answer(request)
