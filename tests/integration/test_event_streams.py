"""Given event streams over real connections, when readers come, vanish or never read."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import httpx2
import pytest
from fastapi import APIRouter
from prometheus_client import CollectorRegistry
from starlette.requests import Request
from starlette.responses import Response

from query_service import sse
from query_service.sse import EventStream, Inbox, ServerEvent, StreamSlots, last_event_id
from tests.integration.command_server import serving
from tests.log_writer import until
from tidelog.http.service import build_service

HEAD = b"GET /ticks HTTP/1.1\r\nhost: x\r\n\r\n"


@dataclass
class Feed:
    """Offers every event to every inbox that is subscribed."""

    inboxes: list[Inbox] = field(default_factory=list)
    tell: Callable[..., Any] = lambda *_: None

    @contextmanager
    def subscribe(self, inbox: Inbox) -> Iterator[None]:
        self.inboxes.append(inbox)
        try:
            yield
        finally:
            self.inboxes.remove(inbox)

    def offer(self, event: ServerEvent) -> None:
        """Offer from another thread."""
        self.tell(lambda: [inbox.offer(event) for inbox in [*self.inboxes]])

    def end(self) -> None:
        for inbox in [*self.inboxes]:
            self.tell(inbox.end)


@dataclass(frozen=True)
class Streams:
    url: str
    feed: Feed
    slots: StreamSlots

    @property
    def port(self) -> int:
        return int(self.url.rsplit(":", 1)[1])

    def connect(self, *, receive_buffer: int | None = None) -> socket.socket:
        opened = socket.socket()
        if receive_buffer is not None:
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        opened.connect(("127.0.0.1", self.port))
        opened.settimeout(20)
        return opened

    def follow(self) -> AbstractContextManager[httpx2.Response]:
        return httpx2.stream("GET", f"{self.url}/ticks", timeout=20, trust_env=False)


@contextmanager
def ticking() -> Iterator[Streams]:
    """A service with one feed, at most three readers."""
    feed, slots = Feed(), StreamSlots(streams_max=3, per_caller_max=3)

    async def ticks(request: Request) -> Response:
        last_event_id(request)
        feed.tell = asyncio.get_running_loop().call_soon_threadsafe
        return EventStream(feed.subscribe, slots)

    routes = APIRouter(default_response_class=Response)
    routes.add_api_route("/ticks", ticks, methods=["GET"], response_model=None)
    app = build_service(name="ticker", version="1", routers=[routes], registry=CollectorRegistry())
    with serving(app) as url:
        yield Streams(url, feed, slots)


@pytest.fixture
def streams() -> Iterator[Streams]:
    with ticking() as made:
        yield made


def tick(number: int, size: int = 0) -> ServerEvent:
    return ServerEvent(str(number), "tick", json.dumps({"n": number, "pad": "x" * size}).encode())


def vanish(connection: socket.socket) -> None:
    """Close with a reset instead of a farewell."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def test_events_arrive_with_id_type_and_data(streams: Streams) -> None:
    with streams.follow() as answer:
        until(lambda: streams.feed.inboxes, "the reader is subscribed")
        streams.feed.offer(tick(1))
        streams.feed.offer(tick(2))
        streams.feed.end()
        text = "".join(answer.iter_text())

    assert answer.headers["content-type"] == "text/event-stream"
    assert answer.headers["cache-control"] == "no-store"
    assert text == (
        'id: 1\nevent: tick\ndata: {"n": 1, "pad": ""}\n\n'
        'id: 2\nevent: tick\ndata: {"n": 2, "pad": ""}\n\n'
    )


def test_one_stream_too_many_is_told_to_come_later(streams: Streams) -> None:
    with streams.follow(), streams.follow(), streams.follow() as third:
        until(lambda: len(streams.feed.inboxes) == 3, "three readers are subscribed")
        with streams.follow() as fourth:
            problem = json.loads(fourth.read())

        assert fourth.status_code == 429
        assert problem["type"] == "/problems/quota-exceeded"
        assert int(fourth.headers["retry-after"]) > 0
        assert third.status_code == 200
    until(lambda: streams.slots.taken == 0, "the slots are free again")


def test_readers_that_vanish_before_the_first_byte_leave_no_slot_behind(streams: Streams) -> None:
    for _ in range(3_000):
        connection = streams.connect()
        connection.sendall(HEAD)
        vanish(connection)

    until(lambda: streams.slots.taken == 0, "every slot is free")
    assert not streams.feed.inboxes
    with streams.follow() as answer:
        assert answer.status_code == 200


def test_a_reader_that_never_reads_is_cut_off(
    streams: Streams, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sse, "SEND_TIMEOUT_S", 0.5)
    connection = streams.connect(receive_buffer=4_096)
    connection.sendall(HEAD)
    until(lambda: streams.feed.inboxes, "the reader is subscribed")

    stopping = threading.Event()
    writer = threading.Thread(target=flood, args=(streams.feed, stopping))
    writer.start()
    until(lambda: streams.slots.taken == 0, "the slot is free again")
    stopping.set()
    writer.join()

    with connection:
        assert not read_to_the_end(connection).endswith(b"0\r\n\r\n")


def test_an_inbox_that_is_full_ends_its_stream() -> None:
    async def full() -> list[bytes | None]:
        inbox = Inbox(events_max=2)
        assert [inbox.offer(tick(n)) for n in range(3)] == [True, True, False]
        return [await inbox.take(1), await inbox.take(1)]

    frames, end = asyncio.run(full())
    assert frames == tick(0).frame + tick(1).frame
    assert end is None


def test_an_inbox_is_bounded_in_bytes_but_takes_one_event_of_any_size() -> None:
    async def room() -> tuple[int, int]:
        inbox = Inbox(bytes_max=1_000)
        inbox.offer(tick(1, size=5_000))
        full = inbox.room
        await inbox.take(1)
        return full, inbox.room

    assert asyncio.run(room()) == (0, sse.INBOX_EVENTS_MAX)


def test_a_silent_stream_is_kept_alive_with_comments(
    streams: Streams, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sse, "HEARTBEAT_S", 0.05)
    with streams.follow() as answer:
        lines = answer.iter_lines()
        assert [next(lines) for _ in range(4)] == [":", "", ":", ""]


def test_streams_end_in_order_when_the_service_stops() -> None:
    with ticking() as streams:
        connection = streams.connect()
        connection.sendall(HEAD)
        until(lambda: streams.feed.inboxes, "the reader is subscribed")

    with connection:
        received = read_to_the_end(connection)
    assert received.startswith(b"HTTP/1.1 200")
    assert received.endswith(b"0\r\n\r\n")


@pytest.mark.parametrize("ids", [["1", "2"], ["x" * 5_000]])
def test_a_last_event_id_that_cannot_be_one_is_malformed(streams: Streams, ids: list[str]) -> None:
    headers = [("Last-Event-ID", each) for each in ids]

    answer = httpx2.get(f"{streams.url}/ticks", headers=headers, trust_env=False)

    assert answer.status_code == 400


def flood(feed: Feed, stopping: threading.Event) -> None:
    number = 0
    while not stopping.wait(0.001):
        number += 1
        feed.tell(lambda n=number: [i.offer(tick(n, 10_000)) for i in feed.inboxes if i.room])


def read_to_the_end(connection: socket.socket) -> bytes:
    received = b""
    with suppress(ConnectionResetError):
        while chunk := connection.recv(65_536):
            received += chunk
    return received
