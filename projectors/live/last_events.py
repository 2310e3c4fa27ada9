"""The last event of each partition, or the last one before a time, found in the log itself.

Only a whole event of ours counts, and its own log time: Kafka's index of times says where to look
first, and offsets count markers and records that are not ours. Where a partition is followed from
the last event before a time, the very next event can be told from a later one by its sequence.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from typing import Any, Final

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from tidelog.engine.judge import Progress
from tidelog.engine.ports import StoredRecord
from tidelog.engine.reading import EventReader, Fact, Partition
from tidelog.errors import CodecError, Unavailable
from tidelog.kafka.records import stored_record
from tidelog.kafka.security import connection
from tidelog.wire import events_topic, read_event_headers

WAIT_S: Final = 10.0
RECORDS_MAX: Final = 500
OFFSETS_FIRST: Final = 64
"""How many offsets before the end the first look begins; each further one goes back 4 times."""


class LastEvents:
    """Looks for last events, and reads what follows them; close it when done.

    One thread at a time uses it.
    """

    def __init__(self, *, bootstrap_servers: str, topic_prefix: str, reader: EventReader) -> None:
        self._prefix = topic_prefix
        self._reader = reader
        self._ends: dict[Partition, tuple[int, Progress]] = {}
        self._consumer = Consumer(
            {
                **connection(bootstrap_servers),
                "client.id": "tidelog-live-metrics-last-events",
                # Needed by the library; no group is joined and nothing is committed.
                "group.id": f"{topic_prefix}tidelog-live-metrics-last-events",
                "enable.auto.commit": False,
                # Only what was committed is an event.
                "isolation.level": "read_committed",
                "auto.offset.reset": "error",
                # Says that nothing but markers is left.
                "enable.partition.eof": True,
                "fetch.wait.max.ms": 50,
                "queued.max.messages.kbytes": 16 * 1024,
            }
        )

    def before(self, times: Mapping[Partition, datetime]) -> dict[Partition, Progress]:
        """The last event of each partition that was recorded before its time."""
        try:
            return {at: self._before(at, time) for at, time in times.items()}
        except KafkaException as error:
            raise _unavailable(error) from error

    def ends(self, partitions: Iterable[Partition]) -> dict[Partition, Progress]:
        """The last event of each partition. One that nobody has written to is not read again."""
        try:
            return {at: self._end(at) for at in partitions}
        except KafkaException as error:
            raise _unavailable(error) from error

    def records(self, at: Partition, start: int) -> Iterator[StoredRecord]:
        """Every committed record from the offset on, to where the partition ends now."""
        try:
            _, high = self._watermarks(at)
            if start < high:
                yield from self._records(at, start, high)
        except KafkaException as error:
            raise _unavailable(error) from error

    def close(self) -> None:
        """Release the handle."""
        self._consumer.close()

    def _before(self, at: Partition, time: datetime) -> Progress:
        low, high = self._watermarks(at)
        topic = events_topic(at.context, self._prefix)
        wanted = TopicPartition(topic, at.number, int(time.timestamp() * 1_000))
        (found,) = self._consumer.offsets_for_times([wanted], timeout=WAIT_S)
        if found.error is not None:
            raise KafkaException(found.error)
        return self._last_before(at, low, found.offset if found.offset >= 0 else high, time)

    def _end(self, at: Partition) -> Progress:
        low, high = self._watermarks(at)
        known = self._ends.get(at)
        if known is None or known[0] != high:
            known = self._ends[at] = high, self._last_before(at, low, high, None)
        return known[1]

    def _watermarks(self, at: Partition) -> tuple[int, int]:
        place = TopicPartition(events_topic(at.context, self._prefix), at.number)
        low, high = self._consumer.get_watermark_offsets(place, timeout=WAIT_S)
        return low, high

    def _last_before(self, at: Partition, low: int, end: int, time: datetime | None) -> Progress:
        """The last event below the offset `end`; in front of the log where there is none."""
        back = OFFSETS_FIRST
        while True:
            start = max(end - back, low)
            last = self._last(at, start, end, time) if start < end else None
            if last is not None:
                return Progress(last.sequence, last.offset)
            if start <= low:
                return Progress(offset=low - 1)
            back *= 4

    def _last(self, at: Partition, start: int, end: int, before: datetime | None) -> Fact | None:
        """The event with the highest sequence from `start` to before `end`."""
        last: Fact | None = None
        for record in self._records(at, start, end):
            fact = self._fact(at, record)
            if fact is None or (before is not None and fact.recorded_at >= before):
                continue
            if last is None or fact.sequence > last.sequence:
                last = fact
        return last

    def _records(self, at: Partition, start: int, end: int) -> Iterator[StoredRecord]:
        """The committed records from the offset `start` to before `end`."""
        topic = events_topic(at.context, self._prefix)
        self._consumer.assign([TopicPartition(topic, at.number, start)])
        deadline = time.monotonic() + WAIT_S
        while time.monotonic() < deadline:
            messages: list[Any] = list(self._consumer.consume(RECORDS_MAX, 0.1))
            for message in messages:
                if message.error() is not None:
                    if message.error().code() == KafkaError._PARTITION_EOF:
                        return
                    raise KafkaException(message.error())
                if message.offset() < end:
                    yield stored_record(message)
                if message.offset() + 1 >= end:
                    return
                deadline = time.monotonic() + WAIT_S
        raise Unavailable(f"{topic}[{at.number}] was not read in {WAIT_S} s")

    def _fact(self, at: Partition, record: StoredRecord) -> Fact | None:
        """The event in the record, if it is one of ours."""
        try:
            sequence = read_event_headers(record.headers).sequence
        except CodecError:
            return None  # not ours: whoever follows the log counts it
        before = Progress(sequence - 1, record.offset - 1)
        facts = self._reader.read({at: (record,)}, {at: before}).facts
        return facts[0] if facts else None


def _unavailable(error: KafkaException) -> Unavailable:
    return Unavailable(f"the log cannot be read: {error.args[0].str()}")
