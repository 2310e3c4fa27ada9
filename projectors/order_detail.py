"""Each order in full: what was ordered, where it goes, and how far it has come."""

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
from schemas.values import Address, OrderLine
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


class OrderDetail(Row):
    """One order. When it was placed is the row's `created_at`."""

    order_id: str
    status: Status
    customer_id: str
    currency: str
    lines: tuple[OrderLine, ...]
    total: int
    ship_to: Address
    cancel_reason: str | None = None


def evolve(row: OrderDetail | None, event: OrderEvent) -> OrderDetail:
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


order_detail = Projection(
    name="order_detail",
    version=1,
    contexts=[ORDERS],
    row=OrderDetail,
    key="order_id",
    evolve=evolve,
)


def _placed(event: OrderPlaced) -> OrderDetail:
    return OrderDetail(
        order_id=event.order_id,
        status="placed",
        customer_id=event.customer_id,
        currency=event.currency,
        lines=event.lines,
        total=event.total,
        ship_to=event.ship_to,
    )
