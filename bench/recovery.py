"""How long a command service takes until it serves again, and what reading its log costs.

Run: `python -m bench.recovery --events 1000000 --aggregates 200000`. A real CommandHost fills the
event log of one context. Then `python -m command_service` is started on it: after a clean stop,
without any checkpoint, and after SIGKILL right after that. R10 is the rate of the replay without a
checkpoint (fences and writing one included) ÷ that of one process that reads and decodes the same
records and no more.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import httpx2
import msgspec
from confluent_kafka import Consumer, KafkaError, TopicPartition
from rich.console import Console
from rich.table import Table

from bench.ours import Host, HostSpec
from bench.r2_http import OUR_COMMAND
from bench.sample import Sample, Stopwatch, cpu_of
from bench.servers import HttpServer
from bench.shop import TRACEPARENT
from bench.stack import Given, Stack, codec_of, running_stack, service_environment
from bench.workers import SideSpec, Worker
from schemas.inventory import INVENTORY, ReceiveStock
from tidelog.canonical import command_hash, command_id
from tidelog.embedded.process import PROBE_TIMEOUT_S, Running, spawn, tail
from tidelog.engine.command import Envelope
from tidelog.errors import Unavailable
from tidelog.wire import events_topic

PREFIX = "recovery."
FULL_NAME = INVENTORY.full_name(ReceiveStock)
FILL_COMMANDS = 50_000
FILL_IN_FLIGHT = 4_096
READ_RECORDS_MAX = 10_000
READ_TIMEOUT_S = 30.0
POLL_S = 0.05
READY_TIMEOUT_S = 900.0
MIB = 1024
HEAD = ("start", "ready s", "to listen", "group", "takeover", "CPU s", "peak MiB", "MiB after")

WARM_UP = "warm-up"
CLEAN, EMPTY, KILLED = "after a clean stop", "without a checkpoint", "after SIGKILL"


@dataclass(frozen=True, kw_only=True)
class Start:
    """One start of the service, from its process's begin to /readyz 200."""

    label: str
    ready_s: float
    listen_s: float
    """Imports, schemas at the registry, PostgreSQL, topics, until it listens."""
    group_s: float
    """Until the group has assigned partitions; a dead member's session runs out first."""
    takeover_s: float
    """Until the last partition serves: fences, replay, checkpoint."""
    cpu_s: float
    peak_mib: float
    after_mib: float


@dataclass(frozen=True, kw_only=True)
class Recovery:
    """What was measured."""

    cores: int
    load_before: float
    events: int
    aggregates: int
    partitions: int
    filled_per_s: float
    starts: list[Start]
    replayed_per_s: float
    read_per_s: float
    r10: float


def main() -> int:
    """Fill, start and stop, read; print a table and JSON."""
    arguments = _parsed(sys.argv[1:])
    given = Given(kafka=arguments.kafka, postgres=arguments.postgres, registry=arguments.registry)
    with running_stack(given) as stack:
        recovery = _measured(stack, arguments, Console(stderr=True, highlight=False))
    _show(recovery, Console(width=None if sys.stdout.isatty() else 120))
    print(msgspec.json.encode(recovery).decode())
    return 0


