"""`GET /stock/{sku}` and `GET /stock`: what is on the shelf, and how much of it can be ordered."""

from __future__ import annotations

from sqlalchemy import BigInteger, column
from starlette.requests import Request
from starlette.responses import Response

from query_service.lists import Listing, ListQuery, Sort
from query_service.reads import Reads
from query_service.rows import RowQuery, Shown

AVAILABLE = column("on_hand", BigInteger) - column("reserved", BigInteger)

LEVEL = Shown(
    projection="stock_level",
    key="sku",
    fields={
        "sku": "sku",
        "on_hand": "on_hand",
        "reserved": "reserved",
        "available": AVAILABLE,
        "version": "version",
        "position": "position",
    },
)

STOCK = Listing(path="/stock", shown=LEVEL, sorts={"sku": Sort({"sku": str})})


class Stock:
    """The queries over stock."""

    def __init__(self, reads: Reads) -> None:
        self._level = RowQuery(
            reads, LEVEL, unknown="There is no stock of this SKU, and there never was."
        )
        self._stock = ListQuery(reads, STOCK)

    async def one(self, request: Request) -> Response:
        """The stock of one SKU."""
        return await self._level.answer(request)

    async def list(self, request: Request) -> Response:
        """The stock of every SKU in pages, in byte order."""
        return await self._stock.answer(request)
