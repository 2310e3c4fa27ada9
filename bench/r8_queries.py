"""R8: latency of GET /orders/{id} ÷ a plain FastAPI route over psycopg with the same SQL."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Sequence
from functools import partial
from itertools import cycle
from random import Random

import uvloop

from bench.backends import backends_of
from bench.event_log import PARTITIONS, LogSpec, fresh_prefix, order_id, schema_of
from bench.load import OK, Target, query_bytes, send_all
from bench.projecting import DETAIL, folded_log
from bench.rounds import Measure, Ratio
from bench.sample import Sample, Stopwatch, percentile
from bench.servers import HttpServer, running_server
from bench.stack import Stack, service_environment
from bench.workers import SideSpec

ORDERS = 10_000
CLIENTS_MANY, CLIENTS_SOME, CLIENTS_ONE = 64, 16, 1
SHARES = {CLIENTS_MANY: 1.0, CLIENTS_SOME: 0.5, CLIENTS_ONE: 0.5}
"""For how much of a round's time each number of clients asks. The first gives the rate."""

POOL_CONNECTIONS = 16
REQUESTS = 20_000
SEED = 8
FLOOR, GOAL = 1.15, 0.8

OURS, PLAIN = "query_service", "plain FastAPI + psycopg"
OUR_COMMAND = (sys.executable, "-m", "query_service")
PLAIN_COMMAND = (
    *(sys.executable, "-m", "uvicorn", "bench.peers.plain_queries:app"),
    *("--loop", "uvloop", "--http", "httptools", "--no-access-log", "--log-level", "warning"),
)


def measures(stack: Stack, _partitions: Sequence[int]) -> list[Measure]:
    """One measure; both servers read the same rows."""
    log = LogSpec(prefix=fresh_prefix("r8"), orders=ORDERS)
    return [
        Measure(
            title=f"R8 queries, GET /orders/{{id}} of {ORDERS:,} orders",
            partitions=PARTITIONS,
            sides=[
                SideSpec(label=OURS, make=our_server, arguments=(stack, log)),
                SideSpec(label=PLAIN, make=plain_server, arguments=(stack, log)),
            ],
            ratios=[
                Ratio(
                    name=f"R8 {share} at {_clients(clients)}",
                    ours=OURS,
                    peers=(PLAIN,),
                    floor=FLOOR,
                    goal=GOAL,
                    figure=f"{_clients(clients)} {share}_ms",
                )
                for clients in SHARES
                for share in ("p50", "p99")
            ],
            note=f"Per second and CPU (the server's) at {CLIENTS_MANY} clients; `p50_ms` is the "
            "median latency. Both have 16 connections to PostgreSQL.",
            around=partial(folded_log, stack, log, DETAIL),
        )
    ]


def our_server(stack: Stack, log: LogSpec) -> QuerySide:
    """The real service, as its own process."""
    environment = {
        **service_environment(stack, log.prefix, PARTITIONS),
        "TIDELOG_POSTGRES_SCHEMA": schema_of(log.prefix),
        "TIDELOG_POSTGRES_POOL_MAX": str(POOL_CONNECTIONS),
    }
    return QuerySide(stack, OUR_COMMAND, environment, "TIDELOG_HTTP_PORT")


def plain_server(stack: Stack, log: LogSpec) -> QuerySide:
    """The peer, on the same server software."""
    environment = {
        "BENCH_DSN": stack.postgres,
        "BENCH_SCHEMA": schema_of(log.prefix),
        "BENCH_POOL": str(POOL_CONNECTIONS),
    }
    return QuerySide(stack, PLAIN_COMMAND, environment, "UVICORN_PORT")


class QuerySide:
    """A server process under the load generator, which runs in this process."""

    def __init__(
        self,
        stack: Stack,
        command: tuple[str, ...],
        environment: dict[str, str],
        port_variable: str,
    ) -> None:
        self._backends = backends_of(stack)
        server = HttpServer(command[2], command, environment, port_variable, stack.folder)
        self._running = running_server(server)
        self._target = Target("127.0.0.1", server.port)
        keys = [order_id(number) for number in range(ORDERS)]
        chosen = Random(SEED).choices(keys, k=REQUESTS)
        self._requests = [query_bytes(self._target, key) for key in chosen]

    def run(self, seconds: float) -> Sample:
        """Many clients, then some, then one."""
        sample: Sample | None = None
        extra: dict[str, float] = {}
        for clients, share in SHARES.items():
            own_cpu = time.process_time()
            watch = Stopwatch(self._backends, worker=self._running.pid)
            latencies = self._ask(clients, seconds * share)
            if sample is None:
                sample = watch.sample(len(latencies))
                extra["load µs"] = (time.process_time() - own_cpu) / len(latencies) * 1e6
            extra[f"{_clients(clients)} p50_ms"] = percentile(latencies, 0.50) * 1e3
            extra[f"{_clients(clients)} p99_ms"] = percentile(latencies, 0.99) * 1e3
        assert sample is not None, "there is a first phase"
        sample.extra.update(extra)
        return sample

    def close(self) -> None:
        """Stop the server."""
        self._running.stop()

    def _ask(self, clients: int, seconds: float) -> list[float]:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(
                send_all(self._target, cycle(self._requests), clients, seconds, expected=OK)
            )


def _clients(count: int) -> str:
    return f"{count} client{'s' if count > 1 else ''}"
