"""GATEWAY: a query and a command through the gateway ÷ the same asked of the service itself.

The door is all that changes from side to side: the service, a gateway before it that keeps no
answers, and for queries one that does. So a ratio is what the door costs, and `CPU µs` is the
door's own, per request.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import chain, cycle, islice
from random import Random

import httpx2
import uvloop

from bench.event_log import PARTITIONS, LogSpec, fresh_prefix, order_id, schema_of
from bench.load import CREATED, OK, Target, query_bytes, request_bytes, send_all
from bench.projecting import DETAIL, folded_log
from bench.rounds import Measure, Ratio
from bench.sample import Sample, Stopwatch, percentile
from bench.servers import HttpServer, running_server
from bench.shop import body, order_ids
from bench.stack import Stack, service_environment
from bench.workers import SideSpec
from tidelog.embedded.process import PROBE_TIMEOUT_S

ORDERS = 1_000
CACHE_BYTES = 64 * 1024 * 1024
"""More than the answers of all orders take: what is measured is a cache that has room."""

SHARES = {64: 1.0, 16: 0.5, 1: 0.5}
"""For how much of a round's time each number of clients asks. The first gives the rate."""

CLIENTS_FIRST, FIRST_TIMEOUT_S = 4, 100.0
REQUESTS = 20_000
SEED = 30
DIRECT, PLAIN, CACHED = "the service itself", "gateway", "gateway that keeps answers"
HITS = 'tidelog_gateway_cache_requests_total{outcome="hit"}'

Requests = Callable[[Target], Iterator[bytes]]


def measures(stack: Stack, _partitions: Sequence[int]) -> list[Measure]:
    """One measure of queries, one of commands."""
    log = LogSpec(prefix=fresh_prefix("gateway"), orders=ORDERS)
    note = "`CPU µs` is the door's, `backend CPU µs` that of the service behind it, per request."
    return [
        Measure(
            title=f"GATEWAY queries, GET /orders/{{id}} of {ORDERS:,} orders",
            partitions=PARTITIONS,
            sides=[
                SideSpec(label=door, make=query_side, arguments=(stack, log, door))
                for door in (DIRECT, PLAIN, CACHED)
            ],
            ratios=[*_ratios("query", PLAIN), *_ratios("query, kept", CACHED)],
            note=f"{note} `from the cache` is the share of the last phase's answers; nothing is "
            "written meanwhile.",
            around=partial(folded_log, stack, log, DETAIL),
        ),
        Measure(
            title="GATEWAY commands, POST place-order",
            partitions=1,
            sides=[
                SideSpec(label=door, make=command_side, arguments=(stack, door))
                for door in (DIRECT, PLAIN)
            ],
            ratios=_ratios("command", PLAIN),
            note=note,
        ),
    ]


def _ratios(what: str, door: str) -> list[Ratio]:
    """Throughput, and each latency; less is better of a latency."""
    latencies = [
        Ratio(
            name=f"GATEWAY {what}, {share} at {_clients(clients)}",
            ours=door,
            peers=(DIRECT,),
            figure=f"{_clients(clients)} {share}_ms",
        )
        for clients in SHARES
        for share in ("p50", "p99")
    ]
    return [Ratio(name=f"GATEWAY {what}, per second", ours=door, peers=(DIRECT,)), *latencies]


def query_side(stack: Stack, log: LogSpec, door: str) -> DoorSide:
    """A query service over the log's orders, and the door."""
    environment = {
        **service_environment(stack, log.prefix, PARTITIONS),
        "TIDELOG_POSTGRES_SCHEMA": schema_of(log.prefix),
    }
    orders = [order_id(number) for number in range(ORDERS)]
    keys = Random(SEED).choices(orders, k=REQUESTS)

    def requests(target: Target) -> Iterator[bytes]:
        # Each once before any again: what can be kept is kept before it is measured.
        return chain(
            (query_bytes(target, key) for key in orders),
            cycle([query_bytes(target, key) for key in keys]),
        )

    side = DoorSide(stack, "query_service", environment, door, requests, OK)
    side.ask_once(ORDERS)
    return side


