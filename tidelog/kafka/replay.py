"""Reads one partition of the log from an offset on, committed records only, markers counted."""

from __future__ import annotations

from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from tidelog.engine.ports import StoredRecord
from tidelog.errors import LogHole, Unavailable

READ_RECORDS_MAX = 2_000
READ_WAIT_S = 1.0


class PartitionReplay:
    """A reader of one partition. Blocking; used by one thread."""

    def __init__(self, *, bootstrap_servers: str, topic: str, partition: int) -> None:
        self._place = (topic, partition)
        self._position = -1
        self._consumer = Consumer(
            {
                "bootstrap.servers": bootstrap_servers,
                "client.id": f"tidelog-replay-{topic}-{partition}",
                # Needed by the library; no group is joined and nothing is committed.
                "group.id": f"tidelog-replay-{topic}-{partition}",
                "enable.auto.commit": False,
                "isolation.level": "read_committed",
                # An offset that is not there is a fault of the log, never a reason to jump.
                "auto.offset.reset": "error",
                # Tells where the reader stands when only transaction markers are left.
                "enable.partition.eof": True,
                "check.crcs": True,
                "fetch.wait.max.ms": 10,
                "fetch.queue.backoff.ms": 5,
                "fetch.message.max.bytes": 4 * 1024 * 1024,
                "queued.max.messages.kbytes": 32 * 1024,
            }
        )

    def read(self, offset: int) -> tuple[list[StoredRecord], int]:
        """The records from `offset` on that came within a second, and the next offset to read."""
        if offset != self._position:
            self._consumer.assign([TopicPartition(*self._place, offset)])
            self._position = offset
        records: list[StoredRecord] = []
        messages: list[Any] = list(self._consumer.consume(READ_RECORDS_MAX, READ_WAIT_S))
        for message in messages:
            error = message.error()
            if error is None:
                records.append(stored_record(message))
                self._position = message.offset() + 1
            elif error.code() == KafkaError._PARTITION_EOF:
                self._position = max(self._position, message.offset())
            elif error.code() in (
                KafkaError.OFFSET_OUT_OF_RANGE,
                KafkaError._AUTO_OFFSET_RESET,
            ):
                raise LogHole(f"{self._place[0]}[{self._place[1]}] has no offset {offset} any more")
            else:
                raise Unavailable(f"reading {self._place[0]}: {error.str()}")
        return records, self._position

    def close(self) -> None:
        """Release the reader."""
        try:
            self._consumer.close()
        except KafkaException as error:
            raise Unavailable(str(error)) from error


def stored_record(message: Any) -> StoredRecord:
    """A consumed message as the engine reads it.

    Kafka lets a header have any bytes for a name. Names that are no UTF-8 are not ours to read, so
    such a record comes without headers, and is judged by that.
    """
    try:
        headers = message.headers() or []
    except UnicodeDecodeError:
        headers = []
    return StoredRecord(message.offset(), message.key(), message.value(), headers)
