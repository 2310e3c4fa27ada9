"""R9's peer: record after record from a bare consumer, decoded, and one committed row each."""

from __future__ import annotations

import os
from pathlib import Path

import psycopg
from confluent_kafka import Consumer, TopicPartition

from bench.peers.avro_decode import saved_decoder
from bench.peers.order_upsert import OPTIONS, OrderTable

POLL_S = 1.0


def main() -> None:
    """Until it is killed."""
    decoder = saved_decoder(Path(os.environ["BENCH_SCHEMAS"]))
    table = OrderTable(os.environ["BENCH_SCHEMA"])
    consumer = Consumer(
        {
            "bootstrap.servers": os.environ["BENCH_KAFKA"],
            "group.id": "bench-raw-rows",
            "enable.auto.commit": False,
            "isolation.level": "read_committed",
            "fetch.min.bytes": 1,
            "check.crcs": True,
        }
    )
    partitions = range(int(os.environ["BENCH_PARTITIONS"]))
    topic = os.environ["BENCH_TOPIC"]
    consumer.assign([TopicPartition(topic, number, 0) for number in partitions])
    with psycopg.connect(
        os.environ["BENCH_DSN"], autocommit=True, prepare_threshold=0, options=OPTIONS
    ) as connection:
        while True:
            message = consumer.poll(POLL_S)
            if message is None:
                continue
            if (error := message.error()) is not None:
                raise SystemExit(error.str())
            value = message.value() or b""
            text, values = table.statement(decoder.name_of(value), decoder.decode(value))
            connection.execute(text.encode(), values)


if __name__ == "__main__":
    main()
