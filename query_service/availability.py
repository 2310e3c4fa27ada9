"""Whether there is enough of each SKU, over gRPC: what a checkout asks before it places an order.

One statement tells all lines of a basket, so they are of one moment. Checks have a few statements
of their own at a time and a bounded queue: however many come, the other queries keep their
connections.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from typing import Any, Final, NoReturn

import grpc
import grpc.aio
from sqlalchemy import ARRAY, ColumnElement, Text, bindparam, column, func, select, table

from query_service.reads import Reads, compiled
from query_service.stock import AVAILABLE, LEVEL
from schemas.values import LINES_MAX
from tidelog.errors import (
    Invalid,
    Malformed,
    Overloaded,
    TidelogError,
    Unavailable,
)
from tidelog.grpc import stock_pb2
from tidelog.grpc.errors import code_of
from tidelog.http.errors import InternalError
from tidelog.logging import get_logger
from tidelog.message import ID_PATTERN

STOCK_SERVICE: Final = "tidelog.stock.v1.StockService"
STATEMENTS_MAX: Final = 4
"""Statements of checks under way at once: so many connections of the pool they may hold."""

CHECKS_MAX: Final = 256
"""Checks at once, those that wait for a statement included; more are refused."""

WAIT_MS_MAX: Final = 2_000
QUANTITY_MAX: Final = 1_000_000

_ID = re.compile(ID_PATTERN)
_log = get_logger("query_service")


class Availability:
    """Asks the stock read model about many SKUs at once."""

    def __init__(self, reads: Reads) -> None:
        self._reads = reads
        shown: list[ColumnElement[Any]] = [column("sku"), AVAILABLE.label("available")]
        self._statement = compiled(
            select(*shown)
            .select_from(table(LEVEL.projection, schema=reads.database.schema))
            .where(column("sku") == func.any(bindparam("skus", type_=ARRAY(Text))))
        )
        self._places = asyncio.Semaphore(STATEMENTS_MAX)
        self._checks = 0

    async def of(self, skus: Sequence[str], token: str, wait_ms: int) -> tuple[dict[str, int], str]:
        """What is available of each SKU that has a row, and how far the read model is at least.

        Raises Overloaded, NotYetVisible, Blocked or Unavailable where that cannot be told.
        """
        if self._checks >= CHECKS_MAX:
            raise Overloaded(f"{CHECKS_MAX} checks wait for the stock already.")
        self._checks += 1
        try:
            return await self._look(skus, token, wait_ms)
        finally:
            self._checks -= 1

    async def _look(
        self, skus: Sequence[str], token: str, wait_ms: int
    ) -> tuple[dict[str, int], str]:
        listener = self._reads.listener
        if token:
            await self._reads.reach(LEVEL.projection, token, wait_ms, skus)
        async with self._places:
            breaks, as_of = listener.breaks, self._reads.as_of(LEVEL.projection)
            if not as_of:
                raise Unavailable("No read model of the stock serves yet.")
            rows = await self._reads.database.rows(self._statement, {"skus": [*skus]})
            if listener.breaks != breaks:
                raise Unavailable("The database has come back meanwhile. Ask again.")
        return dict(rows), as_of


class StockHandlers:
    """`StockService`: it translates; the read model knows."""

    def __init__(self, availability: Availability) -> None:
        self._availability = availability

    def handlers(self) -> grpc.GenericRpcHandler:
        """The service, to be added to a server."""
        return grpc.method_handlers_generic_handler(
            STOCK_SERVICE,
            {
                "CheckAvailability": grpc.unary_unary_rpc_method_handler(
                    self.check_availability,
                    request_deserializer=stock_pb2.Basket.FromString,
                    response_serializer=stock_pb2.Availability.SerializeToString,
                )
            },
        )

    async def check_availability(
        self, basket: stock_pb2.Basket, call: Any
    ) -> stock_pb2.Availability:
        """Each line, in its order. The caller's deadline cancels the wait."""
        try:
            check_basket(basket)
            skus = [line.sku for line in basket.lines]
            token = basket.consistency_token.strip(" \t")
            if basket.HasField("consistency_token") and not token:
                raise Malformed("The consistency token is empty.")
            available, as_of = await self._availability.of(skus, token, basket.wait_ms)
        except TidelogError as error:
            await _abort(call, error)
        except Exception as error:
            _log.error("a call failed", exc_info=error)
            await _abort(call, InternalError())
        return stock_pb2.Availability(
            lines=[
                stock_pb2.LineAvailability(
                    sku=line.sku,
                    available=available.get(line.sku, 0),
                    enough=available.get(line.sku, 0) >= line.quantity,
                )
                for line in basket.lines
            ],
            as_of=as_of,
        )


def check_basket(basket: stock_pb2.Basket) -> None:
    """Raise Invalid where the basket breaks its form or bounds."""
    if not 1 <= len(basket.lines) <= LINES_MAX:
        raise Invalid(f"A basket has 1 to {LINES_MAX} lines.", "/lines")
    if len({line.sku for line in basket.lines}) != len(basket.lines):
        raise Invalid("Each SKU stands on one line only.", "/lines")
    for number, line in enumerate(basket.lines):
        if not _ID.match(line.sku):
            raise Invalid("This is no SKU.", f"/lines/{number}/sku")
        if not 1 <= line.quantity <= QUANTITY_MAX:
            raise Invalid(f"A quantity is 1 to {QUANTITY_MAX}.", f"/lines/{number}/quantity")
    if not 0 <= basket.wait_ms <= WAIT_MS_MAX:
        raise Invalid(f"wait_ms is 0 to {WAIT_MS_MAX}.", "/wait_ms")


async def _abort(call: Any, error: TidelogError) -> NoReturn:
    """The details of the status are the name of the problem."""
    code = code_of(error)
    name = InternalError.slug() if code is grpc.StatusCode.INTERNAL else error.slug()
    await call.abort(code, name)
    raise AssertionError("abort has raised")
