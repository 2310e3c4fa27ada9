"""Shipping: the one shipment of an order. It alone decides whether a cancel or the parcel won."""

from __future__ import annotations

from schemas.values import Address, GoodsLines, Name, check_each_sku_once
from tidelog.message import Command, Context, Event, Id, Text


class RequestShipment(Command):
    """Ask the carrier to take these goods there: one shipment per order."""

    order_id: Id
    ship_to: Address
    lines: GoodsLines

    def __post_init__(self) -> None:
        check_each_sku_once(self.lines)


class RecordShipmentArranged(Command):
    """The carrier accepted the parcel under this tracking number."""

    order_id: Id
    carrier: Name
    tracking: Name


class RecordShipmentRefused(Command):
    """The carrier will not take the parcel."""

    order_id: Id
    reason: Text


class CancelShipment(Command):
    """Stop the parcel, or call it back. Quiet where it has arrived: that is the answer then."""

    order_id: Id


class RecordDispatched(Command):
    """The parcel is on its way."""

    order_id: Id


class RecordDelivered(Command):
    """The parcel arrived."""

    order_id: Id


class ShipmentRequested(Event):
    """The carrier is asked to take these goods there."""

    order_id: Id
    ship_to: Address
    lines: GoodsLines


class ShipmentArranged(Event):
    """The carrier accepted. `late`: after a refusal or a cancel, so it is cancelled at once."""

    order_id: Id
    carrier: Name
    tracking: Name
    late: bool


class ShipmentRefused(Event):
    """The carrier will not take the parcel."""

    order_id: Id
    reason: Text


class ShipmentCancelled(Event):
    """The parcel is not to be delivered; the carrier is told so where it was asked."""

    order_id: Id


class ShipmentDispatched(Event):
    """The parcel is on its way."""

    order_id: Id


class ShipmentDelivered(Event):
    """The parcel arrived."""

    order_id: Id


ShippingCommand = (
    RequestShipment
    | RecordShipmentArranged
    | RecordShipmentRefused
    | CancelShipment
    | RecordDispatched
    | RecordDelivered
)
ShippingEvent = (
    ShipmentRequested
    | ShipmentArranged
    | ShipmentRefused
    | ShipmentCancelled
    | ShipmentDispatched
    | ShipmentDelivered
)

SHIPPING = Context(name="shipping", key="order_id", commands=ShippingCommand, events=ShippingEvent)
