"""R1's peer: idempotent produce of prebuilt records, and nothing else."""

from __future__ import annotations

from itertools import cycle, islice
from typing import Any

from confluent_kafka import Producer

from bench.sample import Sample, Stopwatch
from bench.shop import order_ids, records
from bench.stack import Stack, codec_of, create_topic
from tidelog.partitioner import partition_of

PREBUILT = 20_000
FIRST_ROUND_RECORDS = 20_000


def producer_config(bootstrap_servers: str) -> dict[str, Any]:
    """The settings with which the loop below was fastest here."""
    return {
        "bootstrap.servers": bootstrap_servers,
        "acks": "all",
        "enable.idempotence": True,
        "linger.ms": 50,
        "batch.num.messages": 100_000,
        "batch.size": 1_000_000,
        "queue.buffering.max.messages": 500_000,
        "queue.buffering.max.kbytes": 1_048_576,
        # All deliveries are awaited by flush(); reports are made for failures only.
        "delivery.report.only.error": True,
    }


class RawProduce:
    """The same bytes and headers as ours, to as many partitions."""

    def __init__(self, stack: Stack, topic: str, partitions: int) -> None:
        create_topic(stack, topic, partitions)
        self._stack = stack
        self._topic = topic
        keys = list(islice(order_ids(), PREBUILT))
        self._records = [
            (record.value, record.key, partition_of(key, partitions), record.headers)
            for key, record in zip(keys, records(codec_of(stack, topic), keys), strict=True)
        ]
        self._failures: list[str] = []
        config = producer_config(stack.kafka)
        self._producer = Producer({**config, "on_delivery": self._on_failure})
        self._count = FIRST_ROUND_RECORDS

    def run(self, seconds: float) -> Sample:
        """Produce, then await the delivery of all."""
        watch = Stopwatch([self._stack.kafka_pid])
        self._produce()
        left = self._producer.flush(60)
        sample = watch.sample(self._count)
        assert not left, f"{left} records were not delivered"
        assert not self._failures, self._failures[0]
        self._count = int(sample.rate * seconds)
        return sample

    def close(self) -> None:
        """Nothing is left to stop."""
        self._producer.flush(5)

    def _produce(self) -> None:
        produce: Any = self._producer.produce  # its stub refuses headers of bytes alone
        poll, topic = self._producer.poll, self._topic
        for value, key, partition, headers in islice(cycle(self._records), self._count):
            try:
                produce(topic, value, key, partition, headers=headers)
            except BufferError:
                poll(0.001)
                self._again(value, key, partition, headers)

    def _again(self, value: bytes, key: bytes, partition: int, headers: Any) -> None:
        produce: Any = self._producer.produce
        while True:
            try:
                produce(self._topic, value, key, partition, headers=headers)
                return
            except BufferError:
                self._producer.poll(0.001)

    def _on_failure(self, error: Any, _message: Any) -> None:
        self._failures.append(str(error))
