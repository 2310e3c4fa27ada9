"""Given callers that are known, when they ask for something, then they get what is theirs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from command_service.aggregates import AGGREGATES
from gateway.routes import COMMANDS, OPERATORS, PUBLIC, ROUTES, SERVICES, SIGNED, STAFF, Own
from tests.gateway_world import (
    GuardedDoor,
    guarded_door,
    problem,
)
from tests.integration.command_server import command_server, order_body
from tidelog.http.command_api import command_routes


@pytest.fixture
def door(tmp_path: Path) -> Iterator[GuardedDoor]:
    with guarded_door(tmp_path) as door:
        yield door


def path_of(template: str, id: str = "o-bob") -> str:
    """The template with an id for each of its names."""
    return "/".join(id if part.startswith("{") else part for part in template.split("/"))


def test_the_table_names_every_command_there_is() -> None:
    templates = [route.template.split("/") for route in command_routes(AGGREGATES)]
    assert set(COMMANDS) == {f"{context}/{command}" for _, context, _, command in templates}


@pytest.mark.parametrize("routed", ROUTES, ids=lambda routed: " ".join(routed[:2]))
def test_no_route_but_the_documents_is_open(door: GuardedDoor, routed: Any) -> None:
    if routed.access is not PUBLIC:
        answer = door.send(routed.method, path_of(routed.template))
        assert problem(answer) == (401, "unauthorized")
        assert door.reached() == []


def test_b25_a_customer_on_a_route_of_others_is_forbidden(door: GuardedDoor) -> None:
    """B25: who may not use a route or a command at all is told so: 403."""
    closed = [routed for routed in ROUTES if routed.access in (STAFF, OPERATORS)]
    assert len(closed) >= 9
    for routed in closed:
        answer = door.send(routed.method, path_of(routed.template), "ada", "customer")
        assert problem(answer) == (403, "forbidden"), routed
    for name, access in COMMANDS.items():
        if access in (STAFF, SERVICES, SIGNED):
            context, command = name.split("/")
            answer = door.send("POST", f"/{context}/o-ada/{command}", "ada", "customer", json={})
            assert problem(answer) == (403, "forbidden"), name
    assert door.reached() == []


def test_what_the_sagas_send_nobody_else_may_send(door: GuardedDoor) -> None:
    path = "/payments/o-ada/record-payment-captured"
    for scope in ("merchant", "operator", "customer merchant operator"):
        assert problem(door.send("POST", path, "eve", scope, json={})) == (403, "forbidden")
    assert door.send("POST", path, "saga", "service", json={}).status_code == 200
    assert door.commands.targets() == [f"POST {path}"]


@pytest.mark.parametrize(
    "routed",
    [routed for routed in ROUTES if routed.access.own in (Own.ORDER, Own.RETURN)],
    ids=lambda routed: routed.template,
)
def test_b25_what_is_anothers_is_as_if_it_were_not_there(door: GuardedDoor, routed: Any) -> None:
    """B25: with a good token, what belongs to another is 404."""
    kind = "r" if routed.access.own is Own.RETURN else "o"
    if routed.access.own is Own.RETURN:
        door.queries.answers["/returns/r-none"] = (404, {})

    others = door.send("GET", path_of(routed.template, f"{kind}-bob"), "ada", "customer")
    absent = door.send("GET", path_of(routed.template, f"{kind}-none"), "ada", "customer")
    own = door.send("GET", path_of(routed.template, f"{kind}-ada"), "ada", "customer")
    staff = door.send("GET", path_of(routed.template, f"{kind}-bob"), "max", "merchant")

    assert problem(others) == problem(absent) == (404, "unknown")
    differing = ("instance", "trace_id")
    assert [{k: v for k, v in a.json().items() if k not in differing} for a in (others,)] == [
        {k: v for k, v in absent.json().items() if k not in differing}
    ]
    assert (own.status_code, staff.status_code) == (200, 200)


@pytest.mark.parametrize("id", ["o-ada%2F..%2Fo-bob", "%2E%2E", "o-bob%3Fx", "o%00", "o%C3%A9"])
def test_an_id_that_is_none_asks_no_service(door: GuardedDoor, id: str) -> None:
    answer = door.send("GET", f"/orders/{id}/history", "ada", "customer")

    assert answer.status_code in (400, 422)
    assert door.reached() == []


def test_a_customer_lists_their_own_orders_only(door: GuardedDoor) -> None:
    assert door.send("GET", "/orders?limit=5", "ada", "customer").status_code == 200
    assert door.send("GET", "/orders", "ada", "customer").status_code == 200
    assert door.send("GET", "/orders?customer_id=%61da", "ada", "customer").status_code == 200
    assert door.queries.targets() == [
        "GET /orders?limit=5&customer_id=ada",
        "GET /orders?customer_id=ada",
        "GET /orders?customer_id=%61da",
    ]
    for query in ("customer_id=bob", "customer_id=ada&customer_id=bob", "customer_id="):
        answer = door.send("GET", f"/orders?{query}", "ada", "customer")
        assert problem(answer) == (404, "unknown")
    assert door.send("GET", "/orders?customer_id=bob", "max", "operator").status_code == 200


def test_a_customer_sees_their_own_summary_only(door: GuardedDoor) -> None:
    assert door.send("GET", "/customers/ada/summary", "ada", "customer").status_code == 200
    answer = door.send("GET", "/customers/bob/summary", "ada", "customer")
    assert problem(answer) == (404, "unknown")


def test_a_customer_orders_for_themselves_only(door: GuardedDoor) -> None:
    path = "/orders/o-1/place-order"

    def send(body: bytes) -> httpx2.Response:
        return door.send("POST", path, "ada", "customer", content=body)

    assert problem(send(b'{"customer_id": "bob"}')) == (403, "forbidden")
    assert problem(send(b'{"customer_id": "ada", "customer_id": "bob"}')) == (403, "forbidden")
    assert problem(send(b'{"customer_id": 1}')) == (422, "invalid")
    assert problem(send(b"{}")) == (422, "invalid")
    assert problem(send(b"")) == (400, "malformed")
    assert problem(send(b"{")) == (400, "malformed")
    assert door.reached() == []
    assert send(b'{"customer_id": "ada"}').status_code == 200


def test_a_customer_cancels_what_they_just_placed_before_any_query_shows_it(
    door: GuardedDoor,
) -> None:
    door.queries.answers["/orders/o-new"] = (404, {})
    body = {"customer_id": "ada"}
    refused = door.send("POST", "/orders/o-new/cancel-order", "ada", "customer", json={})
    placed = door.send("POST", "/orders/o-new/place-order", "ada", "customer", json=body)

    own = door.send("POST", "/orders/o-new/cancel-order", "ada", "customer", json={})
    others = door.send("POST", "/orders/o-new/cancel-order", "bob", "customer", json={})

    assert problem(refused) == (404, "unknown")
    assert (placed.status_code, own.status_code) == (200, 200)
    assert problem(others) == (404, "unknown")


def test_an_order_that_was_refused_becomes_nobodys(door: GuardedDoor) -> None:
    door.commands.answers["/orders/o-bob/place-order"] = (409, {})
    body = {"customer_id": "ada"}
    door.send("POST", "/orders/o-bob/place-order", "ada", "customer", json=body)

    assert problem(door.send("GET", "/orders/o-bob", "ada", "customer")) == (404, "unknown")


def test_a_return_is_asked_for_by_whoever_ordered(door: GuardedDoor) -> None:
    path = "/returns/r-1/request-return"
    own = door.send("POST", path, "ada", "customer", json={"order_id": "o-ada"})
    others = door.send("POST", path, "ada", "customer", json={"order_id": "o-bob"})
    odd = door.send("POST", path, "ada", "customer", json={"order_id": "../x"})

    assert own.status_code == 200
    assert problem(others) == (404, "unknown")
    assert problem(odd) == (422, "invalid")


def test_a_token_that_is_not_reached_is_told_as_the_query_service_says(door: GuardedDoor) -> None:
    door.queries.answers["/orders/o-late"] = (503, {"type": "/problems/not-yet-visible"})

    answer = door.send(
        "GET",
        "/payments/o-late?wait_ms=10",
        "ada",
        "customer",
        headers={"Consistency-Token": "orders:0:9"},
    )

    assert answer.status_code == 503
    assert answer.json() == {"type": "/problems/not-yet-visible"}
    (told,) = door.queries.told
    assert told.target == "/orders/o-late?wait_ms=10"
    assert told.headers[b"consistency-token"] == b"orders:0:9"


def test_an_operator_decides_under_their_own_name(door: GuardedDoor) -> None:
    path = "/operations/t-1/decide-parked"
    own = door.send("POST", path, "olga", "operator", json={"operator": "olga"})
    others = door.send("POST", path, "olga", "operator", json={"operator": "max"})

    assert own.status_code == 200
    assert problem(others) == (403, "forbidden")
    assert door.commands.targets() == [f"POST {path}"]


def test_each_line_of_many_commands_is_looked_at(door: GuardedDoor) -> None:
    stock = json.dumps({"command": "inventory/receive-stock", "id": "tea", "data": {}})
    paid = json.dumps({"command": "payments/record-refund", "id": "o-1", "data": {}})
    signed = json.dumps(
        {"command": "operations/decide-parked", "id": "t", "data": {"operator": "max"}}
    )
    odd = '{"command": "inventory/receive-stock", "command": "payments/record-refund"}'

    def send(scope: str, *lines: str) -> Any:
        return door.send("POST", "/commands", "olga", scope, content="\n".join(lines))

    for scope, lines in (
        ("merchant", (stock, paid)),
        ("merchant", ("", "\r", paid)),
        ("operator", (stock, signed)),
        ("customer merchant", (paid,)),
        ("merchant", (odd,)),
    ):
        assert problem(send(scope, *lines)) == (403, "forbidden"), lines
    assert problem(send("merchant", stock, "{")) == (400, "malformed")
    assert problem(send("merchant", '{"command": "no/such"}')) == (404, "unknown")
    assert door.reached() == []
    assert send("merchant", stock, "", stock).status_code == 200
    assert send("service", stock, paid).status_code == 200


def test_a_command_that_is_not_listed_is_unknown(door: GuardedDoor) -> None:
    answer = door.send("POST", "/orders/o-1/no-such-thing", "ada", "customer", json={})
    assert problem(answer) == (404, "unknown")
    assert door.reached() == []


def test_a_customer_is_told_of_their_own_operations_only(tmp_path: Path) -> None:
    with command_server() as service, guarded_door(tmp_path, commands_url=service.url) as door:
        headers = {"Prefer": "respond-async", "Content-Type": "application/json"}
        body = order_body(customer_id="ada")
        path = "/orders/o-1/place-order"
        begun = door.send("POST", path, "ada", "customer", json=body, headers=headers)
        assert begun.status_code == 202, begun.text
        location = begun.headers["location"]

        def ask(who: str, scope: str, **headers: str) -> httpx2.Response:
            return door.send("GET", location, who, scope, headers=headers)

        assert ask("ada", "customer").json() == begun.json()
        forged = {"X-Tidelog-Only-Of": "user:ada", "X-Tidelog-Caller": "user:ada"}
        absent = door.send("GET", "/operations/none", "bob", "customer")
        for others in (ask("bob", "customer"), ask("bob", "customer", **forged)):
            assert problem(others) == problem(absent) == (404, "unknown")
            assert others.json()["detail"] == absent.json()["detail"]
        for scope in ("merchant", "operator", "service", "customer merchant"):
            assert ask("max", scope).status_code == 200
        # An order that is not placed yet is nobody's: it may still be refused.
        door.queries.answers["/orders/o-1"] = (404, {})
        assert problem(door.send("GET", "/orders/o-1", "ada", "customer")) == (404, "unknown")


def test_two_callers_never_see_each_others_results(tmp_path: Path) -> None:
    with command_server() as service, guarded_door(tmp_path, commands_url=service.url) as door:

        def receive(who: str) -> dict[str, Any]:
            key = {"Idempotency-Key": "monday", "Content-Type": "application/json"}
            path = "/inventory/tea/receive-stock"
            answer = door.send("POST", path, who, "merchant", json={"quantity": 3}, headers=key)
            assert answer.status_code == 201, answer.text
            return dict(answer.json())

        one, other, again = receive("max"), receive("mia"), receive("max")

        assert (one["version"], one["replayed"]) == (1, False)
        assert (other["version"], other["replayed"]) == (2, False)
        assert again == {**one, "replayed": True}
        assert service.event_count() == 2


def test_the_same_order_under_anothers_key_is_that_of_its_customer(tmp_path: Path) -> None:
    with command_server() as service, guarded_door(tmp_path, commands_url=service.url) as door:
        headers = {"Idempotency-Key": "k", "Content-Type": "application/json"}
        path = "/orders/o-1/place-order"
        ada, bob = order_body(customer_id="ada"), order_body(customer_id="bob")
        placed = door.send("POST", path, "ada", "customer", json=ada, headers=headers)
        taken = door.send("POST", path, "bob", "customer", json=bob, headers=headers)

        assert placed.status_code == 201
        assert problem(taken) == (409, "order-already-placed")


def test_without_authentication_nobody_is_told_inside_who_somebody_says_they_are(
    tmp_path: Path,
) -> None:
    with guarded_door(tmp_path, gateway_auth="off") as door:
        door.send("GET", "/stock", headers={"X-Tidelog-Caller": "root"})
    assert b"x-tidelog-caller" not in door.queries.told[0].headers
