"""Rows that many orders feed: the same in whatever order the orders' events come."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from datetime import date
from typing import Any

import hypothesis
from hypothesis import strategies as st

from projectors.customer_summary import CustomerSummary, customer_summary
from projectors.daily_sales import DailySales, daily_sales
from schemas.orders import (
    ORDERS,
    OrderCancellationRequested,
    OrderCancelled,
    OrderConfirmed,
    OrderDelivered,
    OrderEvent,
    OrderPaid,
    OrderPlaced,
    OrderReserved,
    OrderReturned,
)
from schemas.values import Address, OrderLine, total_of
from tests.read_side import record
from tidelog import Projection
from tidelog.engine.folding import Folder, StoredRow
from tidelog.engine.judge import Progress
from tidelog.engine.reading import EventReader, Fact, Partition
from tidelog.memory import MemoryCodec
from tidelog.testing import given

CODEC = MemoryCodec(ORDERS.event_types)
HOME = Address(name="Ada", street="1 Main St", city="Turin", postal_code="10121", country="IT")
DAYS = ("2026-07-31", "2026-08-01")

one_line = st.builds(
    OrderLine,
    sku=st.sampled_from(["tea", "cup", "pot"]),
    quantity=st.integers(1, 5),
    unit_price=st.integers(0, 1_000),
)
some_lines = st.lists(one_line, min_size=1, max_size=3, unique_by=lambda line: line.sku)


class Order:
    """The events of one order of a customer."""

    def __init__(
        self, order_id: str, customer_id: str, currency: str, lines: Sequence[OrderLine], day: str
    ) -> None:
        self.lines = tuple(lines)
        self.day = day
        self.whose: dict[str, Any] = {
            "order_id": order_id,
            "customer_id": customer_id,
            "currency": currency,
        }

    def placed(self) -> OrderPlaced:
        return OrderPlaced(**self.whose, lines=self.lines, total=self.total, ship_to=HOME)

    def confirmed(self) -> OrderConfirmed:
        return OrderConfirmed(**self.whose, lines=self.lines, total=self.total, paid_on=self.day)

    def cancelled(self, *, confirmed: bool) -> OrderCancelled:
        return OrderCancelled(
            **self.whose,
            lines=self.lines,
            total=self.total,
            reason="",
            confirmed=confirmed,
            paid_on=self.day if confirmed else None,
        )

    def returned(self, return_id: str, *lines: OrderLine, complete: bool) -> OrderReturned:
        return OrderReturned(
            **self.whose,
            return_id=return_id,
            lines=lines,
            amount=total_of(lines),
            complete=complete,
            paid_on=self.day,
        )

    @property
    def total(self) -> int:
        return total_of(self.lines)

    def history(self, journey: str) -> list[OrderEvent]:
        """All its events, to the end of this journey."""
        order_id = self.whose["order_id"]
        begun: list[OrderEvent] = [self.placed(), OrderReserved(order_id=order_id)]
        if journey == "cancelled":
            asked = OrderCancellationRequested(order_id=order_id, reason="", confirmed=False)
            return [*begun, asked, self.cancelled(confirmed=False)]
        paid = OrderPaid(
            order_id=order_id,
            amount=self.total,
            currency=self.whose["currency"],
            paid_on=self.day,
        )
        sold = [*begun, paid, self.confirmed()]
        if journey == "taken back":
            asked = OrderCancellationRequested(order_id=order_id, reason="", confirmed=True)
            return [*sold, asked, self.cancelled(confirmed=True)]
        sold.append(OrderDelivered(order_id=order_id))
        if journey == "returned":
            last = len(self.lines) - 1
            sold.extend(
                self.returned(f"{order_id}-{n}", line, complete=n == last)
                for n, line in enumerate(self.lines)
            )
        return sold


JOURNEYS = ("cancelled", "delivered", "taken back", "returned")

tea, cup = (
    OrderLine(sku="tea", quantity=2, unit_price=350),
    OrderLine(sku="cup", quantity=1, unit_price=900),
)
first = Order("o-1", "c-1", "EUR", [tea, cup], DAYS[0])
second = Order("o-2", "c-1", "EUR", [tea], DAYS[0])
abroad = Order("o-3", "c-1", "USD", [cup], DAYS[1])


def sales(day: str, currency: str, sku: str, *figures: int) -> tuple[str, DailySales]:
    units_sold, amount_sold, units_returned, amount_returned = figures
    key = f"{day}~{currency}~{sku}"
    return key, DailySales(
        sales_key=key,
        day=date.fromisoformat(day),
        sku=sku,
        currency=currency,
        units_sold=units_sold,
        amount_sold=amount_sold,
        units_returned=units_returned,
        amount_returned=amount_returned,
    )


def all_of(*orders: list[OrderEvent]) -> list[Any]:
    """The events of some orders, among them those that the read model does not fold."""
    return [event for events in orders for event in events]


def test_a_customer_is_worth_what_was_bought_by_currency() -> None:
    given(
        customer_summary, *all_of(first.history("delivered"), abroad.history("delivered"))
    ).then_row(
        "c-1",
        CustomerSummary(
            customer_id="c-1",
            orders_placed=2,
            orders_confirmed=2,
            lifetime_value={"EUR": 1600, "USD": 900},
        ),
    )


def test_what_is_taken_back_is_taken_off_a_customer_and_only_if_it_was_sold() -> None:
    given(
        customer_summary,
        *all_of(
            first.history("returned"), second.history("taken back"), abroad.history("cancelled")
        ),
    ).then_row(
        "c-1",
        CustomerSummary(
            customer_id="c-1",
            orders_placed=3,
            orders_confirmed=2,
            orders_cancelled=2,
            orders_returned=1,
            returns=2,
            lifetime_value={"EUR": 0},
        ),
    )


def test_a_customer_is_known_from_the_first_order_on() -> None:
    given(customer_summary, first.placed()).then_row(
        "c-1", CustomerSummary(customer_id="c-1", orders_placed=1)
    )


def test_sales_are_counted_by_the_day_on_which_they_were_paid() -> None:
    given(
        daily_sales,
        *all_of(
            first.history("delivered"), second.history("delivered"), abroad.history("delivered")
        ),
    ).then_row(*sales(DAYS[0], "EUR", "tea", 4, 1400, 0, 0)).then_row(
        *sales(DAYS[0], "EUR", "cup", 1, 900, 0, 0)
    ).then_row(*sales(DAYS[1], "USD", "cup", 1, 900, 0, 0))


def test_what_is_taken_back_is_taken_off_the_day_of_its_sale() -> None:
    given(daily_sales, *all_of(first.history("returned"), second.history("taken back"))).then_row(
        *sales(DAYS[0], "EUR", "tea", 4, 1400, 4, 1400)
    ).then_row(*sales(DAYS[0], "EUR", "cup", 1, 900, 1, 900))


def test_an_order_that_was_cancelled_before_its_sale_sells_nothing() -> None:
    assert given(daily_sales, *all_of(first.history("cancelled"))).rows == {}


def test_a_sku_may_hold_what_parts_the_key() -> None:
    odd = Order("o-4", "c-1", "EUR", [OrderLine(sku="a~b", quantity=1, unit_price=5)], DAYS[0])

    given(daily_sales, odd.confirmed()).then_row(*sales(DAYS[0], "EUR", "a~b", 1, 5, 0, 0))


@st.composite
def histories(draw: st.DrawFn) -> list[list[OrderEvent]]:
    """The events of some orders of two customers, each order to its own end."""
    return [
        Order(
            f"o-{n}",
            draw(st.sampled_from(["c-1", "c-2"])),
            draw(st.sampled_from(["EUR", "JPY"])),
            draw(some_lines),
            draw(st.sampled_from(DAYS)),
        ).history(draw(st.sampled_from(JOURNEYS)))
        for n in range(draw(st.integers(1, 4)))
    ]


def facts_of(orders: Sequence[Sequence[OrderEvent]]) -> list[list[Fact]]:
    """The events as the engine reads them, each order from a partition of its own."""
    reader = EventReader([ORDERS], CODEC)
    found = []
    for number, events in enumerate(orders):
        at = Partition("orders", number)
        records = [
            record(event, offset=n, sequence=n + 1, version=n + 1, context=ORDERS, codec=CODEC)
            for n, event in enumerate(events)
        ]
        found.append(reader.read({at: records}, {at: Progress()}).facts)
        assert len(found[-1]) == len(events)
    return found


def shuffled(orders: Sequence[Sequence[Fact]], chance: random.Random) -> list[Fact]:
    """All events in some order that keeps the order within each order."""
    turns = [number for number, events in enumerate(orders) for _ in events]
    chance.shuffle(turns)
    left = [iter(events) for events in orders]
    return [next(left[number]) for number in turns]


def folded(
    projection: Projection[Any, Any], facts: Sequence[Fact], chance: random.Random
) -> dict[str, StoredRow]:
    """The rows after the events, folded by the engine in batches of some sizes."""
    folder: Folder[Any] = Folder(projection)
    rows: dict[str, StoredRow] = {}
    while facts:
        size = chance.randint(1, 5)
        touches, failure = folder.touches(facts[:size])
        changes = folder.fold(touches, rows)
        assert failure is None
        assert not changes.parked, changes.parked
        rows, facts = {**rows, **changes.upserts}, facts[size:]
    return rows


@hypothesis.given(histories(), st.randoms(use_true_random=False))
def test_customers_are_the_same_in_whatever_order_their_orders_come(
    orders: list[list[OrderEvent]], chance: random.Random
) -> None:
    facts = facts_of(orders)

    one = folded(customer_summary, shuffled(facts, chance), chance)
    other = folded(customer_summary, shuffled(facts, chance), chance)

    assert one == other
    assert {key: row.row.lifetime_value for key, row in one.items()} == worth(orders)


@hypothesis.given(histories(), st.randoms(use_true_random=False))
def test_sales_are_the_same_in_whatever_order_the_orders_come(
    orders: list[list[OrderEvent]], chance: random.Random
) -> None:
    facts = facts_of(orders)

    one = folded(daily_sales, shuffled(facts, chance), chance)
    other = folded(daily_sales, shuffled(facts, chance), chance)

    assert one == other
    assert sum_of(one, "amount_sold", "amount_returned") == sum(
        sum(value.values()) for value in worth(orders).values()
    )
    for row in one.values():
        assert 0 <= row.row.units_returned <= row.row.units_sold


def worth(orders: Sequence[Sequence[OrderEvent]]) -> dict[str, dict[str, int]]:
    """What each customer kept and paid for, by currency, from each order's end alone."""
    found: dict[str, dict[str, int]] = {}
    for events in orders:
        placed, last = events[0], events[-1]
        assert isinstance(placed, OrderPlaced)
        value = found.setdefault(placed.customer_id, {})
        if isinstance(last, OrderCancelled) and not last.confirmed:
            continue
        value.setdefault(placed.currency, 0)
        if isinstance(last, OrderDelivered):
            value[placed.currency] += placed.total
    return found


def sum_of(rows: dict[str, StoredRow], sold: str, returned: str) -> int:
    figures: Counter[str] = Counter()
    for row in rows.values():
        figures[sold] += getattr(row.row, sold)
        figures[returned] += getattr(row.row, returned)
    return figures[sold] - figures[returned]
