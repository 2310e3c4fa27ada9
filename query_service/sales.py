"""`GET /sales/daily`: what was sold of each SKU on each day, and what was taken back."""

from __future__ import annotations

import operator
from datetime import date

from sqlalchemy import BigInteger, column
from starlette.requests import Request
from starlette.responses import Response

from query_service.lists import Filter, Listing, ListQuery, Sort
from query_service.parameters import day, identifier
from query_service.reads import Reads
from query_service.rows import Shown

DAY = Shown(
    projection="daily_sales",
    key="sales_key",
    fields={
        "day": "day",
        "sku": "sku",
        "currency": "currency",
        "units_sold": "units_sold",
        "units_returned": "units_returned",
        "units": column("units_sold", BigInteger) - column("units_returned", BigInteger),
        "amount_sold": "amount_sold",
        "amount_returned": "amount_returned",
        "revenue": column("amount_sold", BigInteger) - column("amount_returned", BigInteger),
    },
)

SALES = Listing(
    path="/sales/daily",
    shown=DAY,
    sorts={"day": Sort({"day": date, "sales_key": str})},
    filters=(
        Filter(day("from", "The first day."), "day", date, operator.ge),
        Filter(day("to", "The last day."), "day", date, operator.le),
        Filter(identifier("sku", "Only of this SKU."), "sku", str),
    ),
    spans=(("from", "to"),),
)


class Sales:
    """The queries over sales."""

    def __init__(self, reads: Reads) -> None:
        self._daily = ListQuery(reads, SALES)

    async def daily(self, request: Request) -> Response:
        """Sales by day, currency and SKU in pages, the earliest first."""
        return await self._daily.answer(request)
