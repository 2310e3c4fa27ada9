"""The whole system as its command line starts it, and what dev.json tells of it."""

from __future__ import annotations

import json
import os
import signal
import struct
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from confluent_kafka import OFFSET_BEGINNING, Consumer, Message, TopicPartition

ROOT = Path(__file__).parents[2]
START_S = 180.0
STOP_S = 30.0


@dataclass(frozen=True)
class System:
    """A running system as dev.json tells of it."""

    dev: Path
    content: dict[str, Any]

    def url(self, name: str) -> str:
        """Where the service listens."""
        found: str = next(p["url"] for p in self.content["processes"] if p["name"] == name)
        return found

    def now(self) -> list[dict[str, Any]]:
        """The processes of this moment."""
        processes: list[dict[str, Any]] = json.loads(self.dev.read_text())["processes"]
        return processes

    def tidelog(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """The command line, told of this system."""
        return cli(*arguments, TIDELOG_DEV=str(self.dev))


def cli(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tidelog.cli", *arguments],
        cwd=ROOT,
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@contextmanager
def running_system(folder: Path) -> Iterator[System]:
    """`tidelog up`, and at the end SIGINT, exit code 0 and no dev.json."""
    dev = folder / "data" / "dev.json"
    log = (folder / "up.log").open("wb")
    stack = subprocess.Popen(
        [sys.executable, "-m", "tidelog.cli", "up", "--data", str(dev.parent)],
        cwd=ROOT,
        stdout=log,
        stderr=log,
    )
    try:
        deadline = time.monotonic() + START_S
        while not dev.exists():
            assert stack.poll() is None, (folder / "up.log").read_text()
            assert time.monotonic() < deadline, (folder / "up.log").read_text()
            time.sleep(0.1)
        yield System(dev, json.loads(dev.read_text()))
        stack.send_signal(signal.SIGINT)
        assert stack.wait(STOP_S) == 0
        assert not dev.exists()
    finally:
        if stack.poll() is None:
            stack.kill()
            stack.wait()
        log.close()


@contextmanager
def joined(system: System, service: str, log: Path) -> Iterator[dict[str, Any]]:
    """A further instance, told of TIDELOG_DEV alone; its line of dev.json. SIGTERM ends it well."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "tidelog.cli", "run", service],
            cwd=ROOT,
            env={**os.environ, "TIDELOG_DEV": str(system.dev)},
            stdout=output,
            stderr=output,
        )
    try:
        deadline = time.monotonic() + START_S
        while not (found := [each for each in system.now() if each["pid"] == process.pid]):
            assert process.poll() is None and time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)
        assert found[0]["name"] == service
        yield found[0]
        process.terminate()
        assert process.wait(STOP_S) == 0, log.read_text()
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def records(system: System, topic: str) -> Iterator[Message]:
    """Everything in the topic, of four partitions."""
    servers = system.content["kafka"]["bootstrap_servers"]
    consumer = Consumer(
        {
            "bootstrap.servers": servers,
            "group.id": f"test-{uuid.uuid4()}",
            "enable.partition.eof": True,
        }
    )
    consumer.assign([TopicPartition(topic, number, OFFSET_BEGINNING) for number in range(4)])
    ended = 0
    while ended < 4:
        for record in consumer.consume(500, 1.0):
            if record.error():
                ended += 1
            else:
                yield record
    consumer.close()


def murmur2(data: bytes) -> int:
    """The hash of Kafka's Java client, positive."""
    mask, factor = 0xFFFFFFFF, 0x5BD1E995
    hashed = (0x9747B28C ^ len(data)) & mask
    whole = len(data) // 4 * 4
    for (word,) in struct.iter_unpack("<I", data[:whole]):
        mixed = word * factor & mask
        mixed = (mixed ^ mixed >> 24) * factor & mask
        hashed = hashed * factor & mask ^ mixed
    if whole < len(data):
        hashed = (hashed ^ int.from_bytes(data[whole:], "little")) * factor & mask
    hashed = (hashed ^ hashed >> 13) * factor & mask
    return (hashed ^ hashed >> 15) & 0x7FFFFFFF
