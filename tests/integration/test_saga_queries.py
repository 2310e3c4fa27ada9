"""Given instances in the table of the sagas, when they are asked for over HTTP."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import psycopg
import pytest

from sagas.fulfilment import fulfilment
from schemas import CONTEXTS
from schemas.orders import OrderPlaced
from schemas.values import Address, OrderLine
from tests.fixtures.servers import Database
from tests.integration.query_server import QueryServer, problem, query_server
from tidelog.effects.work_tables import WorkStatements
from tidelog.engine.reacting import Heard, Instance, Reactor
from tidelog.engine.saga_batch import ParkedSaga, SagaChanges
from tidelog.postgres.saga_store import SagaRows

BEGINNING = datetime(2026, 1, 1, tzinfo=UTC)
HOME = Address(name="A", street="B", city="C", postal_code="1", country="DE")
LINES = (OrderLine(sku="tea", quantity=2, unit_price=300),)


@pytest.fixture
def asked(database: Database) -> Iterator[QueryServer]:
    with query_server(database) as server:
        yield server


def heard(order_id: str, second: int = 0) -> Heard:
    """The order's first event."""
    placed = OrderPlaced(
        order_id=order_id, customer_id="c", currency="EUR", lines=LINES, total=600, ship_to=HOME
    )
    at = BEGINNING + timedelta(seconds=second)
    return Heard(placed, f"m-{order_id}", "c", "c", "", "orders:0:1", at)


def instance(order_id: str, second: int = 0) -> Instance[Any]:
    """An order that was placed."""
    begun = Reactor(fulfilment, CONTEXTS).react(None, heard(order_id, second)).instance
    assert begun is not None
    return begun


def write(database: Database, *instances: Instance[Any], parked: str = "") -> None:
    """Store them as the sagas do; `parked` is the key of one whose first reaction failed."""
    rows = SagaRows(Reactor(fulfilment, CONTEXTS), database.schema)
    failed = [ParkedSaga(parked, heard(parked), ValueError("no"))] if parked else []
    changes = SagaChanges({each.key: each for each in instances}, [], [], [], failed)
    with psycopg.connect(database.dsn, autocommit=True) as connection, connection.transaction():
        connection.execute(f"CREATE SCHEMA IF NOT EXISTS {database.schema}".encode())
        for statement in rows.statements.create:
            connection.execute(statement)
        rows.lock(connection, sorted([*changes.instances, *([parked] if parked else [])]))
        rows.write(connection, changes)


def listed(asked: QueryServer, query: str = "") -> list[str]:
    """The ids of all pages."""
    return [item["id"] for page in asked.pages(f"/sagas{query}", "") for item in page]


def test_before_the_sagas_have_run_there_are_none(asked: QueryServer) -> None:
    assert asked.get("/sagas").json() == {"items": [], "next_cursor": None}
    assert problem(asked.get("/sagas/fulfilment:o-1")) == (404, "unknown")


def test_an_instance_shows_its_steps_and_what_it_waits_for(
    asked: QueryServer, database: Database
) -> None:
    stored = instance("o-1")
    write(database, stored)

    shown = asked.get("/sagas/fulfilment:o-1").json()

    assert shown.pop("age_seconds") > 0
    assert shown == {
        "id": "fulfilment:o-1",
        "saga": "fulfilment",
        "key": "o-1",
        "status": "running",
        "started_at": "2026-01-01T00:00:00Z",
        "ended_at": None,
        "deadline": "2026-01-01T00:02:00Z",
        "expected_next": ["StockReserved", "StockReservationRefused"],
        "stuck": None,
        "decisions": [],
        "steps": [
            {
                "step": "reserve-stock",
                "kind": "step",
                "status": "pending",
                "event_type": None,
                "position": None,
                "command_id": stored.steps[0].command_id,
                "attempts": 1,
                "at": "2026-01-01T00:00:00Z",
                "reason": None,
            }
        ],
    }
    assert listed(asked) == ["fulfilment:o-1"]


