"""A command service on a real server and a free port, with the writer on the in-memory log."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, cast

import httpx2
import uvloop
from prometheus_client import CollectorRegistry

from command_service.aggregates import AGGREGATES
from tidelog.errors import IdempotencyKeyReused
from tidelog.http.command_api import CommandApi
from tidelog.http.draining import Draining
from tidelog.http.protocol import BoundedProtocol
from tidelog.http.server import server_of, url_of
from tidelog.http.service import Service, build_service
from tidelog.memory import MemoryDoor

PARTITIONS = 4
MARKER = "EVIL-marker-7f3a"
"""Stands in bad input, so that a test can tell whether an answer repeats it."""

HEAD = b"POST /orders/raw/place-order HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
"""The head of a raw request, up to the headers that frame its body."""


class MemoryOperations:
    """The OperationStore of tests."""

    def __init__(self) -> None:
        self.kept: dict[str, dict[str, Any]] = {}
        self.hashes: dict[str, str] = {}
        self.callers: dict[str, str] = {}

    async def start(self, id: str, context: str, command_hash: str, caller: str) -> None:
        """Remember the operation as running."""
        if self.hashes.setdefault(id, command_hash) != command_hash:
            raise IdempotencyKeyReused
        self.kept.setdefault(id, {"id": id, "status": "running"})
        self.callers[id] = caller

    async def get(self, id: str, only_of: str | None = None) -> dict[str, Any] | None:
        """The operation, or None."""
        return self.kept.get(id) if only_of in (None, self.callers.get(id)) else None


def order_body(**changes: Any) -> dict[str, Any]:
    """A good body of place-order, with changes."""
    return {
        "customer_id": "c-1",
        "currency": "EUR",
        "lines": [{"sku": "tea", "quantity": 2, "unit_price": 350}],
        "ship_to": {
            "name": "Ada",
            "street": "1 Main St",
            "city": "Turin",
            "postal_code": "10121",
            "country": "IT",
        },
        **changes,
    }


@dataclass(frozen=True, kw_only=True)
class CommandServer:
    """The running server, and what tests ask of it."""

    url: str
    door: MemoryDoor
    operations: MemoryOperations
    client: httpx2.Client = field(repr=False)

    def post(self, path: str, body: Any = None, **headers: str) -> httpx2.Response:
        """POST JSON (or bytes as they are); `If_Match` stands for the header If-Match."""
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        named = {"Content-Type": "application/json"}
        named.update({name.replace("_", "-"): value for name, value in headers.items()})
        return self.client.post(path, content=content, headers=named)

    def place(self, id: str, body: Any = None, **headers: str) -> httpx2.Response:
        """POST place-order."""
        given = order_body() if body is None else body
        return self.post(f"/orders/{id}/place-order", given, **headers)

    def event_count(self) -> int:
        """How many events there are in all logs."""
        contexts = [aggregate.context.name for aggregate in AGGREGATES]
        return sum(
            len(self.door.events(context, partition))
            for context in contexts
            for partition in range(PARTITIONS)
        )

    def raw(self, request: bytes, *, timeout_s: float = 5.0) -> bytes:
        """Send bytes as they are; all that comes back until the server closes or falls silent."""
        port = int(self.url.rsplit(":", 1)[1])
        with socket.create_connection(("127.0.0.1", port), timeout=timeout_s) as connection:
            connection.sendall(request)
            return read_until_silent(connection, timeout_s)


def read_until_silent(connection: socket.socket, timeout_s: float) -> bytes:
    """What arrives until the other side closes, or nothing comes for a while after an answer."""
    received = b""
    connection.settimeout(timeout_s)
    try:
        while chunk := connection.recv(65_536):
            received += chunk
            connection.settimeout(0.2)
    except TimeoutError:
        pass
    return received


@contextmanager
def serving(app: Service, protocol: type[BoundedProtocol] = BoundedProtocol) -> Iterator[str]:
    """Run the app on a real server in a thread of its own. Plain ASGI apps of tests will do."""
    if not hasattr(app, "draining"):
        cast("Any", app).draining = Draining()
    listener = socket.create_server(("127.0.0.1", 0))
    url = url_of(listener)
    server = server_of(app, protocol)
    thread = threading.Thread(target=lambda: uvloop.run(server.serve(sockets=[listener])))
    thread.start()
    deadline = time.monotonic() + 10
    while not server.started and time.monotonic() < deadline:
        time.sleep(0.005)
    try:
        yield url
    finally:
        server.should_exit = True
        thread.join(20)
        assert not thread.is_alive(), "the server stops within its bounds"


@contextmanager
def command_server(
    *,
    protocol: type[BoundedProtocol] = BoundedProtocol,
    door: Any = None,
    **options: Any,
) -> Iterator[CommandServer]:
    """The shop's command service; options go to CommandApi."""
    memory = MemoryDoor(AGGREGATES, partitions=PARTITIONS)
    operations = MemoryOperations()
    api = CommandApi(
        AGGREGATES,
        door or memory,
        operations=operations,
        **{"command_timeout_ms": 5_000, **options},
    )
    app = build_service(
        name="command_service",
        version="0.1.0",
        commands=api,
        operations=operations,
        registry=CollectorRegistry(),
    )
    with serving(app, protocol) as url, httpx2.Client(base_url=url) as client:
        yield CommandServer(url=url, door=memory, operations=operations, client=client)


def refused(
    answer: httpx2.Response, status: int, name: str = "", pointer: str | None = None
) -> dict[str, Any]:
    """The problem, checked; no answer repeats the marker."""
    assert answer.status_code == status, answer.text
    names = {400: "malformed", 404: "unknown", 413: "content-too-large", 422: "invalid"}
    found: dict[str, Any] = answer.json()
    assert answer.headers["content-type"] == "application/problem+json"
    assert found["type"] == f"/problems/{name or names[status]}"
    assert MARKER not in answer.text
    assert MARKER not in str(answer.headers)
    if pointer is not None:
        assert [error["pointer"] for error in found["errors"]] == [pointer]
    return found


def raw_problem(answer: bytes, status: int, name: str) -> dict[str, Any]:
    """The problem in an answer read from a socket."""
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status), answer
    assert b"application/problem+json" in head
    assert MARKER.encode() not in answer
    found: dict[str, Any] = json.loads(body)
    assert found["type"] == f"/problems/{name}"
    return found