def command_side(stack: Stack, door: str) -> DoorSide:
    """A command service, and the door."""
    environment = service_environment(stack, fresh_prefix("gateway-commands"), partitions=1)
    content = body()

    def requests(target: Target) -> Iterator[bytes]:
        return (request_bytes(target, key, content) for key in order_ids())

    return DoorSide(stack, "command_service", environment, door, requests, CREATED)


class DoorSide:
    """A service and the door before it under the load generator, which runs in this process."""

    def __init__(
        self,
        stack: Stack,
        service: str,
        environment: dict[str, str],
        door: str,
        requests: Requests,
        expected: bytes,
    ) -> None:
        command = (sys.executable, "-m", service)
        behind = HttpServer(service, command, environment, "TIDELOG_HTTP_PORT", stack.folder)
        self._servers = [running_server(behind)]
        if door != DIRECT:
            self._servers.append(running_server(_gateway(stack, behind.url, door)))
        self._door, self._behind = self._servers[-1], self._servers[:-1]
        self._requests = requests(Target("127.0.0.1", self._door.server.port))
        self._expected = expected
        self._prebuilt = expected == CREATED
        self._rate_max = 2_000.0

    def run(self, seconds: float) -> Sample:
        """Many clients, then some, then one."""
        sample: Sample | None = None
        extra: dict[str, float] = {}
        for clients, share in SHARES.items():
            requests = self._next(clients, seconds * share)
            hits, own_cpu = self._hits(), time.process_time()
            watch = Stopwatch([each.pid for each in self._behind], worker=self._door.pid)
            latencies = self._ask(requests, clients, seconds * share)
            if sample is None:
                sample = watch.sample(len(latencies))
                self._rate_max = max(self._rate_max, sample.rate)
                extra["load µs"] = (time.process_time() - own_cpu) / len(latencies) * 1e6
            extra[f"{_clients(clients)} p50_ms"] = percentile(latencies, 0.50) * 1e3
            extra[f"{_clients(clients)} p99_ms"] = percentile(latencies, 0.99) * 1e3
            extra["from the cache"] = (self._hits() - hits) / len(latencies)
        assert sample is not None, "there is a first phase"
        sample.extra.update(extra)
        return sample

    def ask_once(self, count: int) -> None:
        """Send the first so many requests, however long that takes."""
        self._ask(islice(self._requests, count), CLIENTS_FIRST, FIRST_TIMEOUT_S)

    def close(self) -> None:
        """Stop the door, then the service."""
        for each in reversed(self._servers):
            each.stop()

    def _next(self, clients: int, seconds: float) -> Iterator[bytes]:
        """The requests of a phase; those that differ are built before it begins."""
        if not self._prebuilt:
            return self._requests
        return iter([*islice(self._requests, int(self._rate_max * seconds * 2) + clients)])

    def _ask(self, requests: Iterator[bytes], clients: int, seconds: float) -> list[float]:
        target = Target("127.0.0.1", self._door.server.port)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(send_all(target, requests, clients, seconds, expected=self._expected))

    def _hits(self) -> float:
        """How many answers came from the cache so far; 0 of what has none."""
        metrics = httpx2.get(f"{self._door.server.url}/metrics", timeout=PROBE_TIMEOUT_S).text
        return sum(
            float(line.split()[-1]) for line in metrics.splitlines() if line.startswith(HITS)
        )


def _gateway(stack: Stack, url: str, door: str) -> HttpServer:
    """A gateway before the one service, which stands in for both: only its own routes are asked."""
    environment = {
        "TIDELOG_COMMAND_SERVICE_URL": url,
        "TIDELOG_QUERY_SERVICE_URL": url,
        "TIDELOG_GATEWAY_CACHE_BYTES_MAX": str(CACHE_BYTES if door == CACHED else 0),
        "TIDELOG_LOG_LEVEL": "warning",
    }
    command = (sys.executable, "-m", "gateway")
    return HttpServer("gateway", command, environment, "TIDELOG_HTTP_PORT", stack.folder)


def _clients(count: int) -> str:
    return f"{count} client{'s' if count > 1 else ''}"
