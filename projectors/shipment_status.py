"""The shipment of each order, from the carrier's first answer on."""

from __future__ import annotations

from typing import Literal, assert_never

from schemas.shipping import (
    SHIPPING,
    ShipmentArranged,
    ShipmentCancelled,
    ShipmentDelivered,
    ShipmentDispatched,
    ShipmentRefused,
    ShipmentRequested,
    ShippingEvent,
)
from tidelog import Projection, Row, replace

Status = Literal["arranged", "refused", "cancelled", "dispatched", "delivered"]


class ShipmentStatus(Row):
    """One shipment. Until a carrier took the parcel there is no tracking number."""

    order_id: str
    status: Status
    carrier: str | None = None
    tracking: str | None = None


def evolve(row: ShipmentStatus | None, event: ShippingEvent) -> ShipmentStatus | None:
    """The shipment after the event; none while the carrier has only been asked."""
    match event:
        case ShipmentRequested():
            return row
        case ShipmentArranged(carrier=carrier, tracking=tracking):
            arranged = _in(row, event, "arranged")
            return replace(arranged, carrier=carrier, tracking=tracking)
        case ShipmentRefused():
            return _in(row, event, "refused")
        case ShipmentCancelled():
            return _in(row, event, "cancelled")
        case ShipmentDispatched():
            return _in(row, event, "dispatched")
        case ShipmentDelivered():
            return _in(row, event, "delivered")
    assert_never(event)


shipment_status = Projection(
    name="shipment_status",
    version=1,
    contexts=[SHIPPING],
    row=ShipmentStatus,
    key="order_id",
    evolve=evolve,
)


def _in(row: ShipmentStatus | None, event: ShippingEvent, status: Status) -> ShipmentStatus:
    if row is None:
        return ShipmentStatus(order_id=event.order_id, status=status)
    return replace(row, status=status)
