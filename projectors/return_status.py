"""Each return: which goods are to come back, why, and how far they have come."""

from __future__ import annotations

from typing import Literal, assert_never

from schemas.returns import (
    RETURNS,
    ReturnApproved,
    ReturnCompleted,
    ReturnEvent,
    ReturnFailed,
    ReturnGoodsReceived,
    ReturnLabelIssued,
    ReturnRefused,
    ReturnRequested,
)
from schemas.values import GoodsLine
from tidelog import Projection, Row, replace

Status = Literal[
    "requested",
    "approved",
    "labelled",
    "received",
    "completed",
    "refused",
    "failed",
]


class ReturnStatus(Row):
    """One return.

    `reason` is the customer's; `refusal` says why it was refused or failed. `refunded` is what was
    paid back in the end, in minor units.
    """

    return_id: str
    order_id: str
    status: Status
    lines: tuple[GoodsLine, ...]
    reason: str
    carrier: str | None = None
    tracking: str | None = None
    currency: str | None = None
    refunded: int | None = None
    refusal: str | None = None


def evolve(row: ReturnStatus | None, event: ReturnEvent) -> ReturnStatus:
    """The return after the event."""
    if isinstance(event, ReturnRequested):
        return _requested(event)
    assert row is not None, "a return begins with ReturnRequested"
    match event:
        case ReturnApproved():
            return replace(row, status="approved")
        case ReturnLabelIssued(carrier=carrier, tracking=tracking):
            return replace(row, status="labelled", carrier=carrier, tracking=tracking)
        case ReturnGoodsReceived():
            return replace(row, status="received")
        case ReturnCompleted(amount=amount, currency=currency):
            return replace(row, status="completed", refunded=amount, currency=currency)
        case ReturnRefused(reason=reason):
            return replace(row, status="refused", refusal=reason)
        case ReturnFailed(reason=reason):
            return replace(row, status="failed", refusal=reason)
    assert_never(event)


return_status = Projection(
    name="return_status",
    version=1,
    contexts=[RETURNS],
    row=ReturnStatus,
    key="return_id",
    evolve=evolve,
)


def _requested(event: ReturnRequested) -> ReturnStatus:
    return ReturnStatus(
        return_id=event.return_id,
        order_id=event.order_id,
        status="requested",
        lines=event.lines,
        reason=event.reason,
    )
