"""R9: acknowledged → visible ÷ a raw loop that commits one row for each record."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from queue import SimpleQueue

import psycopg
from psycopg import sql

from bench.backends import backends_of
from bench.event_log import PARTITIONS, fresh_prefix, schema_of, topics
from bench.peers.order_upsert import OrderTable
from bench.peers.schemas import save_schemas
from bench.projecting import SUMMARY, fresh_schema, projector
from bench.rounds import Measure, Ratio
from bench.sample import Sample, Stopwatch, percentile
from bench.servers import running_server
from bench.stack import FOLDER, Stack
from bench.visibility import Committed, Eye, Writer
from bench.workers import SideSpec
from schemas.orders import ORDERS
from tidelog.embedded.process import STOP_TIMEOUT_S, Launch, spawn, stop
from tidelog.wire import events_topic

RATES = {50: 2.0, 500: 1.0}
"""Events per second, and for how much of a round's time: a gentle rate needs more of it."""

FLOOR, GOAL = 1.5, 1.1
OURS, RAW = "tidelog", "raw loop, a row per record"
RAW_COMMAND = (sys.executable, "-m", "bench.peers.raw_rows")


def measures(stack: Stack, _partitions: Sequence[int]) -> list[Measure]:
    """One measure, on four partitions; each side has a log of its own."""
    ours, raw = fresh_prefix("r9"), fresh_prefix("r9raw")
    return [
        Measure(
            title="R9 acknowledged → visible",
            partitions=PARTITIONS,
            sides=[
                SideSpec(label=OURS, make=our_side, arguments=(stack, ours)),
                SideSpec(label=RAW, make=raw_side, arguments=(stack, raw)),
            ],
            ratios=[
                Ratio(
                    name=f"R9 p99 at {rate}/s",
                    ours=OURS,
                    peers=(RAW,),
                    floor=FLOOR,
                    goal=GOAL,
                    figure=f"{rate}/s p99_ms",
                )
                for rate in RATES
            ],
            note="From the return of the commit to the first look that finds the row. CPU is the "
            "reader's; per second is what was offered. Neither side waits for the disk.",
            around=partial(_places, stack, ours, raw),
        )
    ]


@contextmanager
def _places(stack: Stack, *prefixes: str) -> Iterator[None]:
    ours, raw = map(schema_of, prefixes)
    with topics(stack, *prefixes), fresh_schema(stack, ours), fresh_schema(stack, raw):
        yield


def our_side(stack: Stack, prefix: str) -> FreshnessSide:
    """The real projector, with one projection."""
    schema = schema_of(prefix)
    server = running_server(projector(stack, prefix, schema, SUMMARY))
    return FreshnessSide(stack, prefix, server.process, sql.Identifier(schema, SUMMARY))


def raw_side(stack: Stack, prefix: str) -> FreshnessSide:
    """The peer, with the same durability: PostgreSQL answers before the disk has it."""
    schema = schema_of(prefix)
    with psycopg.connect(stack.postgres, autocommit=True) as connection:
        for statement in OrderTable(schema).create:
            connection.execute(statement.encode())
    environment = {
        "BENCH_KAFKA": stack.kafka,
        "BENCH_TOPIC": events_topic(ORDERS.name, prefix),
        "BENCH_PARTITIONS": str(PARTITIONS),
        "BENCH_SCHEMAS": str(save_schemas(stack, prefix)),
        "BENCH_DSN": stack.postgres,
        "BENCH_SCHEMA": schema,
    }
    launch = Launch(
        command=RAW_COMMAND,
        log=stack.folder / "logs" / f"{prefix}log",
        environment={**os.environ, **environment},
        folder=FOLDER,
    )
    return FreshnessSide(stack, prefix, spawn(launch), sql.Identifier(schema, "orders"))


class FreshnessSide:
    """A process that reads a log into a table, a writer, and an eye on the table."""

    def __init__(
        self, stack: Stack, prefix: str, process: subprocess.Popen[bytes], table: sql.Identifier
    ) -> None:
        self._backends = backends_of(stack)
        self._process = process
        self._writer = Writer(stack, prefix)
        self._eye = Eye(stack, table)
        self._eye.see(self._writer.commit(1))

    def run(self, seconds: float) -> Sample:
        """Each rate for its share of the time."""
        watch = Stopwatch(self._backends, worker=self._process.pid)
        extra: dict[str, float] = {}
        events = 0
        for rate, share in RATES.items():
            found = self._phase(rate, seconds * share)
            events += len(found)
            extra[f"{rate}/s p50_ms"] = percentile(found, 0.50) * 1e3
            extra[f"{rate}/s p99_ms"] = percentile(found, 0.99) * 1e3
        return watch.sample(events, extra)

    def close(self) -> None:
        """Stop the process."""
        self._eye.close()
        stop(self._process, signal.SIGTERM, STOP_TIMEOUT_S)

    def _phase(self, rate: float, seconds: float) -> list[float]:
        committed: Committed = SimpleQueue()
        writing = threading.Thread(target=self._writer.write, args=(rate, seconds, committed))
        writing.start()
        found = self._eye.watch(committed, writing)
        writing.join()
        return found
