"""`POST /checkout`: what a customer must know at once is asked at once, the rest goes by events.

    gateway ── gRPC ── query_service                    is there enough?   300 ms, and only a hint
    gateway ── HTTP ── command_service ── gRPC ── owner    place the order    the rest of the time

Both within one deadline, at most two hops deep. A stock check that fails refuses nobody: the order
is placed, the saga decides, and the answer says that nobody looked. A check that finds too little
refuses only what is not there yet: the order is sent with `If-Match: *`, so that a checkout which
is repeated gets its first answer, though its own reservation took the last piece.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Iterator
from typing import Final, NamedTuple, assert_never

import httpx2
import msgspec
from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector

from gateway.caller import SCOPES, Caller
from gateway.errors import BadGateway, GatewayTimeout, InsufficientStock
from gateway.estimates import Estimate, Estimates
from gateway.guard import Admitted, Guard
from gateway.proxy import CORRELATION, Exchange, Proxy, answer_headers, request_headers
from gateway.routes import Access, Own, RoutedPath, Upstream
from gateway.services import Services
from gateway.stock import Enough, Stock, StockCheck, TooLittle, Unchecked
from schemas.orders import PlaceOrder
from tidelog.errors import Invalid, Malformed, TidelogError
from tidelog.http.asgi import HeaderList, Scope, answer
from tidelog.http.body import CommandReader, read_json
from tidelog.http.command_api import check_id
from tidelog.http.headers import by_name, check_media_type, idempotency_key
from tidelog.http.problems import (
    MEDIA_TYPE,
    FieldError,
    current_trace,
    problem_headers,
    problem_of,
)
from tidelog.ids import uuid7
from tidelog.logging import current_correlation_id
from tidelog.position import parse_token

CHECKOUT: Final = RoutedPath("POST", "/checkout", Upstream.COMMANDS, Access(SCOPES, Own.CHECKOUT))
COMMAND_MARGIN_S: Final = 2.0
"""Beyond what the command service may take, so that its own answer comes first."""

_KEY = b"idempotency-key"
_JSON = b"application/json"
_NAMESPACE: Final = uuid.uuid5(uuid.NAMESPACE_URL, "https://tidelog.dev/checkouts")
_READER: Final = CommandReader(PlaceOrder, "order_id")
# It is answered at once whatever is preferred, as RFC 7240 leaves a server free to.
_NOT_PASSED_ON = frozenset(
    (b"content-length", b"content-type", b"consistency-token", b"if-none-match", b"prefer", _KEY)
)


class Asked(NamedTuple):
    """A checkout that was read: whatever is wrong with it has been said."""

    key: bytes
    command: PlaceOrder
    content: bytes
    """The body of place-order."""

    token: str
    """What the stock that is looked at must include; empty where nothing is asked."""


class Answered(NamedTuple):
    """An answer in the making."""

    status: int
    headers: HeaderList
    content: bytes


class Links(msgspec.Struct, frozen=True):
    """Where the order is found from now on."""

    order: str
    overview: str
    live: str
    cancel: str


class _Placed(msgspec.Struct):
    """What the command service answers."""

    version: int
    events: msgspec.Raw
    replayed: bool
    token: str | None = None


class CheckedOut(msgspec.Struct, frozen=True, kw_only=True):
    """What is answered."""

    id: str
    status: str | None
    """`placed`; null where the order has gone on since, and only a query knows how far."""

    version: int
    events: msgspec.Raw
    token: str | None
    replayed: bool
    stock: dict[str, bool | str]
    estimated_completion: Estimate | None
    links: Links


class Checkouts(Collector):
    """Counts checkouts by what was known of the stock."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}

    def count(self, stock: Stock) -> None:
        """One more."""
        name = _name_of(stock)
        self._counts[name] = self._counts.get(name, 0) + 1

    def collect(self) -> Iterator[Metric]:
        """As Prometheus reads them."""
        family = CounterMetricFamily(
            "tidelog_checkouts", "Checkouts, by what was known of the stock.", labels=("stock",)
        )
        for name, number in sorted(self._counts.items()):
            family.add_metric((name,), number)
        yield family


