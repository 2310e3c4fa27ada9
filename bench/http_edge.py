"""What an HTTP command costs before the engine, beside a plain FastAPI POST of the same body.

Two figures for each, in CPU time per request: the app alone (ASGI called directly, no server), and
the whole server process (uvicorn, uvloop, httptools) under 16 keep-alive connections. The peer does
what a plain FastAPI route does: it checks the body against pydantic models and answers the same
JSON; it has no idempotency, no strictness beyond pydantic's, and no metrics.

Run: python -m bench.http_edge
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import uvicorn
import uvloop
from fastapi import FastAPI
from prometheus_client import CollectorRegistry
from pydantic import BaseModel, Field

from command_service.orders import orders
from tidelog.engine.command import Envelope, Outcome, Recorded
from tidelog.http.command_api import CommandApi
from tidelog.http.server import server_of
from tidelog.http.service import build_service

BODY = json.dumps(
    {
        "customer_id": "c-1",
        "currency": "EUR",
        "lines": [
            {"sku": "tea", "quantity": 2, "unit_price": 350},
            {"sku": "cup", "quantity": 1, "unit_price": 900},
        ],
        "ship_to": {
            "name": "Ada",
            "street": "1 Main St",
            "city": "Turin",
            "postal_code": "10121",
            "country": "IT",
        },
    }
).encode()
PATH = "/orders/o-1/place-order"
REQUESTS_ALONE = 20_000
REQUESTS_SERVED = 20_000
CONNECTIONS = 16
ROUNDS = 5


class InstantDoor:
    """A door that has the answer at once, so that only the edge is measured."""

    async def submit(self, context: str, envelope: Envelope) -> Outcome:
        """The same outcome for every command."""
        del context, envelope
        return Recorded(version=1, events=(("OrderPlaced", 1042),))

    def partition_of(self, context: str, key: str) -> int:
        """The same partition for every key."""
        del context, key
        return 3

    async def enqueue(self, context: str, envelope: Envelope) -> None:
        """Nothing is kept."""


class Line(BaseModel):
    """The peer's line."""

    sku: str = Field(max_length=128)
    quantity: int = Field(ge=1, le=1_000_000)
    unit_price: int = Field(ge=0, le=10**12)


class Address(BaseModel):
    """The peer's address."""

    name: str = Field(max_length=200)
    street: str = Field(max_length=200)
    city: str = Field(max_length=200)
    postal_code: str = Field(max_length=32)
    country: str = Field(max_length=2)


class PlaceOrderBody(BaseModel):
    """The peer's body."""

    customer_id: str = Field(max_length=128)
    currency: str = Field(max_length=3)
    lines: list[Line] = Field(min_length=1, max_length=100)
    ship_to: Address


def ours() -> Any:
    """The edge of the command service."""
    api = CommandApi([orders], InstantDoor(), command_timeout_ms=10_000)
    return build_service(name="bench", version="0", commands=api, registry=CollectorRegistry())


def plain() -> Any:
    """A plain FastAPI POST."""
    app = FastAPI()

    @app.post("/orders/{order_id}/place-order", status_code=201)
    async def place_order(order_id: str, body: PlaceOrderBody) -> dict[str, Any]:
        assert body.lines
        event = {"type": "OrderPlaced", "position": "orders:3:1042"}
        return {
            "id": order_id,
            "version": 1,
            "events": [event],
            "token": "orders:3:1042",
            "replayed": False,
        }

    return app


async def alone(app: Any, requests: int) -> float:
    """CPU µs per request of the app alone."""
    headers = [
        (b"host", b"127.0.0.1"),
        (b"content-type", b"application/json"),
        (b"content-length", b"%d" % len(BODY)),
        (b"idempotency-key", b"order-1"),
        (b"user-agent", b"bench"),
    ]

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": BODY, "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        assert message.get("status", 201) == 201

    async def one() -> None:
        await app(
            {
                "type": "http",
                "asgi": {"version": "3.0"},
                "http_version": "1.1",
                "method": "POST",
                "scheme": "http",
                "path": PATH,
                "raw_path": PATH.encode(),
                "query_string": b"",
                "root_path": "",
                "headers": headers,
                "server": ("127.0.0.1", 80),
                "client": ("127.0.0.1", 1),
                "state": {},
            },
            receive,
            send,
        )

    for _ in range(requests // 10):
        await one()
    started = time.process_time()
    for _ in range(requests):
        await one()
    return (time.process_time() - started) / requests * 1e6


def _serve(make: Callable[[], Any], is_ours: bool, pipe: Any) -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    app = make()
    if is_ours:
        server = server_of(app)
    else:
        server = uvicorn.Server(
            uvicorn.Config(app, loop="uvloop", http="httptools", access_log=False, log_config=None)
        )
    pipe.send(listener.getsockname()[1])
    server.run(sockets=[listener])


async def served(port: int, requests: int) -> None:
    """Send the requests over keep-alive connections."""
    head = (
        f"POST {PATH} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
        f"content-length: {len(BODY)}\r\nidempotency-key: order-1\r\nuser-agent: bench\r\n\r\n"
    ).encode()

    async def connection() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for _ in range(requests // CONNECTIONS):
            writer.write(head + BODY)
            answer = await reader.readuntil(b"}")
            while b"\r\n\r\n" not in answer or not answer.endswith(b"false}"):
                answer += await reader.readuntil(b"}")
            assert answer.startswith(b"HTTP/1.1 201"), answer
        writer.close()

    await asyncio.gather(*(connection() for _ in range(CONNECTIONS)))


def cpu_seconds(pid: int) -> float:
    """The CPU time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def whole(make: Callable[[], Any], is_ours: bool) -> tuple[float, float]:
    """CPU µs per request of the server process, and requests per second."""
    here, there = multiprocessing.Pipe()
    context = multiprocessing.get_context("fork")
    process = context.Process(target=_serve, args=(make, is_ours, there), daemon=True)
    process.start()
    port = here.recv()
    assert process.pid is not None
    uvloop.run(served(port, REQUESTS_SERVED // 10))
    before, started = cpu_seconds(process.pid), time.perf_counter()
    uvloop.run(served(port, REQUESTS_SERVED))
    cpu = cpu_seconds(process.pid) - before
    seconds = time.perf_counter() - started
    process.terminate()
    process.join(20)
    return cpu / REQUESTS_SERVED * 1e6, REQUESTS_SERVED / seconds


def main() -> None:
    """Measure both, in turn, and print the best round of each."""
    apps = {"ours": (ours, True), "plain FastAPI": (plain, False)}
    for name, (make, _) in apps.items():
        best = min(uvloop.run(alone(make(), REQUESTS_ALONE)) for _ in range(ROUNDS))
        print(f"{name:15} app alone     {best:7.1f} us CPU a request")
    for name, (make, is_ours) in apps.items():
        cpu, rate = min(whole(make, is_ours) for _ in range(ROUNDS))
        print(f"{name:15} whole server  {cpu:7.1f} us CPU a request, {rate:,.0f}/s")


if __name__ == "__main__":
    main()
