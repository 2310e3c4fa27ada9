"""FORWARD: a command passed on to its owner over gRPC ÷ the same over HTTP and JSON.

This process is the instance that was asked; a real command service owns everything. So a call costs
what a hop costs, on both of its sides: `load µs` is the CPU of the one that forwards.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Iterator, Sequence
from itertools import repeat
from typing import Protocol

import httpx2
import msgspec
import uvloop

from bench.rounds import Measure, Ratio
from bench.sample import Sample, Stopwatch, percentile
from bench.servers import HttpServer, running_server
from bench.shop import CONTEXT, envelope, order_ids
from bench.stack import Stack, codec_of, service_environment
from bench.workers import SideSpec
from tidelog.embedded.ports import free_port
from tidelog.engine.command import Envelope, Recorded
from tidelog.grpc.peers import Peers

CLIENTS = 64
ONE_CLIENT_SHARE = 0.5
GRPC, REST = "forwarded over gRPC", "forwarded over HTTP"
COMMAND = (sys.executable, "-m", "command_service")


class Forwarder(Protocol):
    """One way to the owner."""

    async def forward(self, command: Envelope) -> None:
        """Pass the command on; raises where its events are not recorded."""
        ...

    async def close(self) -> None:
        """Close the connections."""
        ...


def measures(stack: Stack, _partitions: Sequence[int]) -> list[Measure]:
    """One measure, on one partition."""
    return [
        Measure(
            title=f"FORWARD commands to their owner, {CLIENTS} callers",
            partitions=1,
            sides=[
                SideSpec(label=GRPC, make=ForwardingSide, arguments=(stack, "grpc")),
                SideSpec(label=REST, make=ForwardingSide, arguments=(stack, "rest")),
            ],
            ratios=[
                Ratio(name="FORWARD", ours=GRPC, peers=(REST,)),
                Ratio(name="FORWARD p50", ours=GRPC, peers=(REST,), figure="1 client p50_ms"),
                Ratio(name="FORWARD load", ours=GRPC, peers=(REST,), figure="load µs"),
            ],
            note="CPU is the owner's; `load µs` is the forwarding side's, per command. HTTP is by "
            "httpx2, the client of this repository.",
        )
    ]


class ForwardingSide:
    """A command service in a process of its own, and this process before it."""

    def __init__(self, stack: Stack, way: str) -> None:
        self._stack = stack
        self._way = way
        self._prefix = f"forward-{way}."
        self._grpc_port = free_port()
        environment = service_environment(stack, prefix=self._prefix, partitions=1)
        environment["TIDELOG_GRPC_PORT"] = str(self._grpc_port)
        server = HttpServer(COMMAND[2], COMMAND, environment, "TIDELOG_HTTP_PORT", stack.folder)
        self._running = running_server(server)
        self._ids = order_ids()

    def run(self, seconds: float) -> Sample:
        """64 callers, then one."""
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            own_cpu = time.process_time()
            watch = Stopwatch([self._stack.kafka_pid], worker=self._running.pid)
            latencies = runner.run(self._phase(CLIENTS, seconds))
            sample = watch.sample(len(latencies))
            load = (time.process_time() - own_cpu) / len(latencies) * 1e6
            alone = runner.run(self._phase(1, seconds * ONE_CLIENT_SHARE))
        sample.extra.update(
            {
                "p50_ms": percentile(latencies, 0.50) * 1e3,
                "p99_ms": percentile(latencies, 0.99) * 1e3,
                "1 client p50_ms": percentile(alone, 0.50) * 1e3,
                "1 client p99_ms": percentile(alone, 0.99) * 1e3,
                "load µs": load,
            }
        )
        return sample

    def close(self) -> None:
        """Stop the owner."""
        self._running.stop()

    async def _phase(self, callers: int, seconds: float) -> list[float]:
        forwarder = self._forwarder()
        latencies: list[float] = []
        until = time.perf_counter() + seconds
        try:
            async with asyncio.TaskGroup() as group:
                for _ in repeat(None, callers):
                    group.create_task(_call(forwarder, self._ids, until, latencies))
        finally:
            await forwarder.close()
        return latencies

    def _forwarder(self) -> Forwarder:
        if self._way == "rest":
            return RestForwarder(self._running.server.url)
        return GrpcForwarder(self._stack, self._prefix, f"127.0.0.1:{self._grpc_port}")


async def _call(
    forwarder: Forwarder, ids: Iterator[str], until: float, latencies: list[float]
) -> None:
    while (began := time.perf_counter()) < until:
        await forwarder.forward(envelope(next(ids)))
        latencies.append(time.perf_counter() - began)


class GrpcForwarder:
    """As instances do it."""

    def __init__(self, stack: Stack, prefix: str, address: str) -> None:
        self._peers = Peers(codec_of(stack, prefix), {})
        self._address = address

    async def forward(self, command: Envelope) -> None:
        """One attempt."""
        outcome = await self._peers.submit(self._address, CONTEXT, command, 10.0)
        if not isinstance(outcome, Recorded):
            raise RuntimeError(f"not recorded: {outcome}")

    async def close(self) -> None:
        """Close the channel."""
        await self._peers.close()


class RestForwarder:
    """The same with HTTP/1.1, kept-alive connections and JSON."""

    def __init__(self, url: str) -> None:
        limits = httpx2.Limits(max_connections=CLIENTS, max_keepalive_connections=CLIENTS)
        self._client = httpx2.AsyncClient(base_url=url, limits=limits, trust_env=False)

    async def forward(self, command: Envelope) -> None:
        """One request, and its answer read into an outcome."""
        fields = msgspec.to_builtins(command.command)
        del fields["order_id"]
        answer = await self._client.post(
            f"/{CONTEXT}/{command.key}/place-order",
            content=msgspec.json.encode(fields),
            headers={
                "content-type": "application/json",
                "idempotency-key": command.command_id,
                "x-correlation-id": command.correlation_id,
                "traceparent": command.traceparent,
            },
        )
        found = msgspec.json.decode(answer.content)
        if answer.status_code != httpx2.codes.CREATED:
            raise RuntimeError(f"not recorded: {found}")

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()
