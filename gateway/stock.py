"""Asking, over gRPC, whether there is enough of what a checkout wants.

The answer is a hint. So nobody waits for it longer than a moment, and where none comes the checkout
goes on without it: a breaker and a bulkhead of its own see to it that a stock service in trouble
costs neither time nor connections.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final, NamedTuple

import grpc
import grpc.aio

from schemas.values import OrderLine
from tidelog.breaker import BreakerOptions, CircuitBreaker, State
from tidelog.errors import Malformed
from tidelog.grpc import stock_pb2
from tidelog.grpc.credentials import open_channel, refusal
from tidelog.grpc.options import CHANNEL_OPTIONS
from tidelog.logging import get_logger

CHECK_AVAILABILITY: Final = "/tidelog.stock.v1.StockService/CheckAvailability"
STOCK_TIMEOUT_S: Final = 0.3
"""For the whole check; a checkout has no more to lose by it."""

TOKEN_WAIT_MS: Final = 200
"""How much of it a consistency token may take: the read model says itself that it is late."""

CALLS_MAX: Final = 64
"""Checks at once; a further checkout goes on without."""

BREAKER: Final = BreakerOptions(window_s=10.0, calls_min=5, failure_share=0.5, open_s=1.0)

NOT_HERE: Final = "The consistency token names a context or a partition that is not here."

_TOLD: Final = frozenset(("not-yet-visible", "blocked"))
_log = get_logger("gateway")


class Enough(NamedTuple):
    """There is enough of everything, as of this position."""

    as_of: str


class TooLittle(NamedTuple):
    """There is too little, as of this position; `short` has what is available by line number."""

    as_of: str
    short: Mapping[int, int]


class Unchecked(NamedTuple):
    """Nobody could say.

    Why: `timeout`, `unavailable`, `breaker-open`, `overloaded`, `not-yet-visible` or `blocked`.
    """

    reason: str


Stock = Enough | TooLittle | Unchecked


class StockCheck:
    """The stock service, as the gateway asks it. One event loop uses it."""

    def __init__(
        self,
        address: str,
        *,
        timeout_s: float = STOCK_TIMEOUT_S,
        calls_max: int = CALLS_MAX,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name = "stock"
        self.breaker = CircuitBreaker(self.name, BREAKER, now, _say)
        self.failures = 0
        self.refusals = 0
        self.retries = 0
        self._address = address
        self._timeout_s = timeout_s
        self._calls_max = calls_max
        self._calls = 0
        self._channel: grpc.aio.Channel | None = None

    async def check(self, lines: Sequence[OrderLine], token: str) -> Stock:
        """What is known of these lines. It raises Malformed where the token is none of ours."""
        if self._calls >= self._calls_max:
            return Unchecked("overloaded")
        if not self.breaker.allow():
            self.refusals += 1
            return Unchecked("breaker-open")
        self._calls += 1
        try:
            answer = await self._ask(_basket(lines, token))
        except grpc.aio.AioRpcError as error:
            return self._not_told(error, token)
        except BaseException:
            self.breaker.left()  # the caller has gone
            raise
        finally:
            self._calls -= 1
        self.breaker.succeeded()
        return stock_of(answer, lines)

    async def close(self) -> None:
        """Close the channel."""
        if self._channel is not None:
            await self._channel.close()

    async def _ask(self, basket: stock_pb2.Basket) -> stock_pb2.Availability:
        if self._channel is None:  # here, because a channel belongs to the event loop that runs
            self._channel = open_channel(self._address, CHANNEL_OPTIONS)
        call = self._channel.unary_unary(
            CHECK_AVAILABILITY,
            request_serializer=stock_pb2.Basket.SerializeToString,
            response_deserializer=stock_pb2.Availability.FromString,
        )
        answer: stock_pb2.Availability = await call(basket, timeout=self._timeout_s)
        return answer

    def _not_told(self, error: grpc.aio.AioRpcError, token: str) -> Unchecked:
        """Why not. What the token asks too much is no failure of the service, and opens nothing."""
        code, details = error.code(), error.details() or ""
        if code is grpc.StatusCode.FAILED_PRECONDITION and details in _TOLD:
            self.breaker.succeeded()
            return Unchecked(details)
        if code is grpc.StatusCode.INVALID_ARGUMENT and token:
            self.breaker.succeeded()
            raise Malformed(NOT_HERE)
        self.failures += 1
        self.breaker.failed()
        _log.info("the stock was not told", code=code.name, reason=refusal(error) or details[:200])
        if code is grpc.StatusCode.DEADLINE_EXCEEDED:
            return Unchecked("timeout")
        overloaded = code is grpc.StatusCode.RESOURCE_EXHAUSTED
        return Unchecked("overloaded" if overloaded else "unavailable")


def stock_of(answer: stock_pb2.Availability, lines: Sequence[OrderLine]) -> Stock:
    """The answer for these lines; one that does not tell of each of them tells nothing."""
    if [told.sku for told in answer.lines] != [line.sku for line in lines]:
        return Unchecked("unavailable")
    short = {
        number: told.available
        for number, (told, line) in enumerate(zip(answer.lines, lines, strict=True))
        if told.available < line.quantity
    }
    return TooLittle(answer.as_of, short) if short else Enough(answer.as_of)


def _basket(lines: Sequence[OrderLine], token: str) -> stock_pb2.Basket:
    return stock_pb2.Basket(
        lines=[stock_pb2.BasketLine(sku=line.sku, quantity=line.quantity) for line in lines],
        consistency_token=token or None,
        wait_ms=TOKEN_WAIT_MS if token else 0,
    )


def _say(name: str, state: State) -> None:
    _log.warning("the breaker has changed", dependency=name, state=state)
