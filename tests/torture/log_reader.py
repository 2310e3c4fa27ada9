"""An independent reader of the log: plain consumer, fastavro, the registry over REST."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass, field
from typing import Any

import fastavro
import httpx2 as httpx
from confluent_kafka import Consumer, KafkaError, TopicPartition


@dataclass(frozen=True)
class LogRecord:
    """One event as any consumer would see it."""

    topic: str
    partition: int
    offset: int
    key: str
    headers: dict[str, str]
    data: dict[str, Any]


@dataclass
class LogReader:
    """Reads whole topics, committed records only."""

    bootstrap_servers: str
    registry_url: str
    _schemas: dict[int, Any] = field(default_factory=dict)

    def read(self, topic: str) -> list[LogRecord]:
        """Every committed record of the topic, partition by partition, in offset order."""
        consumer = Consumer(
            {
                "bootstrap.servers": self.bootstrap_servers,
                "group.id": "independent-checker",
                "enable.auto.commit": False,
                "isolation.level": "read_committed",
                "enable.partition.eof": True,
                "auto.offset.reset": "error",
            }
        )
        try:
            partitions = consumer.list_topics(topic, timeout=10).topics[topic].partitions
            consumer.assign([TopicPartition(topic, number, 0) for number in partitions])
            return self._read_to_end(consumer, len(partitions))
        finally:
            consumer.close()

    def _read_to_end(self, consumer: Consumer, partitions: int) -> list[LogRecord]:
        ended: set[int] = set()
        records: list[LogRecord] = []
        while len(ended) < partitions:
            messages: list[Any] = list(consumer.consume(1_000, 1.0))
            for message in messages:
                error = message.error()
                if error is None:
                    records.append(self._record(message))
                elif error.code() == KafkaError._PARTITION_EOF:
                    ended.add(message.partition())
                else:
                    raise RuntimeError(error.str())
        return sorted(records, key=lambda record: (record.partition, record.offset))

    def _record(self, message: Any) -> LogRecord:
        headers = {name: value.decode() for name, value in message.headers()}
        return LogRecord(
            message.topic(),
            message.partition(),
            message.offset(),
            message.key().decode(),
            headers,
            self._decode(message.value()),
        )

    def _decode(self, value: bytes) -> dict[str, Any]:
        assert value[0] == 0, "the magic byte of the wire format"
        schema = self._schema(int.from_bytes(value[1:5], "big"))
        body = io.BytesIO(value[5:])
        data = fastavro.schemaless_reader(body, schema, None)
        assert body.read() == b"", "the value holds more than one record"
        assert isinstance(data, dict)
        return data

    def _schema(self, schema_id: int) -> Any:
        if schema_id not in self._schemas:
            url = f"{self.registry_url}/schemas/ids/{schema_id}"
            answer = httpx.get(url, timeout=10).raise_for_status()
            self._schemas[schema_id] = fastavro.parse_schema(json.loads(answer.json()["schema"]))
        return self._schemas[schema_id]
