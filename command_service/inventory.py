"""The stock of one SKU: never below zero, and never more reserved than is on hand.

State stays small. It keeps the open reservations, and of those that ended the last
`SETTLED_MAX` orders and the last `RETURNS_MAX` returns, oldest forgotten first. Inside that memory
every command is idempotent by the order (or return) it names. Beyond it the command id protects:
the platform answers a command that it has seen, and a command older than that window is never
sent. A saga's commands for one SKU arrive in the order in which it sent them; should a release
come before its reservation all the same, it is remembered, and the reservation is not made.
"""

from __future__ import annotations

from typing import Literal, assert_never

from msgspec import field

from schemas.inventory import (
    INVENTORY,
    InventoryCommand,
    InventoryEvent,
    ReceiveStock,
    ReleaseStock,
    ReserveStock,
    ReturnStock,
    SellStock,
    StockReceived,
    StockReleased,
    StockReservationRefused,
    StockReserved,
    StockReturned,
    StockSold,
    WithdrawReturn,
)
from tidelog import Aggregate, Rejected, State, replace

RESERVATIONS_MAX = 10_000
"""How many orders can hold a reservation of one SKU at once; one more is refused."""

SETTLED_MAX = 256
"""How many orders whose reservation ended are remembered."""

RETURNS_MAX = 256
"""How many returns are remembered."""


class Settled(State):
    """How an order's reservation ended; `unreturned` counts its sold pieces not yet back."""

    outcome: Literal["refused", "released", "sold"]
    unreturned: int = 0


class StockItem(State):
    """What the rules need: the counts, the open reservations, and a short memory."""

    on_hand: int = 0
    reserved: int = 0
    reservations: dict[str, int] = field(default_factory=dict)
    settled: dict[str, Settled] = field(default_factory=dict)
    returns: tuple[str, ...] = ()
    withdrawn: tuple[str, ...] = ()
    """Returns that were taken off the shelf again."""

    @property
    def available(self) -> int:
        """What can still be reserved."""
        return self.on_hand - self.reserved


class ReservationDiffers(Rejected):
    """The order already holds a reservation of this SKU with another quantity."""


class StockAlreadySold(Rejected):
    """The order's reservation was sold already: its pieces can only be returned."""


class StockNotReserved(Rejected):
    """Only stock that is reserved for the order can be sold."""


class StockNotSold(Rejected):
    """Only pieces that were sold can be returned, and no more of them than were sold."""


class ReturnedStockGone(Rejected):
    """The pieces of the return have been reserved or sold since. A person must look."""


def decide(command: InventoryCommand, item: StockItem) -> list[InventoryEvent]:
    """The events that the command causes."""
    match command:
        case ReceiveStock(sku=sku, quantity=quantity):
            return [StockReceived(sku=sku, quantity=quantity)]
        case ReserveStock():
            return _reserve(command, item)
        case ReleaseStock():
            return _release(command, item)
        case SellStock():
            return _sell(command, item)
        case ReturnStock():
            return _return(command, item)
        case WithdrawReturn():
            return _withdraw(command, item)
    assert_never(command)


def evolve(item: StockItem, event: InventoryEvent) -> StockItem:
    """The stock after the event."""
    match event:
        case StockReceived(quantity=quantity):
            return replace(item, on_hand=item.on_hand + quantity)
        case StockReserved(order_id=order_id, quantity=quantity):
            return replace(
                item,
                reserved=item.reserved + quantity,
                reservations={**item.reservations, order_id: quantity},
            )
        case StockReservationRefused(order_id=order_id):
            return _settle(item, order_id, Settled(outcome="refused"))
        case StockReleased(order_id=order_id):
            return _settle(item, order_id, Settled(outcome="released"))
        case StockSold():
            return _sell_out(item, event)
        case StockReturned():
            return _take_back(item, event)
    assert_never(event)


inventory = Aggregate(
    name="stock_item",
    context=INVENTORY,
    initial=StockItem(),
    decide=decide,
    evolve=evolve,
)


