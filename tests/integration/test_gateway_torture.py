"""Rows B26 to B30 of the torture list, through the gateway, by callers who show who they are.

Behind it is the real query service over real read models. B24 and B25 are in test_gateway_auth.py
and test_gateway_access.py.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest

import gateway.streams
from projectors.order_detail import order_detail
from projectors.order_summary import order_summary
from tests.fixtures.servers import Database
from tests.gateway_world import GuardedDoor, guarded_door, problem
from tests.integration.query_server import QueryServer, query_server
from tests.integration.test_live_streams import read_to_the_end
from tests.integration.test_queries import ORDER
from tests.integration.test_queries_lists import BAD, with_orders
from tests.log_writer import until
from tests.shop_log import TimelineServer, cancelled, placed, timeline_server

PEOPLE = (("c-1", "customer"), ("shop", "merchant"))
"""Who asks: a customer, whose list the gateway narrows to their own, and one who sees all."""

TIMEOUT_S = 30.0


@dataclass
class Shop:
    """The gateway and the query service behind it."""

    door: GuardedDoor
    queries: QueryServer

    def refused(self, target: str, status: int, who: tuple[str, str], **headers: str) -> None:
        """The answer is this problem, and does not repeat what was sent."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        answer = self.door.send("GET", target, *who, headers=named)
        name = {400: "malformed", 422: "invalid"}[status]
        assert problem(answer) == (status, name), (target, who)
        given = target.partition("=")[2]
        assert len(given) < 8 or given not in answer.text


@pytest.fixture
def shop(database: Database, tmp_path: Path) -> Iterator[Shop]:
    with ExitStack() as stack:
        queries = stack.enter_context(query_server(database, order_detail, order_summary))
        url = str(queries.client.base_url)
        door = stack.enter_context(
            guarded_door(tmp_path, queries_url=url, gateway_cache_bytes_max=1_000_000)
        )
        yield Shop(door, queries)


def orders_only(what: str) -> list[tuple[str, int]]:
    """The lines about the list of orders; whose orders is not asked for, it is the caller's."""
    lines = [(path, status) for path, status in BAD[what] if path.startswith("/orders?")]
    return [(path, status) for path, status in lines if "customer_id=" not in path]


@pytest.mark.parametrize("who", PEOPLE)
def test_b26_no_text_of_a_request_becomes_an_order_of_rows(
    shop: Shop, who: tuple[str, str]
) -> None:
    """B26: sort=`name;drop`, a hidden column, direction=`desc,(select..)` are 400."""
    hidden = [("/orders?sort=ship_to", 400), ("/orders?direction=desc,(select%201)", 400)]
    for target, status in [*orders_only("sorts"), *hidden]:
        shop.refused(target, status, who)


@pytest.mark.parametrize("who", PEOPLE)
def test_b27_a_filter_takes_one_value_of_its_form(shop: Shop, who: tuple[str, str]) -> None:
    """B27: 10,000 terms 400; wildcards and regexes are no ids; a date that is none 422."""
    for target, status in [*orders_only("filters"), *orders_only("times")]:
        shop.refused(target, status, who)
    many = shop.door.send("GET", "/orders?" + "&".join(["status=placed"] * 10_000), *who)
    assert many.status_code in (400, 414, 431)


def test_b27_a_wildcard_finds_nobody(shop: Shop) -> None:
    """B27: LIKE wildcards and regexes in an id are refused, and no customer has another's name."""
    with_orders(shop.queries, range(3))
    for pattern in ("%25", "c_%25", ".*", "c-1%27--", "c-[0-9]"):
        target = f"/orders?customer_id={pattern}"
        shop.refused(target, 422, ("shop", "merchant"))
        own = shop.door.send("GET", target, "c-1", "customer")
        assert problem(own) == (404, "unknown"), "not theirs, whatever it would match"


@pytest.mark.parametrize("who", PEOPLE)
def test_b28_a_page_has_bounds_and_a_cursor_is_ours(shop: Shop, who: tuple[str, str]) -> None:
    """B28: limit 0, -1, 10^9 422; a forged or truncated cursor 400; offset is not offered."""
    token = with_orders(shop.queries, range(5))
    for target, status in orders_only("pages"):
        shop.refused(target, status, who)
    headers = {"Consistency-Token": token}
    page = shop.door.send("GET", "/orders?limit=2", "shop", "merchant", headers=headers).json()
    cursor = page["next_cursor"]
    again = shop.door.send("GET", f"/orders?limit=2&cursor={cursor}", "shop", "merchant")
    assert again.status_code == 200
    for length in range(1, len(cursor), 7):
        shop.refused(f"/orders?limit=2&cursor={cursor[:length]}", 400, who)


def test_b28_a_cursor_of_one_callers_list_is_none_of_anothers(shop: Shop) -> None:
    """B28: what a merchant's cursor says is bound to the merchant's list."""
    token = with_orders(shop.queries, range(5))
    headers = {"Consistency-Token": token}
    page = shop.door.send("GET", "/orders?limit=2", "shop", "merchant", headers=headers).json()

    shop.refused(f"/orders?limit=2&cursor={page['next_cursor']}", 400, ("c-1", "customer"))