def _parsed(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench.recovery", description=__doc__)
    add = parser.add_argument
    add("--events", type=int, default=50_000, help="default 50000")
    add("--aggregates", type=int, default=10_000, help="SKUs; default 10000")
    add("--partitions", type=int, default=4, help="default 4")
    add("--kafka", default="", metavar="HOST:PORT", help="a broker that runs already")
    add("--postgres", default="", metavar="DSN", help="a PostgreSQL that runs already")
    add("--registry", default="", metavar="URL", help="a schema registry that runs already")
    return parser.parse_args(arguments)


def _measured(stack: Stack, arguments: argparse.Namespace, progress: Console) -> Recovery:
    load_before = os.getloadavg()[0]
    events, partitions = arguments.events, arguments.partitions
    filled_per_s = _fill(stack, arguments, progress)
    starts = _starts(stack, partitions, progress)
    progress.print("reading the same records")
    read = Worker(SideSpec(label="read", make=ReadSide, arguments=(stack, partitions)))
    sample = read.run(0)
    read.close()
    assert sample.operations == events, f"{sample.operations} records of {events} were read"
    (takeover_s,) = (start.takeover_s for start in starts if start.label == EMPTY)
    replayed_per_s = events / takeover_s
    return Recovery(
        cores=os.cpu_count() or 0,
        load_before=load_before,
        events=events,
        aggregates=arguments.aggregates,
        partitions=partitions,
        filled_per_s=filled_per_s,
        starts=starts,
        replayed_per_s=replayed_per_s,
        read_per_s=sample.rate,
        r10=replayed_per_s / sample.rate,
    )


# --- a log ------------------------------------------------------------------------------------


def _fill(stack: Stack, arguments: argparse.Namespace, progress: Console) -> float:
    """Receive stock of every SKU in turn, again and again; the commands per second."""
    spec = HostSpec(
        stack=stack,
        prefix=PREFIX,
        partitions=arguments.partitions,
        context=INVENTORY.name,
        keeps_checkpoints=True,
    )
    host = Host(spec)
    waiting = _envelopes(arguments.events, arguments.aggregates)
    done, seconds = 0, 0.0
    while chunk := list(islice(waiting, FILL_COMMANDS)):
        begun = time.perf_counter()
        host.record(chunk, FILL_IN_FLIGHT)
        seconds += time.perf_counter() - begun
        done += len(chunk)
        progress.print(f"filling: {done:,} of {arguments.events:,}, {done / seconds:,.0f}/s")
    host.close()
    return done / seconds


def _envelopes(events: int, aggregates: int) -> Iterator[Envelope]:
    for number in range(events):
        sku = f"sku-{number % aggregates:08d}"
        command = ReceiveStock(sku=sku, quantity=1 + number % 100)
        yield Envelope(
            command_id=command_id("local", INVENTORY.name, sku, f"delivery-{number}"),
            command_hash=command_hash(FULL_NAME, command),
            key=sku,
            command=command,
            correlation_id=f"delivery-{number}",
            traceparent=TRACEPARENT,
        )


# --- starts -----------------------------------------------------------------------------------


def _starts(stack: Stack, partitions: int, progress: Console) -> list[Start]:
    """Start the service four times; the first makes the other contexts' topics.

    SIGKILL comes when everything has just been replayed: what of it no file holds is lost.
    """
    environment = service_environment(stack, PREFIX, partitions)
    server = HttpServer("recovery", OUR_COMMAND, environment, "TIDELOG_HTTP_PORT", stack.folder)
    starts = []
    for label in (WARM_UP, CLEAN, EMPTY, KILLED):
        if label == EMPTY:
            shutil.rmtree(environment["TIDELOG_STATE_DIR"])
        start, running = _started(server, label)
        progress.print(f"ready {label}: {start.ready_s:.2f} s")
        if label == EMPTY:
            running.kill()
        else:
            running.stop()
        if label != WARM_UP:
            starts.append(start)
    return starts


def _started(server: HttpServer, label: str) -> tuple[Start, Running[HttpServer]]:
    """Start it and watch it until it is ready."""
    begun = time.perf_counter()
    launch = server.launch()
    running = Running(server, launch, spawn(launch))
    listening = assigned = 0.0
    try:
        with httpx2.Client(base_url=server.url, timeout=PROBE_TIMEOUT_S) as client:
            while (missing := _missing(client)) != "":
                now = time.perf_counter() - begun
                listening = listening or (now if missing is not None else 0.0)
                if missing and "has not assigned" not in missing:
                    assigned = assigned or now
                if running.process.poll() is not None or now > READY_TIMEOUT_S:
                    raise Unavailable(f"it is not ready after {now:.0f} s:\n{tail(launch.log)}")
                time.sleep(POLL_S)
    except BaseException:
        running.kill()
        raise
    ready = time.perf_counter() - begun
    listening = listening or ready
    assigned = assigned or ready
    start = Start(
        label=label,
        ready_s=ready,
        listen_s=listening,
        group_s=assigned - listening,
        takeover_s=ready - assigned,
        cpu_s=cpu_of([running.pid]),
        peak_mib=_memory(running.pid, "VmHWM"),
        after_mib=_memory(running.pid, "VmRSS"),
    )
    return start, running


def _missing(client: httpx2.Client) -> str | None:
    """What /readyz waits for; empty when it is ready, None while nothing listens."""
    try:
        answer = client.get("/readyz", params={"verbose": ""})
    except httpx2.HTTPError:
        return None
    checks = answer.json()["checks"]
    return "; ".join(check["detail"] for check in checks if not check["ready"])


def _memory(pid: int, name: str) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) / MIB
    raise AssertionError(f"/proc/{pid}/status has no {name}")


