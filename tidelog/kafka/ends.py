"""How far the log goes: the sequence of each partition's last event, read from the log itself.

Offsets cannot tell, because transaction markers and aborted records take offsets too.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from tidelog.engine.folding import Partition
from tidelog.errors import CodecError, Unavailable
from tidelog.wire import events_topic, read_event_headers

WAIT_S = 5.0
# How many offsets before the end the first look begins; each further look doubles it.
TAIL_OFFSETS = 8


class LogEnds:
    """Looks up the ends of partitions. One thread uses it."""

    def __init__(self, *, bootstrap_servers: str, topic_prefix: str) -> None:
        self._prefix = topic_prefix
        self._consumer = Consumer(
            {
                "bootstrap.servers": bootstrap_servers,
                "client.id": "tidelog-log-ends",
                # Needed by the library; no group is joined and nothing is committed.
                "group.id": f"{topic_prefix}tidelog-log-ends",
                "enable.auto.commit": False,
                # Only what was committed is an event.
                "isolation.level": "read_committed",
                # Where the log was cut off meanwhile, the next look finds a new beginning.
                "auto.offset.reset": "error",
                # Says that nothing but markers is left.
                "enable.partition.eof": True,
                "fetch.wait.max.ms": 50,
                "fetch.message.max.bytes": 1024 * 1024,
                "queued.max.messages.kbytes": 4 * 1024,
            }
        )

    def sequences(self, partitions: Iterable[Partition]) -> dict[Partition, int]:
        """The last sequence of each partition; 0 where it has no event. Unavailable on a fault."""
        try:
            return {at: self._sequence(at) for at in partitions}
        except KafkaException as error:
            raise Unavailable(
                f"the end of the log cannot be read: {error.args[0].str()}"
            ) from error

    def close(self) -> None:
        """Release the handle."""
        self._consumer.close()

    def _sequence(self, at: Partition) -> int:
        place = TopicPartition(events_topic(at.context, self._prefix), at.number)
        low, high = self._consumer.get_watermark_offsets(place, timeout=WAIT_S)
        back = TAIL_OFFSETS
        while True:
            start = max(high - back, low)
            last = self._last_from(place, start, high) if start < high else 0
            if last or start <= low:
                return last
            back *= 2

    def _last_from(self, place: TopicPartition, start: int, high: int) -> int:
        """The last sequence among the records from `start` on; 0 if there is none of ours."""
        self._consumer.assign([TopicPartition(place.topic, place.partition, start)])
        last, deadline = 0, time.monotonic() + WAIT_S
        while time.monotonic() < deadline:
            messages: list[Any] = list(self._consumer.consume(500, 0.1))
            for message in messages:
                if message.error() is not None:
                    if message.error().code() == KafkaError._PARTITION_EOF:
                        return last
                    raise KafkaException(message.error())
                last = max(last, _sequence_of(message))
                if message.offset() + 1 >= high:
                    return last
        raise Unavailable(f"{place.topic}[{place.partition}] was not read in {WAIT_S} s")


def _sequence_of(message: Any) -> int:
    try:
        return read_event_headers(message.headers()).sequence
    except (CodecError, UnicodeDecodeError):
        return 0
