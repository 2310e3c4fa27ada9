"""Reads partitions of the log from given offsets as fast as they come, to the end and no further.

No group is joined: who reads what is the caller's plan, and nobody else's.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from confluent_kafka import Consumer, KafkaError, TopicPartition

from tidelog.engine.ports import StoredRecord
from tidelog.engine.reading import Partition
from tidelog.errors import LogHole, Unavailable
from tidelog.kafka.reader import OFFSET_MISSING, TOPIC_MISSING
from tidelog.kafka.records import any_error, by_place, come, stored_record, stored_records
from tidelog.kafka.security import connection
from tidelog.logging import get_logger
from tidelog.wire import events_topic

CHUNK_RECORDS_MAX = 2_000
WAIT_S = 0.5
SILENCE_S_MAX = 30.0
"""How long Kafka may say nothing, in seconds, before the log counts as out of reach."""
QUEUED_KILOBYTES_MAX = 64 * 1024

log = get_logger(__name__)


class LogReader:
    """Committed records of some partitions, a chunk at a time. One thread uses it."""

    def __init__(
        self, *, bootstrap_servers: str, topic_prefix: str, starts: Mapping[Partition, int]
    ) -> None:
        self._places = {
            at: TopicPartition(events_topic(at.context, topic_prefix), at.number, offset)
            for at, offset in starts.items()
        }
        self._partitions = {
            (place.topic, place.partition): at for at, place in self._places.items()
        }
        self._open = set(starts)
        self._consumer = Consumer(
            {
                **connection(bootstrap_servers),
                "client.id": "tidelog-bulk",
                # Needed by the library; no group is joined and nothing is committed.
                "group.id": f"{topic_prefix}tidelog-bulk",
                "enable.auto.commit": False,
                # Only what was committed is an event.
                "isolation.level": "read_committed",
                # An offset that is not there is a fault of the log, never a reason to jump.
                "auto.offset.reset": "error",
                # Tells where the log ends when only transaction markers are left.
                "enable.partition.eof": True,
                "check.crcs": True,
                "fetch.wait.max.ms": 50,
                # After a full queue, fetch again at once instead of after a second.
                "fetch.queue.backoff.ms": 5,
                # Far ahead of the fold, so that it never waits; bounded all the same.
                "queued.min.messages": 100_000,
                "queued.max.messages.kbytes": QUEUED_KILOBYTES_MAX,
            }
        )
        self._consumer.assign(list(self._places.values()))

    def chunks(self) -> Iterator[tuple[Partition, list[StoredRecord]]]:
        """The records, of one partition at a time, until every partition is ended or released.

        An empty list says that the partition has no more. Raises LogHole where the log does not
        begin where it should, and Unavailable where Kafka says nothing for long.
        """
        deadline = time.monotonic() + SILENCE_S_MAX
        while self._open:
            messages = come(self._consumer, CHUNK_RECORDS_MAX, WAIT_S)
            if messages:
                deadline = time.monotonic() + SILENCE_S_MAX
            elif time.monotonic() > deadline:
                raise Unavailable(
                    f"Kafka says nothing about {min(self._open)} for {SILENCE_S_MAX:g} s"
                )
            for at, found in self._by_partition(messages):
                if at not in self._open:
                    continue
                records, ended = _records(found, at)
                if records:
                    yield at, records
                if ended and at in self._open:
                    self._open.discard(at)
                    yield at, []

    def _by_partition(self, messages: list[Any]) -> Iterator[tuple[Partition, list[Any]]]:
        """The messages, grouped; where one partition is read there is nothing to group."""
        if len(self._partitions) == 1:
            (at,) = self._partitions.values()
            yield at, messages
            return
        for place, found in by_place(messages):
            # What is about no partition is about them all: any of them may look at it.
            yield self._partitions.get(place, min(self._places)), found

    def release(self, partition: Partition) -> None:
        """Read no more of this partition."""
        if partition in self._open:
            self._open.discard(partition)
            self._consumer.incremental_unassign([self._places[partition]])

    def close(self) -> None:
        """Release the handle."""
        self._consumer.close()


def _records(messages: list[Any], at: Partition) -> tuple[list[StoredRecord], bool]:
    """The records among the messages, and whether one says that the partition ends here."""
    if any_error(messages):
        return _one_by_one(messages, at)
    return stored_records(messages), False


def _one_by_one(messages: Iterable[Any], at: Partition) -> tuple[list[StoredRecord], bool]:
    records, ended = [], False
    for message in messages:
        error = message.error()
        if error is None:
            records.append(stored_record(message))
        elif error.code() == KafkaError._PARTITION_EOF:
            ended = True
        elif error.code() in OFFSET_MISSING:
            raise LogHole(
                f"{at}: the log does not go back to where the read begins. Restore the topic."
            )
        elif error.fatal() or error.code() in TOPIC_MISSING:
            raise Unavailable(f"{at}: {error.str()}")
        else:
            log.info("bulk.waits_for_kafka", reason=error.str())  # the library reconnects by itself
    return records, ended
