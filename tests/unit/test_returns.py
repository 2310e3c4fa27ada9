"""The return's rules: what is accepted, what is refused, what is quiet."""

from __future__ import annotations

import pytest

from command_service.returns import (
    ReturnAlreadyApproved,
    ReturnAlreadyCompleted,
    ReturnAlreadyFailed,
    ReturnAlreadyRefused,
    ReturnAlreadyRequested,
    ReturnNeverRequested,
    ReturnOutOfOrder,
    returns,
)
from schemas.returns import (
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
from schemas.values import GoodsLine
from tidelog import replace
from tidelog.testing import given

ID = "r-1"
LINES = (GoodsLine(sku="tea", quantity=1),)

request = RequestReturn(return_id=ID, order_id="o-1", lines=LINES, reason="too big")
approve = ApproveReturn(return_id=ID)
refuse = RefuseReturn(return_id=ID, reason="not ours")
issue_label = IssueReturnLabel(return_id=ID, carrier="Swift", tracking="T-9")
receive = ReceiveReturnedGoods(return_id=ID)
complete = CompleteReturn(return_id=ID, amount=350, currency="EUR")
fail = FailReturn(return_id=ID, reason="not bought")

requested = ReturnRequested(return_id=ID, order_id="o-1", lines=LINES, reason="too big")
approved = ReturnApproved(return_id=ID, order_id="o-1")
refused = ReturnRefused(return_id=ID, order_id="o-1", reason="not ours")
labelled = ReturnLabelIssued(return_id=ID, order_id="o-1", carrier="Swift", tracking="T-9")
received = ReturnGoodsReceived(return_id=ID, order_id="o-1", lines=LINES)
completed = ReturnCompleted(return_id=ID, order_id="o-1", lines=LINES, amount=350, currency="EUR")
failed = ReturnFailed(return_id=ID, order_id="o-1", reason="not bought")

WAY: tuple[ReturnEvent, ...] = (requested, approved, labelled, received, completed)
STEPS: tuple[ReturnCommand, ...] = (request, approve, issue_label, receive, complete)


@pytest.mark.parametrize("step", range(len(WAY)))
def test_a_return_goes_step_by_step(step: int) -> None:
    given(returns, *WAY[:step]).when(STEPS[step]).then(WAY[step])


@pytest.mark.parametrize("step", range(len(WAY)))
def test_a_step_taken_twice_changes_nothing(step: int) -> None:
    given(returns, *WAY[: step + 1]).when(STEPS[step]).then()
    given(returns, *WAY).when(STEPS[step]).then()


@pytest.mark.parametrize(("done", "step"), [(1, 2), (1, 3), (2, 3), (2, 4), (3, 4)])
def test_no_step_is_left_out(done: int, step: int) -> None:
    given(returns, *WAY[:done]).when(STEPS[step]).rejected(ReturnOutOfOrder)


@pytest.mark.parametrize("command", [*STEPS[1:], refuse, fail])
def test_a_return_that_was_never_requested_refuses_all_else(
    command: ReturnCommand,
) -> None:
    given(returns).when(command).rejected(ReturnNeverRequested)


@pytest.mark.parametrize(
    "other",
    [
        replace(request, order_id="o-2"),
        replace(request, lines=(GoodsLine(sku="tea", quantity=2),)),
        replace(request, reason="too small"),
    ],
)
def test_requesting_again_with_other_content_is_refused(other: RequestReturn) -> None:
    given(returns, requested).when(other).rejected(ReturnAlreadyRequested)


def test_a_requested_return_can_be_refused_once() -> None:
    given(returns, requested).when(refuse).then(refused)
    given(returns, requested, refused).when(refuse).then()


@pytest.mark.parametrize("step", [2, 3, 4, 5])
def test_an_approved_return_cannot_be_refused(step: int) -> None:
    given(returns, *WAY[:step]).when(refuse).rejected(ReturnAlreadyApproved)


@pytest.mark.parametrize("step", [1, 2, 3, 4])
def test_an_open_return_can_fail_once(step: int) -> None:
    given(returns, *WAY[:step]).when(fail).then(failed)
    given(returns, *WAY[:step], failed).when(fail).then()


def test_a_completed_return_cannot_fail() -> None:
    given(returns, *WAY).when(fail).rejected(ReturnAlreadyCompleted)


@pytest.mark.parametrize("command", [*STEPS[1:], fail])
def test_nothing_follows_a_refusal(command: ReturnCommand) -> None:
    given(returns, requested, refused).when(command).rejected(ReturnAlreadyRefused)


@pytest.mark.parametrize("command", [*STEPS[1:], refuse])
def test_nothing_follows_a_failure(command: ReturnCommand) -> None:
    given(returns, requested, failed).when(command).rejected(ReturnAlreadyFailed)
