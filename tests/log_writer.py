"""Writes events as the owners of partitions do, and reads the whole log back."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from confluent_kafka import Consumer, KafkaError, Producer, TopicPartition

from tidelog import Context, Event, Position
from tidelog.engine.ports import MessageCodec, StoredRecord
from tidelog.ids import utc_now, uuid7
from tidelog.kafka.records import stored_record
from tidelog.kafka.topics import EVENTS_CONFIG, admin_client, ensure_topics
from tidelog.partitioner import partition_of
from tidelog.wire import EventMetadata, event_headers, events_topic

TIMEOUT_S = 30.0
Found = TypeVar("Found")


class LogWriter:
    """The one writer of a context's events in a test."""

    def __init__(
        self,
        bootstrap_servers: str,
        context: Context,
        codec: MessageCodec,
        *,
        topic_prefix: str,
        partitions: int = 4,
    ) -> None:
        self.context = context
        self.topic = events_topic(context.name, topic_prefix)
        self.partitions = partitions
        self._codec = codec
        self._sequences: dict[int, int] = defaultdict(int)
        self._versions: dict[str, int] = defaultdict(int)
        ensure_topics(
            admin_client(bootstrap_servers),
            {self.topic: EVENTS_CONFIG},
            partitions,
            1,
        )
        self._producer = Producer(
            {
                "bootstrap.servers": bootstrap_servers,
                "transactional.id": f"{topic_prefix}test-writer-{uuid7()}",
                "linger.ms": 0,
                "queue.buffering.max.messages": 1_000_000,
            }
        )
        self._producer.init_transactions(TIMEOUT_S)

    def append(self, *events: Event) -> list[Position]:
        """Append the events in one transaction; their positions."""
        self._producer.begin_transaction()
        positions = [self._produce(event) for event in events]
        self._producer.commit_transaction(TIMEOUT_S)
        return positions

    def abort(self, *events: Event) -> None:
        """Write the events in a transaction that is aborted: nobody may ever see them."""
        sequences, versions = self._sequences.copy(), self._versions.copy()
        self._producer.begin_transaction()
        for event in events:
            self._produce(event)
        self._producer.flush(TIMEOUT_S)
        self._producer.abort_transaction(TIMEOUT_S)
        self._sequences, self._versions = sequences, versions

    def skip(self, key: str) -> None:
        """Lose an event: the next one of the key's partition leaves a hole."""
        self._sequences[self.partition(key)] += 1

    def append_raw(
        self,
        partition: int,
        value: bytes | None,
        *,
        key: bytes | None = None,
        headers: Sequence[tuple[str, str | bytes | None]] = (),
    ) -> None:
        """Append bytes that nobody checked."""
        self._producer.begin_transaction()
        self._producer.produce(self.topic, value, key, partition, headers=[*headers])
        self._producer.commit_transaction(TIMEOUT_S)

    def partition(self, key: str) -> int:
        """The partition of the key."""
        return partition_of(key, self.partitions)

    def positions(self) -> dict[int, int]:
        """The last sequence of each partition that has any."""
        return dict(self._sequences)

    def _produce(self, event: Event) -> Position:
        key = getattr(event, self.context.key)
        partition = self.partition(key)
        self._sequences[partition] += 1
        self._versions[key] += 1
        metadata = EventMetadata(
            message_id=uuid7(),
            type=self.context.full_name(type(event)),
            subject=key,
            recorded_at=utc_now(),
            sequence=self._sequences[partition],
            version=self._versions[key],
            correlation_id="test",
            causation_id=uuid7(),  # a command of its own, as most events have
            command_hash="0" * 64,
            traceparent="",
        )
        self._producer.produce(
            self.topic,
            self._codec.encode(event),
            key.encode(),
            partition,
            headers=[*event_headers(metadata, self.context.source)],
        )
        return Position(self.context.name, partition, metadata.sequence)


def read_log(bootstrap_servers: str, topic: str, partitions: int) -> list[list[StoredRecord]]:
    """Every committed record of the topic, by partition."""
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap_servers,
            "group.id": f"{topic}-test-reader",
            "enable.auto.commit": False,
            "isolation.level": "read_committed",
            "auto.offset.reset": "error",
            "enable.partition.eof": True,
        }
    )
    consumer.assign([TopicPartition(topic, number, 0) for number in range(partitions)])
    found: list[list[StoredRecord]] = [[] for _ in range(partitions)]
    open_partitions, deadline = set(range(partitions)), time.monotonic() + TIMEOUT_S
    while open_partitions:
        assert time.monotonic() < deadline, f"{topic} cannot be read"
        messages: list[Any] = list(consumer.consume(1_000, 0.05))
        for message in messages:
            if message.error() is None:
                found[message.partition()].append(stored_record(message))
            elif message.error().code() == KafkaError._PARTITION_EOF:
                open_partitions.discard(message.partition())
    consumer.close()
    return found


def until(look: Callable[[], Found | None], what: str, timeout_s: float = TIMEOUT_S) -> Found:
    """What `look` finds, as soon as it finds anything; fails at the deadline and says what for.

    The longer it takes the less often it looks: what is waited for needs the processor too.
    """
    began = time.monotonic()
    deadline = began + timeout_s
    while True:
        found = look()
        if found:
            return found
        assert time.monotonic() < deadline, f"{what}: not within {timeout_s} s"
        time.sleep(min(max((time.monotonic() - began) / 10, 0.002), 0.1))
