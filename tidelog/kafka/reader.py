"""The readers' side of the log: batches of committed records from where PostgreSQL says we are.

The consumer group only says which partitions this process should try; where to begin is the
caller's answer on assignment, never an offset that Kafka keeps, and never a jump.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient

from tidelog.engine.folding import Partition
from tidelog.engine.ports import StoredRecord
from tidelog.engine.projecting import TopicInfo
from tidelog.errors import LogHole, TidelogError, Unavailable
from tidelog.kafka.topics import partition_counts, topic_ids
from tidelog.logging import get_logger
from tidelog.message import Context
from tidelog.wire import events_topic

MAX_POLL_INTERVAL_MS = 300_000
FETCH_BYTES_MAX = 16 * 1024 * 1024
QUEUED_KILOBYTES_MAX = 32 * 1024
OFFSET_MISSING = frozenset({KafkaError.OFFSET_OUT_OF_RANGE, KafkaError._AUTO_OFFSET_RESET})
TOPIC_MISSING = frozenset(
    {
        KafkaError.UNKNOWN_TOPIC_OR_PART,
        KafkaError._UNKNOWN_TOPIC,
        KafkaError._UNKNOWN_PARTITION,
    }
)


log = get_logger(__name__)


@dataclass(frozen=True, kw_only=True)
class Assignment:
    """What the reader asks and tells its driver, on the thread that polls."""

    assigned: Callable[[Sequence[Partition]], Mapping[Partition, int]]
    released: Callable[[Sequence[Partition]], None]


@dataclass(frozen=True, kw_only=True)
class Polled:
    """What one poll gave: records by partition, and what is wrong with a partition."""

    batch: dict[Partition, list[StoredRecord]]
    troubles: dict[Partition, TidelogError]
    ends: dict[Partition, int]


class BatchReader:
    """Reads the event topics of some contexts as one member of a group. One thread uses it."""

    def __init__(
        self,
        *,
        bootstrap_servers: str,
        group: str,
        client_id: str,
        contexts: Iterable[Context],
        topic_prefix: str,
        session_timeout_ms: int,
        assignment: Assignment,
    ) -> None:
        self._contexts = {
            events_topic(context.name, topic_prefix): context.name for context in contexts
        }
        self._topics = {name: topic for topic, name in self._contexts.items()}
        self._partitions: dict[tuple[str, int], Partition] = {}
        self._assignment = assignment
        self._pending: list[Partition] = []
        self.joined = False
        self._consumer = Consumer(_options(bootstrap_servers, group, client_id, session_timeout_ms))
        self._consumer.subscribe(
            list(self._contexts),
            on_assign=self._on_assign,
            on_revoke=self._on_revoke,
            on_lost=self._on_revoke,
        )

    def poll(self, records_max: int, wait_s: float) -> Polled:
        """Wait for a record, then take all that have come already, up to the bound.

        The first record of an idle time is returned at once; when much waits, much is taken. Raises
        what the driver raised on an assignment; the next poll asks it again.
        """
        self._assign_pending()
        polled = Polled(batch={}, troubles={}, ends={})
        first = self._consumer.poll(wait_s)
        if first is not None:
            self._take(first, polled)
            # No wait: what is in the queue now is the batch.
            for message in self._consumer.consume(records_max - 1, 0):
                self._take(message, polled)
        return polled

    def seek(self, partition: Partition, offset: int) -> None:
        """Read on from this offset."""
        place = TopicPartition(self._topics[partition.context], partition.number, offset)
        try:
            self._consumer.seek(place)
        except KafkaException as error:
            raise Unavailable(
                f"{partition} cannot be read from {offset} now: {error.args[0].str()}"
            ) from error

    def pause(self, partition: Partition) -> None:
        """Deliver nothing more of this partition."""
        place = TopicPartition(self._topics[partition.context], partition.number)
        self._consumer.pause([place])

    def close(self) -> None:
        """Leave the group, so that others take over at once."""
        self._consumer.close()

    # --- records ----------------------------------------------------------------------------

    def _take(self, message: Any, polled: Polled) -> None:
        error = message.error()
        if error is not None:
            self._take_error(message, error, polled)
            return
        partition = self._partition(message.topic(), message.partition())
        record = StoredRecord(message.offset(), message.key(), message.value(), _headers(message))
        polled.batch.setdefault(partition, []).append(record)

    def _take_error(self, message: Any, error: KafkaError, polled: Polled) -> None:
        if message.topic() not in self._contexts or message.partition() < 0:
            if error.fatal():
                raise Unavailable(f"Kafka ended the membership: {error.str()}")
            return  # the library reconnects by itself
        partition = self._partition(message.topic(), message.partition())
        if error.code() == KafkaError._PARTITION_EOF:
            polled.ends[partition] = message.offset()
        elif error.code() in OFFSET_MISSING:
            polled.troubles[partition] = LogHole(
                f"{partition}: the log has no record at the stored offset any more. "
                "Restore the topic, or rebuild the projection."
            )
        elif error.code() in TOPIC_MISSING or error.fatal():
            polled.troubles[partition] = Unavailable(f"{partition}: {error.str()}")

    def _partition(self, topic: str, number: int) -> Partition:
        place = (topic, number)
        partition = self._partitions.get(place)
        if partition is None:
            partition = Partition(self._contexts[topic], number)
            self._partitions[place] = partition
        return partition

    # --- the group --------------------------------------------------------------------------

    def _on_assign(self, consumer: Any, places: list[TopicPartition]) -> None:
        """Begin where the driver says; where it cannot say yet, the next poll asks again."""
        self._pending += [self._partition(at.topic, at.partition) for at in places]
        self.joined = self.joined or not places
        try:
            self._assign_pending()
        except Exception as error:  # raised here it would be lost; poll raises it
            log.warning("reader.assignment_waits", reason=str(error))
            # The library assigns by itself, from Kafka's offsets, where the callback does not.
            consumer.incremental_assign([])

    def _assign_pending(self) -> None:
        """Begin the new partitions where the driver says."""
        if not self._pending:
            return
        offsets = self._assignment.assigned(self._pending)
        self._consumer.incremental_assign(
            [
                TopicPartition(self._topics[at.context], at.number, offsets[at])
                for at in self._pending
            ]
        )
        self._pending, self.joined = [], True

    def _on_revoke(self, consumer: Any, places: list[TopicPartition]) -> None:
        """No batch is in flight here, and the store refuses whoever has been overtaken."""
        gone = [self._partition(at.topic, at.partition) for at in places]
        begun = [at for at in gone if at not in self._pending]
        self._pending = [at for at in self._pending if at not in gone]
        self._assignment.released(begun)
        consumer.incremental_unassign(
            [TopicPartition(self._topics[at.context], at.number) for at in begun]
        )


def read_topics(
    admin: AdminClient, contexts: Iterable[Context], topic_prefix: str
) -> dict[str, TopicInfo]:
    """Id and partition count of each context's event topic; Unavailable where one is missing."""
    names = {context.name: events_topic(context.name, topic_prefix) for context in contexts}
    ids = topic_ids(admin, names.values())
    counts = partition_counts(admin, names.values())
    missing = [topic for topic in names.values() if topic not in ids or topic not in counts]
    if missing:
        raise Unavailable(f"topic {missing[0]} does not exist yet; the command service makes it")
    return {context: TopicInfo(ids[topic], counts[topic]) for context, topic in names.items()}


