"""The readers' side of the log: batches of committed records from where PostgreSQL says we are.

The consumer group only says which partitions this process should try. Where to begin is for the
caller to say, never an offset that Kafka keeps, and never a jump.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient

from tidelog.engine.ports import StoredRecord
from tidelog.engine.projection_store import TopicInfo
from tidelog.engine.reading import Partition
from tidelog.errors import LogHole, TidelogError, Unavailable
from tidelog.kafka.records import any_error, by_place, come, stored_record, stored_records
from tidelog.kafka.security import connection
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
class Membership:
    """A place in a consumer group, and whom to tell, on the thread that polls."""

    group: str
    session_timeout_ms: int
    assigned: Callable[[Sequence[Partition]], None]
    released: Callable[[Sequence[Partition]], None]


@dataclass(frozen=True, kw_only=True)
class Polled:
    """What one poll gave: records by partition, and what is wrong with a partition."""

    batch: dict[Partition, list[StoredRecord]]
    troubles: dict[Partition, TidelogError]


class BatchReader:
    """Reads event topics from where it is told to. One thread uses it.

    With a membership the group says which partitions; without one the caller does.
    """

    def __init__(
        self,
        *,
        bootstrap_servers: str,
        client_id: str,
        topic_prefix: str,
        membership: Membership | None = None,
    ) -> None:
        self._prefix = topic_prefix
        self._contexts: dict[str, str] = {}
        self._partitions: dict[tuple[str, int], Partition] = {}
        self._membership = membership
        self._reading: set[Partition] = set()
        self.joined = membership is None
        self._fatal: Unavailable | None = None
        self._consumer = Consumer(_options(bootstrap_servers, client_id, topic_prefix, membership))

    def subscribe(self, contexts: Iterable[str]) -> None:
        """Ask the group for partitions of these contexts' event topics."""
        topics = {events_topic(context, self._prefix): context for context in contexts}
        self._contexts.update(topics)
        self._consumer.subscribe(
            list(topics),
            on_assign=self._on_assign,
            on_revoke=self._on_revoke,
            on_lost=self._on_revoke,
        )

    def poll(self, records_max: int, wait_s: float) -> Polled:
        """Wait for a record, then take all that have come already, up to the bound.

        The first record of an idle time is returned at once; when much waits, much is taken.
        Raises Unavailable, for good, once Kafka has ended the membership.
        """
        if self._fatal is not None:
            raise self._fatal
        polled = Polled(batch={}, troubles={})
        for place, found in by_place(come(self._consumer, records_max, wait_s)):
            self._take(place, found, polled)
        return polled

    def read_from(self, partition: Partition, offset: int) -> None:
        """Begin to read the partition here, or go on from here."""
        place = self._place(partition, offset)
        with _may_pass(f"{partition} cannot be read from {offset} now"):
            if partition in self._reading:
                self._consumer.seek(place)
                self._consumer.resume([self._place(partition)])
            else:
                self._consumer.incremental_assign([place])
                self._reading.add(partition)

    def leave(self, partitions: Iterable[Partition]) -> None:
        """Read these partitions no more."""
        places = [self._place(at) for at in partitions if at in self._reading]
        self._reading.difference_update(partitions)
        if places:
            self._consumer.incremental_unassign(places)

    def pause(self, partition: Partition) -> None:
        """Deliver nothing more of this partition until it is read from a place again."""
        self._consumer.pause([self._place(partition)])

    def hold(self) -> None:
        """Deliver no record until `go_on`; `poll` still serves the group."""
        self._consumer.pause([self._place(at) for at in self._reading])

    def go_on(self, partitions: Iterable[Partition]) -> None:
        """Deliver the records of these partitions again."""
        self._consumer.resume([self._place(at) for at in partitions if at in self._reading])

    def close(self) -> None:
        """Leave the group, so that others take over at once."""
        self._consumer.close()

    def _place(self, partition: Partition, offset: int | None = None) -> TopicPartition:
        topic = events_topic(partition.context, self._prefix)
        self._contexts[topic] = partition.context
        if offset is None:
            return TopicPartition(topic, partition.number)
        return TopicPartition(topic, partition.number, offset)

    # --- records ----------------------------------------------------------------------------

    def _take(self, place: tuple[str, int], messages: list[Any], polled: Polled) -> None:
        if any_error(messages):
            for message in messages:
                error = message.error()
                if error is None:
                    self._batch_of(place, polled).append(stored_record(message))
                else:
                    self._take_error(message, error, polled)
        else:
            self._batch_of(place, polled).extend(stored_records(messages))

    def _batch_of(self, place: tuple[str, int], polled: Polled) -> list[StoredRecord]:
        return polled.batch.setdefault(self._partition(*place), [])

    def _take_error(self, message: Any, error: KafkaError, polled: Polled) -> None:
        if message.topic() not in self._contexts or message.partition() < 0:
            if error.fatal():
                # The next poll raises it: what came along with it is not lost.
                self._fatal = Unavailable(f"Kafka ended the membership: {error.str()}")
            return  # the library reconnects by itself
        partition = self._partition(message.topic(), message.partition())
        if error.code() in OFFSET_MISSING:
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
        """Read nothing yet: `read_from` begins each partition once it is known where."""
        # The library assigns by itself, from Kafka's offsets, where the callback does not.
        consumer.incremental_assign([])
        self.joined = True
        if self._membership is not None and places:
            self._membership.assigned([self._partition(at.topic, at.partition) for at in places])

    def _on_revoke(self, consumer: Any, places: list[TopicPartition]) -> None:
        """The store refuses whoever has been overtaken, so nothing needs to be finished first."""
        gone = [self._partition(at.topic, at.partition) for at in places]
        if self._membership is not None:
            self._membership.released(gone)
        begun = [at for at in gone if at in self._reading]
        self._reading.difference_update(begun)
        consumer.incremental_unassign([self._place(at) for at in begun])


