"""The load generator of R2 and R8: one process, prebuilt requests, one in flight per connection.

It does as little as it can per request, so that the two cores are the servers': write prebuilt
bytes, find the end of the answer, look at its status, note the time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from time import perf_counter
from typing import cast

CREATED = b"HTTP/1.1 201 "
OK = b"HTTP/1.1 200 "
END_OF_HEAD = b"\r\n\r\n"
LENGTH = b"ength: "  # Content-Length or content-length


@dataclass(frozen=True)
class Target:
    """Where requests go."""

    host: str
    port: int


class WrongAnswer(Exception):
    """An answer with another status; its first bytes are the message."""


def request_bytes(target: Target, order_id: str, body: bytes) -> bytes:
    """One place-order over HTTP."""
    head = (
        f"POST /orders/{order_id}/place-order HTTP/1.1\r\n"
        f"Host: {target.host}:{target.port}\r\n"
        "Content-Type: application/json\r\n"
        f"Idempotency-Key: {order_id}\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def query_bytes(target: Target, order_id: str) -> bytes:
    """One query of an order over HTTP."""
    return f"GET /orders/{order_id} HTTP/1.1\r\nHost: {target.host}:{target.port}\r\n\r\n".encode()


async def send_all(
    target: Target,
    requests: Iterable[bytes],
    connections: int,
    seconds: float,
    expected: bytes = CREATED,
) -> list[float]:
    """Send for so long, or until the requests are used up; the latencies in seconds."""
    loop = asyncio.get_running_loop()
    load = _Load(iter(requests), seconds, expected)
    await asyncio.gather(
        *(
            loop.create_connection(lambda: _Connection(load), target.host, target.port)
            for _ in range(connections)
        )
    )
    await load.start()
    return load.latencies


class _Load:
    def __init__(self, requests: Iterator[bytes], seconds: float, expected: bytes) -> None:
        self.requests = requests
        self.expected = expected
        self.latencies: list[float] = []
        self.until = 0.0
        self._seconds = seconds
        self._connections: list[_Connection] = []
        self._open = 0
        self._done = asyncio.Event()
        self._failure: Exception | None = None

    def joined(self, connection: _Connection) -> None:
        self._connections.append(connection)

    async def start(self) -> None:
        self._open = len(self._connections)
        self.until = perf_counter() + self._seconds
        for connection in self._connections:
            connection.send()
        await self._done.wait()
        for connection in self._connections:
            connection.close()
        if self._failure is not None:
            raise self._failure

    def finished(self) -> None:
        self._open -= 1
        if self._open == 0:
            self._done.set()

    def failed(self, failure: Exception) -> None:
        self._failure = self._failure or failure
        self._done.set()


class _Connection(asyncio.Protocol):
    def __init__(self, load: _Load) -> None:
        self._load = load
        self._transport: asyncio.Transport
        self._sent_at = 0.0
        self._rest = b""
        self._closing = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._load.joined(self)

    def send(self) -> None:
        request = next(self._load.requests, None)
        if request is None:
            self._load.finished()
            return
        self._sent_at = perf_counter()
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        if self._rest:
            data, self._rest = self._rest + data, b""
        head = data.find(END_OF_HEAD)
        length = data.find(LENGTH, 0, head)
        if head < 0 or length < 0:
            self._rest = data
            return
        end = data.find(b"\r", length)
        if len(data) < head + 4 + int(data[length + 7 : end]):
            self._rest = data
            return
        now = perf_counter()
        self._load.latencies.append(now - self._sent_at)
        if not data.startswith(self._load.expected):
            self._load.failed(WrongAnswer(data[:2_000].decode(errors="replace")))
        elif now < self._load.until:
            self.send()
        else:
            self._load.finished()

    def connection_lost(self, error: Exception | None) -> None:
        if not self._closing:
            self._load.failed(error or ConnectionError("the server closed a connection"))

    def close(self) -> None:
        self._closing = True
        self._transport.close()
