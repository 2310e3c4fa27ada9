"""Reads the log by hand, without a group: stretches of it, or all of it as it grows.

For readers that come back to what was read before, and for those that need every record there is.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from tidelog.engine.ports import StoredRecord
from tidelog.engine.reading import Partition
from tidelog.errors import LogHole, Unavailable
from tidelog.kafka.reader import OFFSET_MISSING, TOPIC_MISSING
from tidelog.kafka.records import come, stored_record
from tidelog.kafka.security import connection
from tidelog.wire import events_topic

CHUNK_RECORDS_MAX = 1_000
POLL_S = 0.2
SILENCE_S_MAX = 10.0
"""How long Kafka may say nothing, in seconds, before the log counts as out of reach."""
QUEUED_KILOBYTES_MAX = 8 * 1024


class SpanReader:
    """Committed records of any partition, a chunk at a time. One thread uses it."""

    def __init__(self, *, bootstrap_servers: str, topic_prefix: str, client_id: str) -> None:
        self._prefix = topic_prefix
        # It reads for moments only: an answer at once is worth an empty fetch.
        self._make = partial(
            _consumer, bootstrap_servers, topic_prefix, client_id, fetch_wait_ms=10
        )
        # Made with the first read: one that has waited for it takes a second longer to begin.
        self._consumer: Consumer | None = None

    def read(self, at: Partition, start: int, end: int | None = None) -> Iterator[_Records]:
        """The records from offset `start` to `end`, both among them; without `end`, all there are.

        Raises LogHole where the log has no such offset any more, Unavailable where Kafka does not
        answer. Nothing is read where the stretch is empty.
        """
        if end is not None and start > end:
            return
        topic = events_topic(at.context, self._prefix)
        if self._consumer is None:
            self._consumer = self._make()
        consumer = self._consumer
        try:
            consumer.assign([TopicPartition(topic, at.number, max(start, 0))])
            yield from _chunks(consumer, at, end)
        except KafkaException as error:
            raise Unavailable(f"reading {topic}: {error.args[0].str()}") from error
        finally:
            consumer.unassign()

    def close(self) -> None:
        """Release the handle."""
        if self._consumer is not None:
            self._consumer.close()


class Follower:
    """Committed records of some partitions from given offsets on. One thread uses it.

    `ended` says whether each partition was read to its end once since the start.
    """

    def __init__(self, *, bootstrap_servers: str, topic_prefix: str, client_id: str) -> None:
        self._prefix = topic_prefix
        self._open: set[tuple[str, int]] = set()
        self._partitions: dict[tuple[str, int], Partition] = {}
        self._make = partial(
            _consumer, bootstrap_servers, topic_prefix, client_id, fetch_wait_ms=100
        )
        # Made with the first start, as that of a SpanReader is.
        self._consumer: Consumer | None = None

    @property
    def ended(self) -> bool:
        """Whether there was an end to each partition."""
        return not self._open

    def start(self, offsets: Mapping[Partition, int]) -> None:
        """Read these partitions from these offsets on."""
        self._partitions = {
            (events_topic(at.context, self._prefix), at.number): at for at in offsets
        }
        self._open = set(self._partitions)
        if self._consumer is None:
            self._consumer = self._make()
        self._consumer.assign(
            [TopicPartition(*place, offsets[at]) for place, at in self._partitions.items()]
        )

    def read(self, wait_s: float) -> dict[Partition, list[StoredRecord]]:
        """What has come; waits for the first record, or the first end, and for no other.

        Raises LogHole where the log has no such offset any more, Unavailable where Kafka does not
        answer: start anew then.
        """
        found: dict[Partition, list[StoredRecord]] = defaultdict(list)
        assert self._consumer is not None, "it was started"
        try:
            for message in come(self._consumer, CHUNK_RECORDS_MAX, wait_s):
                place = (message.topic(), message.partition())
                if _is_end(message):
                    self._open.discard(place)
                elif place in self._partitions:
                    found[self._partitions[place]].append(stored_record(message))
        except KafkaException as error:
            raise Unavailable(f"following the log: {error.args[0].str()}") from error
        return found

    def close(self) -> None:
        """Release the handle."""
        if self._consumer is not None:
            self._consumer.close()


def _consumer(
    bootstrap_servers: str, topic_prefix: str, client_id: str, *, fetch_wait_ms: int
) -> Consumer:
    return Consumer(
        {
            **connection(bootstrap_servers),
            "client.id": client_id,
            # Needed by the library; no group is joined and nothing is committed.
            "group.id": f"{topic_prefix}{client_id}",
            "enable.auto.commit": False,
            "isolation.level": "read_committed",
            # An offset that is not there is a fault of the log, never a reason to jump.
            "auto.offset.reset": "error",
            # Tells where the log ends when only transaction markers are left.
            "enable.partition.eof": True,
            "fetch.wait.max.ms": fetch_wait_ms,
            "fetch.queue.backoff.ms": 5,
            "queued.max.messages.kbytes": QUEUED_KILOBYTES_MAX,
        }
    )


def _chunks(consumer: Consumer, at: Partition, end: int | None) -> Iterator[_Records]:
    deadline = time.monotonic() + SILENCE_S_MAX
    while True:
        messages = come(consumer, CHUNK_RECORDS_MAX, POLL_S)
        if not messages:
            if time.monotonic() > deadline:
                raise Unavailable(f"Kafka says nothing about {at} for {SILENCE_S_MAX:g} s")
            continue
        deadline = time.monotonic() + SILENCE_S_MAX
        ended = any(map(_is_end, messages))
        records = [stored_record(each) for each in messages if each.error() is None]
        past = end is not None and bool(records) and records[-1].offset >= end
        if past:
            records = [record for record in records if end is None or record.offset <= end]
        if records:
            yield records
        if ended or past:
            return


_Records = Sequence[StoredRecord]


def _is_end(message: Any) -> bool:
    """Whether it says that the log ends here; what else is no record is raised."""
    error = message.error()
    if error is None:
        return False
    if error.code() == KafkaError._PARTITION_EOF:
        return True
    if error.code() in OFFSET_MISSING:
        raise LogHole(f"{message.topic()}[{message.partition()}] does not begin there any more")
    if error.code() in TOPIC_MISSING:
        raise Unavailable(f"{message.topic()} is not there")
    raise KafkaException(error)
