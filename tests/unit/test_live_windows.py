"""Given events, the live windows count each in every window that its log time lies in."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta

import faust
import pytest

from projectors.live.figures import (
    BUCKETS_S,
    DURATION_S_MAX,
    HOP_S,
    NOTHING,
    SIZE_S,
    Figures,
    document,
    figures_of,
    plus,
    window_starts,
    windows,
)
from projectors.live.follower import LATE_S_MAX, OpenOrders
from schemas.inventory import StockReceived, StockReservationRefused
from schemas.orders import OrderCancelled, OrderConfirmed, OrderPlaced
from schemas.payments import PaymentDeclined
from tests.live_shop import HOME, LINES
from tidelog import Event
from tidelog.engine.reading import Fact, Partition

NOON = datetime(2026, 7, 31, 12, 0, 5, tzinfo=UTC)


def fact(event: Event, after_s: float = 0.0) -> Fact:
    """The event, recorded so long after noon."""
    at, time = Partition("orders", 0), NOON + timedelta(seconds=after_s)
    return Fact(event, at, 0, 1, 1, time, None)  # type: ignore[arg-type]


def placed(order_id: str) -> OrderPlaced:
    return OrderPlaced(
        order_id=order_id, customer_id="ada", currency="EUR", lines=LINES, total=250, ship_to=HOME
    )


def confirmed(order_id: str, currency: str = "EUR", total: int = 250) -> OrderConfirmed:
    return OrderConfirmed(
        order_id=order_id,
        customer_id="ada",
        currency=currency,
        lines=LINES,
        total=total,
        paid_on="2026-07-31",
    )


def cancelled(order_id: str) -> OrderCancelled:
    return OrderCancelled(
        order_id=order_id,
        customer_id="ada",
        currency="EUR",
        lines=LINES,
        total=250,
        reason="gone",
        confirmed=False,
        paid_on=None,
    )


def test_a_time_lies_in_every_window_that_has_begun_and_not_ended() -> None:
    for second in (0, 4, 9, 10, 59, 60, 61):
        time = datetime.fromtimestamp(1_000_000 * HOP_S + second, UTC)
        starts = [*window_starts(time)]
        assert len(starts) == SIZE_S // HOP_S
        for start in starts:
            assert start % HOP_S == 0
            assert start <= time.timestamp() < start + SIZE_S


def test_the_windows_are_those_that_faust_finds() -> None:
    faust_windows = faust.HoppingWindow(SIZE_S, HOP_S)
    for _ in range(1_000):
        time = random.uniform(1.7e9, 1.9e9)
        ranges = faust_windows.ranges(time)
        starts = window_starts(datetime.fromtimestamp(time, UTC))
        assert [start for start, _ in ranges] == [*starts]


def test_each_kind_of_event_is_counted_as_what_it_is() -> None:
    found = windows(
        [
            fact(placed("o-1")),
            fact(placed("o-2")),
            fact(confirmed("o-1", "EUR", 250), 2.0),
            fact(confirmed("o-3", "USD", 100), 2.0),
            fact(cancelled("o-2"), 3.0),
            fact(StockReservationRefused(sku="tea", order_id="o-2", quantity=1, available=0)),
            fact(PaymentDeclined(order_id="o-4", reason="no")),
            fact(StockReceived(sku="tea", quantity=1)),
        ]
    )

    figures = found[int(NOON.timestamp()) // HOP_S * HOP_S]
    shown = document(0, figures)
    assert shown["orders"] == {"placed": 2, "confirmed": 2, "cancelled": 1}
    assert shown["revenue"] == {"EUR": 250, "USD": 100}
    assert shown["refusals"] == {"stock_refused": 1, "payment_declined": 1}
    took = shown["placed_to_confirmed"]
    assert (took["count"], took["mean_seconds"], took["max_seconds"]) == (1, 2.0, 2.0)
    assert took["slower_than_measured"] == 1
    assert [each["to_seconds"] for each in took["buckets"] if each["count"]] == [2.5]


@pytest.mark.parametrize(("after_s", "measured"), [(DURATION_S_MAX, 1), (DURATION_S_MAX + 1, 0)])
def test_a_saga_that_took_too_long_is_counted_as_slower(after_s: int, measured: int) -> None:
    figures = figures_of(fact(confirmed("o-1"), after_s), NOON)

    assert figures is not None
    assert (figures.measured, figures.slower) == (measured, 1 - measured)


def test_a_duration_is_in_the_first_bucket_that_takes_it() -> None:
    for number, bound in enumerate([*BUCKETS_S, BUCKETS_S[-1] * 2]):
        figures = figures_of(fact(confirmed("o-1"), bound), NOON)
        assert figures is not None
        assert figures.duration_buckets.index(1) == number


def test_figures_add_up_in_any_order_and_grouping() -> None:
    each = [
        figures
        for second in range(20)
        for event in (placed("o"), confirmed("o", random.choice(["EUR", "USD"]), second))
        if (figures := figures_of(fact(event, second), NOON)) is not None
    ]
    expected = NOTHING
    for figures in each:
        expected = plus(expected, figures)

    for _ in range(20):
        parts = [*each]
        while len(parts) > 1:
            one = parts.pop(random.randrange(len(parts)))
            other = parts.pop(random.randrange(len(parts)))
            parts.append(plus(one, other))
        assert parts == [expected]
    assert expected != Figures()


def test_an_open_order_is_remembered_until_it_could_only_be_slower() -> None:
    remembered = OpenOrders()
    remembered.placed_at(fact(placed("o-1")))
    remembered.placed_at(fact(placed("o-2"), DURATION_S_MAX))
    assert remembered.placed_at(fact(confirmed("o-1"), DURATION_S_MAX)) == NOON

    remembered.placed_at(fact(placed("o-3"), 2 * DURATION_S_MAX + LATE_S_MAX + 1))
    assert len(remembered) == 1
    remembered.placed_at(fact(cancelled("o-3"), 2 * DURATION_S_MAX + LATE_S_MAX + 2))
    assert len(remembered) == 0
