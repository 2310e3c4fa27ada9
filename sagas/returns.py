"""Returns: goods of a delivered order come back, step by step, under one owner.

    approve ─ label ─ receive ─ restock ─ take back ─ refund ─ complete

The order has the last word: it knows what was bought, and what came back before. Where it refuses,
what was put on the shelf is taken off it again, and the return fails.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import date, timedelta
from typing import Literal, assert_never

from schemas import INVENTORY, ORDERS, PAYMENTS, RETURNS
from schemas.inventory import ReturnStock, StockReturned, StockSold, WithdrawReturn
from schemas.orders import MarkOrderReturned, OrderReturned
from schemas.payments import PaymentRefunded, PaymentRefundRequested, RequestRefund
from schemas.returns import (
    ApproveReturn,
    CompleteReturn,
    FailReturn,
    ReturnApproved,
    ReturnCompleted,
    ReturnFailed,
    ReturnGoodsReceived,
    ReturnLabelIssued,
    ReturnRefused,
    ReturnRequested,
)
from tidelog import Deadline, Event, Saga, State, Step, replace
from tidelog.saga import Phase

LABEL_WITHIN = timedelta(days=1)
GOODS_WITHIN = timedelta(days=30)
TAKE_BACK_WITHIN = timedelta(minutes=10)
REFUND_WITHIN = timedelta(hours=1)
RETURN_WITHIN = timedelta(days=60)
UNDOING_WITHIN = timedelta(hours=1)

REASON_MAX = 1_000
"""The characters of a reason."""

ReturningEvent = (
    ReturnRequested
    | ReturnApproved
    | ReturnRefused
    | ReturnLabelIssued
    | ReturnGoodsReceived
    | ReturnCompleted
    | ReturnFailed
    | StockReturned
    | StockSold
    | OrderReturned
    | PaymentRefundRequested
    | PaymentRefunded
)


class Returning(State):
    """How far the return has come."""

    request: ReturnRequested | None = None
    status: Literal["open", "refused", "failed", "completed"] = "open"
    approved: bool = False
    labelled: bool = False
    received: bool = False
    restocked: tuple[str, ...] = ()
    """The SKUs whose pieces are on the shelf again."""
    taken_back: OrderReturned | None = None
    refunded: bool = False

    @property
    def asked(self) -> ReturnRequested:
        """What the customer sends back."""
        assert self.request is not None, "a return begins with ReturnRequested"
        return self.request


def remember(state: Returning, event: ReturningEvent) -> Returning:
    """The state after the event."""
    match event:
        case StockReturned(sku=sku):
            return replace(state, restocked=(*state.restocked, sku))
        case StockSold(sku=sku):
            left = tuple(known for known in state.restocked if known != sku)
            return replace(state, restocked=left)
        case OrderReturned():
            return replace(state, taken_back=event)
        case PaymentRefunded():
            return replace(state, refunded=True)
        case PaymentRefundRequested():
            return state
    return _own(state, event)


# --- the steps ------------------------------------------------------------------------------


def approve(state: Returning) -> ApproveReturn:
    return ApproveReturn(return_id=state.asked.return_id)


def restock(state: Returning) -> list[ReturnStock]:
    asked = state.asked
    return [
        ReturnStock(
            sku=line.sku,
            order_id=asked.order_id,
            quantity=line.quantity,
            return_id=asked.return_id,
        )
        for line in asked.lines
    ]


def take_back(state: Returning) -> MarkOrderReturned:
    asked = state.asked
    return MarkOrderReturned(order_id=asked.order_id, return_id=asked.return_id, lines=asked.lines)


def refund(state: Returning) -> RequestRefund:
    assert state.taken_back is not None, "the order says what is to be refunded"
    return RequestRefund(
        order_id=state.asked.order_id,
        return_id=state.asked.return_id,
        amount=state.taken_back.amount,
    )


def complete(state: Returning) -> CompleteReturn:
    assert state.taken_back is not None, "the order says what was refunded"
    return CompleteReturn(
        return_id=state.asked.return_id,
        amount=state.taken_back.amount,
        currency=state.taken_back.currency,
    )


# --- what turns it round, and compensation --------------------------------------------------


def fail(state: Returning, reason: str) -> FailReturn:
    return FailReturn(return_id=state.asked.return_id, reason=f"refused: {reason}")


def fail_in_time(state: Returning) -> FailReturn:
    return FailReturn(return_id=state.asked.return_id, reason="it took too long")


def withdraw(state: Returning) -> list[WithdrawReturn]:
    asked = state.asked
    return [
        WithdrawReturn(
            sku=line.sku,
            order_id=asked.order_id,
            quantity=line.quantity,
            return_id=asked.return_id,
        )
        for line in asked.lines
        if line.sku in state.restocked
    ]


def turn_back(state: Returning, reason: str) -> FailReturn | None:
    """Until the order is asked to take the goods back; what it has taken back, it keeps."""
    if is_restocked(state):
        return None
    reason = f"by an operator: {reason}"[:REASON_MAX]
    return FailReturn(return_id=state.asked.return_id, reason=reason)


# --- what a person may answer in the place of others ----------------------------------------


def not_for_the_shelf(state: Returning, _: date) -> list[Event]:
    """The pieces came back, and are sold no more."""
    return _of_lines(StockReturned, state, lambda sku: sku not in state.restocked)


def paid_back_elsewhere(state: Returning, _: date) -> list[Event]:
    """The customer has the money another way."""
    if state.taken_back is None:
        return []
    return [
        PaymentRefunded(
            order_id=state.asked.order_id,
            amount=state.taken_back.amount,
            currency=state.taken_back.currency,
            return_id=state.asked.return_id,
        )
    ]


def taken_off_the_shelf(state: Returning, _: date) -> list[Event]:
    """The pieces are with the customer, though the books of the stock do not say so."""
    return _of_lines(StockSold, state, lambda sku: sku in state.restocked)


def _of_lines(
    kind: type[StockReturned | StockSold], state: Returning, concerned: Callable[[str], bool]
) -> list[Event]:
    """What happened to the goods of those lines that are concerned."""
    asked = state.asked
    return [
        kind(
            sku=line.sku,
            order_id=asked.order_id,
            quantity=line.quantity,
            return_id=asked.return_id,
        )
        for line in asked.lines
        if concerned(line.sku)
    ]


# --- how it stands --------------------------------------------------------------------------


def is_approved(state: Returning) -> bool:
    return state.approved


def is_labelled(state: Returning) -> bool:
    return state.labelled


def is_received(state: Returning) -> bool:
    return state.received


def is_restocked(state: Returning) -> bool:
    return set(state.restocked) == {line.sku for line in state.asked.lines}


def is_taken_back(state: Returning) -> bool:
    return state.taken_back is not None


def is_refunded(state: Returning) -> bool:
    return state.refunded


def is_completed(state: Returning) -> bool:
    return state.status == "completed"


def is_on_the_shelf(state: Returning) -> bool:
    return bool(state.restocked)


def phase(state: Returning) -> Phase:
    """Completed, or refused, or failed with the goods off the shelf again, or on the way."""
    match state.status:
        case "open":
            return "forward"
        case "completed":
            return "completed"
        case "refused":
            return "failed"
        case "failed":
            return "undoing" if state.restocked else "compensated"
    assert_never(state.status)


def is_undone(state: Returning) -> bool:
    return phase(state) == "undoing"


def may_still_fail(state: Returning) -> bool:
    return phase(state) == "forward" and not is_restocked(state)


returns = Saga(
    name="returns",
    key="return_id",
    contexts=[RETURNS, INVENTORY, ORDERS, PAYMENTS],
    initial=Returning(),
    starts=[ReturnRequested],
    evolve=remember,
    phase=phase,
    order=[
        Step(name="approve", ask=approve, done=is_approved, answers=(ReturnApproved,)),
        Step(
            name="label",
            done=is_labelled,
            answers=(ReturnLabelIssued,),
            within=LABEL_WITHIN,
            missed=fail_in_time,
        ),
        Step(
            name="receive",
            done=is_received,
            answers=(ReturnGoodsReceived,),
            within=GOODS_WITHIN,
            missed=fail_in_time,
        ),
        Step(
            name="restock",
            ask=restock,
            done=is_restocked,
            answers=(StockReturned,),
            refused=fail,
            undo=withdraw,
            undo_needed=is_on_the_shelf,
            undo_answers=(StockSold,),
            skipped=not_for_the_shelf,
            undo_skipped=taken_off_the_shelf,
        ),
        Step(
            name="take-back",
            ask=take_back,
            done=is_taken_back,
            answers=(OrderReturned,),
            refused=fail,
            within=TAKE_BACK_WITHIN,
        ),
        Step(
            name="refund",
            ask=refund,
            done=is_refunded,
            answers=(PaymentRefundRequested, PaymentRefunded),
            within=REFUND_WITHIN,
            skipped=paid_back_elsewhere,
            outside=("pay-back",),
        ),
        Step(name="complete", ask=complete, done=is_completed, answers=(ReturnCompleted,)),
    ],
    turn_back=turn_back,
    deadlines=[
        Deadline(name="return", within=RETURN_WITHIN, waiting=may_still_fail, missed=fail_in_time),
        Deadline(name="undoing", within=UNDOING_WITHIN, waiting=is_undone),
    ],
)


def _own(
    state: Returning,
    event: ReturnRequested
    | ReturnApproved
    | ReturnRefused
    | ReturnLabelIssued
    | ReturnGoodsReceived
    | ReturnCompleted
    | ReturnFailed,
) -> Returning:
    match event:
        case ReturnRequested():
            return replace(state, request=event)
        case ReturnApproved():
            return replace(state, approved=True)
        case ReturnLabelIssued():
            return replace(state, labelled=True)
        case ReturnGoodsReceived():
            return replace(state, received=True)
        case ReturnRefused():
            return replace(state, status="refused")
        case ReturnFailed():
            return replace(state, status="failed")
        case ReturnCompleted():
            return replace(state, status="completed")
    assert_never(event)
