"""Given orders that change, when they are followed live, then each event comes once, in order."""

from __future__ import annotations

import json
import random
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

import httpx2
import psycopg
import pytest

from query_service import sse
from tests.fixtures.servers import Database
from tests.integration.query_server import problem
from tests.log_writer import until
from tests.shop_log import TimelineServer, cancelled, placed, timeline_server

TIMEOUT_S = 30.0


@pytest.fixture
def shop(database: Database) -> Iterator[TimelineServer]:
    with timeline_server(database) as server:
        yield server


class Reader:
    """Follows one order as a browser does: it comes back with the last id that it had."""

    def __init__(self, shop: TimelineServer, order_id: str, last: str | None = None) -> None:
        self.url = f"{shop.url}/orders/{order_id}/live"
        self.last = last
        self.events: list[dict[str, str]] = []

    @property
    def positions(self) -> list[str]:
        return [event["id"] for event in self.events]

    def read(self, count: int) -> None:
        """Connect, read so many events, then go away."""
        headers = {} if self.last is None else {"Last-Event-ID": self.last}
        with httpx2.stream(
            "GET", self.url, headers=headers, timeout=TIMEOUT_S, trust_env=False
        ) as answer:
            assert answer.status_code == 200, answer.read()
            lines = answer.iter_lines()
            for _ in range(count):
                self.events.append(next_event(lines))
                self.last = self.events[-1]["id"]


def next_event(lines: Iterator[str]) -> dict[str, str]:
    """The next event of a stream, comments left out."""
    event: dict[str, str] = {}
    for line in lines:
        if line:
            name, _, value = line.partition(":")
            event[name] = value.removeprefix(" ")
        elif "data" in event:
            return event
        else:
            event = {}
    raise AssertionError("the stream ended")


def places(shop: TimelineServer, order_id: str) -> list[str]:
    return [fact.position for fact in shop.log.of(order_id)]


def request(order_id: str) -> bytes:
    return f"GET /orders/{order_id}/live HTTP/1.1\r\nhost: x\r\n\r\n".encode()


def connect(shop: TimelineServer, receive_buffer: int | None = None) -> socket.socket:
    opened = socket.socket()
    if receive_buffer is not None:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    opened.settimeout(TIMEOUT_S)
    opened.connect(("127.0.0.1", int(shop.url.rsplit(":", 1)[1])))
    return opened


def open_many(shop: TimelineServer, opened: ExitStack, count: int) -> list[socket.socket]:
    """So many streams of one order, some at a time: each asks the database once."""
    streams: list[socket.socket] = []
    while len(streams) < count:
        several = [opened.enter_context(connect(shop)) for _ in range(20)]
        for stream in several:
            stream.sendall(request("o-1"))
        for stream in several:
            assert stream.recv(12) == b"HTTP/1.1 200"
        streams += several
    return streams


