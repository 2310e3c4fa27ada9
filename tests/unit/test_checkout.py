"""The pure parts of a checkout: what is read, what is derived, what is estimated."""

from __future__ import annotations

import asyncio
import json
import random
from typing import Any

import httpx2
import pytest

from gateway.caller import LOCAL, machine, person
from gateway.checkout import order_id_of, read_checkout
from gateway.estimates import AGE_MAX_S, Estimates
from gateway.stock import Enough, TooLittle, Unchecked, stock_of
from query_service.availability import check_basket
from query_service.durations import Duration, quantile
from schemas.values import OrderLine
from tests.integration.command_server import order_body
from tidelog.errors import Invalid, Malformed, TidelogError, Unavailable
from tidelog.grpc import stock_pb2
from tidelog.http.asgi import HeaderList
from tidelog.http.errors import UnsupportedMediaType

JSON = [(b"content-type", b"application/json")]
TEA, POT = (
    OrderLine(sku="tea", quantity=2, unit_price=5),
    OrderLine(sku="pot", quantity=1, unit_price=9),
)


def read(body: Any, headers: HeaderList = JSON) -> Any:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return read_checkout({"headers": headers}, content, b"k", "derived")


# What is asked.


def test_an_order_without_an_id_has_the_derived_one() -> None:
    assert read(order_body()).command.order_id == "derived"
    asked = read(order_body(order_id="o-1"))
    assert asked.command.order_id == "o-1"
    assert json.loads(asked.content) == order_body(), "place-order has the id in its path"


def test_the_same_key_of_the_same_caller_makes_the_same_order() -> None:
    ada, bob = person("ada", ["customer"]), person("bob", ["customer"])
    made = [order_id_of(caller, key) for caller in (ada, bob, LOCAL) for key in ("1", "2")]
    assert len(set(made)) == len(made)
    assert order_id_of(person("ada", []), "1") == order_id_of(ada, "1")
    assert order_id_of(machine("ada", []), "1") != order_id_of(ada, "1")


@pytest.mark.parametrize(
    ("kind", "pointer", "body"),
    [
        (Malformed, None, b""),
        (Malformed, None, b"{"),
        (Malformed, None, b'{"order_id": "a", "order_id": "b"}'),
        (Malformed, None, b'{"order_id": NaN}'),
        (Invalid, "", b"[]"),
        (Invalid, "/order_id", order_body(order_id=None)),
        (Invalid, "/order_id", order_body(order_id=7)),
        (Invalid, "/order_id", order_body(order_id="..")),
        (Invalid, "/order_id", order_body(order_id="a/b")),
        (Invalid, "/currency", order_body(currency=None)),
        (Invalid, "/is_admin", order_body(is_admin=True)),
        (Invalid, "/lines", order_body(lines=[])),
        (
            Invalid,
            "/lines/0/quantity",
            order_body(lines=[{"sku": "tea", "quantity": 1.0, "unit_price": 1}]),
        ),
    ],
)
def test_a_bad_checkout_is_refused_as_a_bad_order_is(
    kind: type[TidelogError], pointer: str | None, body: Any
) -> None:
    with pytest.raises(kind) as refused:
        read(body)
    assert getattr(refused.value, "pointer", None) == pointer


def test_a_header_that_means_nothing_here_is_refused() -> None:
    with pytest.raises(UnsupportedMediaType):
        read(order_body(), [(b"content-type", b"text/plain")])
    with pytest.raises(Malformed, match="If-Match"):
        read(order_body(), [*JSON, (b"if-match", b'"0"')])
    for token in (b"", b"x", b"orders:0", b"orders:0:1,"):
        with pytest.raises(Malformed):
            read(order_body(), [*JSON, (b"consistency-token", token)])


# What is known of the stock.


def told(*lines: tuple[str, int], as_of: str = "inventory:0:7") -> stock_pb2.Availability:
    return stock_pb2.Availability(
        lines=[stock_pb2.LineAvailability(sku=sku, available=number) for sku, number in lines],
        as_of=as_of,
    )


def test_the_stock_is_compared_line_by_line() -> None:
    assert stock_of(told(("tea", 2), ("pot", 1)), (TEA, POT)) == Enough("inventory:0:7")
    short = TooLittle("inventory:0:7", {0: 1, 1: 0})
    assert stock_of(told(("tea", 1), ("pot", 0)), (TEA, POT)) == short


