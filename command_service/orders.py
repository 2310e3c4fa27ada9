"""The order: says yes or no to a cancel, and keeps how far the order has come.

    placed ── reserved ── paid ── confirmed ── delivered ── returned
       └─────────┴─────────┴──────────┴─ cancelling ── cancelled

Every undoing, by the customer or by the saga, enters through `cancelling`. What the saga reports
after that is quiet: OrderCancellationRequested is the answer to it, already there. Only a parcel
that arrived can leave `cancelling` again; shipping decides whether it or the cancel won.
"""

from __future__ import annotations

from typing import Literal, assert_never

from msgspec import field

from schemas.orders import (
    ORDERS,
    CancelOrder,
    CompleteCancellation,
    ConfirmOrder,
    MarkOrderDelivered,
    MarkOrderPaid,
    MarkOrderReserved,
    MarkOrderReturned,
    OrderCancellationRequested,
    OrderCancelled,
    OrderCommand,
    OrderConfirmed,
    OrderDelivered,
    OrderEvent,
    OrderPaid,
    OrderPlaced,
    OrderReserved,
    OrderReturned,
    PlaceOrder,
)
from schemas.values import OrderLine, total_of
from tidelog import Aggregate, Rejected, State, replace

RETURNS_MAX = 100
"""How many returns one order can have; its state remembers each."""


class Order(State):
    """What the rules need: the content, how far it has come, and what was taken back."""

    status: Literal[
        "new",
        "placed",
        "reserved",
        "paid",
        "confirmed",
        "cancelling",
        "cancelled",
        "delivered",
        "returned",
    ] = "new"
    content: OrderPlaced | None = None
    paid_on: str | None = None
    confirmed: bool = False
    reason: str = ""
    returned: dict[str, int] = field(default_factory=dict)
    """Pieces taken back per SKU."""
    returns: tuple[str, ...] = ()


class OrderNeverPlaced(Rejected):
    """There is no such order: it was never placed."""


class OrderAlreadyPlaced(Rejected):
    """An order with this id was already placed with other content. Use a new order id."""


class OrderAlreadyDelivered(Rejected):
    """A delivered order cannot be cancelled. Request a return instead."""


class OrderNotReserved(Rejected):
    """An order is paid only after its stock is reserved."""


class OrderNotPaid(Rejected):
    """An order is confirmed only after it is paid."""


class OrderNotConfirmed(Rejected):
    """Only a confirmed order can be delivered."""


class OrderNotCancelling(Rejected):
    """Only an order whose cancellation was requested can complete it."""


class OrderAlreadyCancelled(Rejected):
    """The order is cancelled: nothing of it can be delivered or returned."""


class OrderNotDelivered(Rejected):
    """Only goods that were delivered can be returned."""


class MoreReturnedThanBought(Rejected):
    """A return names goods that the order does not hold, or more than are left of them."""


class TooManyReturns(Rejected):
    """An order can have at most 100 returns."""


def decide(command: OrderCommand, order: Order) -> list[OrderEvent]:
    """The events that the command causes."""
    if isinstance(command, PlaceOrder):
        return _place(command, order)
    content = order.content
    if content is None:
        raise OrderNeverPlaced(command.order_id)
    match command:
        case CancelOrder():
            return _cancel(command, order)
        case MarkOrderReserved():
            return _mark_reserved(command, order)
        case MarkOrderPaid():
            return _mark_paid(command, order, content)
        case ConfirmOrder():
            return _confirm(order, content)
        case CompleteCancellation():
            return _complete_cancellation(order, content)
        case MarkOrderDelivered():
            return _mark_delivered(order, content)
        case MarkOrderReturned():
            return _mark_returned(command, order, content)
    assert_never(command)


def evolve(order: Order, event: OrderEvent) -> Order:
    """The order after the event."""
    match event:
        case OrderPlaced():
            return replace(order, status="placed", content=event)
        case OrderReserved():
            return replace(order, status="reserved")
        case OrderPaid(paid_on=paid_on):
            return replace(order, status="paid", paid_on=paid_on)
        case OrderConfirmed():
            return replace(order, status="confirmed", confirmed=True)
        case OrderCancellationRequested(reason=reason):
            return replace(order, status="cancelling", reason=reason)
        case OrderCancelled():
            return replace(order, status="cancelled")
        case OrderDelivered():
            return replace(order, status="delivered")
        case OrderReturned():
            return _take_back(order, event)
    assert_never(event)


orders = Aggregate(name="order", context=ORDERS, initial=Order(), decide=decide, evolve=evolve)


