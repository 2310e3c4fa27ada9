"""Reads after writes with consistency tokens, through the gateway: none may be stale.

Not a ratio: 1,000 pairs of a random write and a read that carries its token. A read that does not
show the write fails the run. Further pairs without a token tell how often the token was needed.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from random import Random
from time import perf_counter
from typing import Any

import msgspec
import uvloop

from bench.backends import backends_of
from bench.event_log import PARTITIONS, fresh_prefix, schema_of
from bench.http_client import Answer, Connection, connected
from bench.projecting import fresh_schema, projector
from bench.rounds import Measure
from bench.sample import Sample, Stopwatch, percentile
from bench.servers import HttpServer, running_server
from bench.shop import body, order_ids
from bench.stack import Stack, service_environment
from bench.workers import SideSpec
from tidelog.embedded.process import Running

PAIRS = 1_000
PAIRS_WITHOUT = 200
CLIENTS = 8
SKUS = 50
WAIT_MS = 10_000
SEED = 1_000


class StaleRead(Exception):
    """A read with the token of a write does not show it."""


def measures(stack: Stack, _partitions: Sequence[int]) -> list[Measure]:
    """One measure without a peer."""
    prefix = fresh_prefix("tokens")
    return [
        Measure(
            title=f"Tokens, {PAIRS:,} pairs of write and read",
            partitions=PARTITIONS,
            sides=[SideSpec(label="with its token", make=TokenSide, arguments=(stack, prefix))],
            ratios=[],
            note=f"{CLIENTS} clients through the gateway; per second are pairs, with and without. "
            "`wait` is the whole read with the token of the write just answered; `stale without` "
            f"counts {PAIRS_WITHOUT} further reads that carried none and did not show the write.",
            around=partial(fresh_schema, stack, schema_of(prefix)),
        )
    ]


@dataclass(frozen=True, kw_only=True)
class Written:
    """An acknowledged write, and where to read it."""

    path: str
    token: str
    version: int
    status: str | None
    """What an order must show; None for stock."""


@dataclass(kw_only=True)
class Times:
    """Seconds of each part, and what the reads without a token missed."""

    writes: list[float] = field(default_factory=list)
    waits: list[float] = field(default_factory=list)
    plain: list[float] = field(default_factory=list)
    stale_without: int = 0


class TokenSide:
    """The whole path as processes: gateway, command service, projectors, query service."""

    def __init__(self, stack: Stack, prefix: str) -> None:
        self._backends = backends_of(stack)
        self._random = Random(SEED)
        self._ids = order_ids()
        self._exits = ExitStack()
        with ExitStack() as starting:
            gateway = _start(starting, stack, prefix)
            self._exits = starting.pop_all()
        self._port, self._gateway_pid = gateway.server.port, gateway.pid

    def run(self, _seconds: float) -> Sample:
        """All pairs, however long they take."""
        times = Times()
        watch = Stopwatch(self._backends, worker=self._gateway_pid)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(self._all(times))
        assert len(times.waits) == PAIRS, "every pair was read"
        return watch.sample(
            PAIRS + PAIRS_WITHOUT,
            {
                "wait p50_ms": percentile(times.waits, 0.50) * 1e3,
                "wait p99_ms": percentile(times.waits, 0.99) * 1e3,
                "stale with": 0.0,
                "stale without": float(times.stale_without),
                "read without p50_ms": percentile(times.plain, 0.50) * 1e3,
                "write p50_ms": percentile(times.writes, 0.50) * 1e3,
            },
        )

    def close(self) -> None:
        """Stop the services, the gateway first."""
        self._exits.close()

    async def _all(self, times: Times) -> None:
        pairs = [True] * PAIRS + [False] * PAIRS_WITHOUT
        self._random.shuffle(pairs)
        waiting = iter(pairs)
        async with asyncio.TaskGroup() as group:
            for _ in range(CLIENTS):
                group.create_task(self._client(waiting, times))

    async def _client(self, waiting: Iterator[bool], times: Times) -> None:
        connection = await connected(self._port)
        own_orders: list[str] = []
        for with_token in waiting:
            begun = perf_counter()
            written = await self._write(connection, own_orders)
            answered = perf_counter()
            answer = await _read(connection, written, with_token)
            now = perf_counter()
            times.writes.append(answered - begun)
            (times.waits if with_token else times.plain).append(now - answered)
            if not _shows(answer, written):
                if with_token:
                    raise StaleRead(f"{written} was answered, then read as {answer}")
                times.stale_without += 1
        await connection.close()

    async def _write(self, connection: Connection, own_orders: list[str]) -> Written:
        kind = self._random.choice(("place", "cancel", "receive"))
        if kind == "receive":
            sku = f"sku-{self._random.randrange(SKUS)}"
            path = f"/inventory/{sku}/receive-stock"
            return await _send(connection, path, {"quantity": 1}, f"/stock/{sku}", None)
        if kind == "cancel" and own_orders:
            order = own_orders.pop(self._random.randrange(len(own_orders)))
            path, data = f"/orders/{order}/cancel-order", {"reason": "changed my mind"}
            return await _send(connection, path, data, f"/orders/{order}", "cancelling")
        order = next(self._ids)
        own_orders.append(order)
        path, data = f"/orders/{order}/place-order", msgspec.json.decode(body())
        return await _send(connection, path, data, f"/orders/{order}", "placed")


async def _send(
    connection: Connection, path: str, data: Any, read_path: str, status: str | None
) -> Written:
    headers = {"Content-Type": "application/json"}
    answer = await connection.ask("POST", path, headers, msgspec.json.encode(data))
    assert answer.status == 201, f"{path} was answered {answer}"
    token, version = answer.body["token"], answer.body["version"]
    return Written(path=read_path, token=token, version=version, status=status)


async def _read(connection: Connection, written: Written, with_token: bool) -> Answer:
    if not with_token:
        return await connection.ask("GET", written.path, {})
    headers = {"Consistency-Token": written.token}
    answer = await connection.ask("GET", f"{written.path}?wait_ms={WAIT_MS}", headers)
    assert answer.status in {200, 404}, f"{written} was read as {answer}"
    return answer


def _shows(answer: Answer, written: Written) -> bool:
    """Whether the document holds the write: other clients may have written the stock since."""
    if answer.status != 200 or answer.body["version"] < written.version:
        return False
    return written.status is None or answer.body["status"] == written.status


def _start(exits: ExitStack, stack: Stack, prefix: str) -> Running[HttpServer]:
    """All services, each ready before the next; the gateway comes last."""
    schema = schema_of(prefix)
    environment = {
        **service_environment(stack, prefix, PARTITIONS),
        "TIDELOG_POSTGRES_SCHEMA": schema,
    }
    commands = exits.enter_context(_service("command_service", environment, stack))
    exits.enter_context(running_server(projector(stack, prefix, schema)))
    queries = exits.enter_context(_service("query_service", environment, stack))
    environment["TIDELOG_COMMAND_SERVICE_URL"] = commands.server.url
    environment["TIDELOG_QUERY_SERVICE_URL"] = queries.server.url
    return exits.enter_context(_service("gateway", environment, stack))


def _service(name: str, environment: dict[str, str], stack: Stack) -> Running[HttpServer]:
    command = (sys.executable, "-m", name)
    return running_server(HttpServer(name, command, environment, "TIDELOG_HTTP_PORT", stack.folder))
