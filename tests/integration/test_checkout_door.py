"""Given whoever checks out, when the stock cannot be asked, then the door does its part."""

from __future__ import annotations

import asyncio
import json
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any, cast

import httpx2

from gateway.checkout import COMMAND_MARGIN_S
from gateway.stock import Enough, StockCheck, Unchecked
from schemas.values import OrderLine
from tests.checkout_world import NOBODY, checkout, gateway, hanging_stock, lines
from tests.gateway_world import TableService, guarded_door, problem
from tests.integration.command_server import command_server, order_body, serving

BAD = (
    (400, b""),
    (400, b"{"),
    (400, json.dumps(order_body()).replace("350", "NaN").encode()),
    (400, json.dumps(order_body()).replace('"c-1"', '"c-1","customer_id":"c-2"').encode()),
    (422, b"[]"),
    (422, json.dumps(order_body()).replace("Ada", "\\u0000").encode()),
    (422, json.dumps(order_body()).replace("350", "7" * 5_000).encode()),
    (422, json.dumps(order_body(order_id="..")).encode()),
    (422, json.dumps(order_body(order_id=None)).encode()),
    (422, json.dumps(order_body(is_admin=True)).encode()),
    (422, json.dumps(order_body(lines=lines(a=1) * 2)).encode()),
    (413, b" " * (1024 * 1024 + 1)),
)


def test_what_is_wrong_with_a_checkout_is_said_before_anybody_is_asked() -> None:
    commands = TableService()
    with ExitStack() as stack:
        url = stack.enter_context(serving(cast("Any", commands)))
        client = stack.enter_context(
            gateway(command_service_url=url, query_service_url=url, query_service_grpc=NOBODY)
        )
        typed = {"Content-Type": "application/json"}
        for status, content in BAD:
            answer = client.post("/checkout", content=content, headers=typed)
            assert problem(answer)[0] == status, content[:80]
        for status, headers in (
            (415, {"Content-Type": "text/plain"}),
            (415, {"Content-Encoding": "gzip"}),
            (400, {"If-Match": '"0"'}),
            (400, {"Idempotency-Key": "x" * 129}),
            (400, {"Idempotency-Key": ""}),
        ):
            answer = client.post("/checkout", json=order_body(), headers=headers)
            assert problem(answer)[0] == status, headers
        for method in ("GET", "PUT", "DELETE"):
            answer = client.request(method, "/checkout")
            assert (problem(answer)[0], answer.headers["allow"]) == (405, "POST")
    assert not [told for told in commands.told if told.method == "POST"]


class HangingCommands(TableService):
    """A command service that takes a command and never answers."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http" and scope["method"] == "POST":
            await asyncio.sleep(COMMAND_MARGIN_S * 3)
        await super().__call__(scope, receive, send)


def test_a_checkout_has_one_deadline() -> None:
    with ExitStack() as stack:
        url = stack.enter_context(serving(cast("Any", HangingCommands())))
        client = stack.enter_context(
            gateway(
                command_service_url=url,
                query_service_url=url,
                query_service_grpc=NOBODY,
                command_timeout_ms=100,
            )
        )
        started = time.monotonic()
        answer = checkout(client, Idempotency_Key="k-1")
        lasted_s = time.monotonic() - started

    assert problem(answer) == (504, "gateway-timeout")
    assert answer.headers["idempotency-key"] == "k-1"
    assert lasted_s >= COMMAND_MARGIN_S


def test_more_checks_at_once_than_there_are_places_go_on_without() -> None:
    tea = [OrderLine(sku="tea", quantity=1, unit_price=1)]

    async def ask(address: str) -> tuple[Any, list[Any]]:
        check = StockCheck(address, timeout_s=30, calls_max=2)
        first = [asyncio.create_task(check.check(tea, "")) for _ in range(2)]
        for _ in first:
            await asyncio.to_thread(stock.asked.acquire)
        over = await check.check(tea, "")
        stock.go_on.set()
        answered = await asyncio.gather(*first)
        await check.close()
        return over, answered

    with hanging_stock() as (stock, address):
        over, answered = asyncio.run(ask(address))
    assert over == Unchecked("overloaded")
    assert answered == [Enough("inventory:0:1")] * 2
    assert stock.calls == 2


# Who checks out.


def test_a_customer_checks_out_for_themselves_only(tmp_path: Path) -> None:
    with (
        command_server() as service,
        guarded_door(tmp_path, commands_url=service.url, query_service_grpc=NOBODY) as door,
    ):

        def send(who: str, scope: str, body: Any, **headers: str) -> httpx2.Response:
            return door.send("POST", "/checkout", who, scope, json=body, headers=headers)

        ada = order_body(customer_id="ada")
        assert problem(send("", "", ada)) == (401, "unauthorized")
        assert problem(send("bob", "customer", ada)) == (403, "forbidden")
        assert service.event_count() == 0

        placed = send("ada", "customer", ada, Prefer="respond-async")
        assert placed.status_code == 201, placed.text
        assert placed.headers["ratelimit"].startswith('"commands"')
        order_id = placed.json()["id"]
        cancel = f"/orders/{order_id}/cancel-order"
        door.queries.answers[f"/orders/{order_id}"] = (404, {})  # no query shows it yet
        assert problem(door.send("POST", cancel, "bob", "customer", json={})) == (404, "unknown")
        own = door.send("POST", cancel, "ada", "customer", json={"reason": "x"})
        assert own.status_code == 201

        theirs = order_body(customer_id="bob", order_id=order_id)
        assert problem(send("bob", "customer", theirs)) == (409, "order-already-placed")
        for_them = send("max", "merchant", order_body(customer_id="bob"))
        assert for_them.status_code == 201


def test_two_callers_with_the_same_key_make_two_orders(tmp_path: Path) -> None:
    with (
        command_server() as service,
        guarded_door(tmp_path, commands_url=service.url, query_service_grpc=NOBODY) as door,
    ):
        made = [
            door.send(
                "POST",
                "/checkout",
                who,
                "customer",
                json=order_body(customer_id=who),
                headers={"Idempotency-Key": "monday"},
            ).json()
            for who in ("ada", "bob", "ada")
        ]
    assert [each["replayed"] for each in made] == [False, False, True]
    assert made[0]["id"] == made[2]["id"] != made[1]["id"]


def test_a_checkout_counts_as_a_command(tmp_path: Path) -> None:
    with guarded_door(tmp_path, query_service_grpc=NOBODY, gateway_commands_per_minute=1) as door:
        door.commands.answers["/orders/o-1/place-order"] = (409, {"type": "/problems/x"})
        body = order_body(customer_id="ada", order_id="o-1")
        first = door.send("POST", "/checkout", "ada", "customer", json=body)
        second = door.send("POST", "/checkout", "ada", "customer", json=body)

    assert (first.status_code, first.json()) == (409, {"type": "/problems/x"})
    assert problem(second) == (429, "quota-exceeded")
    told = [told for told in door.commands.told if told.method == "POST"]
    assert [each.target for each in told] == ["/orders/o-1/place-order"]
    assert told[0].headers[b"x-tidelog-caller"] == b"user:ada"
    assert b"prefer" not in told[0].headers
    assert json.loads(told[0].body) == order_body(customer_id="ada")
