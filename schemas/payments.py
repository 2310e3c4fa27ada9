"""Payments: the one payment of an order, with its refunds. It is never charged twice.

The payment provider works on its own time. What it reports late is recorded as it is, and undone
by the payment itself: money captured after a decline or a void is refunded at once.
"""

from __future__ import annotations

from schemas.values import Amount, CurrencyCode, Day, check_day
from tidelog.message import Command, Context, Event, Id, Text


class RequestPayment(Command):
    """Ask the provider for the order's total: one payment per order."""

    order_id: Id
    customer_id: Id
    amount: Amount
    currency: CurrencyCode


class RecordPaymentCaptured(Command):
    """The provider took this amount, on this UTC day by its own books."""

    order_id: Id
    amount: Amount
    captured_on: Day

    def __post_init__(self) -> None:
        check_day(self.captured_on, "captured_on")


class RecordPaymentDeclined(Command):
    """The provider said no, and took nothing."""

    order_id: Id
    reason: Text


class RecordPaymentVoided(Command):
    """The provider has confirmed that nothing was taken and nothing will be."""

    order_id: Id


class VoidPayment(Command):
    """Undo the payment, however far it has come.

    Not captured yet: it is void, and a capture that is reported later is refunded at once.
    Captured: what is not refunded yet is refunded.
    """

    order_id: Id


class RequestRefund(Command):
    """Give part of the money back for a return: one refund per return, never above the capture."""

    order_id: Id
    return_id: Id
    amount: Amount


class RecordRefund(Command):
    """The provider paid this refund: of the return that is named, or of the whole payment."""

    order_id: Id
    amount: Amount
    return_id: Id | None = None


class PaymentRequested(Event):
    """The provider is asked for this amount."""

    order_id: Id
    customer_id: Id
    amount: Amount
    currency: CurrencyCode


class PaymentCaptured(Event):
    """The provider took the money. `late`: after a decline or a void, so it is refunded at once."""

    order_id: Id
    amount: Amount
    currency: CurrencyCode
    captured_on: Day
    late: bool


class PaymentDeclined(Event):
    """The provider said no."""

    order_id: Id
    reason: Text


class PaymentRefundRequested(Event):
    """The provider is asked to pay back: for a return, or (no return named) all that is left."""

    order_id: Id
    amount: Amount
    currency: CurrencyCode
    return_id: Id | None


class PaymentRefunded(Event):
    """The provider paid back."""

    order_id: Id
    amount: Amount
    currency: CurrencyCode
    return_id: Id | None


class PaymentVoided(Event):
    """No money is to be taken for this order; the provider is told so where it was asked."""

    order_id: Id


PaymentCommand = (
    RequestPayment
    | RecordPaymentCaptured
    | RecordPaymentDeclined
    | RecordPaymentVoided
    | VoidPayment
    | RequestRefund
    | RecordRefund
)
PaymentEvent = (
    PaymentRequested
    | PaymentCaptured
    | PaymentDeclined
    | PaymentRefundRequested
    | PaymentRefunded
    | PaymentVoided
)

PAYMENTS = Context(name="payments", key="order_id", commands=PaymentCommand, events=PaymentEvent)