@contextmanager
def _may_pass(what: str) -> Iterator[None]:
    """A refusal of the library that may pass, as an error of ours."""
    try:
        yield
    except KafkaException as error:
        raise Unavailable(f"{what}: {error.args[0].str()}") from error


def read_topics(
    admin: AdminClient, contexts: Iterable[Context], topic_prefix: str
) -> dict[str, TopicInfo]:
    """Id and partition count of each context's event topic; Unavailable where one is missing."""
    wanted = list(contexts)
    found = existing_topics(admin, wanted, topic_prefix)
    for context in wanted:
        if context.name not in found:
            topic = events_topic(context.name, topic_prefix)
            raise Unavailable(f"topic {topic} does not exist yet; the command service makes it")
    return found


def existing_topics(
    admin: AdminClient, contexts: Iterable[Context], topic_prefix: str
) -> dict[str, TopicInfo]:
    """Id and partition count of those of the contexts' event topics that exist."""
    names = {context.name: events_topic(context.name, topic_prefix) for context in contexts}
    ids = topic_ids(admin, names.values())
    counts = partition_counts(admin, names.values())
    return {
        context: TopicInfo(ids[topic], counts[topic])
        for context, topic in names.items()
        if topic in ids and topic in counts
    }


def _options(
    bootstrap_servers: str, client_id: str, topic_prefix: str, membership: Membership | None
) -> dict[str, Any]:
    options: dict[str, Any] = {
        **connection(bootstrap_servers),
        # Needed by the library also where no group is joined.
        "group.id": f"{topic_prefix}tidelog-reader",
        "client.id": client_id,
        # Only what was committed is an event.
        "isolation.level": "read_committed",
        # Positions live in PostgreSQL, beside the rows.
        "enable.auto.commit": False,
        "enable.auto.offset.store": False,
        # A missing offset is a fault of the log, never a reason to jump.
        "auto.offset.reset": "error",
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
    if membership is not None:
        options |= {
            "group.id": membership.group,
            # Incremental: a rebalance leaves alone what does not move. Measured: 0.2 s.
            "partition.assignment.strategy": "cooperative-sticky",
            "session.timeout.ms": membership.session_timeout_ms,
            "heartbeat.interval.ms": max(membership.session_timeout_ms // 4, 250),
        }
    return options