def test_an_instance_is_stuck_where_it_waits_for_a_person_or_is_parked(
    asked: QueryServer, database: Database
) -> None:
    stuck = msgspec.structs.replace(instance("o-2", 1), stuck="refused")
    ended = msgspec.structs.replace(instance("o-3", 2), phase="completed", ended_at=BEGINNING)
    write(database, instance("o-1"), stuck, ended, parked="o-4")

    assert listed(asked, "?status=running") == ["fulfilment:o-1"]
    assert listed(asked, "?status=completed") == ["fulfilment:o-3"]
    assert sorted(listed(asked, "?status=stuck")) == ["fulfilment:o-2", "fulfilment:o-4"]
    assert listed(asked, "?status=failed&saga=fulfilment") == []
    assert asked.get("/sagas/fulfilment:o-4").json()["steps"] == []
    (parked,) = asked.get("/parked?kind=saga").json()["items"]
    assert (parked["projection"], parked["key"], parked["error"]) == ("fulfilment", "o-4", "no")
    assert (parked["event_type"], parked["position"]) == ("OrderPlaced", "orders:0:1")


def test_a_list_goes_from_the_newest_on_page_by_page(
    asked: QueryServer, database: Database
) -> None:
    write(database, *(instance(f"o-{number}", number // 2) for number in range(5)))

    assert listed(asked, "?limit=2") == [f"fulfilment:o-{number}" for number in (4, 3, 2, 1, 0)]
    assert listed(asked, "?saga=returns") == []


def test_what_is_not_asked_rightly_is_refused(asked: QueryServer, database: Database) -> None:
    write(database, instance("o-1"))

    assert problem(asked.get("/sagas?status=odd"))[0] == 400
    assert problem(asked.get("/sagas?colour=red"))[0] == 400
    assert problem(asked.get("/sagas/o-1"))[0] == 422
    assert problem(asked.get("/sagas/fulfilment:o-9")) == (404, "unknown")


def test_what_an_instance_has_outside_is_shown_with_its_attempts(
    asked: QueryServer, database: Database
) -> None:
    stored = instance("o-1")
    write(database, stored, instance("o-2"))
    assert [each["kind"] for each in asked.get("/sagas/fulfilment:o-1").json()["steps"]] == ["step"]
    statements = WorkStatements(database.schema)
    with psycopg.connect(database.dsn, autocommit=True) as connection:
        for statement in statements.create:
            connection.execute(statement)
        rows = [
            (name, name, subject, data, "m", correlation, "")
            for name, subject, data, correlation in (
                ("take-payment", "o-1", '{"order_id":"o-1"}', "c"),
                ("book-parcel", "o-1", '{"order_id":"o-1"}', "c"),
                ("void-payment", "o-1", '{"order_id":"o-1"}', "c"),
                ("of-another-order", "o-9", '{"order_id":"o-9"}', "c"),
                ("of-a-return", "o-1", '{"order_id":"o-1"}', "another"),
            )
        ]
        connection.execute(statements.add, [list(each) for each in zip(*rows, strict=True)])
        schema = database.schema
        connection.execute(
            f"UPDATE {schema}.effect_work SET attempts = 3, lease = 'l', since = %s".encode(),
            (BEGINNING + timedelta(minutes=1),),
        )
        connection.execute(statements.finish, ("take-payment", "l"))
        connection.execute(
            f"UPDATE {schema}.effect_work SET status = 'parked', error = 'no answer', lease = '' "
            "WHERE effect = 'book-parcel'".encode()
        )

    found = asked.get("/sagas/fulfilment:o-1").json()["steps"]

    shown = [(each["step"], each["kind"], each["status"], each["attempts"]) for each in found]
    assert shown == [
        ("reserve-stock", "step", "pending", 1),
        ("book-parcel", "effect", "failed", 3),
        ("take-payment", "effect", "done", 3),
        ("void-payment", "effect", "pending", 3),
    ]
    assert found[1]["reason"] == "no answer"
    assert listed(asked) == ["fulfilment:o-2", "fulfilment:o-1"]
    (parked,) = asked.get("/parked?kind=effect").json()["items"]
    assert (parked["projection"], parked["key"], parked["attempts"]) == ("book-parcel", "o-1", 3)
    assert (parked["error"], parked["parked_at"]) == ("no answer", "2026-01-01T00:01:00Z")