# --- the peer ---------------------------------------------------------------------------------


class ReadSide:
    """Reads and decodes all records of the partitions, and keeps nothing."""

    def __init__(self, stack: Stack, partitions: int) -> None:
        self._stack = stack
        self._codec = codec_of(stack, PREFIX)
        topic = events_topic(INVENTORY.name, PREFIX)
        self._places = [TopicPartition(topic, number, 0) for number in range(partitions)]

    def run(self, _seconds: float) -> Sample:
        """All of them once; the clock stops at the end of the last partition."""
        consumer = Consumer(
            {
                "bootstrap.servers": self._stack.kafka,
                "group.id": "bench-recovery",
                "enable.auto.commit": False,
                "isolation.level": "read_committed",
                # The end of the last partition is the end of the work.
                "enable.partition.eof": True,
                # What our replay asks for as well.
                "check.crcs": True,
                "fetch.queue.backoff.ms": 5,
                "fetch.message.max.bytes": 4 * 1024 * 1024,
            }
        )
        watch = Stopwatch([self._stack.kafka_pid])
        consumer.assign(self._places)
        sample = watch.sample(self._read(consumer))
        consumer.close()
        return sample

    def close(self) -> None:
        """Nothing is held."""

    def _read(self, consumer: Consumer) -> int:
        found, open_partitions = 0, len(self._places)
        decode = self._codec.decode
        while open_partitions:
            first = consumer.poll(READ_TIMEOUT_S)
            if first is None:
                raise Unavailable(f"no record within {READ_TIMEOUT_S:g} s")
            messages: list[Any] = [first, *consumer.consume(READ_RECORDS_MAX, 0)]
            for message in messages:
                error = message.error()
                if error is None:
                    decode(message.value())
                    found += 1
                elif error.code() == KafkaError._PARTITION_EOF:
                    open_partitions -= 1
                else:
                    raise Unavailable(error.str())
        return found


# --- the report -------------------------------------------------------------------------------


def _show(recovery: Recovery, console: Console) -> None:
    title = (
        f"Recovery: {recovery.events:,} events of {recovery.aggregates:,} aggregates, "
        f"partitions: {recovery.partitions}"
    )
    table = Table(title=title, title_justify="left")
    for number, name in enumerate(HEAD):
        table.add_column(name, justify="right" if number else "left")
    for start in recovery.starts:
        table.add_row(*_row(start))
    console.print(table)
    console.print(
        f"R10: replay {recovery.replayed_per_s:,.0f}/s ÷ read and decode "
        f"{recovery.read_per_s:,.0f}/s = {recovery.r10:.2f}; filled at "
        f"{recovery.filled_per_s:,.0f}/s; {recovery.cores} cores, "
        f"load average before: {recovery.load_before:.1f}",
        highlight=False,
    )


def _row(start: Start) -> tuple[str, ...]:
    seconds = (start.ready_s, start.listen_s, start.group_s, start.takeover_s, start.cpu_s)
    return (
        start.label,
        *(f"{value:.2f}" for value in seconds),
        f"{start.peak_mib:.0f}",
        f"{start.after_mib:.0f}",
    )


if __name__ == "__main__":
    sys.exit(main())
