"""Reads one partition of the log from an offset on, committed records only, markers counted."""

from __future__ import annotations

from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from tidelog.engine.ports import StoredRecord
from tidelog.errors import LogHole, Unavailable
from tidelog.kafka.records import come, stored_record
from tidelog.kafka.security import connection

READ_RECORDS_MAX = 2_000
READ_WAIT_S = 1.0
QUEUED_KILOBYTES_MAX = 8 * 1024
OFFSET_MISSING = frozenset({KafkaError.OFFSET_OUT_OF_RANGE, KafkaError._AUTO_OFFSET_RESET})


class PartitionReplay:
    """A reader of one partition. Blocking; used by one thread."""

    def __init__(self, *, bootstrap_servers: str, topic: str, partition: int) -> None:
        self._place = (topic, partition)
        self._position = -1
        self._consumer = Consumer(
            {
                **connection(bootstrap_servers),
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
                # Every owner of the process may read at once, and folding is slower than fetching.
                "queued.max.messages.kbytes": QUEUED_KILOBYTES_MAX,
            }
        )

    def read(self, offset: int) -> tuple[list[StoredRecord], int]:
        """The records from `offset` on that have come, and the next offset to read.

        Waits a second for the first of them, and for no other: the last of a log come at once.
        """
        if offset != self._position:
            self._consumer.assign([TopicPartition(*self._place, offset)])
            self._position = offset
        records: list[StoredRecord] = []
        for message in come(self._consumer, READ_RECORDS_MAX, READ_WAIT_S):
            error = message.error()
            if error is None:
                records.append(stored_record(message))
            else:
                self._pass_end(message, error, offset)
        if records:
            self._position = max(self._position, records[-1].offset + 1)
        return records, self._position

    def _pass_end(self, message: Any, error: KafkaError, offset: int) -> None:
        """Take note of the end of the partition; anything else that is no record is raised."""
        topic, partition = self._place
        if error.code() == KafkaError._PARTITION_EOF:
            self._position = max(self._position, message.offset())
        elif error.code() in OFFSET_MISSING:
            raise LogHole(f"{topic}[{partition}] has no offset {offset} any more")
        else:
            raise Unavailable(f"reading {topic}: {error.str()}")

    def close(self) -> None:
        """Release the reader."""
        try:
            self._consumer.close()
        except KafkaException as error:
            raise Unavailable(str(error)) from error
