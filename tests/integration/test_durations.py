"""Given orders in the table of the sagas, when it is asked how long they take."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from msgspec.structs import replace

from tests.fixtures.servers import Database
from tests.integration.query_server import QueryServer, problem, query_server
from tests.integration.test_saga_queries import instance, write
from tidelog.engine.reacting import Instance


@pytest.fixture
def asked(database: Database) -> Iterator[QueryServer]:
    with query_server(database) as server:
        yield server


def begun(order_id: str, ago_s: float) -> Instance[Any]:
    """An order that was placed so long ago, and is on its way."""
    at = datetime.now(UTC) - timedelta(seconds=ago_s)
    return replace(instance(order_id), started_at=at, updated_at=at)


def confirmed(order_id: str, seconds: float, ago_s: float = 100.0) -> Instance[Any]:
    """An order that was confirmed so long after it was placed; the saga waits for the parcel."""
    found = begun(order_id, ago_s)
    (first, *_) = found.steps
    answered = replace(
        first,
        step="confirm-order",
        status="done",
        event_type="OrderConfirmed",
        answered_at=found.started_at + timedelta(seconds=seconds),
    )
    return replace(found, steps=(first, answered))


def test_before_the_sagas_have_run_nobody_knows(asked: QueryServer) -> None:
    assert problem(asked.get("/sagas/durations")) == (503, "unavailable")


def test_it_is_told_how_long_orders_take(asked: QueryServer, database: Database) -> None:
    write(database, *(confirmed(f"o-{number}", number / 4) for number in range(1, 21)))

    assert asked.get("/sagas/durations").json() == {
        "saga": "fulfilment",
        "until": "OrderConfirmed",
        "samples": 20,
        "under_way": 0,
        "seconds": {"p50": 2.5, "p95": 4.75},
    }


def test_orders_on_their_way_count_and_those_turned_back_do_not(
    asked: QueryServer, database: Database
) -> None:
    write(
        database,
        confirmed("o-1", 1.0),
        begun("o-2", ago_s=50),
        replace(begun("o-3", ago_s=50), phase="compensated"),
        replace(begun("o-4", ago_s=50), phase="undoing"),
        replace(confirmed("o-5", 2.0), phase="completed"),
        confirmed("o-6", 1.0, ago_s=25 * 3_600),
        begun("o-7", ago_s=25 * 3_600),
    )

    told = asked.get("/sagas/durations").json()

    assert (told["samples"], told["under_way"]) == (2, 1)
    assert told["seconds"] == {"p50": 2.0, "p95": None}
