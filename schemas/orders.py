"""Orders: what a customer asked for, and how far it has come. The order says yes or no to a cancel.

An order ends with exactly one of OrderConfirmed (then possibly cancelled, delivered, returned) or
OrderCancelled. Every event holds what a read model needs, so that a fold over many orders needs
one event only: the three that change sales carry customer, lines, amounts, currency and the day.

The day is `paid_on`, the UTC day on which the payment provider took the money. `decide` has no
clock, so a day must come in with a command; this one is reported by the provider, is the same on
every retry, and is the day that the books know. An OrderCancelled or OrderReturned repeats it, so
that what was sold on a day is taken off that same day. When an event was recorded (placed,
confirmed, delivered) is its `ce_time`; the engine keeps it and no event repeats it.
"""

from __future__ import annotations

from schemas.values import (
    Address,
    Amount,
    Currency,
    CurrencyCode,
    Day,
    GoodsLines,
    OrderLines,
    check_day,
    check_each_sku_once,
    check_total,
)
from tidelog.message import Command, Context, Event, Id, Text


class PlaceOrder(Command):
    """Order these lines. Placing it again with the same content changes nothing."""

    order_id: Id
    customer_id: Id
    currency: Currency
    lines: OrderLines
    ship_to: Address

    def __post_init__(self) -> None:
        check_each_sku_once(self.lines)
        check_total(self.lines)


class CancelOrder(Command):
    """Undo the order: sent by the customer, and by the saga where a step was refused."""

    order_id: Id
    reason: Text


class MarkOrderReserved(Command):
    """The stock of every line is reserved."""

    order_id: Id


class MarkOrderPaid(Command):
    """The payment provider took the money, on this day."""

    order_id: Id
    paid_on: Day

    def __post_init__(self) -> None:
        check_day(self.paid_on, "paid_on")


class ConfirmOrder(Command):
    """The shipment is arranged: the order stands. Quiet where a cancellation came first."""

    order_id: Id


class CompleteCancellation(Command):
    """Everything that was asked for is undone: stock, payment, shipment."""

    order_id: Id


class MarkOrderDelivered(Command):
    """The parcel arrived. Where it outran a cancellation, the sale stands."""

    order_id: Id


class MarkOrderReturned(Command):
    """The goods of a return arrived: take them back, at most what was bought."""

    order_id: Id
    return_id: Id
    lines: GoodsLines

    def __post_init__(self) -> None:
        check_each_sku_once(self.lines)


class OrderPlaced(Event):
    """A customer placed an order."""

    order_id: Id
    customer_id: Id
    currency: CurrencyCode
    lines: OrderLines
    total: Amount
    ship_to: Address


class OrderReserved(Event):
    """The stock of every line is reserved."""

    order_id: Id


class OrderPaid(Event):
    """The total was paid."""

    order_id: Id
    amount: Amount
    currency: CurrencyCode
    paid_on: Day


class OrderConfirmed(Event):
    """The order stands: it is paid and its shipment is arranged. This is the sale."""

    order_id: Id
    customer_id: Id
    currency: CurrencyCode
    lines: OrderLines
    total: Amount
    paid_on: Day


class OrderCancellationRequested(Event):
    """The order is to be undone. `confirmed` says whether it had been confirmed before."""

    order_id: Id
    reason: Text
    confirmed: bool


class OrderCancelled(Event):
    """The order is undone in full.

    `confirmed` says whether a sale is taken back; then `paid_on` is the day of that sale. An order
    that was never paid has no day.
    """

    order_id: Id
    customer_id: Id
    currency: CurrencyCode
    lines: OrderLines
    total: Amount
    reason: Text
    confirmed: bool
    paid_on: Day | None


class OrderDelivered(Event):
    """The parcel arrived."""

    order_id: Id


class OrderReturned(Event):
    """Goods came back: these lines, for this amount at the prices paid.

    One per return. `complete` says that nothing of the order is left with the customer; `paid_on`
    is the day of the sale.
    """

    order_id: Id
    return_id: Id
    customer_id: Id
    currency: CurrencyCode
    lines: OrderLines
    amount: Amount
    complete: bool
    paid_on: Day


OrderCommand = (
    PlaceOrder
    | CancelOrder
    | MarkOrderReserved
    | MarkOrderPaid
    | ConfirmOrder
    | CompleteCancellation
    | MarkOrderDelivered
    | MarkOrderReturned
)
OrderEvent = (
    OrderPlaced
    | OrderReserved
    | OrderPaid
    | OrderConfirmed
    | OrderCancellationRequested
    | OrderCancelled
    | OrderDelivered
    | OrderReturned
)

ORDERS = Context(name="orders", key="order_id", commands=OrderCommand, events=OrderEvent)
