"""Each order on one line of a list: whose it is, what it costs, and how far it has come."""

from __future__ import annotations

from typing import Literal, assert_never

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
from tidelog import Projection, Row, replace

Status = Literal[
    "placed",
    "reserved",
    "paid",
    "confirmed",
    "cancelling",
    "cancelled",
    "delivered",
    "returned",
]


class OrderSummary(Row):
    """One order; `units` are its pieces. When it was placed is the row's `created_at`."""

    order_id: str
    status: Status
    customer_id: str
    currency: str
    units: int
    total: int
    cancel_reason: str | None = None


def evolve(row: OrderSummary | None, event: OrderEvent) -> OrderSummary:
    """The order after the event."""
    if isinstance(event, OrderPlaced):
        return _placed(event)
    assert row is not None, "an order begins with OrderPlaced"
    match event:
        case OrderReserved():
            return replace(row, status="reserved")
        case OrderPaid():
            return replace(row, status="paid")
        case OrderConfirmed():
            # A parcel can outrun a cancellation: then the sale stands.
            return replace(row, status="confirmed", cancel_reason=None)
        case OrderCancellationRequested(reason=reason):
            return replace(row, status="cancelling", cancel_reason=reason)
        case OrderCancelled(reason=reason):
            return replace(row, status="cancelled", cancel_reason=reason)
        case OrderDelivered():
            return replace(row, status="delivered", cancel_reason=None)
        case OrderReturned():
            return replace(row, status="returned")
    assert_never(event)


order_summary = Projection(
    name="order_summary",
    version=2,
    contexts=[ORDERS],
    row=OrderSummary,
    key="order_id",
    evolve=evolve,
    # Of columns that never change, so that an update touches no index.
    indexes=[
        ["created_at", "order_id"],
        ["total", "order_id"],
        ["customer_id", "created_at", "order_id"],
    ],
)


def _placed(event: OrderPlaced) -> OrderSummary:
    return OrderSummary(
        order_id=event.order_id,
        status="placed",
        customer_id=event.customer_id,
        currency=event.currency,
        units=sum(line.quantity for line in event.lines),
        total=event.total,
    )