def _headers(message: Any) -> list[tuple[str, bytes | None]]:
    """The headers, read once. Names that are not UTF-8 make a record that is not ours."""
    try:
        return message.headers() or []
    except UnicodeDecodeError:
        return []


def _options(
    bootstrap_servers: str, group: str, client_id: str, session_timeout_ms: int
) -> dict[str, Any]:
    return {
        "bootstrap.servers": bootstrap_servers,
        "group.id": group,
        "client.id": client_id,
        # Only what was committed is an event.
        "isolation.level": "read_committed",
        # Positions live in PostgreSQL, beside the rows.
        "enable.auto.commit": False,
        "enable.auto.offset.store": False,
        # A missing offset is a fault of the log, never a reason to jump.
        "auto.offset.reset": "error",
        # Says when a partition is read to its end, so that the lag is known to be zero.
        "enable.partition.eof": True,
        # Incremental: a rebalance leaves alone what does not move. Measured: 0.2 s.
        "partition.assignment.strategy": "cooperative-sticky",
        "session.timeout.ms": session_timeout_ms,
        "heartbeat.interval.ms": max(session_timeout_ms // 4, 250),
        "max.poll.interval.ms": MAX_POLL_INTERVAL_MS,
        # A topic that appears later is found soon.
        "topic.metadata.refresh.interval.ms": 10_000,
        "allow.auto.create.topics": False,
        "check.crcs": True,
        # The broker answers as soon as there is one byte, and else after this long.
        "fetch.min.bytes": 1,
        "fetch.wait.max.ms": 50,
        # After a full queue, fetch again at once instead of after a second.
        "fetch.queue.backoff.ms": 5,
        "fetch.max.bytes": FETCH_BYTES_MAX,
        # Memory: what is fetched and not yet taken.
        "queued.max.messages.kbytes": QUEUED_KILOBYTES_MAX,
        "queued.min.messages": 20_000,
    }
