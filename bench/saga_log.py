"""Logs of orders for R7, and the topics that the commands of a process go to.

Every order is placed, reserved, paid and confirmed, as the command side writes it; a process that
leads it asks for six commands on the way. Its deadlines count from the events, so a log is made
right before it is read.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from confluent_kafka import Consumer, KafkaError, Producer, TopicPartition

from bench.event_log import FLUSH_TIMEOUT_S, PAID_ON, PARTITIONS, RecordWriter, placed, topics
from bench.event_log import order_id as order_id_of
from bench.peers.raw_produce import producer_config
from bench.stack import Stack
from schemas import CONTEXTS
from schemas.orders import OrderConfirmed, OrderEvent, OrderPaid, OrderReserved
from tidelog.kafka.topics import COMMANDS_CONFIG, LATEST, admin_client, ensure_topics
from tidelog.wire import commands_topic

APART = 100
"""So many orders are under way at a time."""

ASKED = ("orders", "inventory", "payments", "shipping")
"""The contexts that are asked; of orders nothing is, unless a deadline is missed."""

LOOK_S = 0.05
READ_TIMEOUT_S = 60.0

Asked = tuple[str, str, str]
"""A command as a process means it: what, of whom, for which order."""


@dataclass(frozen=True)
class CommandRecord:
    """One record of a command topic."""

    topic: str
    headers: Mapping[str, bytes]
    value: bytes


@contextmanager
def saga_log(stack: Stack, prefix: str, orders: int) -> Iterator[CommandTopics]:
    """The log, and empty command topics; all removed in the end."""
    admin = admin_client(stack.kafka)
    names = [commands_topic(context.name, prefix) for context in CONTEXTS]
    ensure_topics(admin, dict.fromkeys(names, COMMANDS_CONFIG), PARTITIONS, 1)
    try:
        with topics(stack, prefix):
            _fill(stack, prefix, orders)
            yield CommandTopics(stack, prefix)
    finally:
        for removed in admin.delete_topics(names).values():
            removed.result(FLUSH_TIMEOUT_S)


def expected(orders: int) -> set[Asked]:
    """The commands that the orders of a log ask for."""
    found: set[Asked] = set()
    for number in range(orders):
        event = placed(order_id_of(number))
        found |= {("RequestPayment", event.order_id, event.order_id)}
        found |= {("RequestShipment", event.order_id, event.order_id)}
        for line in event.lines:
            found |= {("ReserveStock", line.sku, event.order_id)}
            found |= {("SellStock", line.sku, event.order_id)}
    return found


class CommandTopics:
    """What has arrived in the command topics of a prefix."""

    def __init__(self, stack: Stack, prefix: str) -> None:
        self._bootstrap_servers = stack.kafka
        self._admin = admin_client(stack.kafka)
        self._ends = {
            TopicPartition(commands_topic(context, prefix), partition): LATEST
            for context in ASKED
            for partition in range(PARTITIONS)
        }
        self._count, self._next_look = 0, 0.0

    def count(self) -> int:
        """How many records; looked up 20 times a second at most."""
        if time.monotonic() >= self._next_look:
            self._count = sum(self._found().values())
            self._next_look = time.monotonic() + LOOK_S
        return self._count

    def read(self) -> list[CommandRecord]:
        """All of them."""
        ends = {place: end for place, end in self._found().items() if end}
        consumer = Consumer(
            {
                "bootstrap.servers": self._bootstrap_servers,
                "group.id": "bench-r7",
                "enable.auto.commit": False,
                "enable.partition.eof": True,
            }
        )
        try:
            consumer.assign([TopicPartition(topic, number, 0) for topic, number in ends])
            return _read_to_end(consumer, len(ends))
        finally:
            consumer.close()

    def _found(self) -> dict[tuple[str, int], int]:
        """The ends: nobody writes to these topics in transactions, so an end is a count."""
        futures = self._admin.list_offsets(self._ends)
        return {
            (place.topic, place.partition): int(future.result(READ_TIMEOUT_S).offset)
            for place, future in futures.items()
        }


def _read_to_end(consumer: Consumer, partitions: int) -> list[CommandRecord]:
    records: list[CommandRecord] = []
    ended, deadline = 0, time.monotonic() + READ_TIMEOUT_S
    while ended < partitions:
        assert time.monotonic() < deadline, "the command topics cannot be read"
        for message in consumer.consume(1_000, 1.0):
            error: Any = message.error()
            if error is None:
                headers: Any = dict(message.headers() or ())
                records.append(CommandRecord(str(message.topic()), headers, _bytes(message)))
            elif error.code() == KafkaError._PARTITION_EOF:
                ended += 1
            else:
                raise RuntimeError(error.str())
    return records


def _bytes(message: Any) -> bytes:
    value: bytes = message.value()
    return value


def _fill(stack: Stack, prefix: str, orders: int) -> None:
    failures: list[str] = []

    def failed(error: Any, _message: Any) -> None:
        failures.append(str(error))

    writer = RecordWriter(stack, prefix)
    producer = Producer({**producer_config(stack.kafka), "on_delivery": failed})
    writer.produce(producer, _events(orders))
    left = producer.flush(FLUSH_TIMEOUT_S)
    assert not left and not failures, f"{left} records were not delivered: {failures[:1]}"


def _events(orders: int) -> Iterator[OrderEvent]:
    for start in range(0, orders, APART):
        lives = [_life(number) for number in range(start, min(start + APART, orders))]
        for step in zip(*lives, strict=True):
            yield from step


def _life(number: int) -> tuple[OrderEvent, ...]:
    first = placed(order_id_of(number))
    return (
        first,
        OrderReserved(order_id=first.order_id),
        OrderPaid(
            order_id=first.order_id, amount=first.total, currency=first.currency, paid_on=PAID_ON
        ),
        OrderConfirmed(
            order_id=first.order_id,
            customer_id=first.customer_id,
            currency=first.currency,
            lines=first.lines,
            total=first.total,
            paid_on=PAID_ON,
        ),
    )
