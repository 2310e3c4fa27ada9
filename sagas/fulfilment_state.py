"""How far an order has come, with its stock, its payment and its shipment."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, assert_never

from msgspec import field

from schemas.inventory import (
    StockReleased,
    StockReservationRefused,
    StockReserved,
    StockReturned,
    StockSold,
)
from schemas.orders import (
    OrderCancellationRequested,
    OrderCancelled,
    OrderConfirmed,
    OrderDelivered,
    OrderPaid,
    OrderPlaced,
    OrderReserved,
)
from schemas.payments import (
    PaymentCaptured,
    PaymentDeclined,
    PaymentRefunded,
    PaymentRefundRequested,
    PaymentRequested,
    PaymentVoided,
)
from schemas.shipping import (
    ShipmentArranged,
    ShipmentCancelled,
    ShipmentDelivered,
    ShipmentDispatched,
    ShipmentRefused,
    ShipmentRequested,
)
from tidelog import State, replace

StockStatus = Literal["asked", "reserved", "refused", "released", "selling", "sold", "returned"]
PaymentStatus = Literal["none", "asked", "captured", "declined", "voided", "refunding", "refunded"]
ShipmentStatus = Literal["none", "asked", "arranged", "refused", "cancelled", "delivered"]


class Fulfilment(State):
    """How far the order, its stock, its payment and its shipment have come."""

    content: OrderPlaced | None = None
    order: Literal["open", "confirmed", "cancelling", "cancelled"] = "open"
    stock: dict[str, StockStatus] = field(default_factory=dict)
    payment: PaymentStatus = "none"
    shipment: ShipmentStatus = "none"

    @property
    def placed(self) -> OrderPlaced:
        """What was ordered."""
        assert self.content is not None, "a fulfilment begins with OrderPlaced"
        return self.content

    @property
    def order_id(self) -> str:
        """The order."""
        return self.placed.order_id


OrderEvent = (
    OrderPlaced
    | OrderReserved
    | OrderPaid
    | OrderConfirmed
    | OrderCancellationRequested
    | OrderCancelled
    | OrderDelivered
)
StockEvent = StockReserved | StockReservationRefused | StockReleased | StockSold | StockReturned
PaymentEvent = (
    PaymentRequested
    | PaymentCaptured
    | PaymentDeclined
    | PaymentVoided
    | PaymentRefundRequested
    | PaymentRefunded
)
ShipmentEvent = (
    ShipmentRequested
    | ShipmentArranged
    | ShipmentRefused
    | ShipmentCancelled
    | ShipmentDispatched
    | ShipmentDelivered
)


def remember(
    state: Fulfilment, event: OrderEvent | StockEvent | PaymentEvent | ShipmentEvent
) -> Fulfilment:
    """The state after the event."""
    if isinstance(event, OrderEvent):
        return _order(state, event)
    if isinstance(event, StockEvent):
        return _stock(state, event)
    if isinstance(event, PaymentEvent):
        return _payment(state, event)
    return _shipment(state, event)


def _order(state: Fulfilment, event: OrderEvent) -> Fulfilment:
    match event:
        case OrderPlaced():
            return replace(state, content=event, stock={line.sku: "asked" for line in event.lines})
        case OrderReserved():
            return replace(state, payment="asked")
        case OrderPaid():
            return replace(state, shipment="asked")
        case OrderConfirmed():
            selling: dict[str, StockStatus] = dict.fromkeys(state.stock, "selling")
            return replace(state, order="confirmed", stock=selling)
        case OrderCancellationRequested():
            return replace(state, order="cancelling")
        case OrderCancelled():
            return replace(state, order="cancelled")
        case OrderDelivered():
            return replace(state, order="confirmed")
    assert_never(event)


_STOCK_AFTER: Mapping[type[StockEvent], StockStatus] = {
    StockReserved: "reserved",
    StockReservationRefused: "refused",
    StockReleased: "released",
    StockSold: "sold",
    StockReturned: "returned",
}


def _stock(state: Fulfilment, event: StockEvent) -> Fulfilment:
    if isinstance(event, StockReturned) and event.return_id is not None:
        return state  # Of a return, which is another process.
    return replace(state, stock={**state.stock, event.sku: _STOCK_AFTER[type(event)]})


def _payment(state: Fulfilment, event: PaymentEvent) -> Fulfilment:
    match event:
        case PaymentCaptured():
            return replace(state, payment="captured")
        case PaymentDeclined():
            return replace(state, payment="declined")
        case PaymentVoided():
            return replace(state, payment="voided")
        case PaymentRefundRequested(return_id=None):
            return replace(state, payment="refunding")
        case PaymentRefunded(return_id=None):
            return replace(state, payment="refunded")
        case PaymentRequested() | PaymentRefundRequested() | PaymentRefunded():
            return state  # Refunds of a return belong to another process.
    assert_never(event)


def _shipment(state: Fulfilment, event: ShipmentEvent) -> Fulfilment:
    match event:
        case ShipmentArranged(late=False):
            return replace(state, shipment="arranged")
        case ShipmentRefused():
            return replace(state, shipment="refused")
        case ShipmentCancelled():
            return replace(state, shipment="cancelled")
        case ShipmentDelivered():
            return replace(state, shipment="delivered")
        case ShipmentRequested() | ShipmentArranged() | ShipmentDispatched():
            return state  # An arrangement that is late is cancelled in the same breath.
    assert_never(event)
