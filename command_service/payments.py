"""The payment of one order: asked for once, captured at most once, refunded at most in full.

    requested ── captured ── refunds
        ├── declined
        └── voided

The provider may answer late or twice. A capture that is reported after a decline or a void is
recorded, for it is a fact, and its refund is asked for in the same breath.
"""

from __future__ import annotations

from typing import Literal, assert_never

from schemas.payments import (
    PAYMENTS,
    PaymentCaptured,
    PaymentCommand,
    PaymentDeclined,
    PaymentEvent,
    PaymentRefunded,
    PaymentRefundRequested,
    PaymentRequested,
    PaymentVoided,
    RecordPaymentCaptured,
    RecordPaymentDeclined,
    RecordPaymentVoided,
    RecordRefund,
    RequestPayment,
    RequestRefund,
    VoidPayment,
)
from tidelog import Aggregate, Rejected, State, replace

REFUNDS_MAX = 100
"""How many refunds for returns one payment can have; its state remembers each."""


class Refund(State):
    """One refund: for a return, or (no return) of all that was left."""

    return_id: str | None
    amount: int
    paid: bool = False


class Payment(State):
    """What the rules need: what was asked for, what came of it, and the refunds."""

    status: Literal["new", "requested", "captured", "declined", "voided"] = "new"
    amount: int = 0
    currency: str = ""
    refunds: tuple[Refund, ...] = ()

    @property
    def refundable(self) -> int:
        """What was captured and not yet asked back."""
        captured = self.amount if self.status == "captured" else 0
        return captured - sum(refund.amount for refund in self.refunds)


class PaymentDiffers(Rejected):
    """The order's payment was requested with another amount or currency: there is only one."""


class PaymentNeverRequested(Rejected):
    """No payment was requested for this order, so the provider has nothing to report."""


class PaymentAlreadyCaptured(Rejected):
    """The provider reported the money as taken before: it cannot be declined or void now."""


class PaymentNotCaptured(Rejected):
    """Only money that was captured can be refunded."""


class AmountDiffers(Rejected):
    """The provider reports another amount than it was asked for. A person must look."""


class RefundExceedsPayment(Rejected):
    """More would be refunded than was captured."""


class RefundDiffers(Rejected):
    """The refund of this return was requested with another amount."""


class RefundNeverRequested(Rejected):
    """No such refund was requested, so the provider has nothing to report."""


class TooManyRefunds(Rejected):
    """A payment can have at most 100 refunds for returns."""


def decide(command: PaymentCommand, payment: Payment) -> list[PaymentEvent]:
    """The events that the command causes."""
    match command:
        case RequestPayment():
            return _request(command, payment)
        case RecordPaymentCaptured():
            return _record_captured(command, payment)
        case RecordPaymentDeclined():
            return _record_declined(command, payment)
        case RecordPaymentVoided():
            return _record_voided(command, payment)
        case VoidPayment():
            return _void(command, payment)
        case RequestRefund():
            return _request_refund(command, payment)
        case RecordRefund():
            return _record_refund(command, payment)
    assert_never(command)


def evolve(payment: Payment, event: PaymentEvent) -> Payment:
    """The payment after the event."""
    match event:
        case PaymentRequested(amount=amount, currency=currency):
            return replace(payment, status="requested", amount=amount, currency=currency)
        case PaymentCaptured():
            return replace(payment, status="captured")
        case PaymentDeclined():
            return replace(payment, status="declined")
        case PaymentVoided():
            return replace(payment, status="voided")
        case PaymentRefundRequested(return_id=return_id, amount=amount):
            refund = Refund(return_id=return_id, amount=amount)
            return replace(payment, refunds=(*payment.refunds, refund))
        case PaymentRefunded(return_id=return_id):
            return replace(payment, refunds=_paid(payment, return_id))
    assert_never(event)


payments = Aggregate(
    name="payment", context=PAYMENTS, initial=Payment(), decide=decide, evolve=evolve
)


