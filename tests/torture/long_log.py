"""A long log of orders and stock, written as the owners of the partitions write it, in bulk."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from schemas import INVENTORY, ORDERS
from schemas.inventory import StockReceived
from schemas.orders import OrderConfirmed, OrderEvent, OrderPaid, OrderPlaced, OrderReserved
from schemas.values import Address, OrderLine
from tests.log_writer import LogWriter, until
from tests.service_process import service
from tidelog import Event
from tidelog.codec import Codec
from tidelog.embedded import kafka
from tidelog.registry import RegistryClient

PARTITIONS = 4
PAID_ON = "2026-07-31"
EVENTS_PER_ORDER = 4
STOCK_EVERY = 5  # one event of stock for so many orders
ORDERS_PER_TRANSACTION = 500
SKUS = 200
ADDRESS = Address(
    name="A. Person", street="1 Harbour Road", city="Bremen", postal_code="28195", country="DE"
)


@contextlib.contextmanager
def broker_with_log(folder: Path, events: int) -> Iterator[str]:
    """A broker whose log holds so many events, or a few more; its bootstrap servers."""
    with kafka.start(folder / "kafka") as running:
        servers = running.server.bootstrap_servers
        fill(servers, folder, events)
        yield servers


def fill(servers: str, folder: Path, events: int) -> None:
    """Write the events; the registry that knows their schemas lives in the same broker."""
    settings = {"kafka_bootstrap_servers": servers, "partitions": str(PARTITIONS)}
    with service("tidelog.registry", folder, settings, wait_until_ready=False) as registry:
        until(lambda: registry.get("/subjects"), "the registry answers")
        client = RegistryClient(registry.url)
        codec = Codec([ORDERS, INVENTORY], client, "")
        codec.prepare()
        orders = LogWriter(servers, ORDERS, codec, topic_prefix="")
        stock = LogWriter(servers, INVENTORY, codec, topic_prefix="")
        wanted = events // (EVENTS_PER_ORDER * STOCK_EVERY + 1) * STOCK_EVERY
        for first in range(0, wanted, ORDERS_PER_TRANSACTION):
            numbers = range(first, min(first + ORDERS_PER_TRANSACTION, wanted))
            orders.append(*(event for number in numbers for event in order(number)))
            stock.append(*(goods(number) for number in numbers if number % STOCK_EVERY == 0))
        client.close()


def order(number: int) -> list[OrderEvent]:
    """An order from its placement to its confirmation."""
    order_id, customer_id = f"old-{number}", f"customer-{number % 1_000}"
    lines = (OrderLine(sku=f"sku-{number % SKUS}", quantity=2, unit_price=1_000),)
    return [
        OrderPlaced(
            order_id=order_id,
            customer_id=customer_id,
            currency="EUR",
            lines=lines,
            total=2_000,
            ship_to=ADDRESS,
        ),
        OrderReserved(order_id=order_id),
        OrderPaid(order_id=order_id, amount=2_000, currency="EUR", paid_on=PAID_ON),
        OrderConfirmed(
            order_id=order_id,
            customer_id=customer_id,
            currency="EUR",
            lines=lines,
            total=2_000,
            paid_on=PAID_ON,
        ),
    ]


def goods(number: int) -> Event:
    """Pieces that came."""
    return StockReceived(sku=f"sku-{number % SKUS}", quantity=10)
