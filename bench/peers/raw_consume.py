"""What bare readers of the log cost: raw consume + decode (R5, R6), and an upsert per event.

Raw is the field's usual way: a synchronous confluent-kafka consumer on assigned partitions that
takes batches of up to 500, reads committed records only, and has fastavro decode each value to
a dict. It reads no header, keeps nothing, checks nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from time import perf_counter
from typing import Any

import psycopg
from confluent_kafka import Consumer, TopicPartition

from bench.backends import backends_of
from bench.event_log import PARTITIONS, LogSpec, schema_of
from bench.peers.order_upsert import OPTIONS, OrderTable
from bench.peers.schemas import order_decoder
from bench.projecting import drop_schema
from bench.sample import Sample, Stopwatch
from bench.stack import Stack

CONSUME_MAX = 500
TIMEOUT_S = 30.0


def consumer_on(stack: Stack, topic: str, partitions: Sequence[int]) -> Consumer:
    """A consumer at the beginning of the partitions."""
    consumer = Consumer(
        {
            "bootstrap.servers": stack.kafka,
            "group.id": "bench-raw",
            "enable.auto.commit": False,
            "isolation.level": "read_committed",
            # What our reader asks for as well; the defaults are slower.
            "check.crcs": True,
            "fetch.queue.backoff.ms": 5,
            "fetch.wait.max.ms": 50,
        }
    )
    consumer.assign([TopicPartition(topic, number, 0) for number in partitions])
    return consumer


class RawConsume:
    """Consumes and decodes, from the beginning in each round, until its end or the time's."""

    def __init__(self, stack: Stack, log: LogSpec, partitions: Sequence[int], events: int) -> None:
        self._stack, self._log = stack, log
        self._partitions, self._events = partitions, events
        self._decode = order_decoder(stack, log.prefix).decode
        self._backends = backends_of(stack)

    def run(self, seconds: float) -> Sample:
        """The clock starts with the first batch, which is not counted."""
        consumer = consumer_on(self._stack, self._log.topic, self._partitions)
        first = len(self._batch(consumer))
        watch, seen = Stopwatch(self._backends), first
        until = perf_counter() + seconds
        while seen < self._events and perf_counter() < until:
            seen += len(self._batch(consumer))
        sample = watch.sample(seen - first)
        consumer.close()
        return sample

    def close(self) -> None:
        """Nothing is held."""

    def _batch(self, consumer: Consumer) -> Sequence[Any]:
        messages = some(consumer)
        decode = self._decode
        for message in messages:
            decode(message.value())
        return messages


class NaiveUpsert:
    """Raw consume + decode, and one committed statement for each event."""

    def __init__(self, stack: Stack, log: LogSpec) -> None:
        self._stack, self._log = stack, log
        self._schema = schema_of(log.prefix) + "_naive"
        self._decoder = order_decoder(stack, log.prefix)
        self._backends = backends_of(stack)

    def run(self, seconds: float) -> Sample:
        """From the beginning, into a fresh table."""
        drop_schema(self._stack, self._schema)
        table = OrderTable(self._schema)
        consumer = consumer_on(self._stack, self._log.topic, range(PARTITIONS))
        with psycopg.connect(
            self._stack.postgres, autocommit=True, prepare_threshold=0, options=OPTIONS
        ) as connection:
            for statement in table.create:
                connection.execute(statement.encode())
            self._fold(some(consumer), table, connection)
            watch, seen = Stopwatch(self._backends), 0
            until = perf_counter() + seconds
            while seen < self._log.events - CONSUME_MAX and perf_counter() < until:
                seen += self._fold(some(consumer), table, connection)
            sample = watch.sample(seen)
        consumer.close()
        return sample

    def close(self) -> None:
        """Remove the table."""
        drop_schema(self._stack, self._schema)

    def _fold(
        self, messages: Sequence[Any], table: OrderTable, connection: psycopg.Connection[Any]
    ) -> int:
        for message in messages:
            value = message.value()
            event = self._decoder.decode(value)
            text, values = table.statement(self._decoder.name_of(value), event)
            connection.execute(text.encode(), values)
        return len(messages)


def some(consumer: Consumer) -> Sequence[Any]:
    """The next records, at least one. At the end of a log none waits until a batch is full."""
    first: Any = consumer.poll(TIMEOUT_S)
    if first is None:
        raise TimeoutError(f"no record within {TIMEOUT_S:.0f} s")
    messages: Sequence[Any] = [first, *consumer.consume(CONSUME_MAX - 1, 0)]
    for message in messages:
        assert message.error() is None, message.error().str()
    return messages
