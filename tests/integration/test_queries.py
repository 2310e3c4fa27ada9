"""Given rows and positions in PostgreSQL, when they are asked for over HTTP, then this answer."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import httpx2
import pytest
from prometheus_client import CollectorRegistry

from projectors.order_summary import OrderSummary, order_summary
from projectors.stock_level import StockLevel, stock_level
from query_service.app import build
from schemas.values import Address, OrderLine
from tests.fixtures.servers import Database
from tests.integration.command_server import serving
from tests.log_writer import until
from tidelog import Projection, Row
from tidelog.engine.folding import Changes, Partition, StoredRow
from tidelog.engine.judge import Progress
from tidelog.engine.projecting import Step, TopicInfo, Written
from tidelog.postgres.projection_store import PostgresProjectionStore
from tidelog.settings import Settings

PLACED = datetime(2026, 7, 31, 12, 30, 15, 123456, tzinfo=UTC)
CHANGED = datetime(2026, 7, 31, 12, 31, 0, tzinfo=UTC)
ORDER = OrderSummary(
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


class ReadModel:
    """Writes rows as a projector does."""

    def __init__(self, database: Database, projection: Projection[Any, Any]) -> None:
        (self._context,) = projection.contexts
        self._store = PostgresProjectionStore(projection, dsn=database.dsn, schema=database.schema)
        self._store.open({self._context.name: TopicInfo("topic", 4)})

    def write(self, row: Row, key: str, version: int, partition: int) -> str:
        """Write a row at the partition's next position; the position."""
        at = Partition(self._context.name, partition)
        before = self._store.progress()[at]
        after = Progress(before.sequence + 1, before.offset + 1)
        position = f"{self._context.name}:{partition}:{after.sequence}"
        stored = StoredRow(row, version, position, PLACED, CHANGED)
        step = Step(
            {at: before}, {at: after}, [], [key], False, lambda _: Changes({key: stored}, [], [])
        )
        assert self._store.apply(step) == Written(1, 0)
        return position

    def close(self) -> None:
        self._store.close()


@dataclass
class Asked:
    """The running query service and the read models behind it."""

    client: httpx2.Client
    orders: ReadModel
    stock: ReadModel

    def get(self, path: str, **headers: str) -> httpx2.Response:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.client.get(path, headers=named)


@pytest.fixture
def asked(database: Database) -> Iterator[Asked]:
    orders, stock = ReadModel(database, order_summary), ReadModel(database, stock_level)
    settings = Settings(postgres_dsn=database.dsn, postgres_schema=database.schema, partitions=4)
    app = build(settings, CollectorRegistry())
    with serving(app) as url, httpx2.Client(base_url=url, trust_env=False) as client:
        until(lambda: client.get("/readyz").status_code == 200, "the queries are ready")
        yield Asked(client, orders, stock)
    orders.close()
    stock.close()


def problem(answer: httpx2.Response) -> tuple[int, str]:
    assert answer.headers["content-type"] == "application/problem+json"
    return answer.status_code, answer.json()["type"].removeprefix("/problems/")


def test_an_order_is_answered_as_the_contract_says(asked: Asked) -> None:
    position = asked.orders.write(ORDER, "o-1", 3, 2)

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


def test_the_stock_of_a_sku_is_answered_as_the_contract_says(asked: Asked) -> None:
    token = asked.stock.write(StockLevel(sku="tea", on_hand=9, reserved=4), "tea", 6, 1)

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


def test_what_the_caller_has_already_is_not_sent_again(asked: Asked) -> None:
    token = asked.orders.write(ORDER, "o-1", 3, 2)

    for tag in ('"3"', 'W/"3"', '"1", "3"', "*"):
        answer = asked.get("/orders/o-1", If_None_Match=tag, Consistency_Token=token)
        assert (answer.status_code, answer.content) == (304, b""), tag
        assert answer.headers["etag"] == '"3"'
    assert asked.get("/orders/o-1", If_None_Match='"2"').status_code == 200
    assert problem(asked.get("/orders/o-1", If_None_Match="3")) == (400, "malformed")


def test_an_order_that_is_not_there_is_unknown(asked: Asked) -> None:
    assert problem(asked.get("/orders/nobody")) == (404, "unknown")
    assert problem(asked.get("/stock/nothing")) == (404, "unknown")


