"""Given rows and positions in PostgreSQL, when they are asked for over HTTP, then this answer."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import httpx2
import pytest
from prometheus_client import CollectorRegistry

from projectors.order_detail import OrderDetail, order_detail
from projectors.stock_level import StockLevel, stock_level
from query_service.app import build
from schemas.values import Address, OrderLine
from tests.fixtures.servers import Database
from tests.integration.command_server import serving
from tests.integration.query_server import QueryServer, problem, query_server
from tidelog import replace
from tidelog.settings import Settings

ORDER = OrderDetail(
    order_id="o-1",
    status="cancelled",
    customer_id="c-1",
    currency="EUR",
    lines=(OrderLine(sku="tea", quantity=2, unit_price=350),),
    total=700,
    ship_to=Address(
        name="Ada", street="Via Roma 1", city="Torino", postal_code="10121", country="IT"
    ),
    cancel_reason="out of stock",
)


@pytest.fixture
def asked(database: Database) -> Iterator[QueryServer]:
    with query_server(database, order_detail, stock_level) as server:
        yield server


def test_an_order_is_answered_as_the_contract_says(asked: QueryServer) -> None:
    position = asked.models["order_detail"].write(ORDER, 3, 2)

    answer = asked.get("/orders/o-1", Consistency_Token=position)

    assert answer.status_code == 200
    assert answer.json() == {
        "id": "o-1",
        "version": 3,
        "status": "cancelled",
        "customer_id": "c-1",
        "currency": "EUR",
        "lines": [{"sku": "tea", "quantity": 2, "unit_price": 350}],
        "total": 700,
        "ship_to": {
            "name": "Ada",
            "street": "Via Roma 1",
            "city": "Torino",
            "postal_code": "10121",
            "country": "IT",
        },
        "cancel_reason": "out of stock",
        "placed_at": "2026-07-31T12:30:15.123456Z",
        "updated_at": "2026-07-31T12:31:00Z",
        "position": "orders:2:1",
    }
    assert answer.headers["etag"] == '"3"'
    assert answer.headers["x-as-of"] == "orders:0:0,orders:1:0,orders:2:1,orders:3:0"


def test_the_stock_of_a_sku_is_answered_as_the_contract_says(asked: QueryServer) -> None:
    token = asked.models["stock_level"].write(StockLevel(sku="tea", on_hand=9, reserved=4), 6, 1)

    answer = asked.get("/stock/tea", Consistency_Token=token)

    assert answer.json() == {
        "sku": "tea",
        "on_hand": 9,
        "reserved": 4,
        "available": 5,
        "version": 6,
        "position": "inventory:1:1",
    }
    assert answer.headers["etag"] == '"6"'


def test_what_the_caller_has_already_is_not_sent_again(asked: QueryServer) -> None:
    token = asked.models["order_detail"].write(ORDER, 3, 2)

    for tag in ('"3"', 'W/"3"', '"1", "3"', "*"):
        answer = asked.get("/orders/o-1", If_None_Match=tag, Consistency_Token=token)
        assert (answer.status_code, answer.content) == (304, b""), tag
        assert answer.headers["etag"] == '"3"'
    assert asked.get("/orders/o-1", If_None_Match='"2"').status_code == 200
    assert problem(asked.get("/orders/o-1", If_None_Match="3")) == (400, "malformed")


def test_an_order_that_is_not_there_is_unknown(asked: QueryServer) -> None:
    assert problem(asked.get("/orders/nobody")) == (404, "unknown")
    assert problem(asked.get("/stock/nothing")) == (404, "unknown")


@pytest.mark.parametrize("bad", ["a b", "a%2Fb", "%C3%A9", "a" * 129, "%2E%2E", "a%0A"])
def test_an_id_of_another_form_is_refused(asked: QueryServer, bad: str) -> None:
    status, _ = problem(asked.get(f"/orders/{bad}"))

    assert status in (404, 422)


@pytest.mark.parametrize("bad", ["%00", "%FF", "%zz"])
def test_a_path_that_is_no_text_is_malformed(asked: QueryServer, bad: str) -> None:
    raw = httpx2.Request(
        "GET",
        asked.client.base_url,
        extensions={"target": f"/orders/{bad}".encode(), "timeout": {}},
    )

    assert problem(asked.client.send(raw)) == (400, "malformed")


def test_a_token_that_is_not_reached_is_not_yet_visible_and_says_where_we_are(
    asked: QueryServer,
) -> None:
    asked.models["order_detail"].write(ORDER, 3, 2)

    answer = asked.get("/orders/o-1?wait_ms=20", Consistency_Token="orders:2:9,orders:0:0")

    assert problem(answer) == (503, "not-yet-visible")
    assert answer.json()["current_position"] == "orders:0:0,orders:2:1"
    assert answer.headers["retry-after"] == "1"


def test_a_read_waits_until_its_token_is_visible(asked: QueryServer) -> None:
    asked.models["order_detail"].write(ORDER, 3, 2)
    changed = replace(ORDER, status="delivered")
    later = threading.Timer(0.3, asked.models["order_detail"].write, (changed, 4, 2))
    later.start()

    answer = asked.get("/orders/o-1?wait_ms=10000", Consistency_Token="orders:2:2")

    later.join()
    assert (answer.status_code, answer.json()["version"]) == (200, 4)


def test_parts_of_a_token_that_the_read_model_does_not_read_are_ignored(asked: QueryServer) -> None:
    token = asked.models["order_detail"].write(ORDER, 3, 2)

    answer = asked.get("/orders/o-1", Consistency_Token=f"inventory:1:999,{token},payments:0:7")

    assert answer.status_code == 200


@pytest.mark.parametrize(
    "token",
    [
        "",
        "orders",
        "orders:1",
        "orders:1:-1",
        "orders:01:1",
        "nowhere:0:1",
        "orders:4:1",
        "a," * 70,
    ],
)
def test_a_token_of_another_form_or_of_an_unknown_place_is_malformed(
    asked: QueryServer, token: str
) -> None:
    assert problem(asked.get("/orders/o-1", Consistency_Token=token)) == (400, "malformed")


@pytest.mark.parametrize("wait", ["-1", "10001", "abc", "1.5", "", "9" * 30])
def test_a_wait_beyond_its_bounds_is_invalid(asked: QueryServer, wait: str) -> None:
    assert problem(asked.get(f"/orders/o-1?wait_ms={wait}")) == (422, "invalid")


def test_parameters_that_a_query_does_not_take_are_malformed(asked: QueryServer) -> None:
    assert problem(asked.get("/orders/o-1?sort=name;drop")) == (400, "malformed")
    assert problem(asked.get("/orders/o-1?wait_ms=1&wait_ms=2")) == (400, "malformed")


def test_every_query_documents_what_it_takes(asked: QueryServer) -> None:
    paths = asked.get("/openapi.json").json()["paths"]

    def taken(path: str) -> dict[str, str]:
        return {each["name"]: each["in"] for each in paths[path]["get"]["parameters"]}

    settled = {"wait_ms": "query", "Consistency-Token": "header"}
    assert taken("/stock/{sku}") == {"sku": "path", **settled}
    assert set(taken("/orders")) == {
        *("customer_id", "status", "placed_after", "placed_before"),
        *("sort", "limit", "cursor", *settled),
    }
    assert set(taken("/sales/daily")) == {"from", "to", "sku", "limit", "cursor", *settled}
    (sort,) = (each for each in paths["/orders"]["get"]["parameters"] if each["name"] == "sort")
    assert sort["schema"]["enum"] == ["-placed_at", "placed_at", "-total", "total"]
    assert asked.get("/docs").status_code == 200


def test_only_reading_is_allowed(asked: QueryServer) -> None:
    answer = asked.client.post("/orders/o-1")

    assert problem(answer) == (405, "method-not-allowed")
    assert answer.headers["allow"] == "GET"


def test_before_any_projector_has_run_the_answer_is_to_come_again(database: Database) -> None:
    settings = Settings(postgres_dsn=database.dsn, postgres_schema=database.schema)
    app = build(settings, CollectorRegistry())
    with serving(app) as url, httpx2.Client(base_url=url, trust_env=False) as client:
        answer = client.get("/orders/o-1")

    assert problem(answer) == (503, "unavailable")
    assert answer.headers["retry-after"] == "1"
