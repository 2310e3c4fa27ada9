"""Each customer over all their orders: how many, what became of them, and what they are worth.

A customer's orders lie in several partitions, between which there is no order. So every event here
only adds to the row, and each fact is taken from the one event that carries all of it; the events
of one order come in their order, those of different orders in any.
"""

from __future__ import annotations

from typing import assert_never

from msgspec import field

from schemas.orders import ORDERS, OrderCancelled, OrderConfirmed, OrderPlaced, OrderReturned
from tidelog import Projection, Row, replace


class CustomerSummary(Row):
    """One customer. `orders_returned` counts orders of which nothing is left with the customer.

    `lifetime_value` is, by currency and in minor units, what was bought less what was taken back.
    """

    customer_id: str
    orders_placed: int = 0
    orders_confirmed: int = 0
    orders_cancelled: int = 0
    orders_returned: int = 0
    returns: int = 0
    lifetime_value: dict[str, int] = field(default_factory=dict)


CustomerEvent = OrderPlaced | OrderConfirmed | OrderCancelled | OrderReturned


def evolve(row: CustomerSummary | None, event: CustomerEvent) -> CustomerSummary:
    """The customer after one more event of one of their orders."""
    customer = row or CustomerSummary(customer_id=event.customer_id)
    match event:
        case OrderPlaced():
            return replace(customer, orders_placed=customer.orders_placed + 1)
        case OrderConfirmed(currency=currency, total=total):
            sold = replace(customer, orders_confirmed=customer.orders_confirmed + 1)
            return _worth(sold, currency, total)
        case OrderCancelled():
            cancelled = replace(customer, orders_cancelled=customer.orders_cancelled + 1)
            # Before the confirmation there was no sale to take back.
            return _worth(cancelled, event.currency, -event.total) if event.confirmed else cancelled
        case OrderReturned(currency=currency, amount=amount, complete=complete):
            returned = replace(
                customer,
                returns=customer.returns + 1,
                orders_returned=customer.orders_returned + complete,
            )
            return _worth(returned, currency, -amount)
    assert_never(event)


customer_summary = Projection(
    name="customer_summary",
    version=1,
    contexts=[ORDERS],
    row=CustomerSummary,
    key="customer_id",
    evolve=evolve,
)


def _worth(customer: CustomerSummary, currency: str, more: int) -> CustomerSummary:
    value = customer.lifetime_value
    return replace(customer, lifetime_value={**value, currency: value.get(currency, 0) + more})
