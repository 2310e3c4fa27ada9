"""Payments: take the money once, void it, pay it back; unknown is never taken for declined.

The provider knows a payment by its order, so that however often it is asked, it charges once. Where
it gives no answer it is asked what became of the payment. When the tries are used up the payment
is voided by its key, again and again, until the provider has said how it stands.
"""

from __future__ import annotations

from typing import Any

from schemas.payments import (
    PaymentCommand,
    PaymentRefundRequested,
    PaymentRequested,
    PaymentVoided,
    RecordPaymentCaptured,
    RecordPaymentDeclined,
    RecordPaymentVoided,
    RecordRefund,
)
from tidelog.effects.definition import (
    Attempt,
    Effect,
    NoAnswer,
    NotSent,
    RetryPolicy,
    WorkRefused,
    effect,
)
from tidelog.effects.dependency import Answer, Dependency

OK = 200
NOT_FOUND = 404


class Payments:
    """The effects of payments, at one provider."""

    def __init__(self, provider: Dependency) -> None:
        self._provider = provider

    def effects(self, retries: RetryPolicy) -> tuple[Effect, ...]:
        """Every one of them."""
        return (
            effect(PaymentRequested, self.take_payment, retries=retries),
            effect(PaymentVoided, self.void_payment, retries=retries),
            effect(PaymentRefundRequested, self.pay_back, retries=retries),
        )

    async def take_payment(self, event: PaymentRequested, attempt: Attempt) -> PaymentCommand:
        """Charge, or find out what became of it."""
        key = payment_key(event.order_id)
        if attempt.giving_up:
            return _recorded(event.order_id, await self._void(event.order_id, attempt))
        content = {
            "order_id": event.order_id,
            "customer_id": event.customer_id,
            "amount": event.amount,
            "currency": event.currency,
        }
        try:
            answer = await self._provider.call(
                "POST",
                "/payments",
                correlation_id=attempt.correlation_id,
                key=key,
                body=content,
            )
        except NotSent:
            raise
        except NoAnswer as unknown:
            answer = await self._provider.call(
                "GET", f"/payments/{key}", correlation_id=attempt.correlation_id
            )
            if answer.status == NOT_FOUND:
                # It may still be on its way: that it is not there says nothing.
                raise NoAnswer(f"{unknown} The provider does not know the payment yet.") from None
        return _recorded(event.order_id, _content(answer))

    async def void_payment(
        self, event: PaymentVoided, attempt: Attempt
    ) -> RecordPaymentCaptured | None:
        """Tell the provider; the payment itself pays back what had been taken by then."""
        found = await self._void(event.order_id, attempt)
        if found["status"] != "captured":
            return None  # It is void in our books already, or was declined.
        return _captured(event.order_id, found)

    async def pay_back(self, event: PaymentRefundRequested, attempt: Attempt) -> RecordRefund:
        """Refund, once by its key."""
        answer = await self._provider.call(
            "POST",
            "/refunds",
            correlation_id=attempt.correlation_id,
            key=refund_key(event.order_id, event.return_id),
            body={
                "payment": payment_key(event.order_id),
                "order_id": event.order_id,
                "amount": event.amount,
                "currency": event.currency,
            },
        )
        _content(answer)
        return RecordRefund(order_id=event.order_id, amount=event.amount, return_id=event.return_id)

    async def _void(self, order_id: str, attempt: Attempt) -> dict[str, Any]:
        answer = await self._provider.call(
            "POST",
            f"/payments/{payment_key(order_id)}/void",
            correlation_id=attempt.correlation_id,
            body={"order_id": order_id},
        )
        return _content(answer)


def payment_key(order_id: str) -> str:
    """The provider's key of an order's payment."""
    return f"payment:{order_id}"


def refund_key(order_id: str, return_id: str | None) -> str:
    """The provider's key of a refund: of a return, or of all that is left."""
    return f"refund-all:{order_id}" if return_id is None else f"refund:{order_id}:{return_id}"


def _content(answer: Answer) -> dict[str, Any]:
    if answer.status != OK:
        raise WorkRefused(f"The provider answered {answer.status}: {answer.body.get('type', '')}")
    return answer.body


def _recorded(order_id: str, found: dict[str, Any]) -> PaymentCommand:
    match found["status"]:
        case "captured":
            return _captured(order_id, found)
        case "declined":
            return RecordPaymentDeclined(order_id=order_id, reason=found["reason"])
        case "voided":
            return RecordPaymentVoided(order_id=order_id)
    raise WorkRefused(f"The provider knows a status that we do not: {found['status']!r}")


def _captured(order_id: str, found: dict[str, Any]) -> RecordPaymentCaptured:
    return RecordPaymentCaptured(
        order_id=order_id, amount=found["amount"], captured_on=found["captured_on"]
    )
