"""What customers are told: pure functions from an event to the words of a mail."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from schemas.orders import OrderCancelled, OrderConfirmed
from schemas.payments import PaymentRefunded
from schemas.returns import ReturnFailed, ReturnLabelIssued, ReturnRefused
from schemas.values import OrderLine

# How many digits of an amount are behind the point, where they are not two (ISO 4217).
_NONE = {
    "BIF", "CLP", "DJF", "GNF", "ISK", "JPY", "KMF", "KRW", "PYG", "RWF", "UGX", "VND", "VUV",
    "XAF", "XOF", "XPF",
}  # fmt: skip
_THREE = {"BHD", "IQD", "JOD", "KWD", "LYD", "OMR", "TND"}


class Words(NamedTuple):
    """What is said, and of which kind it is."""

    kind: str
    title: str
    text: str


def order_confirmed(event: OrderConfirmed) -> Words:
    return _words(
        "order-confirmed",
        f"Your order {event.order_id} is confirmed",
        f"We have your payment of {money(event.total, event.currency)}, "
        "and a carrier takes your parcel:",
        *_goods(event.lines, event.currency),
    )


def order_cancelled(event: OrderCancelled) -> Words:
    return _words(
        "order-cancelled",
        f"Your order {event.order_id} is cancelled",
        f"It is cancelled for this reason: {event.reason}",
        *_goods(event.lines, event.currency),
        "What you had paid is paid back.",
    )


def payment_refunded(event: PaymentRefunded) -> Words:
    cause = "" if event.return_id is None else f" for your return {event.return_id}"
    return _words(
        "payment-refunded",
        f"Refund for your order {event.order_id}",
        f"We have paid back {money(event.amount, event.currency)}{cause}.",
    )


def return_label(event: ReturnLabelIssued) -> Words:
    return _words(
        "return-label",
        f"Label for your return {event.return_id}",
        f"Your return of goods of order {event.order_id} is approved.",
        f"Hand the parcel to {event.carrier} under the number {event.tracking}.",
    )


def return_refused(event: ReturnRefused) -> Words:
    return _words(
        "return-refused",
        f"Your return {event.return_id} is refused",
        f"We cannot take back goods of order {event.order_id}: {event.reason}",
    )


def return_failed(event: ReturnFailed) -> Words:
    return _words(
        "return-failed",
        f"Your return {event.return_id} could not be carried out",
        f"It is of order {event.order_id}. The reason: {event.reason}",
    )


def money(amount: int, currency: str) -> str:
    """An amount of minor units for people: `1999` EUR is `19.99 EUR`, and JPY `1999 JPY`."""
    if currency in _NONE:
        return f"{amount} {currency}"
    digits = 3 if currency in _THREE else 2
    whole, rest = divmod(amount, 10**digits)
    return f"{whole}.{rest:0{digits}} {currency}"


def _goods(lines: Iterable[OrderLine], currency: str) -> list[str]:
    return [
        f"  {line.quantity} x {line.sku} at {money(line.unit_price, currency)}" for line in lines
    ]


def _words(kind: str, title: str, *paragraphs: str) -> Words:
    return Words(kind, title, "\n".join(paragraphs) + "\n")
