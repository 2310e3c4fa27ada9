"""The shipment of one order: it is cancelled or delivered, never both, and decides which.

    requested ── arranged ── dispatched ── delivered
        ├── refused  │           │
        └────────────┴───────────┴── cancelled

A saga that undoes an order cancels the shipment first. ShipmentCancelled: go on undoing.
ShipmentDelivered: the parcel won, and the sale stands. What the carrier reports late is recorded,
and cancelled in the same breath.
"""

from __future__ import annotations

from typing import Literal, assert_never

from schemas.shipping import (
    SHIPPING,
    CancelShipment,
    RecordDelivered,
    RecordDispatched,
    RecordShipmentArranged,
    RecordShipmentRefused,
    RequestShipment,
    ShipmentArranged,
    ShipmentCancelled,
    ShipmentDelivered,
    ShipmentDispatched,
    ShipmentRefused,
    ShipmentRequested,
    ShippingCommand,
    ShippingEvent,
)
from tidelog import Aggregate, Rejected, State, replace


class Shipment(State):
    """What the rules need: whether it was asked for, how far it has come, and the tracking."""

    status: Literal[
        "new",
        "requested",
        "arranged",
        "refused",
        "cancelled",
        "dispatched",
        "delivered",
    ] = "new"
    requested: bool = False
    tracking: str = ""


class ShipmentNeverRequested(Rejected):
    """No shipment was requested for this order, so the carrier has nothing to report."""


class ShipmentAlreadyArranged(Rejected):
    """The carrier accepted the parcel before: it cannot refuse it, or book it twice, now."""


class ShipmentNotArranged(Rejected):
    """Only a parcel that the carrier accepted can be on its way."""


class ShipmentAlreadyCancelled(Rejected):
    """The shipment was cancelled, and yet its parcel arrived. A person must look."""


def decide(command: ShippingCommand, shipment: Shipment) -> list[ShippingEvent]:
    """The events that the command causes."""
    match command:
        case RequestShipment():
            return _request(command, shipment)
        case CancelShipment():
            return _cancel(command, shipment)
        case RecordShipmentArranged():
            return _record_arranged(command, shipment)
        case RecordShipmentRefused():
            return _record_refused(command, shipment)
        case RecordDispatched():
            return _record_dispatched(command, shipment)
        case RecordDelivered():
            return _record_delivered(command, shipment)
    assert_never(command)


def evolve(shipment: Shipment, event: ShippingEvent) -> Shipment:
    """The shipment after the event."""
    match event:
        case ShipmentRequested():
            return replace(shipment, status="requested", requested=True)
        case ShipmentArranged(tracking=tracking):
            return replace(shipment, status="arranged", tracking=tracking)
        case ShipmentRefused():
            return replace(shipment, status="refused")
        case ShipmentCancelled():
            return replace(shipment, status="cancelled")
        case ShipmentDispatched():
            return replace(shipment, status="dispatched")
        case ShipmentDelivered():
            return replace(shipment, status="delivered")
    assert_never(event)


shipping = Aggregate(
    name="shipment",
    context=SHIPPING,
    initial=Shipment(),
    decide=decide,
    evolve=evolve,
)


def _request(command: RequestShipment, shipment: Shipment) -> list[ShippingEvent]:
    if shipment.status != "new":
        return []  # Asked for, or cancelled before it was: the answer is in the log.
    return [
        ShipmentRequested(order_id=command.order_id, ship_to=command.ship_to, lines=command.lines)
    ]


def _cancel(command: CancelShipment, shipment: Shipment) -> list[ShippingEvent]:
    match shipment.status:
        case "new" | "requested" | "arranged" | "dispatched":
            return [ShipmentCancelled(order_id=command.order_id)]
        case "refused" | "cancelled" | "delivered":
            return []  # The answer is in the log.
    assert_never(shipment.status)


def _record_arranged(command: RecordShipmentArranged, shipment: Shipment) -> list[ShippingEvent]:
    _check_requested(command.order_id, shipment)
    if shipment.tracking:
        if shipment.tracking != command.tracking:
            raise ShipmentAlreadyArranged(command.order_id)
        return []
    late = shipment.status != "requested"
    arranged = ShipmentArranged(
        order_id=command.order_id,
        carrier=command.carrier,
        tracking=command.tracking,
        late=late,
    )
    if late:
        return [arranged, ShipmentCancelled(order_id=command.order_id)]
    return [arranged]


def _record_refused(command: RecordShipmentRefused, shipment: Shipment) -> list[ShippingEvent]:
    _check_requested(command.order_id, shipment)
    if shipment.status in ("arranged", "dispatched", "delivered"):
        raise ShipmentAlreadyArranged(command.order_id)
    if shipment.status != "requested":
        return []
    return [ShipmentRefused(order_id=command.order_id, reason=command.reason)]


def _record_dispatched(command: RecordDispatched, shipment: Shipment) -> list[ShippingEvent]:
    _check_requested(command.order_id, shipment)
    if shipment.status in ("dispatched", "delivered", "cancelled"):
        return []  # Cancelled: it is being called back.
    if shipment.status != "arranged":
        raise ShipmentNotArranged(command.order_id)
    return [ShipmentDispatched(order_id=command.order_id)]


def _record_delivered(command: RecordDelivered, shipment: Shipment) -> list[ShippingEvent]:
    _check_requested(command.order_id, shipment)
    delivered = ShipmentDelivered(order_id=command.order_id)
    if shipment.status == "delivered":
        return []
    if shipment.status == "cancelled":
        raise ShipmentAlreadyCancelled(command.order_id)
    if shipment.status == "dispatched":
        return [delivered]
    if shipment.status == "arranged":  # The report of the dispatch was lost.
        return [ShipmentDispatched(order_id=command.order_id), delivered]
    raise ShipmentNotArranged(command.order_id)


def _check_requested(order_id: str, shipment: Shipment) -> None:
    if not shipment.requested:
        raise ShipmentNeverRequested(order_id)
