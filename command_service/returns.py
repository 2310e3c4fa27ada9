"""One return: goods of a delivered order on their way back, step by step.

    requested ── approved ── labelled ── received ── completed
        ├── refused  │           │           │
        └────────────┴───────────┴───────────┴── failed

The return knows its own steps only. Whether the goods were bought and are not back yet, the order
decides (MarkOrderReturned); how much money there is to give back, the payment decides.
"""

from __future__ import annotations

from typing import Literal, assert_never

from schemas.returns import (
    RETURNS,
    ApproveReturn,
    CompleteReturn,
    FailReturn,
    IssueReturnLabel,
    ReceiveReturnedGoods,
    RefuseReturn,
    RequestReturn,
    ReturnApproved,
    ReturnCommand,
    ReturnCompleted,
    ReturnEvent,
    ReturnFailed,
    ReturnGoodsReceived,
    ReturnLabelIssued,
    ReturnRefused,
    ReturnRequested,
)
from tidelog import Aggregate, Rejected, State, replace

Status = Literal[
    "new",
    "requested",
    "approved",
    "labelled",
    "received",
    "completed",
    "refused",
    "failed",
]

STEPS: tuple[Status, ...] = (
    "new",
    "requested",
    "approved",
    "labelled",
    "received",
    "completed",
)
"""The way of a return that goes well; `refused` and `failed` leave it."""


class Return(State):
    """What the rules need: the content and the step."""

    status: Status = "new"
    content: ReturnRequested | None = None


class ReturnNeverRequested(Rejected):
    """There is no such return: it was never requested."""


class ReturnAlreadyRequested(Rejected):
    """A return with this id was already requested with other content. Use a new return id."""


class ReturnOutOfOrder(Rejected):
    """A return goes step by step: approved, labelled, received, completed."""


class ReturnAlreadyApproved(Rejected):
    """The return was approved: it can fail, but not be refused any more."""


class ReturnAlreadyRefused(Rejected):
    """The return was refused: nothing more can happen to it."""


class ReturnAlreadyFailed(Rejected):
    """The return has failed: nothing more can happen to it."""


class ReturnAlreadyCompleted(Rejected):
    """The return is completed: it cannot fail any more."""


def decide(command: ReturnCommand, state: Return) -> list[ReturnEvent]:
    """The events that the command causes."""
    if isinstance(command, RequestReturn):
        return _request(command, state)
    content = state.content
    if content is None:
        raise ReturnNeverRequested(command.return_id)
    match command:
        case ApproveReturn():
            return _approve(state, content)
        case RefuseReturn():
            return _refuse(command, state, content)
        case IssueReturnLabel():
            return _issue_label(command, state, content)
        case ReceiveReturnedGoods():
            return _receive_goods(state, content)
        case CompleteReturn():
            return _complete(command, state, content)
        case FailReturn():
            return _fail(command, state, content)
    assert_never(command)


def evolve(state: Return, event: ReturnEvent) -> Return:
    """The return after the event."""
    match event:
        case ReturnRequested():
            return replace(state, status="requested", content=event)
        case ReturnApproved():
            return replace(state, status="approved")
        case ReturnRefused():
            return replace(state, status="refused")
        case ReturnLabelIssued():
            return replace(state, status="labelled")
        case ReturnGoodsReceived():
            return replace(state, status="received")
        case ReturnCompleted():
            return replace(state, status="completed")
        case ReturnFailed():
            return replace(state, status="failed")
    assert_never(event)


returns = Aggregate(name="return", context=RETURNS, initial=Return(), decide=decide, evolve=evolve)


def _request(command: RequestReturn, state: Return) -> list[ReturnEvent]:
    requested = ReturnRequested(
        return_id=command.return_id,
        order_id=command.order_id,
        lines=command.lines,
        reason=command.reason,
    )
    if state.content is None:
        return [requested]
    if state.content == requested:
        return []
    raise ReturnAlreadyRequested(command.return_id)


def _approve(state: Return, content: ReturnRequested) -> list[ReturnEvent]:
    if _taken(state, content, "approved"):
        return []
    return [ReturnApproved(return_id=content.return_id, order_id=content.order_id)]


def _refuse(command: RefuseReturn, state: Return, content: ReturnRequested) -> list[ReturnEvent]:
    if state.status == "refused":
        return []
    if state.status == "failed":
        raise ReturnAlreadyFailed(content.return_id)
    if state.status != "requested":
        raise ReturnAlreadyApproved(content.return_id)
    return [
        ReturnRefused(
            return_id=content.return_id,
            order_id=content.order_id,
            reason=command.reason,
        )
    ]


def _issue_label(
    command: IssueReturnLabel, state: Return, content: ReturnRequested
) -> list[ReturnEvent]:
    if _taken(state, content, "labelled"):
        return []
    return [
        ReturnLabelIssued(
            return_id=content.return_id,
            order_id=content.order_id,
            carrier=command.carrier,
            tracking=command.tracking,
        )
    ]


def _receive_goods(state: Return, content: ReturnRequested) -> list[ReturnEvent]:
    if _taken(state, content, "received"):
        return []
    return [
        ReturnGoodsReceived(
            return_id=content.return_id,
            order_id=content.order_id,
            lines=content.lines,
        )
    ]


def _complete(
    command: CompleteReturn, state: Return, content: ReturnRequested
) -> list[ReturnEvent]:
    if _taken(state, content, "completed"):
        return []
    return [
        ReturnCompleted(
            return_id=content.return_id,
            order_id=content.order_id,
            lines=content.lines,
            amount=command.amount,
            currency=command.currency,
        )
    ]


def _fail(command: FailReturn, state: Return, content: ReturnRequested) -> list[ReturnEvent]:
    if state.status == "failed":
        return []
    if state.status == "refused":
        raise ReturnAlreadyRefused(content.return_id)
    if state.status == "completed":
        raise ReturnAlreadyCompleted(content.return_id)
    return [
        ReturnFailed(
            return_id=content.return_id,
            order_id=content.order_id,
            reason=command.reason,
        )
    ]


def _taken(state: Return, content: ReturnRequested, step: Status) -> bool:
    """Whether the step was taken already; anything but the next step is refused."""
    if state.status == "refused":
        raise ReturnAlreadyRefused(content.return_id)
    if state.status == "failed":
        raise ReturnAlreadyFailed(content.return_id)
    distance = STEPS.index(step) - STEPS.index(state.status)
    if distance > 1:
        raise ReturnOutOfOrder(content.return_id)
    return distance <= 0