def vanish(connection: socket.socket) -> None:
    """Close with a reset instead of a farewell."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


@contextmanager
def writing(shop: TimelineServer, orders: list[str], events: int) -> Iterator[threading.Thread]:
    """Events of random orders, one after the other, in the background."""
    dice = random.Random(11)

    def write() -> None:
        for _ in range(events):
            shop.log.append(cancelled(dice.choice(orders)))

    writer = threading.Thread(target=write)
    writer.start()
    yield writer
    writer.join()


def test_a_stream_begins_with_what_happened_and_goes_on_with_what_happens(
    shop: TimelineServer,
) -> None:
    shop.log.append(placed("o-1"), placed("o-2"))
    until(lambda: shop.get("/orders/o-1/history").status_code == 200, "the order is there")
    reader = Reader(shop, "o-1")
    later = threading.Timer(0.3, shop.log.append, (cancelled("o-1"),))
    later.start()

    reader.read(2)

    later.join()
    assert [event["event"] for event in reader.events] == ["OrderPlaced", "OrderCancelled"]
    assert reader.positions == places(shop, "o-1")
    history = shop.settled("/orders/o-1/history").json()["items"]
    assert [json.loads(event["data"]) for event in reader.events] == history


def test_nothing_is_lost_or_doubled_over_many_disconnects(shop: TimelineServer) -> None:
    orders = [f"o-{number}" for number in range(5)]
    shop.log.append(*map(placed, orders))
    shop.settled("/events")
    readers = [Reader(shop, dice_order) for dice_order in [*orders, *orders]]

    def follow(reader: Reader, seed: int) -> None:
        dice = random.Random(seed)
        order_id = reader.url.split("/")[-2]
        while writer.is_alive() or len(reader.events) < len(shop.log.of(order_id)):
            left = len(shop.log.of(order_id)) - len(reader.events)
            reader.read(min(dice.randint(0, 9), left))

    with writing(shop, orders, 600) as writer:
        threads = [
            threading.Thread(target=follow, args=(reader, seed))
            for seed, reader in enumerate(readers)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    for reader in readers:
        assert reader.positions == places(shop, reader.url.split("/")[-2])


def test_one_reader_that_stays_gets_every_event_of_a_long_order(shop: TimelineServer) -> None:
    shop.log.append(placed("o-1"))
    shop.settled("/events")
    reader = Reader(shop, "o-1")

    with writing(shop, ["o-1", "o-2"], 2_000) as writer:
        follower = threading.Thread(target=lambda: reader.read(900))
        follower.start()
        follower.join()
        writer.join()
    reader.read(len(places(shop, "o-1")) - 900)

    assert reader.positions == places(shop, "o-1")


def test_a_stream_goes_on_where_postgresql_was_gone_for_a_while(shop: TimelineServer) -> None:
    shop.log.append(placed("o-1"))
    shop.settled("/events")
    reader = Reader(shop, "o-1")
    follower = threading.Thread(target=lambda: reader.read(21))
    follower.start()
    until(lambda: reader.events, "the stream is open")
    for _ in range(20):
        shop.log.append(cancelled("o-1"))
        with psycopg.connect(shop.log.database.dsn, autocommit=True) as connection:
            connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE application_name IN ('tidelog-queries', 'tidelog-listener')"
            )

    follower.join()
    assert reader.positions == places(shop, "o-1")


def test_a_stream_goes_on_right_behind_the_last_event_that_its_reader_had(
    shop: TimelineServer,
) -> None:
    first, second = shop.log.append(placed("o-1"), cancelled("o-1"))
    shop.settled("/events")
    reader = Reader(shop, "o-1", last=first.position)

    reader.read(1)

    assert reader.positions == [second.position]


@pytest.mark.parametrize(
    "last",
    ["x", "orders", "orders:0", "-1", "orders:0:x", "nowhere:0:1", "payments:0:1", "orders:99:1"],
)
def test_a_last_event_id_of_another_form_or_stream_is_malformed(
    shop: TimelineServer, last: str
) -> None:
    shop.log.append(placed("o-1"))
    shop.settled("/events")

    assert problem(shop.get("/orders/o-1/live", Last_Event_ID=last)) == (400, "malformed")


def test_a_last_event_id_that_never_was_is_malformed(
    shop: TimelineServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("query_service.live.KNOWN_TIMEOUT_S", 0.05)
    (fact,) = shop.log.append(placed("o-1"))
    shop.settled("/events")
    at = fact.partition.number

    never = f"orders:{at}:{fact.sequence + 1}"
    other = f"orders:{(at + 1) % 4}:0"
    assert problem(shop.get("/orders/o-1/live", Last_Event_ID=never)) == (400, "malformed")
    assert problem(shop.get("/orders/o-1/live", Last_Event_ID=other)) == (400, "malformed")


def test_an_order_that_is_not_there_has_no_stream(shop: TimelineServer) -> None:
    assert problem(shop.get("/orders/nobody/live")) == (404, "unknown")
    assert problem(shop.get("/orders/../live")) in ((404, "unknown"), (422, "invalid"))
    assert problem(shop.get("/orders/o-1/live?after=1")) == (400, "malformed")


def test_the_thousand_and_first_stream_is_told_to_come_later(shop: TimelineServer) -> None:
    shop.log.append(placed("o-1"))
    shop.settled("/events")
    with ExitStack() as opened:
        streams = open_many(shop, opened, 1_000)

        answer = shop.get("/orders/o-1/live")
        assert problem(answer) == (429, "quota-exceeded")
        assert answer.headers["retry-after"]
        assert shop.get("/orders/o-1").status_code == 200

        shop.log.append(cancelled("o-1"))
        for stream in streams:
            assert until_arrives(stream, b"OrderCancelled")
    until(lambda: open_streams(shop) == 0, "the slots are free again")


def test_readers_that_vanish_leave_no_slot_and_no_connection_behind(shop: TimelineServer) -> None:
    shop.log.append(placed("o-1"))
    shop.settled("/events")
    for number in range(4_000):
        connection = connect(shop)
        connection.sendall(request("o-1"))
        if number % 4 == 0:
            connection.recv(1)
        vanish(connection)

    until(lambda: open_streams(shop) == 0, "every slot is free")
    with ExitStack() as opened:
        open_many(shop, opened, 1_000)
        assert shop.get("/orders/o-1").status_code == 200, "no database connection is pinned"


def test_a_reader_that_never_reads_is_cut_off_and_holds_up_nobody(
    shop: TimelineServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sse, "SEND_TIMEOUT_S", 0.5)
    shop.log.append(placed("o-1"))
    shop.settled("/events")
    deaf, reader = connect(shop, receive_buffer=4_096), Reader(shop, "o-1")
    deaf.sendall(request("o-1"))
    shop.log.append(*[cancelled("o-1") for _ in range(3_000)])

    reader.read(3_001)

    assert reader.positions == places(shop, "o-1")
    with deaf:
        until(lambda: open_streams(shop) == 0, "the reader is given up")
        received = read_to_the_end(deaf)
    assert received.startswith(b"HTTP/1.1 200")
    assert places(shop, "o-1")[-1].encode() not in received


def until_arrives(stream: socket.socket, wanted: bytes) -> bool:
    received = b""
    while wanted not in received:
        received += stream.recv(65_536)
    return True


def open_streams(shop: TimelineServer) -> int:
    """What the service says about it."""
    metrics = shop.get("/metrics").text.splitlines()
    (line,) = [line for line in metrics if line.startswith("tidelog_event_streams ")]
    return int(float(line.split()[1]))


def read_to_the_end(connection: socket.socket) -> bytes:
    received = b""
    with suppress(ConnectionResetError):
        while chunk := connection.recv(65_536):
            received += chunk
    return received
