"""Logs of orders for the read side's measures: events as the owners of the partitions write them.

Every record has our headers, our bytes, and a gapless sequence; nothing goes through the command
side, so that a log of any length is there in seconds.
"""

from __future__ import annotations

import gc
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from confluent_kafka import Producer

from bench.peers.raw_produce import producer_config
from bench.shop import TRACEPARENT, place_order
from bench.stack import Stack, codec_of
from schemas import CONTEXTS
from schemas.orders import (
    ORDERS,
    OrderCancellationRequested,
    OrderCancelled,
    OrderConfirmed,
    OrderEvent,
    OrderPaid,
    OrderPlaced,
    OrderReserved,
)
from tidelog.engine.ports import OutgoingRecord
from tidelog.ids import utc_now, uuid7
from tidelog.kafka.topics import EVENTS_CONFIG, admin_client, ensure_topics
from tidelog.partitioner import partition_of
from tidelog.wire import EventMetadata, event_headers, events_topic

PARTITIONS = 4
EVENTS_PER_ORDER = 4
CANCELLED_EVERY = 10
"""Every so many orders, one is cancelled; the others are confirmed."""

PAID_ON = "2026-11-21"
FLUSH_TIMEOUT_S = 60.0
QUEUE_FULL_S = 0.01


@dataclass(frozen=True, kw_only=True)
class LogSpec:
    """A log of whole orders."""

    prefix: str
    orders: int
    apart: int = 100
    """So many orders are under way at a time: an order's events lie so many records apart."""

    @property
    def events(self) -> int:
        """How many events it holds."""
        return self.orders * EVENTS_PER_ORDER

    def events_in(self, partitions: Sequence[int]) -> int:
        """How many of them these partitions hold."""
        keys = (order_id(number) for number in range(self.orders))
        return EVENTS_PER_ORDER * sum(partition_of(key, PARTITIONS) in partitions for key in keys)

    @property
    def topic(self) -> str:
        """Where they are."""
        return events_topic(ORDERS.name, self.prefix)


def fresh_prefix(name: str) -> str:
    """A topic prefix that no other run had: sequences begin with 1 in a new topic only."""
    return f"{name}-{uuid7()[-8:]}."


def schema_of(prefix: str) -> str:
    """The name of a PostgreSQL schema for the tables of a prefix."""
    return "bench_" + prefix.rstrip(".").replace("-", "_")


@contextmanager
def event_logs(stack: Stack, *specs: LogSpec) -> Iterator[None]:
    """The logs, written now and removed in the end."""
    with topics(stack, *(spec.prefix for spec in specs)):
        for spec in specs:
            fill(stack, spec)
        yield


@contextmanager
def topics(stack: Stack, *prefixes: str) -> Iterator[None]:
    """Empty event topics of every context, removed in the end with what was written to them."""
    admin = admin_client(stack.kafka)
    names = [events_topic(context.name, prefix) for prefix in prefixes for context in CONTEXTS]
    ensure_topics(admin, dict.fromkeys(names, EVENTS_CONFIG), PARTITIONS, 1)
    try:
        yield
    finally:
        for removed in admin.delete_topics(names).values():
            removed.result(FLUSH_TIMEOUT_S)
        # It sits in a cycle; left alone it would complain once the broker has stopped.
        del admin
        gc.collect()


def fill(stack: Stack, spec: LogSpec) -> None:
    """Write all events of the log."""
    writer = RecordWriter(stack, spec.prefix)
    failures: list[str] = []

    def failed(error: Any, _message: Any) -> None:
        failures.append(str(error))

    producer = Producer({**producer_config(stack.kafka), "on_delivery": failed})
    writer.produce(producer, events_of(spec))
    left = producer.flush(FLUSH_TIMEOUT_S)
    assert not left, f"{left} records were not delivered"
    assert not failures, failures[0]
    assert writer.written == spec.events, "the log is as long as it says"


def order_id(number: int) -> str:
    """The id of an order of a log."""
    return f"order-{number:08d}"


def events_of(spec: LogSpec) -> Iterator[OrderEvent]:
    """Orders side by side: the first event of each, then the second of each, and so on."""
    for start in range(0, spec.orders, spec.apart):
        lives = [_life(number) for number in range(start, min(start + spec.apart, spec.orders))]
        for step in zip(*lives, strict=True):
            yield from step


def placed(order: str) -> OrderPlaced:
    """The first event of an order."""
    command = place_order(order)
    return OrderPlaced(
        order_id=order,
        customer_id=command.customer_id,
        currency=command.currency,
        lines=command.lines,
        total=sum(line.quantity * line.unit_price for line in command.lines),
        ship_to=command.ship_to,
    )


def _life(number: int) -> Sequence[OrderEvent]:
    """All events of one order."""
    first = placed(order_id(number))
    reserved = OrderReserved(order_id=first.order_id)
    sale: dict[str, Any] = {
        "order_id": first.order_id,
        "customer_id": first.customer_id,
        "currency": first.currency,
        "lines": first.lines,
        "total": first.total,
    }
    if number % CANCELLED_EVERY == 0:
        reason = "the customer changed their mind"
        asked = OrderCancellationRequested(order_id=first.order_id, reason=reason, confirmed=False)
        undone = OrderCancelled(**sale, reason=reason, confirmed=False, paid_on=None)
        return first, reserved, asked, undone
    paid = OrderPaid(
        order_id=first.order_id, amount=first.total, currency=first.currency, paid_on=PAID_ON
    )
    return first, reserved, paid, OrderConfirmed(**sale, paid_on=PAID_ON)


class RecordWriter:
    """The one writer of a log: it gives sequences and versions."""

    def __init__(self, stack: Stack, prefix: str) -> None:
        self.topic = events_topic(ORDERS.name, prefix)
        self.written = 0
        self._codec = codec_of(stack, prefix)
        self._sequences = [0] * PARTITIONS
        self._versions: dict[str, int] = {}

    def produce(self, producer: Producer, events: Iterable[OrderEvent]) -> None:
        """Hand them to the producer, in order."""
        produce: Any = producer.produce  # its stub refuses headers of bytes alone
        for event in events:
            partition = partition_of(event.order_id, PARTITIONS)
            key, value, headers = self._record(event, partition)
            while True:
                try:
                    produce(self.topic, value, key, partition, headers=headers)
                    break
                except BufferError:
                    producer.poll(QUEUE_FULL_S)
            self.written += 1

    def _record(self, event: OrderEvent, partition: int) -> OutgoingRecord:
        self._sequences[partition] += 1
        version = self._versions[event.order_id] = self._versions.get(event.order_id, 0) + 1
        message_id = uuid7()
        metadata = EventMetadata(
            message_id=message_id,
            type=ORDERS.full_name(type(event)),
            subject=event.order_id,
            recorded_at=utc_now(),
            sequence=self._sequences[partition],
            version=version,
            correlation_id=event.order_id,
            causation_id=message_id,
            command_hash="0" * 64,
            traceparent=TRACEPARENT,
        )
        headers = event_headers(metadata, ORDERS.source)
        return OutgoingRecord(event.order_id.encode(), self._codec.encode(event), headers)
