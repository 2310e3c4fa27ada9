"""The stock of each SKU: what is on the shelf, and how much of it is kept for orders."""

from __future__ import annotations

from typing import assert_never

from schemas.inventory import (
    INVENTORY,
    InventoryEvent,
    StockReceived,
    StockReleased,
    StockReservationRefused,
    StockReserved,
    StockReturned,
    StockSold,
)
from tidelog import Projection, Row, replace


class StockLevel(Row):
    """One SKU. Available is what is on hand and not reserved."""

    sku: str
    on_hand: int = 0
    reserved: int = 0


def evolve(row: StockLevel | None, event: InventoryEvent) -> StockLevel:
    """The stock after the event."""
    stock = row or StockLevel(sku=event.sku)
    match event:
        case StockReceived(quantity=quantity) | StockReturned(quantity=quantity):
            return replace(stock, on_hand=stock.on_hand + quantity)
        case StockReserved(quantity=quantity):
            return replace(stock, reserved=stock.reserved + quantity)
        case StockReleased(quantity=quantity):
            return replace(stock, reserved=stock.reserved - quantity)
        case StockSold(quantity=quantity):
            return replace(
                stock,
                on_hand=stock.on_hand - quantity,
                reserved=stock.reserved - quantity,
            )
        case StockReservationRefused():
            return stock
    assert_never(event)


stock_level = Projection(
    name="stock_level",
    version=1,
    contexts=[INVENTORY],
    row=StockLevel,
    key="sku",
    evolve=evolve,
)