@pytest.mark.parametrize("bad", ["a b", "a%2Fb", "%C3%A9", "a" * 129, "%2E%2E", "a%0A"])
def test_an_id_of_another_form_is_refused(asked: Asked, bad: str) -> None:
    status, _ = problem(asked.get(f"/orders/{bad}"))

    assert status in (404, 422)


@pytest.mark.parametrize("bad", ["%00", "%FF", "%zz"])
def test_a_path_that_is_no_text_is_malformed(asked: Asked, bad: str) -> None:
    raw = httpx2.Request(
        "GET",
        asked.client.base_url,
        extensions={"target": f"/orders/{bad}".encode(), "timeout": {}},
    )

    assert problem(asked.client.send(raw)) == (400, "malformed")


def test_a_token_that_is_not_reached_is_not_yet_visible_and_says_where_we_are(
    asked: Asked,
) -> None:
    asked.orders.write(ORDER, "o-1", 3, 2)

    answer = asked.get("/orders/o-1?wait_ms=20", Consistency_Token="orders:2:9,orders:0:0")

    assert problem(answer) == (503, "not-yet-visible")
    assert answer.json()["current_position"] == "orders:0:0,orders:2:1"
    assert answer.headers["retry-after"] == "1"


def test_a_read_waits_until_its_token_is_visible(asked: Asked) -> None:
    asked.orders.write(ORDER, "o-1", 3, 2)
    changed = OrderSummary(**{name: getattr(ORDER, name) for name in ORDER.__struct_fields__})
    later = threading.Timer(0.3, asked.orders.write, (changed, "o-1", 4, 2))
    later.start()

    answer = asked.get("/orders/o-1?wait_ms=10000", Consistency_Token="orders:2:2")

    later.join()
    assert (answer.status_code, answer.json()["version"]) == (200, 4)


def test_parts_of_a_token_that_the_read_model_does_not_read_are_ignored(asked: Asked) -> None:
    token = asked.orders.write(ORDER, "o-1", 3, 2)

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
    asked: Asked, token: str
) -> None:
    assert problem(asked.get("/orders/o-1", Consistency_Token=token)) == (400, "malformed")


@pytest.mark.parametrize("wait", ["-1", "10001", "abc", "1.5", "", "9" * 30])
def test_a_wait_beyond_its_bounds_is_invalid(asked: Asked, wait: str) -> None:
    assert problem(asked.get(f"/orders/o-1?wait_ms={wait}")) == (422, "invalid")


def test_parameters_that_a_query_does_not_take_are_malformed(asked: Asked) -> None:
    assert problem(asked.get("/orders/o-1?sort=name;drop")) == (400, "malformed")
    assert problem(asked.get("/orders/o-1?wait_ms=1&wait_ms=2")) == (400, "malformed")


def test_all_stock_is_listed_in_pages(asked: Asked) -> None:
    skus = [f"sku-{n:02}" for n in range(25)]
    for sku in skus:
        token = asked.stock.write(StockLevel(sku=sku, on_hand=1), sku, 1, 0)

    first = asked.get("/stock?limit=10", Consistency_Token=token)
    second = asked.get(f"/stock?limit=10&cursor={first.json()['next_cursor']}")
    third = asked.get(second.headers["link"].partition(">")[0].lstrip("<"))

    pages = [first.json(), second.json(), third.json()]
    assert [item["sku"] for page in pages for item in page["items"]] == skus
    assert pages[2]["next_cursor"] is None
    assert "link" not in third.headers


@pytest.mark.parametrize("cursor", ["!", "c2t1", "c2t1LTAx=", "AA", "Lg", "a" * 500])
def test_a_cursor_that_is_not_ours_is_malformed(asked: Asked, cursor: str) -> None:
    assert problem(asked.get(f"/stock?cursor={cursor}")) == (400, "malformed")


@pytest.mark.parametrize("limit", ["0", "-1", "201", "1000000000", "x"])
def test_a_page_beyond_its_bounds_is_invalid(asked: Asked, limit: str) -> None:
    assert problem(asked.get(f"/stock?limit={limit}")) == (422, "invalid")


def test_only_reading_is_allowed(asked: Asked) -> None:
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
