"""The registry's log on Kafka: one partition, compacted, one transaction per append.

What holds with one instance: an answered write is in the topic, whole, and a restart finds it.
What holds with several: all share one transactional id, so taking over fences every other
instance at the broker, and a write succeeds only if its instance read the topic to the end
after taking over and nobody took over since. Writes are therefore linear over all instances,
whichever of them a client asks; they are merely slower, as instances fence one another in
turn. Reads of an instance that did not write follow the topic and may lag by half a second.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import partial
from typing import Any, TypeVar

from confluent_kafka import (
    OFFSET_BEGINNING,
    Consumer,
    IsolationLevel,
    KafkaError,
    KafkaException,
    Message,
    Producer,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._config import ConfigResource
from confluent_kafka.admin._listoffsets import OffsetSpec
from confluent_kafka.admin._resource import ResourceType
from confluent_kafka.cimpl import NewTopic

from tidelog.errors import LogError, TopicRecreated, Unavailable
from tidelog.kafka.markers import Fencing
from tidelog.kafka.security import connection
from tidelog.registry.log import Fenced, LogRecord

REQUEST_TIMEOUT_S = 10.0
READ_BATCH_RECORDS_MAX = 500
READ_WAIT_S = 0.01  # consume waits this long for a full batch, and a batch is hardly ever full
NEW_TOPIC_RETRY_S = 0.05
_LEADERLESS = frozenset({KafkaError.NOT_LEADER_FOR_PARTITION, KafkaError.LEADER_NOT_AVAILABLE})
_FENCED = frozenset(
    {KafkaError._FENCED, KafkaError.PRODUCER_FENCED, KafkaError.INVALID_PRODUCER_EPOCH}
)

T = TypeVar("T")

# The client's own classmethod has no annotations; this name gives it one.
_latest: Callable[[], OffsetSpec] = OffsetSpec.latest


class KafkaLog:
    """The topic as a SchemaLog."""

    def __init__(
        self,
        *,
        bootstrap_servers: str,
        topic: str,
        replication_factor: int,
        transaction_timeout_ms: int,
    ) -> None:
        self._servers: dict[str, Any] = {
            **connection(bootstrap_servers),
            # While Kafka is down each attempt to connect logs a line: not twenty a second.
            "reconnect.backoff.ms": 500,
            "reconnect.backoff.max.ms": 1_000,
        }
        self._topic = topic
        self._replication_factor = replication_factor
        self._transaction_timeout_ms = transaction_timeout_ms
        self._fencing = Fencing(
            bootstrap_servers=bootstrap_servers, topic=topic, partition=0, settled=self._settled
        )
        self._admin: AdminClient | None = None
        self._consumer: Consumer | None = None
        self._producer: Producer | None = None
        self._next_offset = 0
        self._read: list[LogRecord] = []

    def open(self) -> None:
        """Make the topic if it is missing, then check that it is compacted with one partition."""
        try:
            self._make_topic()
            self._check_topic()
        except KafkaException as error:
            self._open_admin().poll(0)  # this client tells why it is refused when it is asked
            raise _unavailable("The registry's topic cannot be opened", error) from error

    def take_over(self) -> None:
        """Fence every other writer: a new producer with the one transactional id."""
        self._producer = None
        transactional_id = f"{self._topic}-writer"
        producer = Producer(
            self._servers
            | {
                "transactional.id": transactional_id,
                "transaction.timeout.ms": self._transaction_timeout_ms,
                "acks": "all",
                # A write waits for its answer; there is nothing to gather.
                "linger.ms": 0,
            }
        )
        initialise = partial(producer.init_transactions, REQUEST_TIMEOUT_S)
        try:
            self._fencing.fence(transactional_id, initialise)
        except KafkaException as error:
            raise _unavailable("The registry cannot become the writer", error) from error
        self._producer = producer

    def append(self, records: Sequence[LogRecord]) -> None:
        """One transaction: all records or none."""
        producer = self._producer
        if producer is None:
            raise Fenced("This instance has not taken over the registry's log.")
        try:
            producer.begin_transaction()
            for record in records:
                producer.produce(self._topic, key=record.key, value=record.value, partition=0)
            producer.commit_transaction(REQUEST_TIMEOUT_S)
        except KafkaException as error:
            # Whatever was reported, this handle is not used again: the next write takes over.
            self._producer = None
            if _code(error) in _FENCED:
                raise Fenced("Another instance writes to the registry's log.") from error
            raise _unavailable("It is not known whether the write landed", error) from error

    def read(self) -> list[LogRecord]:
        """Read committed records up to the end that the topic has now."""
        end = self._end()
        try:
            self._read_to(end)
        except KafkaException as error:
            self._start_over()
            raise _unavailable("The registry's topic cannot be read", error) from error
        found, self._read = self._read, []
        return found

    def close(self) -> None:
        """Let go of every connection."""
        if self._consumer is not None:
            self._consumer.close()
        self._consumer = None
        self._producer = None
        self._admin = None

    def _make_topic(self) -> None:
        if self._topic in self._open_admin().list_topics(timeout=REQUEST_TIMEOUT_S).topics:
            return
        topic = NewTopic(
            self._topic,
            num_partitions=1,
            replication_factor=self._replication_factor,
            config={"cleanup.policy": "compact"},
        )
        created = self._open_admin().create_topics([topic], request_timeout=REQUEST_TIMEOUT_S)
        try:
            _result(created[self._topic])
        except KafkaException as error:
            if _code(error) != KafkaError.TOPIC_ALREADY_EXISTS:
                raise

    def _check_topic(self) -> None:
        policy = self._cleanup_policy()
        if policy != "compact":
            raise LogError(
                f"{self._topic} has cleanup.policy {policy} and would lose schemas. "
                "Set it to compact."
            )
        partitions = self._partitions()
        if partitions != 1:
            raise LogError(
                f"{self._topic} has {partitions} partitions; the registry's log needs exactly 1."
            )

    def _cleanup_policy(self) -> str:
        """Asked again for a while: brokers learn of a new topic a moment after it was made."""
        resource = ConfigResource(ResourceType.TOPIC, self._topic)
        deadline = time.monotonic() + REQUEST_TIMEOUT_S
        while True:
            asked = self._open_admin().describe_configs(
                [resource], request_timeout=REQUEST_TIMEOUT_S
            )
            try:
                configuration = _result(asked[resource])
                return str(configuration["cleanup.policy"].value)
            except KafkaException as error:
                unknown = _code(error) == KafkaError.UNKNOWN_TOPIC_OR_PART
                if not unknown or time.monotonic() > deadline:
                    raise
            time.sleep(NEW_TOPIC_RETRY_S)

    def _partitions(self) -> int:
        """Asked again for a while, for the same reason; 0 if the topic did not appear."""
        deadline = time.monotonic() + REQUEST_TIMEOUT_S
        while True:
            topic = (
                self._open_admin().list_topics(timeout=REQUEST_TIMEOUT_S).topics.get(self._topic)
            )
            partitions = 0 if topic is None else len(topic.partitions)
            if partitions or time.monotonic() > deadline:
                return partitions
            time.sleep(NEW_TOPIC_RETRY_S)

    def _end(self, isolation: IsolationLevel = IsolationLevel.READ_UNCOMMITTED) -> int:
        """The true end; a read_committed end would hide what an open transaction holds up.

        Asked again for a while where the partition has no leader yet: a new topic's, or after a
        restart of the broker.
        """
        deadline = time.monotonic() + REQUEST_TIMEOUT_S
        while True:
            try:
                end = self._ask_end(isolation)
                break
            except KafkaException as error:
                # A client that lost its broker may not look for it again until its metadata
                # expires (minutes); a new one does at once.
                self._admin = None
                if _code(error) not in _LEADERLESS or time.monotonic() > deadline:
                    raise _unavailable("The registry's topic cannot be read", error) from error
            time.sleep(NEW_TOPIC_RETRY_S)
        if end < 0:
            # What the client answers, without an error, when no broker answered it.
            raise Unavailable("Kafka does not tell where the registry's topic ends. Is it up?")
        return end

    def _ask_end(self, isolation: IsolationLevel) -> int:
        partition = TopicPartition(self._topic, 0)
        asked = self._open_admin().list_offsets(
            {partition: _latest()}, isolation_level=isolation, request_timeout=REQUEST_TIMEOUT_S
        )
        return int(_result(asked[partition]).offset)

    def _settled(self) -> bool:
        return self._end(IsolationLevel.READ_COMMITTED) >= self._end()

    def _read_to(self, end: int) -> None:
        """Gather records until the position is at the end; what was read is kept for next time."""
        if end < self._next_offset:
            raise TopicRecreated(
                f"{self._topic} ends before what was read: it was recreated. Restart the registry."
            )
        consumer = self._open_consumer()
        deadline = time.monotonic() + REQUEST_TIMEOUT_S
        # The tail may be transaction markers only, so the position decides, not a record.
        while self._next_offset < end:
            if time.monotonic() > deadline:
                raise Unavailable("The end of the registry's topic was not reached in time.")
            messages = consumer.consume(READ_BATCH_RECORDS_MAX, timeout=READ_WAIT_S)
            self._read += [_record(message) for message in messages]
            self._next_offset = max(self._next_offset, self._position(consumer))

    def _start_over(self) -> None:
        """After an error read from the beginning: folding records again changes nothing."""
        if self._consumer is not None:
            self._consumer.close()
        self._consumer, self._read, self._next_offset = None, [], 0

    def _position(self, consumer: Consumer) -> int:
        return int(consumer.position([TopicPartition(self._topic, 0)])[0].offset)

    def _open_admin(self) -> AdminClient:
        if self._admin is None:
            self._admin = AdminClient(dict(self._servers))
        return self._admin

    def _open_consumer(self) -> Consumer:
        if self._consumer is None:
            self._consumer = Consumer(
                self._servers
                | {
                    # Never joined: the partition is assigned by hand and offsets are not kept.
                    "group.id": f"{self._topic}-reader",
                    "enable.auto.commit": False,
                    "enable.auto.offset.store": False,
                    "isolation.level": "read_committed",
                    "auto.offset.reset": "error",
                    "fetch.wait.max.ms": 50,
                }
            )
            self._consumer.assign([TopicPartition(self._topic, 0, OFFSET_BEGINNING)])
        return self._consumer


def _result(future: Future[T]) -> T:
    """The answer of the admin client; it may keep silent for longer than it was told to wait."""
    try:
        return future.result(REQUEST_TIMEOUT_S + 1.0)
    except TimeoutError:
        raise Unavailable("Kafka does not answer. Is it up?") from None


def _record(message: Message) -> LogRecord:
    error = message.error()
    if error is not None:
        raise KafkaException(error)
    key, value = message.key(), message.value()
    if key is None:
        raise LogError("The registry's topic holds a record without a key. Recreate the topic.")
    return LogRecord(key=_bytes(key), value=None if value is None else _bytes(value))


def _bytes(value: str | bytes) -> bytes:
    return value.encode() if isinstance(value, str) else value


def _code(error: KafkaException) -> int:
    return int(error.args[0].code())


def _unavailable(what: str, error: KafkaException) -> Unavailable:
    return Unavailable(f"{what}: {error.args[0].name()}. Is Kafka up?")
