"""Writes records with header names that are not UTF-8: SERVERS, TOPIC, PARTITION, COUNT.

No client that the project uses can write one by itself; this one can be talked into it, as long as
it runs without its compiled part.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys

import aiokafka

VARIABLE = "AIOKAFKA_NO_EXTENSIONS"


class OddName(str):
    """Encodes to what is no UTF-8."""

    __slots__ = ()

    def encode(self, encoding: str = "utf-8", errors: str = "strict") -> bytes:
        return b"\xff\xfe"


def append_odd_records(bootstrap_servers: str, topic: str, partition: int, count: int) -> None:
    """Write so many such records."""
    subprocess.run(
        [
            sys.executable,
            "-m",
            "tests.odd_record",
            bootstrap_servers,
            topic,
            str(partition),
            str(count),
        ],
        env={**os.environ, VARIABLE: "1"},
        check=True,
    )


async def write(bootstrap_servers: str, topic: str, partition: int, count: int) -> None:
    producer = aiokafka.AIOKafkaProducer(bootstrap_servers=bootstrap_servers)
    await producer.start()
    try:
        headers = [(OddName("odd"), b"x")]
        for _ in range(count):
            await producer.send_and_wait(topic, b"not ours", partition=partition, headers=headers)
    finally:
        await producer.stop()


if __name__ == "__main__":
    asyncio.run(write(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])))
