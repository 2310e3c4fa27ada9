"""Which events customers are told of: each asks for one notification, by an id of its own.

The mail is not sent here. The notification is asked for first, so that it stands in the log once,
however often the event comes; what stands there is then sent.
"""

from __future__ import annotations

from sagas.notifications import texts
from schemas.notifications import RequestNotification
from schemas.orders import OrderCancelled, OrderConfirmed, OrderPlaced
from schemas.payments import PaymentRefunded
from schemas.returns import ReturnFailed, ReturnLabelIssued, ReturnRefused
from tidelog.effects.definition import (
    Attempt,
    Effect,
    NotKnownYet,
    Reference,
    RetryPolicy,
    WorkRefused,
    effect,
)

LOCAL_PART_MAX = 64

# Payments and returns name the order only; who placed it is kept from the event that says so.
CUSTOMERS = Reference(
    name="customer",
    event=OrderPlaced,
    key=lambda event: str(event.order_id),
    value=lambda event: str(event.customer_id),
)


class Requests:
    """Asks for notifications. A customer's address is their id at the domain."""

    def __init__(self, domain: str) -> None:
        self._domain = domain

    def effects(self, retries: RetryPolicy) -> tuple[Effect, ...]:
        """Every one of them."""
        return (
            effect(OrderConfirmed, self.tell_of_confirmation, retries=retries),
            effect(OrderCancelled, self.tell_of_cancellation, retries=retries),
            effect(PaymentRefunded, self.tell_of_refund, retries=retries),
            effect(ReturnLabelIssued, self.tell_of_label, retries=retries),
            effect(ReturnRefused, self.tell_of_refusal, retries=retries),
            effect(ReturnFailed, self.tell_of_failure, retries=retries),
        )

    async def tell_of_confirmation(
        self, event: OrderConfirmed, attempt: Attempt
    ) -> RequestNotification:
        """The order stands."""
        words = texts.order_confirmed(event)
        return self._request(event.order_id, event.customer_id, words, attempt)

    async def tell_of_cancellation(
        self, event: OrderCancelled, attempt: Attempt
    ) -> RequestNotification:
        """The order is undone."""
        words = texts.order_cancelled(event)
        return self._request(event.order_id, event.customer_id, words, attempt)

    async def tell_of_refund(self, event: PaymentRefunded, attempt: Attempt) -> RequestNotification:
        """Money was paid back."""
        return await self._to_buyer(event.order_id, texts.payment_refunded(event), attempt)

    async def tell_of_label(
        self, event: ReturnLabelIssued, attempt: Attempt
    ) -> RequestNotification:
        """The return may be sent."""
        return await self._to_buyer(event.order_id, texts.return_label(event), attempt)

    async def tell_of_refusal(self, event: ReturnRefused, attempt: Attempt) -> RequestNotification:
        """The return may not be sent."""
        return await self._to_buyer(event.order_id, texts.return_refused(event), attempt)

    async def tell_of_failure(self, event: ReturnFailed, attempt: Attempt) -> RequestNotification:
        """The return came to nothing."""
        return await self._to_buyer(event.order_id, texts.return_failed(event), attempt)

    async def _to_buyer(
        self, order_id: str, words: texts.Words, attempt: Attempt
    ) -> RequestNotification:
        customer_id = await attempt.known(CUSTOMERS.name, order_id)
        if customer_id is None:
            raise NotKnownYet(f"Who placed order {order_id} is not known yet.")
        return self._request(order_id, customer_id, words, attempt)

    def _request(
        self, order_id: str, customer_id: str, words: texts.Words, attempt: Attempt
    ) -> RequestNotification:
        return RequestNotification(
            notification_id=f"{words.kind}.{attempt.message_id}",
            order_id=order_id,
            kind=words.kind,
            recipient=address_of(customer_id, self._domain),
            title=words.title,
            text=words.text,
        )


def address_of(customer_id: str, domain: str) -> str:
    """The customer's address. WorkRefused where no mail can have such a one (RFC 5321)."""
    if len(customer_id) > LOCAL_PART_MAX:
        raise WorkRefused(f"{customer_id} is longer than the {LOCAL_PART_MAX} that mail allows.")
    dots_are_inside = all(customer_id.split("."))
    return f"{customer_id}@{domain}" if dots_are_inside else f'"{customer_id}"@{domain}'
