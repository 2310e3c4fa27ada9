"""Given the parts of an order, when all are asked for at once, then what can be told is told."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, cast

import httpx2
import pytest
from prometheus_client import CollectorRegistry

from gateway.app import build
from gateway.overview import PART_DEADLINE_S, least
from tests.gateway_world import GuardedDoor, TableService, guarded_door, problem
from tests.integration.command_server import serving
from tidelog.settings import Settings

PATH = "/orders/o-ada/overview"


@pytest.fixture
def door(tmp_path: Path) -> Iterator[GuardedDoor]:
    with guarded_door(tmp_path) as door:
        door.queries.answers |= {
            "/payments/o-ada": (200, {"order_id": "o-ada", "captured": 700}),
            "/shipments/o-ada": (404, {}),
            "/sagas/fulfilment:o-ada": (200, {"id": "fulfilment:o-ada"}),
            "/payments/o-none": (404, {}),
        }
        yield door


def test_the_parts_are_told_together(door: GuardedDoor) -> None:
    answer = door.send("GET", PATH, "olga", "operator")

    assert answer.status_code == 200
    assert answer.json() == {
        "id": "o-ada",
        "order": {"id": "o-ada", "customer_id": "ada"},
        "payment": {"order_id": "o-ada", "captured": 700},
        "shipment": None,
        "fulfilment": {"id": "fulfilment:o-ada"},
        "gaps": [],
    }
    (made,) = answer.headers.get_list("x-correlation-id")
    assert {told.headers[b"x-correlation-id"] for told in door.queries.told} == {made.encode()}


def test_a_customer_sees_their_own_without_what_goes_on_inside(door: GuardedDoor) -> None:
    own = door.send("GET", PATH, "ada", "customer")

    assert sorted(own.json()) == ["gaps", "id", "order", "payment", "shipment"]
    assert problem(door.send("GET", PATH, "bob", "customer")) == (404, "unknown")
    assert problem(door.send("GET", PATH)) == (401, "unauthorized")
    assert problem(door.send("GET", "/orders/o-none/overview", "olga", "operator"))[0] == 404
    assert problem(door.send("GET", "/orders/%2E%2E/overview", "olga", "operator"))[0] == 422


def test_a_part_that_cannot_be_told_is_named(door: GuardedDoor) -> None:
    door.queries.answers["/payments/o-ada"] = (503, {"type": "/problems/not-yet-visible"})
    door.queries.answers["/orders/o-ada"] = (409, {"type": "/problems/blocked"})

    answer = door.send("GET", PATH, "max", "merchant")

    assert answer.status_code == 200
    assert (answer.json()["order"], answer.json()["payment"]) == (None, None)
    assert answer.json()["gaps"] == [
        {"part": "order", "status": 409, "type": "/problems/blocked"},
        {"part": "payment", "status": 503, "type": "/problems/not-yet-visible"},
    ]


def test_a_token_goes_to_every_read_model(door: GuardedDoor) -> None:
    token = {"Consistency-Token": "orders:0:9"}
    door.send("GET", f"{PATH}?wait_ms=700", "olga", "operator", headers=token)
    waits = {told.target: told.headers.get(b"consistency-token") for told in door.queries.told}
    assert waits == {
        "/orders/o-ada?wait_ms=700": b"orders:0:9",
        "/payments/o-ada?wait_ms=700": b"orders:0:9",
        "/shipments/o-ada?wait_ms=700": b"orders:0:9",
        "/sagas/fulfilment:o-ada": b"orders:0:9",
    }
    for query in ("wait_ms=-1", "wait_ms=10001", "wait_ms=x", "wait_ms=", "limit=1"):
        answer = door.send("GET", f"{PATH}?{query}", "olga", "operator")
        assert problem(answer) == (400, "malformed"), query


def test_what_the_caller_has_already_is_not_sent_again(door: GuardedDoor) -> None:
    first = door.send("GET", PATH, "ada", "customer")
    tag = {"If-None-Match": first.headers["etag"]}

    same = door.send("GET", PATH, "ada", "customer", headers=tag)
    door.queries.answers["/payments/o-ada"] = (200, {"captured": 0})
    other = door.send("GET", PATH, "ada", "customer", headers=tag)
    head = door.send("HEAD", PATH, "ada", "customer")

    assert (same.status_code, same.content) == (304, b"")
    assert other.status_code == 200
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["etag"] == other.headers["etag"]


def test_the_position_is_one_that_every_part_has_reached() -> None:
    assert least(["orders:0:5,orders:1:9", "orders:0:4,payments:2:1"]) == (
        "orders:0:4,orders:1:9,payments:2:1"
    )
    assert least([]) == ""


class HangingPart(TableService):
    """A query service that never answers about payments."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http" and scope["path"].startswith("/payments/"):
            await asyncio.sleep(PART_DEADLINE_S * 3)
        await super().__call__(scope, receive, send)


def test_a_part_that_hangs_is_waited_for_no_longer_than_its_deadline() -> None:
    queries = HangingPart()
    with ExitStack() as stack:
        settings = Settings(
            command_service_url="http://127.0.0.1:9",
            query_service_url=stack.enter_context(serving(cast("Any", queries))),
        )
        url = stack.enter_context(serving(build(settings, CollectorRegistry())))
        client = stack.enter_context(httpx2.Client(base_url=url, trust_env=False, timeout=60))
        started = time.monotonic()
        answer = client.get("/orders/o-1/overview")
        lasted_s = time.monotonic() - started

    assert answer.json()["order"] == {}
    assert answer.json()["gaps"] == [
        {"part": "payment", "status": 504, "type": "/problems/gateway-timeout"}
    ]
    assert lasted_s >= PART_DEADLINE_S