@pytest.mark.parametrize("path", ["/orders/o-1", "/orders?limit=2"])
@pytest.mark.parametrize("who", PEOPLE)
def test_b29_a_token_is_well_formed_or_refused_and_waited_for_within_bounds(
    shop: Shop, who: tuple[str, str], path: str
) -> None:
    """B29: malformed or of an unknown context 400; the future 503; a foreign context ignored."""
    token = with_orders(shop.queries, range(2))
    assert shop.queries.models["order_detail"].write(ORDER, 1, 0) == token
    settled = {"Consistency-Token": token}
    assert shop.door.send("GET", path, *who, headers=settled).status_code == 200

    for bad in ("nonsense", "orders:1", "nowhere:0:1", "orders:4:1", "orders:0:-1", "a," * 70):
        shop.refused(path, 400, who, Consistency_Token=bad)
    waiting = path + ("&" if "?" in path else "?") + "wait_ms=50"
    future = {"Consistency-Token": "orders:2:999"}
    began = time.monotonic()
    late = shop.door.send("GET", waiting, *who, headers=future)
    assert problem(late) == (503, "not-yet-visible")
    assert late.headers["retry-after"] == "1"
    assert time.monotonic() - began < TIMEOUT_S
    foreign = {"Consistency-Token": "payments:0:999"}
    assert shop.door.send("GET", path, *who, headers=foreign).status_code == 200


# --- streams ----------------------------------------------------------------------------------


@contextmanager
def followed(
    database: Database, folder: Path, streams_max: int, **options: Any
) -> Iterator[tuple[TimelineServer, GuardedDoor]]:
    """A log of orders, and the gateway before the query service that streams them."""
    with (
        timeline_server(database, event_streams_max=streams_max) as queries,
        guarded_door(folder, queries_url=queries.url, **options) as door,
    ):
        queries.log.append(placed("o-1"))
        assert queries.settled("/events").status_code == 200
        yield queries, door


def following(door: GuardedDoor, opened: ExitStack, who: str) -> httpx2.Response:
    """A stream that `who`, who may see all orders, has opened."""
    headers = door.signer.headers(who, "merchant")
    return opened.enter_context(door.client.stream("GET", "/orders/o-1/live", headers=headers))


def open_streams(queries: TimelineServer) -> int:
    lines = queries.get("/metrics").text.splitlines()
    (line,) = [line for line in lines if line.startswith("tidelog_event_streams ")]
    return int(float(line.split()[1]))


def test_b30_the_thousand_and_first_stream_is_told_to_come_later(
    database: Database, tmp_path: Path
) -> None:
    """B30: one stream more than there may be is 429, for one caller and for all together."""
    with (
        followed(database, tmp_path, 1_000, gateway_streams_per_caller_max=999) as (_, door),
        ExitStack() as opened,
    ):
        client = opened.enter_context(
            httpx2.Client(
                base_url=door.client.base_url,
                trust_env=False,
                timeout=TIMEOUT_S,
                limits=httpx2.Limits(max_connections=2_000),
            )
        )
        door.client = client
        for _ in range(999):
            assert following(door, opened, "ada").status_code == 200
        own = following(door, opened, "ada")
        own.read()
        assert problem(own) == (429, "quota-exceeded")
        assert following(door, opened, "bob").status_code == 200
        all_taken = following(door, opened, "bob")
        all_taken.read()
        assert problem(all_taken) == (429, "quota-exceeded")
        assert all_taken.headers["retry-after"]
        # What is no stream has connections of its own.
        assert door.send("GET", "/orders/o-1", "bob", "merchant").status_code == 200


@pytest.mark.parametrize("who", [("c-1", "customer"), ("shop", "merchant")])
def test_b30_a_last_event_id_that_is_none_is_malformed(
    database: Database, tmp_path: Path, who: tuple[str, str]
) -> None:
    """B30: Last-Event-ID garbage is 400."""
    with followed(database, tmp_path, 10) as (_, door):
        for bad in ("garbage", "orders:0:x", "nowhere:0:1", "orders:99:1", "x" * 5_000, "'; --"):
            headers = {"Last-Event-ID": bad}
            answer = door.send("GET", "/orders/o-1/live", *who, headers=headers)
            assert problem(answer) == (400, "malformed"), bad
            assert bad not in answer.text


def test_b30_who_never_reads_is_cut_off_and_holds_up_nobody(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """B30: a caller who takes nothing is closed, here and at the service."""
    monkeypatch.setattr(gateway.streams, "SEND_TIMEOUT_S", 0.5)
    with followed(database, tmp_path, 10) as (queries, door), socket.socket() as deaf:
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        deaf.settimeout(TIMEOUT_S)
        deaf.connect(("127.0.0.1", door.client.base_url.port or 0))
        token = door.signer.token("shop", "merchant")
        head = f"GET /orders/o-1/live HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\n\r\n"
        deaf.sendall(head.encode())
        until(lambda: open_streams(queries) == 1, "the stream is open")

        # More than every buffer between the service and the caller takes.
        for _ in range(20):
            queries.log.append(*[cancelled("o-1") for _ in range(1_000)])
        until(lambda: open_streams(queries) == 0, "the service has let go of it", TIMEOUT_S)

        assert door.send("GET", "/orders/o-1", "shop", "merchant").status_code == 200
        received = read_to_the_end(deaf)
        last = queries.log.of("o-1")[-1].position
        assert received.startswith(b"HTTP/1.1 200")
        assert last.encode() not in received
