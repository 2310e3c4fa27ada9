"""Given orders that changed, when one is asked for as it was, then it is the fold of what was."""

from __future__ import annotations

import random
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import msgspec
import pytest

from query_service import as_of
from schemas.orders import OrderDelivered, OrderPaid, OrderReserved
from tests.fixtures.servers import Database
from tests.integration.query_server import problem
from tests.shop_log import TimelineServer, cancelled, placed, some_life, timeline_server
from tidelog.engine.folding import StoredRow


@pytest.fixture
def shop(database: Database) -> Iterator[TimelineServer]:
    with timeline_server(database) as server:
        yield server


def shown(row: StoredRow) -> dict[str, Any]:
    """The order as the contract shows it."""
    found: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(row.row))
    times = msgspec.to_builtins({"at": row.created_at, "to": row.updated_at})
    found["id"] = found.pop("order_id")
    return {
        **found,
        "version": row.version,
        "placed_at": times["at"],
        "updated_at": times["to"],
        "position": row.position,
    }


def test_every_version_of_every_order_is_the_fold_of_its_first_events(
    shop: TimelineServer,
) -> None:
    dice = random.Random(7)
    orders = [f"o-{number}" for number in range(12)]
    lives = {order_id: some_life(order_id, dice) for order_id in orders}
    while left := [order_id for order_id in orders if lives[order_id]]:
        shop.log.append(lives[dice.choice(left)].pop(0))

    for order_id in orders:
        facts = shop.log.of(order_id)
        for version, fact in enumerate(facts, start=1):
            expected = shown(shop.log.folded(facts[:version]))
            time = fact.metadata.recorded_at
            for moment in (str(version), fact.position, time):
                answer = shop.settled(f"/orders/{order_id}?as_of={moment}")
                assert answer.status_code == 200, answer.text
                assert answer.json() == expected, moment
                assert answer.headers["etag"] == f'"{version}"'
        today = shop.settled(f"/orders/{order_id}")
        assert today.json() == expected
        assert today.headers["etag"] == answer.headers["etag"]


def test_between_two_events_the_order_is_as_after_the_former(shop: TimelineServer) -> None:
    first, _, second = shop.log.append(placed("o-1"), placed("o-2"), cancelled("o-1"))
    between = (second.recorded_at - timedelta(microseconds=1)).isoformat().replace("+00:00", "Z")
    later = (second.recorded_at + timedelta(days=1)).isoformat().replace("+", "%2B")

    assert shop.settled(f"/orders/o-1?as_of={between}").json()["status"] == "placed"
    assert shop.settled(f"/orders/o-1?as_of={later}").json()["status"] == "cancelled"
    at = f"orders:{first.partition.number}:{second.sequence - 1}"
    assert shop.settled(f"/orders/o-1?as_of={at}").json()["version"] == 1


def test_before_the_first_event_and_beyond_the_last_there_is_nothing(
    shop: TimelineServer,
) -> None:
    (fact,) = shop.log.append(placed("o-1"))
    at = f"orders:{fact.partition.number}"

    for moment in ("0", "2", "999999999999999999", f"{at}:0", "2020-01-01T00:00:00Z"):
        assert problem(shop.settled(f"/orders/o-1?as_of={moment}")) == (404, "unknown"), moment
    assert problem(shop.settled("/orders/nobody?as_of=1")) == (404, "unknown")


@pytest.mark.parametrize(
    "moment",
    [
        "",
        "-1",
        "1.5",
        "v1",
        "1" * 19,
        "yesterday",
        "2026-07-31",
        "2026-07-31T12:00:00",
        "2026-13-31T12:00:00Z",
        "2026-02-30T12:00:00Z",
        "2026-07-31T25:00:00Z",
        "2026-07-31 12:00:00Z",
        "orders:0",
        "orders:0:-1",
        "payments:0:1",
        "orders:99:1",
        "orders:0:1,orders:1:1",
        "%2500",
    ],
)
def test_a_moment_of_another_form_is_malformed(shop: TimelineServer, moment: str) -> None:
    shop.log.append(placed("o-1"))

    assert problem(shop.settled(f"/orders/o-1?as_of={moment}")) == (400, "malformed")


def test_a_position_that_is_not_there_yet_is_waited_for(shop: TimelineServer) -> None:
    (fact,) = shop.log.append(placed("o-1"))
    ahead = f"orders:{fact.partition.number}:{fact.sequence + 1}"

    assert problem(shop.get(f"/orders/o-1?as_of={ahead}&wait_ms=20")) == (503, "not-yet-visible")
    shop.log.append(cancelled("o-1"))
    assert shop.get(f"/orders/o-1?as_of={ahead}").json()["status"] == "cancelled"


def test_what_a_person_decided_about_an_event_holds_for_the_past_too(
    shop: TimelineServer,
) -> None:
    shop.log.append(placed("o-1"))
    (delivered,) = shop.log.append(OrderDelivered(order_id="o-1"))
    (reserved,) = shop.log.append(OrderReserved(order_id="o-1"))
    shop.log.append(OrderPaid(order_id="o-1", amount=1, currency="EUR", paid_on="2026-07-31"))

    shop.log.decide(delivered, None)
    assert shop.settled("/orders/o-1?as_of=3").json()["status"] == "reserved"
    shop.log.decide(reserved, OrderReserved(order_id="o-1"))
    assert shop.settled("/orders/o-1?as_of=3").json()["status"] == "reserved"
    shop.log.decide(reserved, None)
    for version in (2, 3):
        answer = shop.settled(f"/orders/o-1?as_of={version}")
        expected = shown(shop.log.folded(shop.log.of("o-1")[:version]))
        assert answer.json() == expected
        assert answer.json()["status"] == "placed"


def test_an_event_that_cannot_be_folded_blocks_what_comes_after_it(shop: TimelineServer) -> None:
    (lost,) = shop.log.append(OrderReserved(order_id="o-1"))
    shop.log.append(placed("o-1"))

    answer = shop.settled("/orders/o-1?as_of=2")

    assert problem(answer) == (409, "blocked")
    assert lost.position in answer.json()["detail"]


def test_as_of_folds_a_bounded_number_of_events(
    shop: TimelineServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(as_of, "EVENTS_MAX", 3)
    shop.log.append(placed("o-1"), *[cancelled("o-1") for _ in range(4)])

    assert shop.settled("/orders/o-1?as_of=2").json()["version"] == 2
    assert problem(shop.settled("/orders/o-1?as_of=5")) == (422, "invalid")


def test_what_the_caller_has_already_is_not_sent_again(shop: TimelineServer) -> None:
    shop.log.append(placed("o-1"), cancelled("o-1"))
    shop.settled("/orders/o-1?as_of=1")

    answer = shop.get("/orders/o-1?as_of=1", If_None_Match='"1"')

    assert (answer.status_code, answer.content) == (304, b"")
    assert problem(shop.get("/orders/o-1?as_of=1&as_of=2")) == (400, "malformed")
    assert problem(shop.get("/orders/o-1?as_of=1&limit=2")) == (400, "malformed")
