"""Given a log of orders, when their history is asked for over HTTP, then it is what happened."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from schemas.inventory import INVENTORY, StockReceived
from schemas.payments import PAYMENTS, PaymentRequested
from tests.fixtures.servers import Database
from tests.integration.query_server import problem
from tests.service_process import free_port
from tests.shop_log import TimelineServer, cancelled, placed, some_life, timeline_server
from tidelog.engine.reading import Fact


@pytest.fixture
def shop(database: Database) -> Iterator[TimelineServer]:
    with timeline_server(database) as server:
        yield server


def shown(fact: Fact) -> dict[str, Any]:
    """The event as the contract shows it."""
    return {
        "context": fact.partition.context,
        "id": fact.metadata.subject,
        "version": fact.version,
        "type": type(fact.event).__name__,
        "position": fact.position,
        "time": fact.metadata.recorded_at,
        "correlation_id": fact.metadata.correlation_id,
        "causation_id": fact.metadata.causation_id,
        "data": msgspec.json.decode(msgspec.json.encode(fact.event)),
    }


def places(facts: list[Fact]) -> list[str]:
    return [fact.position for fact in facts]


def in_order(facts: list[Fact]) -> list[Fact]:
    return sorted(facts, key=lambda fact: (fact.partition, fact.sequence))


def walk(shop: TimelineServer, path: str) -> list[str]:
    """The positions of all items, from link to link."""
    found: list[str] = []
    while path:
        answer = shop.settled(path)
        assert answer.status_code == 200, answer.text
        found += [item["position"] for item in answer.json()["items"]]
        link = answer.headers.get("link", "")
        assert bool(link) == (answer.json()["next_cursor"] is not None)
        path = link.partition(">")[0].lstrip("<")
    return found


def a_busy_shop(shop: TimelineServer, orders: int) -> None:
    dice = random.Random(4)
    lives = [some_life(f"o-{number}", dice) for number in range(orders)]
    while lives:
        life = dice.choice(lives)
        shop.log.append(life.pop(0), correlation_id=f"visit-{dice.randint(1, 5)}")
        if not life:
            lives.remove(life)


# --- the history of one aggregate ------------------------------------------------------------


def test_the_history_of_an_order_is_its_events_in_order(shop: TimelineServer) -> None:
    shop.log.append(placed("o-1"), placed("o-2"), cancelled("o-1"))

    answer = shop.settled("/orders/o-1/history")

    assert answer.status_code == 200
    assert answer.json() == {
        "items": [shown(fact) for fact in shop.log.of("o-1")],
        "next_cursor": None,
    }
    assert answer.headers["x-as-of"] == in_order(shop.log.of("o-1"))[-1].position


def test_a_long_history_comes_in_pages(shop: TimelineServer) -> None:
    shop.log.append(placed("o-1"), *[cancelled("o-1") for _ in range(24)], placed("o-2"))

    assert walk(shop, "/orders/o-1/history?limit=10") == places(shop.log.of("o-1"))


def test_other_aggregates_have_a_history_too(shop: TimelineServer) -> None:
    shop.log.append(placed("o-1"))
    (stock,) = shop.log.append(StockReceived(sku="tea", quantity=3), context=INVENTORY)
    requested = PaymentRequested(order_id="o-1", customer_id="c-1", amount=700, currency="EUR")
    (payment,) = shop.log.append(requested, context=PAYMENTS)

    assert shop.settled("/stock/tea/history").json()["items"] == [shown(stock)]
    assert shop.settled("/payments/o-1/history").json()["items"] == [shown(payment)]
    assert problem(shop.get("/shipments/o-1/history")) == (404, "unknown")


def test_what_cannot_be_asked_for_is_refused(shop: TimelineServer) -> None:
    shop.log.append(placed("o-1"))
    assert problem(shop.settled("/orders/nobody/history")) == (404, "unknown")
    for cursor in ("0", "-1", "x", "1.5", "", "9" * 19):
        assert problem(shop.get(f"/orders/o-1/history?cursor={cursor}")) == (400, "malformed")
    assert problem(shop.get("/orders/o-1/history?limit=201")) == (422, "invalid")
    assert problem(shop.get("/orders/o-1/history?after=1")) == (400, "malformed")
    assert shop.get("/orders/o-1/history?cursor=9").json() == {"items": [], "next_cursor": None}


def test_bytes_of_an_unknown_schema_are_shown_as_such_and_never_a_fault(
    shop: TimelineServer,
) -> None:
    first, second = shop.log.append(placed("o-1"), cancelled("o-1"))
    shop.log.append_bytes(first, b"\x00\x00\x0f\x42\x3fnobody's")

    items = shop.settled("/orders/o-1/history").json()["items"]

    assert items[0]["data"] is None
    assert items[0]["undecodable"]
    assert items[1] == shown(second)
    assert shop.settled("/events?type=OrderPlaced").json()["items"] == items[:1]
    assert problem(shop.get("/orders/o-1?as_of=2")) == (503, "unavailable")


def test_a_page_is_bounded_in_bytes(shop: TimelineServer, monkeypatch: pytest.MonkeyPatch) -> None:
    shop.log.append(placed("o-1"), *[cancelled("o-1") for _ in range(30)])
    size = len(shop.log.facts[1].record.value or b"")
    monkeypatch.setattr("query_service.history.PAGE_BYTES_MAX", size * 5)
    monkeypatch.setattr("query_service.events.PAGE_BYTES_MAX", 1)

    first = shop.settled("/orders/o-1/history").json()
    assert 4 <= len(first["items"]) <= 6
    assert walk(shop, "/orders/o-1/history") == places(shop.log.of("o-1"))
    assert len(shop.settled("/events").json()["items"]) == 1
    assert walk(shop, "/events") == places(in_order(shop.log.facts))


# --- the list of events ----------------------------------------------------------------------


def test_all_events_are_listed_in_the_order_of_the_log(shop: TimelineServer) -> None:
    a_busy_shop(shop, orders=25)
    shop.log.append(StockReceived(sku="tea", quantity=3), context=INVENTORY)

    for limit in (1, 7, 50, 200):
        assert walk(shop, f"/events?limit={limit}") == places(in_order(shop.log.facts))
    first = shop.settled("/events?context=orders&limit=1").json()["items"][0]
    of_orders = [fact for fact in shop.log.facts if fact.partition.context == "orders"]
    assert first == shown(in_order(of_orders)[0])


@pytest.mark.parametrize(
    ("query", "wanted"),
    [
        ("context=orders", lambda fact: fact.partition.context == "orders"),
        ("context=payments", lambda fact: fact.partition.context == "payments"),
        ("type=OrderCancelled", lambda fact: type(fact.event).__name__ == "OrderCancelled"),
        ("aggregate_id=o-3", lambda fact: fact.metadata.subject == "o-3"),
        ("correlation_id=visit-2", lambda fact: fact.metadata.correlation_id == "visit-2"),
        (
            "correlation_id=visit-2&type=OrderPlaced&context=orders",
            lambda fact: (
                fact.metadata.correlation_id == "visit-2"
                and type(fact.event).__name__ == "OrderPlaced"
            ),
        ),
        (
            "aggregate_id=o-3&type=OrderPlaced&correlation_id=nobody",
            lambda fact: False,
        ),
    ],
)
def test_filters_leave_what_they_ask_for(shop: TimelineServer, query: str, wanted: Any) -> None:
    a_busy_shop(shop, orders=12)
    requested = PaymentRequested(order_id="o-3", customer_id="c-1", amount=700, currency="EUR")
    shop.log.append(requested, context=PAYMENTS, correlation_id="visit-2")
    expected = places([fact for fact in in_order(shop.log.facts) if wanted(fact)])

    assert walk(shop, f"/events?{query}&limit=3") == expected
    assert walk(shop, f"/events?{query}") == expected


def test_after_is_exclusive_and_a_reader_may_page_by_the_last_position(
    shop: TimelineServer,
) -> None:
    a_busy_shop(shop, orders=12)
    found: list[str] = []
    path = "/events?limit=4"
    while items := shop.settled(path).json()["items"]:
        found += [item["position"] for item in items]
        path = f"/events?limit=4&after={found[-1]}"

    assert found == places(in_order(shop.log.facts))


def test_behind_a_token_comes_what_is_new_in_each_partition(shop: TimelineServer) -> None:
    a_busy_shop(shop, orders=12)
    known = len(shop.log.facts)
    token = shop.settled("/events?limit=1").headers["x-as-of"]
    for number in range(12):
        shop.log.append(cancelled(f"o-{number}"))

    new = in_order(shop.log.facts[known:])
    assert walk(shop, f"/events?context=orders&limit=5&after={token}") == places(new)


@pytest.mark.parametrize(
    "query",
    [
        "after=orders",
        "after=orders:0",
        "after=",
        "after=orders:9:1",
        "after=nowhere:0:1",
        "cursor=x",
        "context=nowhere",
        "type=Drop",
        "type=orderplaced",
        "sort=time",
        "limit=1&limit=2",
    ],
)
def test_what_a_list_does_not_take_is_malformed(shop: TimelineServer, query: str) -> None:
    assert problem(shop.get(f"/events?{query}")) == (400, "malformed")


@pytest.mark.parametrize("query", ["limit=0", "limit=201", "aggregate_id=..", "correlation_id="])
def test_what_is_out_of_bounds_is_invalid(shop: TimelineServer, query: str) -> None:
    assert problem(shop.get(f"/events?{query}")) == (422, "invalid")


def test_while_the_registry_is_away_the_answer_is_to_come_again(database: Database) -> None:
    nobody = f"http://127.0.0.1:{free_port()}"
    with timeline_server(database, registry_url=nobody) as shop:
        shop.log.append(placed("o-1"))

        answer = shop.settled("/orders/o-1/history")

    assert problem(answer) == (503, "unavailable")
    assert answer.headers["retry-after"] == "1"
