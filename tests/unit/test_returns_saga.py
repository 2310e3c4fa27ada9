"""Returns, step by step: one owner, in order, and back again where the order refuses."""

from __future__ import annotations

from datetime import timedelta

from sagas.returns import GOODS_WITHIN, LABEL_WITHIN, TAKE_BACK_WITHIN, UNDOING_WITHIN, returns
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
from schemas.values import GoodsLine, OrderLine
from tidelog.testing import given

LINES = (GoodsLine(sku="tea", quantity=2), GoodsLine(sku="cup", quantity=1))
SECOND = timedelta(seconds=1)

requested = ReturnRequested(return_id="r", order_id="o", lines=LINES, reason="too big")
approved = ReturnApproved(return_id="r", order_id="o")
labelled = ReturnLabelIssued(return_id="r", order_id="o", carrier="C", tracking="t")
received = ReturnGoodsReceived(return_id="r", order_id="o", lines=LINES)
tea_back = StockReturned(sku="tea", order_id="o", quantity=2, return_id="r")
cup_back = StockReturned(sku="cup", order_id="o", quantity=1, return_id="r")
tea_withdrawn = StockSold(sku="tea", order_id="o", quantity=2, return_id="r")
cup_withdrawn = StockSold(sku="cup", order_id="o", quantity=1, return_id="r")
taken_back = OrderReturned(
    order_id="o",
    return_id="r",
    customer_id="c",
    currency="EUR",
    lines=(
        OrderLine(sku="tea", quantity=2, unit_price=300),
        OrderLine(sku="cup", quantity=1, unit_price=400),
    ),
    amount=1_000,
    complete=True,
    paid_on="2026-01-01",
)
refunding = PaymentRefundRequested(order_id="o", amount=1_000, currency="EUR", return_id="r")
refunded = PaymentRefunded(order_id="o", amount=1_000, currency="EUR", return_id="r")
completed = ReturnCompleted(return_id="r", order_id="o", lines=LINES, amount=1_000, currency="EUR")
failed = ReturnFailed(return_id="r", order_id="o", reason="no")

withdraw_tea = WithdrawReturn(sku="tea", order_id="o", quantity=2, return_id="r")
withdraw_cup = WithdrawReturn(sku="cup", order_id="o", quantity=1, return_id="r")
restock = (
    ReturnStock(sku="tea", order_id="o", quantity=2, return_id="r"),
    ReturnStock(sku="cup", order_id="o", quantity=1, return_id="r"),
)

TO_RECEIVED = (requested, approved, labelled, received)
TO_RESTOCKED = (*TO_RECEIVED, tea_back, cup_back)
TO_TAKEN_BACK = (*TO_RESTOCKED, taken_back)


# --- in order -------------------------------------------------------------------------------


def test_a_requested_return_is_to_be_approved() -> None:
    given(returns).when(requested).then(ApproveReturn(return_id="r"))


def test_label_and_goods_come_from_the_world_and_nothing_is_asked_meanwhile() -> None:
    given(returns, requested).when(approved).then()
    given(returns, requested, approved).when(labelled).then()


def test_received_goods_go_back_on_the_shelf() -> None:
    given(returns, requested, approved, labelled).when(received).then(*restock)


def test_the_order_takes_back_once_every_line_is_on_the_shelf() -> None:
    given(returns, *TO_RECEIVED).when(tea_back).then()
    given(returns, *TO_RECEIVED, tea_back).when(cup_back).then(
        MarkOrderReturned(order_id="o", return_id="r", lines=LINES)
    )


def test_what_the_order_took_back_is_refunded_at_the_orders_amount() -> None:
    given(returns, *TO_RESTOCKED).when(taken_back).then(
        RequestRefund(order_id="o", return_id="r", amount=1_000)
    )


def test_a_return_is_complete_once_the_money_is_back() -> None:
    given(returns, *TO_TAKEN_BACK).when(refunding).then()
    given(returns, *TO_TAKEN_BACK, refunding).when(refunded).then(
        CompleteReturn(return_id="r", amount=1_000, currency="EUR")
    )
    given(returns, *TO_TAKEN_BACK, refunding, refunded).when(completed).then().then_phase(
        "completed"
    )


# --- what turns it round --------------------------------------------------------------------


def test_a_return_that_is_refused_has_failed_and_asks_for_nothing() -> None:
    refused = ReturnRefused(return_id="r", order_id="o", reason="not ours")

    given(returns, requested).when(refused).then().then_phase("failed")


def test_what_takes_too_long_fails_once() -> None:
    too_slow = FailReturn(return_id="r", reason="it took too long")
    for history, within in (
        ((requested, approved), LABEL_WITHIN),
        ((requested, approved, labelled), GOODS_WITHIN),
    ):
        given(returns, *history).after(within - SECOND).then()
        given(returns, *history).after(within + SECOND).then(too_slow)


def test_an_order_that_does_not_answer_waits_for_a_person() -> None:
    given(returns, *TO_RESTOCKED).after(TAKE_BACK_WITHIN + SECOND).then().then_stuck("take-back")


def test_an_order_that_refuses_fails_the_return() -> None:
    given(returns, *TO_RESTOCKED).refused(MarkOrderReturned, "not-bought").then(
        FailReturn(return_id="r", reason="refused: not-bought")
    ).then_stuck("")


def test_stock_that_is_refused_fails_the_return() -> None:
    given(returns, *TO_RECEIVED).refused(ReturnStock, "never-sold").then(
        FailReturn(return_id="r", reason="refused: never-sold")
    )


def test_a_refund_that_is_refused_waits_for_a_person() -> None:
    given(returns, *TO_TAKEN_BACK).refused(RequestRefund, "never-captured").then().then_stuck(
        "never-captured"
    )


# --- compensation ---------------------------------------------------------------------------


def test_a_failed_return_takes_its_goods_off_the_shelf_again() -> None:
    given(returns, *TO_RESTOCKED).when(failed).then(withdraw_tea, withdraw_cup).then_phase(
        "undoing"
    )
    given(returns, *TO_RESTOCKED, failed).when(tea_withdrawn).then().then_phase("undoing")
    given(returns, *TO_RESTOCKED, failed, tea_withdrawn).when(cup_withdrawn).then().then_phase(
        "compensated"
    )


def test_only_what_is_on_the_shelf_is_taken_off() -> None:
    given(returns, *TO_RECEIVED, tea_back).when(failed).then(withdraw_tea)
    given(returns, requested, approved).when(failed).then().then_phase("compensated")


def test_goods_that_reach_the_shelf_late_are_taken_off_too() -> None:
    given(returns, *TO_RECEIVED, failed).when(cup_back).then(withdraw_cup).then_phase("undoing")


def test_undoing_that_lasts_too_long_waits_for_a_person() -> None:
    given(returns, *TO_RESTOCKED, failed).after(UNDOING_WITHIN * 2).then_stuck("undoing")


def test_an_answer_that_comes_before_the_return_is_held() -> None:
    given(returns).when(approved).then().then_held()