def _place(command: PlaceOrder, order: Order) -> list[OrderEvent]:
    placed = OrderPlaced(
        order_id=command.order_id,
        customer_id=command.customer_id,
        currency=command.currency,
        lines=command.lines,
        total=total_of(command.lines),
        ship_to=command.ship_to,
    )
    if order.content is None:
        return [placed]
    if order.content == placed:
        return []
    raise OrderAlreadyPlaced(command.order_id)


def _cancel(command: CancelOrder, order: Order) -> list[OrderEvent]:
    if order.status in ("cancelling", "cancelled"):
        return []
    if order.status in ("delivered", "returned"):
        raise OrderAlreadyDelivered(command.order_id)
    return [
        OrderCancellationRequested(
            order_id=command.order_id,
            reason=command.reason,
            confirmed=order.confirmed,
        )
    ]


def _mark_reserved(command: MarkOrderReserved, order: Order) -> list[OrderEvent]:
    if order.status != "placed":
        return []
    return [OrderReserved(order_id=command.order_id)]


def _mark_paid(command: MarkOrderPaid, order: Order, content: OrderPlaced) -> list[OrderEvent]:
    if order.status == "placed":
        raise OrderNotReserved(command.order_id)
    if order.status != "reserved":
        return []
    return [
        OrderPaid(
            order_id=command.order_id,
            amount=content.total,
            currency=content.currency,
            paid_on=command.paid_on,
        )
    ]


def _confirm(order: Order, content: OrderPlaced) -> list[OrderEvent]:
    if order.status in ("placed", "reserved"):
        raise OrderNotPaid(content.order_id)
    if order.status != "paid":
        return []
    return [_confirmed(order, content)]


def _confirmed(order: Order, content: OrderPlaced) -> OrderConfirmed:
    return OrderConfirmed(
        order_id=content.order_id,
        customer_id=content.customer_id,
        currency=content.currency,
        lines=content.lines,
        total=content.total,
        paid_on=_paid_on(order),
    )


def _complete_cancellation(order: Order, content: OrderPlaced) -> list[OrderEvent]:
    if order.status == "cancelled":
        return []
    if order.status != "cancelling":
        raise OrderNotCancelling(content.order_id)
    return [
        OrderCancelled(
            order_id=content.order_id,
            customer_id=content.customer_id,
            currency=content.currency,
            lines=content.lines,
            total=content.total,
            reason=order.reason,
            confirmed=order.confirmed,
            paid_on=order.paid_on,
        )
    ]


def _mark_delivered(order: Order, content: OrderPlaced) -> list[OrderEvent]:
    delivered = OrderDelivered(order_id=content.order_id)
    if order.status in ("delivered", "returned"):
        return []
    if order.status == "cancelled":
        raise OrderAlreadyCancelled(content.order_id)
    if order.confirmed:
        return [delivered]
    if order.status == "cancelling" and order.paid_on is not None:
        # The parcel outran a cancel that came before the confirmation: the sale stands.
        return [_confirmed(order, content), delivered]
    raise OrderNotConfirmed(content.order_id)


def _mark_returned(
    command: MarkOrderReturned, order: Order, content: OrderPlaced
) -> list[OrderEvent]:
    if command.return_id in order.returns:
        return []
    if order.status == "cancelled":
        raise OrderAlreadyCancelled(command.order_id)
    if order.status not in ("delivered", "returned"):
        raise OrderNotDelivered(command.order_id)
    if len(order.returns) >= RETURNS_MAX:
        raise TooManyReturns(command.order_id)
    lines = _priced(command, order, content)
    left = sum(line.quantity for line in content.lines) - sum(order.returned.values())
    return [
        OrderReturned(
            order_id=command.order_id,
            return_id=command.return_id,
            customer_id=content.customer_id,
            currency=content.currency,
            lines=lines,
            amount=total_of(lines),
            complete=left == sum(line.quantity for line in lines),
            paid_on=_paid_on(order),
        )
    ]


def _priced(
    command: MarkOrderReturned, order: Order, content: OrderPlaced
) -> tuple[OrderLine, ...]:
    """The returned lines at the prices paid, if the customer still holds that much."""
    bought = {line.sku: line for line in content.lines}
    priced = []
    for line in command.lines:
        original = bought.get(line.sku)
        taken_back = order.returned.get(line.sku, 0)
        if original is None or line.quantity + taken_back > original.quantity:
            raise MoreReturnedThanBought(command.order_id)
        priced.append(replace(original, quantity=line.quantity))
    return tuple(priced)


def _take_back(order: Order, event: OrderReturned) -> Order:
    returned = dict(order.returned)
    for line in event.lines:
        returned[line.sku] = returned.get(line.sku, 0) + line.quantity
    return replace(
        order,
        status="returned",
        returned=returned,
        returns=(*order.returns, event.return_id),
    )


def _paid_on(order: Order) -> str:
    assert order.paid_on is not None, "an order goes on only after it is paid"
    return order.paid_on
