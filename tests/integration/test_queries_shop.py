"""Given the shop's events on a real log, when projectors have folded them, then these answers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest

from schemas import CONTEXTS
from schemas.orders import (
    ORDERS,
    OrderCancellationRequested,
    OrderCancelled,
    OrderConfirmed,
    OrderDelivered,
    OrderPaid,
    OrderPlaced,
    OrderReserved,
    OrderReturned,
)
from schemas.payments import PAYMENTS, PaymentCaptured, PaymentRefunded, PaymentRequested
from schemas.returns import RETURNS, ReturnApproved, ReturnLabelIssued, ReturnRequested
from schemas.shipping import SHIPPING, ShipmentArranged, ShipmentDispatched, ShipmentRequested
from schemas.values import Address, GoodsLine, OrderLine, total_of
from tests.fixtures.servers import Database
from tests.integration.query_server import problem
from tests.log_writer import LogWriter, until
from tests.service_process import service
from tidelog import Context, Event
from tidelog.codec import Codec
from tidelog.registry import RegistryClient

HOME = Address(name="Ada", street="1 Main St", city="Turin", postal_code="10121", country="IT")
TEA = OrderLine(sku="tea", quantity=2, unit_price=350)
CUP = OrderLine(sku="cup", quantity=1, unit_price=900)
GOODS = (GoodsLine(sku="tea", quantity=2),)
DAY = "2026-07-31"


@dataclass
class Shop:
    """The log of each context, and the queries over its read models."""

    logs: dict[str, LogWriter]
    client: httpx2.Client

    def happened(self, context: Context, *events: Event) -> str:
        """Append the events; the token that a query needs to see them all."""
        return ",".join(str(position) for position in self.logs[context.name].append(*events))

    def get(self, path: str, token: str = "") -> httpx2.Response:
        """GET, as soon as the read model holds what the token names."""
        headers = {"Consistency-Token": token} if token else {}
        more = "&" if "?" in path else "?"
        return self.client.get(f"{path}{more}wait_ms=10000", headers=headers)


@pytest.fixture
def shop(kafka: str, namespace: str, database: Database, tmp_path: Path) -> Iterator[Shop]:
    settings = {
        "kafka_bootstrap_servers": kafka,
        "postgres_dsn": database.dsn,
        "postgres_schema": database.schema,
        "topic_prefix": namespace,
        "partitions": "4",
    }
    with ExitStack() as running:
        registry = running.enter_context(
            service("tidelog.registry", tmp_path, settings, wait_until_ready=False)
        )
        until(lambda: registry.get("/subjects"), "the registry answers")
        client = RegistryClient(registry.url)
        running.callback(client.close)
        logs = {each.name: log_of(each, kafka, client, namespace) for each in CONTEXTS}
        settings["registry_url"] = registry.url
        running.enter_context(service("projectors", tmp_path, settings))
        queries = running.enter_context(service("query_service", tmp_path, settings))
        asked = httpx2.Client(base_url=queries.url, trust_env=False, timeout=30)
        yield Shop(logs, running.enter_context(asked))


def log_of(context: Context, kafka: str, registry: RegistryClient, namespace: str) -> LogWriter:
    codec = Codec([context], registry, namespace)
    codec.prepare()
    return LogWriter(kafka, context, codec, topic_prefix=namespace)


def placed(order_id: str, customer_id: str, *lines: OrderLine) -> OrderPlaced:
    return OrderPlaced(
        order_id=order_id,
        customer_id=customer_id,
        currency="EUR",
        lines=lines,
        total=total_of(lines),
        ship_to=HOME,
    )


def sold(order_id: str, customer_id: str, *lines: OrderLine) -> Sequence[Event]:
    """The events of an order up to its delivery."""
    total = total_of(lines)
    return [
        placed(order_id, customer_id, *lines),
        OrderReserved(order_id=order_id),
        OrderPaid(order_id=order_id, amount=total, currency="EUR", paid_on=DAY),
        OrderConfirmed(
            order_id=order_id,
            customer_id=customer_id,
            currency="EUR",
            lines=lines,
            total=total,
            paid_on=DAY,
        ),
        OrderDelivered(order_id=order_id),
    ]


def taken_back(order_id: str, customer_id: str, *lines: OrderLine) -> OrderReturned:
    return OrderReturned(
        order_id=order_id,
        return_id=f"r-{order_id}",
        customer_id=customer_id,
        currency="EUR",
        lines=lines,
        amount=total_of(lines),
        complete=False,
        paid_on=DAY,
    )


def test_orders_of_all_partitions_come_together_by_customer_and_by_day(shop: Shop) -> None:
    ids = [f"o-{number}" for number in range(12)]
    tokens = [shop.happened(ORDERS, *sold(order_id, "c-1", TEA, CUP)) for order_id in ids]
    tokens.append(shop.happened(ORDERS, taken_back("o-3", "c-1", TEA)))
    tokens.append(
        shop.happened(
            ORDERS,
            placed("o-x", "c-1", TEA),
            OrderCancellationRequested(order_id="o-x", reason="late", confirmed=False),
            OrderCancelled(
                order_id="o-x",
                customer_id="c-1",
                currency="EUR",
                lines=(TEA,),
                total=700,
                reason="late",
                confirmed=False,
                paid_on=None,
            ),
        )
    )
    token = last_of(tokens)

    summary = shop.get("/customers/c-1/summary", token)
    daily = shop.get("/sales/daily?from=2026-07-31&sku=tea", token)
    listed = shop.get("/orders?customer_id=c-1&status=returned", token)

    assert summary.headers["etag"] == f'"{12 * 2 + 1 + 2}"', "the events that it took in"
    body = summary.json()
    assert body.pop("since") <= body.pop("updated_at")
    assert body == {
        "customer_id": "c-1",
        "orders_placed": 13,
        "orders_confirmed": 12,
        "orders_cancelled": 1,
        "orders_returned": 0,
        "returns": 1,
        "lifetime_value": {"EUR": 12 * 1600 - 700},
    }
    (tea,) = daily.json()["items"]
    assert (tea["units_sold"], tea["units_returned"], tea["units"]) == (24, 2, 22)
    assert tea["revenue"] == 12 * 700 - 700
    assert [item["id"] for item in listed.json()["items"]] == ["o-3"]
    assert shop.get("/orders/o-x").json()["cancel_reason"] == "late"


def test_what_belongs_to_an_order_is_answered_as_the_contract_says(shop: Shop) -> None:
    a_payment(shop)
    a_shipment(shop)
    a_return(shop)


def a_payment(shop: Shop) -> None:
    requested = PaymentRequested(order_id="o-1", customer_id="c-1", amount=700, currency="EUR")
    captured = PaymentCaptured(
        order_id="o-1", amount=700, currency="EUR", captured_on=DAY, late=False
    )
    back = PaymentRefunded(order_id="o-1", amount=700, currency="EUR", return_id=None)

    answer = shop.get("/payments/o-1", shop.happened(PAYMENTS, requested, captured))

    assert answer.json() == {
        "order_id": "o-1",
        "status": "captured",
        "currency": "EUR",
        "captured": 700,
        "refunded": 0,
    }
    assert answer.headers["etag"] == '"2"'
    after = shop.get("/payments/o-1", shop.happened(PAYMENTS, back)).json()
    assert (after["status"], after["refunded"]) == ("refunded", 700)
    assert problem(shop.get("/payments/o-2")) == (404, "unknown")


def a_shipment(shop: Shop) -> None:
    requested = ShipmentRequested(order_id="o-1", ship_to=HOME, lines=GOODS)
    arranged = ShipmentArranged(order_id="o-1", carrier="DHL", tracking="T-1", late=False)

    token = shop.happened(SHIPPING, requested)
    assert problem(shop.get("/shipments/o-1", token)) == (404, "unknown")
    answer = shop.get("/shipments/o-1", shop.happened(SHIPPING, arranged))

    assert answer.json() == {
        "order_id": "o-1",
        "status": "arranged",
        "carrier": "DHL",
        "tracking": "T-1",
    }
    assert answer.headers["etag"] == '"2"'
    token = shop.happened(SHIPPING, ShipmentDispatched(order_id="o-1"))
    assert shop.get("/shipments/o-1", token).json()["status"] == "dispatched"


def a_return(shop: Shop) -> None:
    token = shop.happened(
        RETURNS,
        ReturnRequested(return_id="r-1", order_id="o-1", lines=GOODS, reason="too small"),
        ReturnApproved(return_id="r-1", order_id="o-1"),
        ReturnLabelIssued(return_id="r-1", order_id="o-1", carrier="DHL", tracking="T-2"),
    )

    body: dict[str, Any] = shop.get("/returns/r-1", token).json()

    assert body.pop("requested_at") <= body.pop("updated_at")
    assert body == {
        "id": "r-1",
        "version": 3,
        "order_id": "o-1",
        "status": "labelled",
        "lines": [{"sku": "tea", "quantity": 2}],
        "reason": "too small",
        "carrier": "DHL",
        "tracking": "T-2",
        "currency": None,
        "refunded": None,
        "refusal": None,
        "position": token.split(",")[-1],
    }


def last_of(tokens: Sequence[str]) -> str:
    """The last position of each partition that the tokens name."""
    last: dict[str, int] = {}
    for position in ",".join(tokens).split(","):
        place, _, sequence = position.rpartition(":")
        last[place] = max(last.get(place, 0), int(sequence))
    return ",".join(f"{place}:{sequence}" for place, sequence in last.items())
