"""A shop's event logs, and the figures that they hold, for the tests of the live windows."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from projectors.live.figures import document, windows
from schemas.inventory import INVENTORY, StockReceived, StockReservationRefused
from schemas.orders import ORDERS, OrderCancelled, OrderConfirmed, OrderPlaced
from schemas.payments import PAYMENTS, PaymentDeclined
from schemas.values import Address, OrderLine
from tests.log_writer import LogWriter, read_log, until
from tests.service_process import service
from tidelog import Context, Event
from tidelog.codec import Codec
from tidelog.engine.judge import Progress
from tidelog.engine.reading import EventReader, Fact, Partition
from tidelog.position import Position, format_token
from tidelog.registry import RegistryClient

CONTEXTS = (ORDERS, INVENTORY, PAYMENTS)
HOME = Address(name="Ada", street="Analytical Row 1", city="London", postal_code="N1", country="GB")
LINES = (OrderLine(sku="tea", quantity=1, unit_price=250),)


@dataclass
class LiveShop:
    """The logs, the settings of whoever reads them, and the events that are in them."""

    kafka: str
    settings: dict[str, str]
    codec: Codec
    logs: dict[str, LogWriter]

    def append(self, events: Sequence[Event]) -> None:
        """Append each event to the log of its context, one transaction per context."""
        for name, log in self.logs.items():
            of_context = [event for event in events if _context(event).name == name]
            if of_context:
                log.append(*of_context)

    def facts(self) -> tuple[list[Fact], str]:
        """Every event of the logs, partition by partition, and the token of all positions."""
        reader = EventReader(CONTEXTS, self.codec)
        facts: list[Fact] = []
        ends: list[Position] = []
        for name, log in self.logs.items():
            for number, records in enumerate(read_log(self.kafka, log.topic, log.partitions)):
                at = Partition(name, number)
                reading = reader.read({at: records}, {at: Progress()})
                facts += reading.facts
                if at in reading.progress:
                    ends.append(Position(*at, reading.progress[at].sequence))
        return facts, format_token(ends)

    def computed(self) -> tuple[str, list[dict[str, Any]]]:
        """What the log says: the position of its end, and every window."""
        facts, position = self.facts()
        found = windows(facts)
        return position, [document(start, found[start]) for start in sorted(found)]


@contextmanager
def live_shop(kafka: str, namespace: str, folder: Path) -> Iterator[LiveShop]:
    """Empty logs, and a registry for as long as the block lasts."""
    settings = {
        "kafka_bootstrap_servers": kafka,
        "topic_prefix": namespace,
        "partitions": "4",
        "state_dir": str(folder / "state"),
    }
    with service("tidelog.registry", folder, settings, wait_until_ready=False) as registry:
        until(lambda: registry.get("/subjects"), "the registry answers")
        client = RegistryClient(registry.url)
        codec = Codec(CONTEXTS, client, namespace)
        codec.prepare()
        logs = {
            context.name: LogWriter(kafka, context, codec, topic_prefix=namespace)
            for context in CONTEXTS
        }
        yield LiveShop(kafka, {**settings, "registry_url": registry.url}, codec, logs)
        client.close()


def orders(chosen: random.Random, count: int, name: str) -> Iterator[Event]:
    """Orders that are placed, and most of them confirmed, refused or declined."""
    for number in range(count):
        order_id, total = f"{name}-{number}", chosen.randrange(1_000)
        currency = chosen.choice(("EUR", "USD"))
        sale: dict[str, Any] = {
            "order_id": order_id,
            "customer_id": "ada",
            "currency": currency,
            "lines": LINES,
            "total": total,
        }
        yield OrderPlaced(ship_to=HOME, **sale)
        match chosen.randrange(4):
            case 0:
                yield StockReservationRefused(sku="tea", order_id=order_id, quantity=1, available=0)
                yield OrderCancelled(reason="gone", confirmed=False, paid_on=None, **sale)
            case 1:
                yield PaymentDeclined(order_id=order_id, reason="no")
            case 2:
                yield StockReceived(sku="tea", quantity=1)
            case _:
                today = datetime.now(UTC).strftime("%Y-%m-%d")
                yield OrderConfirmed(paid_on=today, **sale)


def _context(event: Event) -> Context:
    return next(context for context in CONTEXTS if type(event) in context.event_types)
