"""Given a basket, when it is checked out, then what is known at once is answered at once."""

from __future__ import annotations

import json
import signal
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import psycopg
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from gateway.stock import BREAKER, CHECK_AVAILABILITY
from query_service.availability import STOCK_SERVICE
from tests.checkout_world import (
    NOBODY,
    Shop,
    checked_again,
    checkout,
    gateway,
    lines,
    shop,
)
from tests.fixtures.servers import new_schema
from tests.gateway_world import problem
from tests.integration.command_server import order_body
from tests.integration.test_gateway_troubles import metric
from tests.log_writer import until
from tidelog.grpc import stock_pb2


@pytest.fixture(scope="module")
def counter(postgres: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    """One for all: every test has SKUs and orders of its own, and leaves all parts running."""
    with new_schema(postgres) as database, shop(database, tmp_path_factory.mktemp("shop")) as made:
        yield made


@pytest.fixture
def sku() -> str:
    return new_id()


def new_id() -> str:
    return uuid.uuid4().hex


def order(**quantities: int) -> dict[str, Any]:
    """An order with an id of its own."""
    return order_body(order_id=new_id(), lines=lines(**quantities))


def test_a_checkout_is_answered_with_the_order_and_what_is_known_of_it(
    counter: Shop, sku: str
) -> None:
    counter.put(sku, on_hand=5, reserved=2)
    order_id, events = new_id(), counter.commands.event_count()

    answer = counter.checkout(
        order_body(order_id=order_id, lines=lines(**{sku: 3})),
        Idempotency_Key="k-1",
        X_Correlation_Id="visit-7",
    )

    assert answer.status_code == 201, answer.text
    body = answer.json()
    token = body["token"]
    assert body == {
        "id": order_id,
        "status": "placed",
        "version": 1,
        "events": [{"type": "OrderPlaced", "position": token}],
        "token": token,
        "replayed": False,
        "stock": {"checked": True, "as_of": body["stock"]["as_of"]},
        "estimated_completion": None,
        "links": {
            "order": f"/orders/{order_id}",
            "overview": f"/orders/{order_id}/overview",
            "live": f"/orders/{order_id}/live",
            "cancel": f"/orders/{order_id}/cancel-order",
        },
    }
    assert counter.token in body["stock"]["as_of"].split(",")
    named = ("location", "etag", "consistency-token", "idempotency-key", "x-correlation-id")
    assert [answer.headers.get_list(name) for name in named] == [
        [f"/orders/{order_id}"], ['"1"'], [token], ["k-1"], ["visit-7"],
    ]  # fmt: skip
    assert counter.commands.event_count() == events + 1


def test_too_little_stock_is_told_line_by_line_and_nothing_is_placed(
    counter: Shop, sku: str
) -> None:
    other = new_id()
    counter.put(sku, on_hand=5)
    counter.put(other, on_hand=3, reserved=2)
    events = counter.commands.event_count()

    wanted = lines(**{sku: 5, other: 2, "never_seen": 1})
    answer = counter.checkout(order_body(lines=wanted), Idempotency_Key="k-2")

    assert problem(answer) == (409, "insufficient-stock")
    assert answer.json()["errors"] == [
        {"pointer": "/lines/1/quantity", "detail": "Of this SKU 1 can be ordered now."},
        {"pointer": "/lines/2/quantity", "detail": "Of this SKU 0 can be ordered now."},
    ]
    assert answer.headers["idempotency-key"] == "k-2"
    assert counter.token in answer.headers["x-as-of"].split(",")
    assert counter.commands.event_count() == events
    assert "no order was placed" in counter.client.get(answer.json()["type"]).text.lower()


def test_a_checkout_that_took_the_last_piece_is_answered_again(counter: Shop, sku: str) -> None:
    counter.put(sku, on_hand=1)
    body, key, events = (
        order_body(lines=lines(**{sku: 1})),
        new_id(),
        counter.commands.event_count(),
    )
    first = counter.checkout(body, Idempotency_Key=key)
    counter.put(sku, on_hand=1, reserved=1)
    others = {**body, "customer_id": "c-2"}

    again = counter.checkout(body, Idempotency_Key=key)
    same = counter.checkout({**body, "order_id": first.json()["id"]})
    other = counter.checkout(body, Idempotency_Key=new_id())
    changed = counter.checkout(others, Idempotency_Key=key)
    taken = counter.checkout({**others, "order_id": first.json()["id"]})

    assert (first.status_code, again.status_code, same.status_code) == (201, 201, 200)
    told = ("id", "status", "version", "events", "token", "links")
    assert [again.json()[name] for name in told] == [first.json()[name] for name in told]
    assert (again.json()["replayed"], again.json()["estimated_completion"]) == (True, None)
    assert (same.json()["events"], same.json()["replayed"]) == ([], False)
    assert problem(other) == (409, "insufficient-stock")
    assert problem(changed) == (422, "idempotency-key-reused")
    assert problem(taken) == (409, "order-already-placed")
    assert counter.commands.event_count() == events + 1


def test_the_key_that_was_made_leads_to_the_same_order(counter: Shop, sku: str) -> None:
    counter.put(sku, on_hand=9)
    body, events = order_body(lines=lines(**{sku: 1})), counter.commands.event_count()
    first, another = counter.checkout(body), counter.checkout(body)
    made = first.headers["idempotency-key"]

    again = counter.checkout(body, Idempotency_Key=made)

    assert (again.json()["id"], again.json()["replayed"]) == (first.json()["id"], True)
    assert another.json()["id"] != first.json()["id"]
    assert counter.commands.event_count() == events + 2


def test_an_order_that_has_gone_on_is_not_called_placed(counter: Shop, sku: str) -> None:
    counter.put(sku, on_hand=9)
    body = order(**{sku: 1})
    counter.checkout(body)
    counter.commands.post(f"/orders/{body['order_id']}/mark-order-reserved", {})

    again = counter.checkout(body)

    assert (again.status_code, again.json()["version"], again.json()["status"]) == (200, 2, None)


def reasons_until_it_opens(counter: Shop, sku: str) -> list[str]:
    """Check out until the breaker is open; what was said of the stock. Every order is taken."""
    told: list[str] = []

    def is_open() -> bool:
        answer = checkout(counter.client, order(**{sku: 1}))
        assert answer.status_code == 201, answer.text
        assert answer.json()["stock"]["checked"] is False
        told.append(answer.json()["stock"]["reason"])
        return told[-1] == "breaker-open"

    until(is_open, "the breaker opens")
    return told


def test_a_stock_service_that_is_down_stops_no_checkout(counter: Shop, sku: str) -> None:
    counter.put(sku, on_hand=100)
    checked_again(counter.client, lambda: order(**{sku: 1}))
    counter.queries.kill()
    try:
        assert reasons_until_it_opens(counter, sku)[0] == "unavailable"
        assert metric(counter.client, "tidelog_breaker_state", "stock") > 0
        assert metric(counter.client, "tidelog_gateway_refusals_total", "stock") > 0
    finally:
        counter.start_queries()

    checked_again(counter.client, lambda: order(**{sku: 1}))
    assert metric(counter.client, "tidelog_breaker_state", "stock") == 0
    counted = counter.client.get("/metrics").text
    for known in ("enough", "unavailable", "breaker-open"):
        assert f'tidelog_checkouts_total{{stock="{known}"}}' in counted


def test_a_stock_service_that_hangs_is_waited_for_a_moment_only(counter: Shop, sku: str) -> None:
    counter.put(sku, on_hand=100)
    checked_again(counter.client, lambda: order(**{sku: 1}))
    counter.queries.send(signal.SIGSTOP)
    try:
        assert reasons_until_it_opens(counter, sku)[0] == "timeout"
    finally:
        counter.queries.send(signal.SIGCONT)
    checked_again(counter.client, lambda: order(**{sku: 1}))


def test_a_token_that_is_not_reached_opens_no_breaker(counter: Shop, sku: str) -> None:
    counter.put(sku, on_hand=100)
    context, partition, sequence = counter.token.split(":")
    future = f"{context}:{partition}:{int(sequence) + 1_000}"

    answers = [
        counter.checkout(order(**{sku: 1}), Consistency_Token=future)
        for _ in range(BREAKER.calls_min + 1)
    ]

    assert {answer.status_code for answer in answers} == {201}
    reasons = [answer.json()["stock"].get("reason") for answer in answers]
    assert "not-yet-visible" in reasons
    assert set(reasons) <= {"not-yet-visible", "timeout"}, "a busy machine may be later still"
    for token in ("", "x", "inventory:0", "nowhere:0:1", "inventory:999:1"):
        answer = counter.checkout(order(**{sku: 1}), Consistency_Token=token)
        assert problem(answer) == (400, "malformed"), token


def test_before_any_read_model_serves_nobody_can_say(counter: Shop, sku: str) -> None:
    """An empty answer would read as an empty shelf."""

    def serve(serving: bool) -> None:
        settings = counter.queries.settings
        table = f"{settings['postgres_schema']}.projections"
        with psycopg.connect(settings["postgres_dsn"], autocommit=True) as connection:
            connection.execute(f"UPDATE {table} SET serving = {serving}".encode())
        counter.queries.stop()
        counter.start_queries()

    counter.put(sku, on_hand=100)
    serve(False)
    try:
        answer = checkout(counter.client, order(**{sku: 1}))
    finally:
        serve(True)

    assert answer.status_code == 201
    assert answer.json()["stock"]["checked"] is False
    checked_again(counter.client, lambda: order(**{sku: 1}))


def test_a_row_that_waits_behind_a_parked_event_is_not_believed(counter: Shop, sku: str) -> None:
    counter.put(sku, on_hand=100)
    settings = counter.queries.settings
    table = f"{settings['postgres_schema']}.parked_keys"
    context, partition, sequence = counter.token.split(":")
    held = json.dumps({f"{context}:{partition}": [int(sequence) - 1, int(sequence) - 1]})
    with psycopg.connect(settings["postgres_dsn"], autocommit=True) as connection:
        connection.execute(
            f'INSERT INTO {table} (projection, version, generation, key, context, "partition", '
            'sequence, "offset", aggregate_id, event_type, after, attempts, error_type, error) '
            "VALUES ('stock_level', 1, 1, %(sku)s, %(context)s, %(partition)s, %(sequence)s, "
            "%(sequence)s, %(sku)s, 'StockReceived', %(held)s, 1, 'ValueError', '')".encode(),
            {
                "sku": sku,
                "context": context,
                "partition": int(partition),
                "sequence": int(sequence),
                "held": held,
            },
        )
        counter.queries.stop()
        counter.start_queries()
        checked_again(counter.client, lambda: order(**{sku: 1}))  # who asks for nothing special
        answer = counter.checkout(order(**{sku: 1}))
        connection.execute(f"DELETE FROM {table}".encode())

    assert answer.status_code == 201
    assert answer.json()["stock"] == {"checked": False, "reason": "blocked"}


def test_a_table_that_is_locked_holds_up_neither_checkouts_nor_the_pool(
    counter: Shop, sku: str
) -> None:
    """What is not told within the deadline is dropped there, too, and its connection is free."""
    counter.put(sku, on_hand=100)
    checked_again(counter.client, lambda: order(**{sku: 1}))
    settings = counter.queries.settings
    table = f"{settings['postgres_schema']}.stock_level__v1_g1"
    with (
        psycopg.connect(settings["postgres_dsn"]) as connection,
        ThreadPoolExecutor(32) as pool,
    ):
        connection.execute(f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE".encode())
        answers = list(pool.map(lambda _: checkout(counter.client, order(**{sku: 1})), range(64)))
        until(counter.queries.ready, "a connection is free")

    assert {answer.status_code for answer in answers} == {201}
    reasons = {answer.json()["stock"].get("reason") for answer in answers}
    assert "timeout" in reasons
    checked_again(counter.client, lambda: order(**{sku: 1}))


def test_the_stock_is_told_over_grpc(counter: Shop, sku: str) -> None:
    counter.put(sku, on_hand=5, reserved=2)
    address = f"127.0.0.1:{counter.queries.settings['grpc_port']}"

    def basket(*wanted: tuple[str, int]) -> stock_pb2.Basket:
        made = [stock_pb2.BasketLine(sku=sku, quantity=number) for sku, number in wanted]
        return stock_pb2.Basket(lines=made, consistency_token=counter.token, wait_ms=2_000)

    with grpc.insecure_channel(address, options=[("grpc.enable_http_proxy", 0)]) as channel:
        ask = channel.unary_unary(
            CHECK_AVAILABILITY,
            request_serializer=stock_pb2.Basket.SerializeToString,
            response_deserializer=stock_pb2.Availability.FromString,
        )
        told = ask(basket((new_id(), 1), (sku, 3)), timeout=10)
        with pytest.raises(grpc.RpcError) as refused:
            ask(basket(), timeout=10)
        health = health_pb2_grpc.HealthStub(channel)
        asked = health_pb2.HealthCheckRequest(service=STOCK_SERVICE)
        serving = health_pb2.HealthCheckResponse.SERVING
        until(lambda: health.Check(asked, timeout=10).status == serving, "it is healthy")

    told_lines = [(line.available, line.enough) for line in told.lines]
    assert told_lines == [(0, False), (3, True)]
    assert counter.token in told.as_of.split(",")
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert refused.value.details() == "invalid"


def test_an_outcome_that_is_not_known_is_never_a_refusal(counter: Shop) -> None:
    """Too little stock, and nobody says whether the order is there already."""
    settings = counter.queries.settings
    with gateway(
        command_service_url=f"http://{NOBODY}",
        query_service_url=counter.queries.url,
        query_service_grpc=f"127.0.0.1:{settings['grpc_port']}",
    ) as client:
        answer = checkout(client, order(never_seen=1), X_Correlation_Id="visit-8")
        counted = client.get("/metrics").text

    assert 'tidelog_checkouts_total{stock="too-little"} 1.0' in counted
    assert problem(answer) == (502, "bad-gateway")
    assert uuid.UUID(answer.headers["idempotency-key"]).version == 7
    assert answer.headers.get_list("x-correlation-id") == ["visit-8"]