def test_an_answer_about_other_lines_tells_nothing() -> None:
    for answer in (told(), told(("tea", 9)), told(("pot", 9), ("tea", 9))):
        assert stock_of(answer, (TEA, POT)) == Unchecked("unavailable")


@pytest.mark.parametrize(
    ("pointer", "lines"),
    [
        ("/lines", []),
        ("/lines", [("s", 1), ("s", 1)]),
        ("/lines", [(f"s{number}", 1) for number in range(101)]),
        ("/lines/1/sku", [("s", 1), ("a b", 1)]),
        ("/lines/0/sku", [("", 1)]),
        ("/lines/0/quantity", [("s", 0)]),
        ("/lines/0/quantity", [("s", 1_000_001)]),
        ("/wait_ms", [("s", 1)]),
    ],
)
def test_a_basket_is_checked_strictly(pointer: str, lines: list[tuple[str, int]]) -> None:
    basket = stock_pb2.Basket(
        lines=[stock_pb2.BasketLine(sku=sku, quantity=number) for sku, number in lines],
        wait_ms=2_001 if pointer == "/wait_ms" else 0,
    )
    with pytest.raises(Invalid) as refused:
        check_basket(basket)
    assert refused.value.pointer == pointer


# How long orders take.


def test_of_orders_that_have_all_ended_it_is_the_usual_quantile() -> None:
    ended = [Duration(float(number), True) for number in range(1, 101)]
    random.Random(1).shuffle(ended)
    assert (quantile(ended, 0.5), quantile(ended, 0.95)) == (50.0, 95.0)
    assert quantile([Duration(0.25, True)], 0.95) == 0.25
    assert quantile([], 0.5) is None


def test_orders_that_have_just_begun_change_little() -> None:
    ended = [Duration(10.0 + number, True) for number in range(10)]
    begun = [Duration(0.01, False) for _ in range(1_000)]
    assert quantile([*ended, *begun], 0.5) == quantile(ended, 0.5) == 14.0


def test_orders_that_hang_make_the_estimate_longer_and_then_unknown() -> None:
    ended = [Duration(1.0, True)] * 5 + [Duration(2.0, True)] * 5
    hanging = [Duration(60.0, False)]
    assert quantile(ended, 0.5) == 1.0
    assert quantile([*ended, *hanging], 0.5) == 2.0
    assert quantile([*ended, *hanging], 0.95) is None
    assert quantile([*ended, *hanging * 11], 0.5) is None


class Clock:
    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


def durations(status: int, content: bytes) -> Any:
    async def ask(_target: bytes, _headers: HeaderList) -> httpx2.Response:
        return httpx2.Response(status, content=content)

    return ask


async def unavailable(_target: bytes, _headers: HeaderList) -> httpx2.Response:
    raise Unavailable("down")


GOOD = b'{"saga":"fulfilment","samples":7,"seconds":{"p50":0.5,"p95":2.25},"under_way":1}'


def test_an_estimate_is_what_was_heard_last_and_not_too_long_ago() -> None:
    clock = Clock()
    estimates = Estimates(durations(200, GOOD), clock)
    assert estimates.for_an_order_placed_now() is None, "nothing was heard yet"

    asyncio.run(estimates.refresh())
    found = estimates.for_an_order_placed_now()
    assert found is not None
    assert (found.samples, found.seconds.p50, found.seconds.p95) == (7, 0.5, 2.25)
    assert found.at.endswith("Z")

    clock.now += AGE_MAX_S + 0.1
    assert estimates.for_an_order_placed_now() is None


@pytest.mark.parametrize(
    "ask",
    [
        unavailable,
        durations(503, GOOD),
        durations(200, b"{"),
        durations(200, b"\xff"),
        durations(200, b'{"samples":0,"seconds":{"p50":null,"p95":null}}'),
    ],
)
def test_what_cannot_be_told_is_no_estimate(ask: Any) -> None:
    estimates = Estimates(ask, Clock())
    asyncio.run(estimates.refresh())
    assert estimates.for_an_order_placed_now() is None