def _request(command: RequestPayment, payment: Payment) -> list[PaymentEvent]:
    asked = payment.currency != ""
    if asked:
        if (command.amount, command.currency) != (payment.amount, payment.currency):
            raise PaymentDiffers(command.order_id)
        return []
    if payment.status == "voided":
        return []  # Voided before it was requested: PaymentVoided is the answer.
    return [
        PaymentRequested(
            order_id=command.order_id,
            customer_id=command.customer_id,
            amount=command.amount,
            currency=command.currency,
        )
    ]


def _record_captured(command: RecordPaymentCaptured, payment: Payment) -> list[PaymentEvent]:
    if payment.currency == "":
        raise PaymentNeverRequested(command.order_id)
    if command.amount != payment.amount:
        raise AmountDiffers(command.order_id)
    if payment.status == "captured":
        return []
    late = payment.status != "requested"
    captured = PaymentCaptured(
        order_id=command.order_id,
        amount=payment.amount,
        currency=payment.currency,
        captured_on=command.captured_on,
        late=late,
    )
    if not late:
        return [captured]
    return [captured, _refund_of_all(command.order_id, payment, payment.amount)]


def _record_declined(command: RecordPaymentDeclined, payment: Payment) -> list[PaymentEvent]:
    if _still_open(command, payment):
        return [PaymentDeclined(order_id=command.order_id, reason=command.reason)]
    return []


def _record_voided(command: RecordPaymentVoided, payment: Payment) -> list[PaymentEvent]:
    if _still_open(command, payment):
        return [PaymentVoided(order_id=command.order_id)]
    return []


def _still_open(command: RecordPaymentDeclined | RecordPaymentVoided, payment: Payment) -> bool:
    """Whether the provider's answer is the first one; a contradiction is refused."""
    if payment.currency == "":
        raise PaymentNeverRequested(command.order_id)
    if payment.status == "captured":
        raise PaymentAlreadyCaptured(command.order_id)
    return payment.status == "requested"


def _void(command: VoidPayment, payment: Payment) -> list[PaymentEvent]:
    match payment.status:
        case "new" | "requested":
            return [PaymentVoided(order_id=command.order_id)]
        case "declined" | "voided":
            return []
        case "captured":
            if any(refund.return_id is None for refund in payment.refunds):
                return []
            return [_refund_of_all(command.order_id, payment, payment.refundable)]
    assert_never(payment.status)


def _refund_of_all(order_id: str, payment: Payment, amount: int) -> PaymentRefundRequested:
    return PaymentRefundRequested(
        order_id=order_id, amount=amount, currency=payment.currency, return_id=None
    )


def _request_refund(command: RequestRefund, payment: Payment) -> list[PaymentEvent]:
    refund = _refund(payment, command.return_id)
    if refund is not None:
        if refund.amount != command.amount:
            raise RefundDiffers(command.order_id)
        return []
    if payment.status != "captured":
        raise PaymentNotCaptured(command.order_id)
    if command.amount > payment.refundable:
        raise RefundExceedsPayment(command.order_id)
    if len(payment.refunds) >= REFUNDS_MAX:
        raise TooManyRefunds(command.order_id)
    return [
        PaymentRefundRequested(
            order_id=command.order_id,
            amount=command.amount,
            currency=payment.currency,
            return_id=command.return_id,
        )
    ]


def _record_refund(command: RecordRefund, payment: Payment) -> list[PaymentEvent]:
    refund = _refund(payment, command.return_id)
    if refund is None:
        raise RefundNeverRequested(command.order_id)
    if refund.amount != command.amount:
        raise AmountDiffers(command.order_id)
    if refund.paid:
        return []
    return [
        PaymentRefunded(
            order_id=command.order_id,
            amount=refund.amount,
            currency=payment.currency,
            return_id=command.return_id,
        )
    ]


def _refund(payment: Payment, return_id: str | None) -> Refund | None:
    return next((r for r in payment.refunds if r.return_id == return_id), None)


def _paid(payment: Payment, return_id: str | None) -> tuple[Refund, ...]:
    return tuple(
        replace(refund, paid=True) if refund.return_id == return_id else refund
        for refund in payment.refunds
    )
