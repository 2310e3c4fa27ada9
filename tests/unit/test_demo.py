"""The demonstration's books: what balances is quiet, and what does not is named.

A stand-in gives the shop's answers; that they are so in a real one is shown by `./dev demo`.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from tidelog.cli.demo import RECEIVED, wrong_books
from tidelog.cli.demo_shop import PRICE, DemoShop


class StandIn(ThreadingHTTPServer):
    """Answers each path with what it was given for it."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.answers: dict[str, Any] = {}
        self.text = ""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Answer(BaseHTTPRequestHandler):
    server: StandIn

    def do_GET(self) -> None:
        found = self.server.answers.get(self.path)
        content = self.server.text if self.path == "/metrics" else json.dumps(found)
        self.send_response(404 if found is None and self.path != "/metrics" else 200)
        self.end_headers()
        self.wfile.write(content.encode())

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""
        del format, args


@pytest.fixture
def world() -> Iterator[StandIn]:
    with StandIn() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def shop(world: StandIn) -> Iterator[DemoShop]:
    """One order of two pieces that stands, and one that was paid back."""
    urls = {"gateway": world.url, "payment_provider": world.url}
    made = DemoShop(urls, [world.url], run="x")
    made.orders = {"good": 2 * PRICE, "back": PRICE, "never": PRICE}
    world.answers = {
        f"/stock/{made.sku}": {"on_hand": RECEIVED - 2, "reserved": 0, "available": RECEIVED - 2},
        "/orders/good": {"status": "confirmed"},
        "/orders/back": {"status": "cancelled"},
        "/orders/never": {"status": "cancelled"},
        "/payments/good": {"captured": 2 * PRICE, "refunded": 0},
        "/payments/back": {"captured": PRICE, "refunded": PRICE},
        "/ledger": [
            entry("good", "capture", 2 * PRICE),
            entry("back", "capture", PRICE),
            entry("back", "refund", PRICE),
            entry("never", "void", PRICE),
            entry("of-somebody-else", "capture", 5),
        ],
    }
    yield made
    made.close()


def entry(order_id: str, kind: str, amount: int) -> dict[str, Any]:
    return {"order_id": order_id, "kind": kind, "amount": amount}


def test_books_that_balance_have_nothing_wrong(shop: DemoShop) -> None:
    assert wrong_books(shop, 2) == []


def test_a_charge_that_only_the_provider_knows_is_named(shop: DemoShop, world: StandIn) -> None:
    world.answers["/ledger"].append(entry("good", "capture", 2 * PRICE))

    assert wrong_books(shop, 2) == [
        f"good: our books say ({2 * PRICE}, 0), the provider's ({4 * PRICE}, 0)"
    ]


def test_money_that_was_not_paid_back_is_named(shop: DemoShop, world: StandIn) -> None:
    world.answers["/payments/back"]["refunded"] = 0
    del world.answers["/ledger"][2]

    assert wrong_books(shop, 2) == [f"back is cancelled, and {PRICE} of 0 were paid"]


def test_stock_that_stays_reserved_is_named(shop: DemoShop, world: StandIn) -> None:
    world.answers[f"/stock/{shop.sku}"]["reserved"] = 1

    (wrong,) = wrong_books(shop, 2)
    assert "'reserved': 1" in wrong


def test_an_order_that_has_not_ended_is_named(shop: DemoShop, world: StandIn) -> None:
    world.answers["/orders/never"]["status"] = "reserved"

    assert wrong_books(shop, 2) == ["never is reserved"]


@pytest.mark.parametrize(
    ("value", "state"), [("0.0", "closed"), ("1.0", "half-open"), ("2.0", "open")]
)
def test_the_breaker_is_read_from_the_metrics(
    shop: DemoShop, world: StandIn, value: str, state: str
) -> None:
    world.text = f'tidelog_breaker_state{{dependency="payment_provider"}} {value}\n'

    assert shop.breaker() == state