class Checkout(Proxy):
    """Looks at the stock, places the order, and says what is known by then."""

    def __init__(
        self,
        services: Services,
        guard: Guard,
        stock: StockCheck,
        estimates: Estimates,
        deadline_s: float,
    ) -> None:
        super().__init__(services, guard, streams_per_caller_max=0)  # nothing here streams
        self.counts = Checkouts()
        self._stock = stock
        self._estimates = estimates
        self._deadline_s = deadline_s
        self._asking: asyncio.Task[None] | None = None

    def watch(self) -> None:
        """Begin to ask how long orders take."""
        self._asking = asyncio.create_task(self._estimates.run())

    async def close(self) -> None:
        """Ask no more."""
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.wait({self._asking})
        await self._stock.close()

    async def pass_on(
        self,
        routed: RoutedPath,  # noqa: ARG002 - there is one
        admitted: Admitted,
        content: bytes | None,
        exchange: Exchange,
    ) -> None:
        """Answer with the order that is placed, or why none is."""
        scope, _, send = exchange
        given = by_name(scope["headers"])
        headers = [
            pair
            for pair in request_headers(scope["headers"], admitted)
            if pair[0] not in _NOT_PASSED_ON
        ]
        # Without a key of the caller's there is one of ours, with which this can be sent again.
        key = given.get(_KEY, uuid7().encode("ascii"))
        named = idempotency_key(key)
        try:
            asked = read_checkout(scope, content or b"", key, order_id_of(admitted.caller, named))
            answered = await self._carry_out(asked, admitted, headers)
        except TidelogError as error:
            answered = _refused(error, scope["path"], key)
            if current_correlation_id.get() is None:
                answered.headers.append((CORRELATION, dict(headers)[CORRELATION]))
        if admitted.standing is not None:
            answered.headers.extend(admitted.standing.headers())
        answered.headers.append((b"content-length", b"%d" % len(answered.content)))
        await answer(send, *answered)

    async def _carry_out(self, asked: Asked, admitted: Admitted, headers: HeaderList) -> Answered:
        try:
            async with asyncio.timeout(self._deadline_s):
                stock = await self._stock.check(asked.command.lines, asked.token)
                self.counts.count(stock)
                placed = await self._place(asked, headers, isinstance(stock, TooLittle))
        except TimeoutError:
            raise GatewayTimeout("The order was not answered for in time.") from None
        if admitted.restricted:
            admitted.placed = asked.command.order_id
        self._guard.answered(admitted, placed.status_code)
        if isinstance(stock, TooLittle) and placed.status_code == httpx2.codes.PRECONDITION_FAILED:
            raise InsufficientStock(stock.short, stock.as_of)
        kept = [pair for pair in answer_headers(placed) if pair[0] != b"content-length"]
        if placed.status_code not in (httpx2.codes.OK, httpx2.codes.CREATED):
            return Answered(placed.status_code, kept, placed.content)
        kept.append((b"location", f"/orders/{asked.command.order_id}".encode("ascii")))
        return Answered(placed.status_code, kept, self._document(asked, stock, placed))

    async def _place(self, asked: Asked, headers: HeaderList, must_exist: bool) -> httpx2.Response:
        """The whole answer of the command service."""
        sent = [*headers, (b"content-type", _JSON), (_KEY, asked.key)]
        if must_exist:
            sent.append((b"if-match", b"*"))
        target = f"/orders/{asked.command.order_id}/place-order".encode("ascii")
        answered = await self.services.send(Upstream.COMMANDS, "POST", target, sent, asked.content)
        try:
            await answered.aread()
        except httpx2.TransportError:
            raise BadGateway("The service broke off its answer.") from None
        finally:
            await answered.aclose()
        return answered

    def _document(self, asked: Asked, stock: Stock, answered: httpx2.Response) -> bytes:
        try:
            placed = msgspec.json.decode(answered.content, type=_Placed)
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise BadGateway("The answer of the service cannot be read.") from None
        new = answered.status_code == httpx2.codes.CREATED and not placed.replayed
        order_id = asked.command.order_id
        return msgspec.json.encode(
            CheckedOut(
                id=order_id,
                status="placed" if placed.version == 1 else None,
                version=placed.version,
                events=placed.events,
                token=placed.token,
                replayed=placed.replayed,
                stock=_shown(stock),
                estimated_completion=self._estimates.for_an_order_placed_now() if new else None,
                links=Links(
                    order=f"/orders/{order_id}",
                    overview=f"/orders/{order_id}/overview",
                    live=f"/orders/{order_id}/live",
                    cancel=f"/orders/{order_id}/cancel-order",
                ),
            )
        )


def order_id_of(caller: Caller, key: str) -> str:
    """The id of an order for which none is given: the same for the same key of the same caller.

    Names of callers hold no line feed, so no two pairs make the same text.
    """
    return str(uuid.uuid5(_NAMESPACE, f"{caller.name}\n{key}"))


def read_checkout(scope: Scope, content: bytes, key: bytes, derived_id: str) -> Asked:
    """The checkout in the request, as strictly as the command service reads place-order."""
    headers = by_name(scope["headers"])
    check_media_type(headers, _JSON)
    if b"if-match" in headers:
        raise Malformed("A checkout takes no If-Match: it makes an order that is not there yet.")
    tokens = [value for name, value in scope["headers"] if name == b"consistency-token"]
    token = b",".join(tokens).decode("latin-1").strip(" \t")
    if tokens:
        parse_token(token)
    fields = read_json(content)
    if type(fields) is not dict:
        raise Invalid("Expected a JSON object.")
    order_id = fields.pop("order_id", derived_id)
    if type(order_id) is not str:
        raise Invalid("Expected str.", "/order_id")
    check_id(order_id, "order_id")
    body = dict(fields)
    command = _READER.build(fields, order_id)
    assert isinstance(command, PlaceOrder)
    return Asked(key, command, msgspec.json.encode(body), token)


def _refused(error: TidelogError, path: str, key: bytes) -> Answered:
    trace = current_trace.get()
    problem = problem_of(error, path, trace.trace_id if trace else "")
    headers = [(b"content-type", MEDIA_TYPE), (_KEY, key), *problem_headers(error)]
    if isinstance(error, InsufficientStock):
        places = tuple(
            FieldError(
                pointer=f"/lines/{number}/quantity",
                detail=f"Of this SKU {available} can be ordered now.",
            )
            for number, available in sorted(error.short.items())
        )
        problem = msgspec.structs.replace(problem, errors=places)
        headers.append((b"x-as-of", error.as_of.encode("ascii")))
    return Answered(error.status, headers, msgspec.json.encode(problem))


def _shown(stock: Stock) -> dict[str, bool | str]:
    if isinstance(stock, Unchecked):
        return {"checked": False, "reason": stock.reason}
    return {"checked": True, "as_of": stock.as_of}


def _name_of(stock: Stock) -> str:
    match stock:
        case Enough():
            return "enough"
        case TooLittle():
            return "too-little"
        case Unchecked(reason=reason):
            return reason
    assert_never(stock)
