"""The payment of each order: how far it has come, what was taken and what was paid back."""

from __future__ import annotations

from typing import Literal, assert_never

from schemas.payments import (
    PAYMENTS,
    PaymentCaptured,
    PaymentDeclined,
    PaymentEvent,
    PaymentRefunded,
    PaymentRefundRequested,
    PaymentRequested,
    PaymentVoided,
)
from tidelog import Projection, Row, replace

Status = Literal["requested", "captured", "declined", "refunded", "voided"]


class PaymentStatus(Row):
    """One payment, in minor units. A void that came before the request knows no currency."""

    order_id: str
    status: Status
    currency: str | None = None
    captured: int = 0
    refunded: int = 0


def evolve(row: PaymentStatus | None, event: PaymentEvent) -> PaymentStatus:
    """The payment after the event."""
    payment = row or PaymentStatus(order_id=event.order_id, status="requested")
    match event:
        case PaymentRequested(currency=currency):
            return replace(payment, status="requested", currency=currency)
        case PaymentCaptured(amount=amount):
            return replace(payment, status="captured", captured=amount)
        case PaymentDeclined():
            return replace(payment, status="declined")
        case PaymentVoided():
            return replace(payment, status="voided")
        case PaymentRefundRequested():
            return payment  # Asked for is not paid: the provider's answer is an event of its own.
        case PaymentRefunded(amount=amount):
            return _refunded(payment, amount)
    assert_never(event)


payment_status = Projection(
    name="payment_status",
    version=1,
    contexts=[PAYMENTS],
    row=PaymentStatus,
    key="order_id",
    evolve=evolve,
)


def _refunded(payment: PaymentStatus, amount: int) -> PaymentStatus:
    """Refunded is a payment of which nothing is left; a part leaves it captured."""
    refunded = payment.refunded + amount
    status: Status = "refunded" if refunded >= payment.captured else payment.status
    return replace(payment, status=status, refunded=refunded)
