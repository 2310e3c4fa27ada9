"""Returns: goods that a customer sends back after delivery. One order may have several returns."""

from __future__ import annotations

from schemas.values import (
    Amount,
    CurrencyCode,
    GoodsLines,
    Name,
    check_each_sku_once,
)
from tidelog.message import Command, Context, Event, Id, Text


class RequestReturn(Command):
    """Ask to send these goods of an order back. Asking again with the same content is quiet."""

    return_id: Id
    order_id: Id
    lines: GoodsLines
    reason: Text

    def __post_init__(self) -> None:
        check_each_sku_once(self.lines)


class ApproveReturn(Command):
    """The goods may be sent back."""

    return_id: Id


class RefuseReturn(Command):
    """The goods may not be sent back."""

    return_id: Id
    reason: Text


class IssueReturnLabel(Command):
    """The carrier gave a label for the parcel."""

    return_id: Id
    carrier: Name
    tracking: Name


class ReceiveReturnedGoods(Command):
    """The parcel with the goods arrived."""

    return_id: Id


class CompleteReturn(Command):
    """The order took the goods back, they are on the shelf, and this amount was refunded."""

    return_id: Id
    amount: Amount
    currency: CurrencyCode


class FailReturn(Command):
    """The return cannot be carried out; whatever it had asked for is undone."""

    return_id: Id
    reason: Text


class ReturnRequested(Event):
    """A customer asked to send goods back."""

    return_id: Id
    order_id: Id
    lines: GoodsLines
    reason: Text


class ReturnApproved(Event):
    """The goods may be sent back."""

    return_id: Id
    order_id: Id


class ReturnRefused(Event):
    """The goods may not be sent back."""

    return_id: Id
    order_id: Id
    reason: Text


class ReturnLabelIssued(Event):
    """The customer has a label for the parcel."""

    return_id: Id
    order_id: Id
    carrier: Name
    tracking: Name


class ReturnGoodsReceived(Event):
    """The goods arrived."""

    return_id: Id
    order_id: Id
    lines: GoodsLines


class ReturnCompleted(Event):
    """The goods are back and the money is refunded."""

    return_id: Id
    order_id: Id
    lines: GoodsLines
    amount: Amount
    currency: CurrencyCode


class ReturnFailed(Event):
    """The return could not be carried out."""

    return_id: Id
    order_id: Id
    reason: Text


ReturnCommand = (
    RequestReturn
    | ApproveReturn
    | RefuseReturn
    | IssueReturnLabel
    | ReceiveReturnedGoods
    | CompleteReturn
    | FailReturn
)
ReturnEvent = (
    ReturnRequested
    | ReturnApproved
    | ReturnRefused
    | ReturnLabelIssued
    | ReturnGoodsReceived
    | ReturnCompleted
    | ReturnFailed
)

RETURNS = Context(name="returns", key="return_id", commands=ReturnCommand, events=ReturnEvent)
