"""Inventory: the stock of one SKU, reserved for orders, sold, and taken back."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from schemas.values import Count, Quantity
from tidelog.message import Command, Context, Event, Id

ReleasedQuantity = Annotated[int, Meta(ge=0, le=1_000_000)]
"""What a release gave back; 0 where nothing was reserved."""


class ReceiveStock(Command):
    """Put so many pieces on the shelf. Each command adds: send a retry with the same key."""

    sku: Id
    quantity: Quantity


class ReserveStock(Command):
    """Keep so many pieces for an order: one reservation per order and SKU."""

    sku: Id
    order_id: Id
    quantity: Quantity


class ReleaseStock(Command):
    """Give the order's reservation back. Where there is none, none can be made any more."""

    sku: Id
    order_id: Id


class SellStock(Command):
    """The order's reservation becomes a sale: the pieces leave the shelf."""

    sku: Id
    order_id: Id


class ReturnStock(Command):
    """Sold pieces come back: of a cancelled order, or of the return that is named."""

    sku: Id
    order_id: Id
    quantity: Quantity
    return_id: Id | None = None


class WithdrawReturn(Command):
    """Take the pieces of a return off the shelf again: the return failed after they were back."""

    sku: Id
    order_id: Id
    quantity: Quantity
    return_id: Id


class StockReceived(Event):
    """Pieces were put on the shelf."""

    sku: Id
    quantity: Quantity


class StockReserved(Event):
    """Pieces are kept for an order."""

    sku: Id
    order_id: Id
    quantity: Quantity


class StockReservationRefused(Event):
    """An order asked for more than was available. The answer is final for this order."""

    sku: Id
    order_id: Id
    quantity: Quantity
    available: Count


class StockReleased(Event):
    """A reservation was given back. Quantity 0: nothing was reserved, and nothing will be."""

    sku: Id
    order_id: Id
    quantity: ReleasedQuantity


class StockSold(Event):
    """Reserved pieces left the shelf: on hand and reserved both fall.

    A return that is named was undone: its pieces are sold to the order again.
    """

    sku: Id
    order_id: Id
    quantity: Quantity
    return_id: Id | None = None


class StockReturned(Event):
    """Sold pieces are back on the shelf."""

    sku: Id
    order_id: Id
    quantity: Quantity
    return_id: Id | None


InventoryCommand = (
    ReceiveStock | ReserveStock | ReleaseStock | SellStock | ReturnStock | WithdrawReturn
)
InventoryEvent = (
    StockReceived
    | StockReserved
    | StockReservationRefused
    | StockReleased
    | StockSold
    | StockReturned
)

INVENTORY = Context(name="inventory", key="sku", commands=InventoryCommand, events=InventoryEvent)
