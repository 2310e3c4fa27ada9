"""R2: commands per second over HTTP ÷ a plain FastAPI POST with the same body."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Sequence
from itertools import islice

import uvloop

from bench.load import Target, request_bytes, send_all
from bench.rounds import Measure, Ratio
from bench.sample import Sample, Stopwatch, percentile
from bench.servers import HttpServer, running_server
from bench.shop import body, order_ids
from bench.stack import Stack, service_environment
from bench.workers import SideSpec

CLIENTS = 64
ONE_CLIENT_SHARE = 0.5
"""The one client runs for half as long: it needs time, not cores."""

OURS, PLAIN = "command_service", "plain FastAPI"
PLAIN_COMMAND = (
    *(sys.executable, "-m", "uvicorn", "bench.peers.plain_fastapi:app"),
    *("--loop", "uvloop", "--http", "httptools", "--no-access-log", "--log-level", "warning"),
)
OUR_COMMAND = (sys.executable, "-m", "command_service")


def measures(stack: Stack, partitions: Sequence[int]) -> list[Measure]:
    """One measure per partition count: both servers under 64 clients, and under one."""
    return [
        Measure(
            title=f"R2 commands over HTTP, {CLIENTS} clients, partitions: {count}",
            partitions=count,
            sides=[
                SideSpec(label=OURS, make=our_server, arguments=(stack, count)),
                SideSpec(label=PLAIN, make=plain_server, arguments=(stack,)),
            ],
            ratios=[Ratio(name="R2", ours=OURS, peers=(PLAIN,), floor=0.6, goal=0.9)],
            note="CPU is the server's; `load µs` is the generator's, per command. "
            "`1 client` figures come from a second phase of each round.",
        )
        for count in partitions
    ]


def our_server(stack: Stack, partitions: int) -> HttpSide:
    """The real service, as its own process."""
    environment = service_environment(stack, prefix=f"r2p{partitions}.", partitions=partitions)
    return HttpSide(stack, OUR_COMMAND, environment, "TIDELOG_HTTP_PORT")


def plain_server(stack: Stack) -> HttpSide:
    """The peer, on the same server software."""
    return HttpSide(stack, PLAIN_COMMAND, {}, "UVICORN_PORT")


class HttpSide:
    """A server process under the load generator, which runs in this process."""

    def __init__(
        self,
        stack: Stack,
        command: tuple[str, ...],
        environment: dict[str, str],
        port_variable: str,
    ) -> None:
        self._stack = stack
        server = HttpServer(command[2], command, environment, port_variable, stack.folder)
        self._running = running_server(server)
        self._target = Target("127.0.0.1", server.port)
        self._ids = order_ids()
        self._body = body()
        self._rate_max = 2_000.0

    def run(self, seconds: float) -> Sample:
        """64 clients, then one."""
        sample, latencies = self._phase(CLIENTS, seconds)
        self._rate_max = max(self._rate_max, sample.rate)
        _, alone = self._phase(1, seconds * ONE_CLIENT_SHARE)
        p50, p99 = percentile(alone, 0.50) * 1e3, percentile(alone, 0.99) * 1e3
        sample.extra.update(
            {
                "p50_ms": percentile(latencies, 0.50) * 1e3,
                "p99_ms": percentile(latencies, 0.99) * 1e3,
                "1 client p50_ms": p50,
                "1 client p99_ms": p99,
                "1 client p99/p50": p99 / p50,
            }
        )
        return sample

    def close(self) -> None:
        """Stop the server."""
        self._running.stop()

    def _phase(self, clients: int, seconds: float) -> tuple[Sample, list[float]]:
        count = int(self._rate_max * seconds * 2) + clients
        requests = [
            request_bytes(self._target, key, self._body) for key in islice(self._ids, count)
        ]
        commits = self._running.server.commits()
        own_cpu = time.process_time()
        watch = Stopwatch([self._stack.kafka_pid], worker=self._running.pid)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            latencies = runner.run(send_all(self._target, requests, clients, seconds))
        sample = watch.sample(len(latencies))
        sample.extra["load µs"] = (time.process_time() - own_cpu) / len(latencies) * 1e6
        transactions = self._running.server.commits() - commits
        if transactions:
            sample.extra["commands/tx"] = len(latencies) / transactions
        return sample, latencies