def _reserve(command: ReserveStock, item: StockItem) -> list[InventoryEvent]:
    if command.order_id in item.settled:
        return []  # Its answer is in the log already, and it is final.
    held = item.reservations.get(command.order_id)
    if held is not None:
        if held != command.quantity:
            raise ReservationDiffers(command.order_id)
        return []
    full = len(item.reservations) >= RESERVATIONS_MAX
    if full or command.quantity > item.available:
        return [
            StockReservationRefused(
                sku=command.sku,
                order_id=command.order_id,
                quantity=command.quantity,
                available=item.available,
            )
        ]
    return [StockReserved(sku=command.sku, order_id=command.order_id, quantity=command.quantity)]


def _release(command: ReleaseStock, item: StockItem) -> list[InventoryEvent]:
    settled = item.settled.get(command.order_id)
    if settled is None:
        held = item.reservations.get(command.order_id, 0)
        return [StockReleased(sku=command.sku, order_id=command.order_id, quantity=held)]
    if settled.outcome == "sold":
        raise StockAlreadySold(command.order_id)
    return []


def _sell(command: SellStock, item: StockItem) -> list[InventoryEvent]:
    held = item.reservations.get(command.order_id)
    if held is not None:
        return [StockSold(sku=command.sku, order_id=command.order_id, quantity=held)]
    settled = item.settled.get(command.order_id)
    if settled is not None and settled.outcome == "sold":
        return []
    raise StockNotReserved(command.order_id)


def _return(command: ReturnStock, item: StockItem) -> list[InventoryEvent]:
    if _return_key(command) in item.returns:
        return []
    if command.order_id in item.reservations:
        raise StockNotSold(command.order_id)
    settled = item.settled.get(command.order_id)
    if settled is not None and settled.unreturned < command.quantity:
        raise StockNotSold(command.order_id)
    # A sale that is forgotten is trusted: the order has checked what was bought.
    return [
        StockReturned(
            sku=command.sku,
            order_id=command.order_id,
            quantity=command.quantity,
            return_id=command.return_id,
        )
    ]


def _withdraw(command: WithdrawReturn, item: StockItem) -> list[InventoryEvent]:
    """A return undone is a sale again: reserved and sold in one breath."""
    key = _return_key(command)
    if key not in item.returns or key in item.withdrawn:
        return []
    if command.quantity > item.available:
        raise ReturnedStockGone(command.return_id)
    sku, order_id, quantity = command.sku, command.order_id, command.quantity
    return [
        StockReserved(sku=sku, order_id=order_id, quantity=quantity),
        StockSold(sku=sku, order_id=order_id, quantity=quantity, return_id=command.return_id),
    ]


def _sell_out(item: StockItem, event: StockSold) -> StockItem:
    earlier = item.settled.get(event.order_id, Settled(outcome="sold"))
    unreturned = earlier.unreturned + event.quantity
    withdrawn = item.withdrawn
    if event.return_id is not None:
        withdrawn = (*withdrawn, _return_key(event))[-RETURNS_MAX:]
    left = replace(item, on_hand=item.on_hand - event.quantity, withdrawn=withdrawn)
    return _settle(left, event.order_id, Settled(outcome="sold", unreturned=unreturned))


def _settle(item: StockItem, order_id: str, settled: Settled) -> StockItem:
    """Close the order's reservation, and forget the oldest that ended."""
    reservations = dict(item.reservations)
    held = reservations.pop(order_id, 0)
    memory = {**item.settled, order_id: settled}
    if len(memory) > SETTLED_MAX:
        del memory[next(iter(memory))]
    return replace(
        item,
        reserved=item.reserved - held,
        reservations=reservations,
        settled=memory,
    )


def _take_back(item: StockItem, event: StockReturned) -> StockItem:
    settled = item.settled.get(event.order_id)
    memory = item.settled
    if settled is not None:
        unreturned = settled.unreturned - event.quantity
        memory = {**memory, event.order_id: replace(settled, unreturned=unreturned)}
    return replace(
        item,
        on_hand=item.on_hand + event.quantity,
        settled=memory,
        returns=(*item.returns, _return_key(event))[-RETURNS_MAX:],
    )


def _return_key(message: ReturnStock | StockReturned | WithdrawReturn | StockSold) -> str:
    """What is returned once: a cancelled order, or a return of an order."""
    return f"{message.order_id} {message.return_id or ''}"
