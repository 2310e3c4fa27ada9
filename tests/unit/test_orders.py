"""The order's rules: what is accepted, what is refused, what is quiet."""

from __future__ import annotations

import pytest

from command_service.orders import (
    RETURNS_MAX,
    MoreReturnedThanBought,
    OrderAlreadyCancelled,
    OrderAlreadyDelivered,
    OrderAlreadyPlaced,
    OrderNeverPlaced,
    OrderNotCancelling,
    OrderNotConfirmed,
    OrderNotDelivered,
    OrderNotPaid,
    OrderNotReserved,
    TooManyReturns,
    orders,
)
from schemas.orders import (
    CancelOrder,
    CompleteCancellation,
    ConfirmOrder,
    MarkOrderDelivered,
    MarkOrderPaid,
    MarkOrderReserved,
    MarkOrderReturned,
    OrderCancellationRequested,
    OrderCancelled,
    OrderCommand,
    OrderConfirmed,
    OrderDelivered,
    OrderEvent,
    OrderPaid,
    OrderPlaced,
    OrderReserved,
    OrderReturned,
    PlaceOrder,
)
from schemas.values import Address, GoodsLine, OrderLine
from tidelog import replace
from tidelog.testing import given

ID = "o-1"
LINES = (
    OrderLine(sku="tea", quantity=2, unit_price=350),
    OrderLine(sku="cup", quantity=1, unit_price=900),
)
HOME = Address(name="Ada", street="1 Main St", city="Turin", postal_code="10121", country="IT")

place = PlaceOrder(order_id=ID, customer_id="c-1", currency="EUR", lines=LINES, ship_to=HOME)
cancel = CancelOrder(order_id=ID, reason="changed my mind")
mark_reserved = MarkOrderReserved(order_id=ID)
mark_paid = MarkOrderPaid(order_id=ID, paid_on="2026-07-31")
confirm = ConfirmOrder(order_id=ID)
complete_cancellation = CompleteCancellation(order_id=ID)
mark_delivered = MarkOrderDelivered(order_id=ID)

placed = OrderPlaced(
    order_id=ID,
    customer_id="c-1",
    currency="EUR",
    lines=LINES,
    total=1600,
    ship_to=HOME,
)
reserved = OrderReserved(order_id=ID)
paid = OrderPaid(order_id=ID, amount=1600, currency="EUR", paid_on="2026-07-31")
confirmed = OrderConfirmed(
    order_id=ID,
    customer_id="c-1",
    currency="EUR",
    lines=LINES,
    total=1600,
    paid_on="2026-07-31",
)
cancelling = OrderCancellationRequested(order_id=ID, reason="changed my mind", confirmed=False)
cancelling_a_sale = replace(cancelling, confirmed=True)
cancelled = OrderCancelled(
    order_id=ID,
    customer_id="c-1",
    currency="EUR",
    lines=LINES,
    total=1600,
    reason="changed my mind",
    confirmed=False,
    paid_on=None,
)
delivered = OrderDelivered(order_id=ID)

TO_PAID: tuple[OrderEvent, ...] = (placed, reserved, paid)
TO_CONFIRMED: tuple[OrderEvent, ...] = (*TO_PAID, confirmed)
TO_DELIVERED: tuple[OrderEvent, ...] = (*TO_CONFIRMED, delivered)


def send_back(return_id: str, *lines: GoodsLine) -> MarkOrderReturned:
    return MarkOrderReturned(order_id=ID, return_id=return_id, lines=lines)


def sent_back(return_id: str, *lines: OrderLine, complete: bool) -> OrderReturned:
    return OrderReturned(
        order_id=ID,
        return_id=return_id,
        customer_id="c-1",
        currency="EUR",
        lines=lines,
        amount=sum(line.quantity * line.unit_price for line in lines),
        complete=complete,
        paid_on="2026-07-31",
    )


one_tea = GoodsLine(sku="tea", quantity=1)
one_tea_priced = OrderLine(sku="tea", quantity=1, unit_price=350)


def test_placing_states_the_content_and_its_total() -> None:
    given(orders).when(place).then(placed)


def test_placing_twice_changes_nothing() -> None:
    given(orders, placed).when(place).then()


def test_placing_again_after_the_end_changes_nothing() -> None:
    given(orders, placed, cancelling, cancelled).when(place).then()


@pytest.mark.parametrize(
    "other",
    [
        replace(place, customer_id="c-2"),
        replace(place, currency="USD"),
        replace(place, lines=LINES[:1]),
        replace(place, ship_to=replace(HOME, city="Rome")),
    ],
)
def test_placing_again_with_other_content_is_refused(other: PlaceOrder) -> None:
    given(orders, placed).when(other).rejected(OrderAlreadyPlaced)


@pytest.mark.parametrize(
    "command",
    [
        cancel,
        mark_reserved,
        mark_paid,
        confirm,
        complete_cancellation,
        mark_delivered,
        send_back("r-1", one_tea),
    ],
)
def test_an_order_that_was_never_placed_refuses_all_else(command: OrderCommand) -> None:
    given(orders).when(command).rejected(OrderNeverPlaced)


def test_an_order_goes_from_placed_to_delivered() -> None:
    given(orders, placed).when(mark_reserved).then(reserved)
    given(orders, placed, reserved).when(mark_paid).then(paid)
    given(orders, *TO_PAID).when(confirm).then(confirmed)
    given(orders, *TO_CONFIRMED).when(mark_delivered).then(delivered)


@pytest.mark.parametrize("command", [mark_reserved, mark_paid, confirm, mark_delivered])
def test_a_step_taken_twice_changes_nothing(command: OrderCommand) -> None:
    given(orders, *TO_DELIVERED).when(command).then()


def test_an_order_is_paid_only_after_it_is_reserved() -> None:
    given(orders, placed).when(mark_paid).rejected(OrderNotReserved)


def test_an_order_is_confirmed_only_after_it_is_paid() -> None:
    given(orders, placed).when(confirm).rejected(OrderNotPaid)
    given(orders, placed, reserved).when(confirm).rejected(OrderNotPaid)


def test_an_order_is_delivered_only_after_it_is_confirmed() -> None:
    given(orders, *TO_PAID).when(mark_delivered).rejected(OrderNotConfirmed)


@pytest.mark.parametrize("length", [1, 2, 3])
def test_an_order_can_be_cancelled_until_it_is_confirmed(length: int) -> None:
    given(orders, *TO_PAID[:length]).when(cancel).then(cancelling).then_state(status="cancelling")


def test_a_confirmed_order_can_be_cancelled_and_says_that_it_was_a_sale() -> None:
    given(orders, *TO_CONFIRMED).when(cancel).then(cancelling_a_sale)


def test_cancelling_twice_changes_nothing_and_the_first_reason_stays() -> None:
    again = replace(cancel, reason="payment declined")
    given(orders, placed, cancelling).when(again).then().then_state(reason="changed my mind")
    given(orders, placed, cancelling, cancelled).when(again).then()


def test_a_delivered_order_cannot_be_cancelled() -> None:
    given(orders, *TO_DELIVERED).when(cancel).rejected(OrderAlreadyDelivered)


def test_a_returned_order_cannot_be_cancelled() -> None:
    back = sent_back("r-1", one_tea_priced, complete=False)
    given(orders, *TO_DELIVERED, back).when(cancel).rejected(OrderAlreadyDelivered)


@pytest.mark.parametrize("command", [mark_reserved, mark_paid, confirm])
def test_steps_that_meet_a_cancellation_are_quiet(command: OrderCommand) -> None:
    given(orders, placed, cancelling).when(command).then()
    given(orders, placed, cancelling, cancelled).when(command).then()


def test_a_cancellation_completes_with_the_first_reason() -> None:
    given(orders, placed, cancelling).when(complete_cancellation).then(cancelled)


def test_a_cancelled_sale_carries_the_day_of_the_sale() -> None:
    given(orders, *TO_CONFIRMED, cancelling_a_sale).when(complete_cancellation).then(
        replace(cancelled, confirmed=True, paid_on="2026-07-31")
    )


def test_completing_a_cancellation_twice_changes_nothing() -> None:
    given(orders, placed, cancelling, cancelled).when(complete_cancellation).then()


@pytest.mark.parametrize("history", [(placed,), TO_CONFIRMED, TO_DELIVERED])
def test_a_cancellation_that_nobody_requested_cannot_complete(
    history: tuple[OrderEvent, ...],
) -> None:
    given(orders, *history).when(complete_cancellation).rejected(OrderNotCancelling)


def test_a_parcel_that_outran_the_cancel_of_a_sale_is_delivered() -> None:
    given(orders, *TO_CONFIRMED, cancelling_a_sale).when(mark_delivered).then(delivered)


def test_a_parcel_that_outran_an_early_cancel_makes_the_sale_stand() -> None:
    given(orders, *TO_PAID, cancelling).when(mark_delivered).then(confirmed, delivered)


def test_a_parcel_of_an_unpaid_cancelling_order_is_a_contradiction() -> None:
    given(orders, placed, cancelling).when(mark_delivered).rejected(OrderNotConfirmed)


def test_a_cancelled_order_is_never_delivered_or_returned() -> None:
    end = given(orders, placed, cancelling, cancelled)
    end.when(mark_delivered).rejected(OrderAlreadyCancelled)
    end.when(send_back("r-1", one_tea)).rejected(OrderAlreadyCancelled)


def test_goods_come_back_at_the_prices_paid() -> None:
    given(orders, *TO_DELIVERED).when(send_back("r-1", one_tea)).then(
        sent_back("r-1", one_tea_priced, complete=False)
    ).then_state(status="returned")


def test_the_last_goods_complete_the_return_of_an_order() -> None:
    rest = send_back("r-2", one_tea, GoodsLine(sku="cup", quantity=1))
    given(orders, *TO_DELIVERED, sent_back("r-1", one_tea_priced, complete=False)).when(rest).then(
        sent_back("r-2", one_tea_priced, LINES[1], complete=True)
    )


def test_the_same_return_again_changes_nothing() -> None:
    back = sent_back("r-1", one_tea_priced, complete=False)
    given(orders, *TO_DELIVERED, back).when(send_back("r-1", one_tea)).then()


def test_only_delivered_goods_can_be_returned() -> None:
    given(orders, *TO_CONFIRMED).when(send_back("r-1", one_tea)).rejected(OrderNotDelivered)


def test_no_more_is_returned_than_was_bought() -> None:
    three = GoodsLine(sku="tea", quantity=3)
    two = GoodsLine(sku="tea", quantity=2)
    back = sent_back("r-1", one_tea_priced, complete=False)
    given(orders, *TO_DELIVERED).when(send_back("r-1", three)).rejected(MoreReturnedThanBought)
    given(orders, *TO_DELIVERED, back).when(send_back("r-2", two)).rejected(MoreReturnedThanBought)


def test_goods_of_another_order_are_not_taken_back() -> None:
    given(orders, *TO_DELIVERED).when(send_back("r-1", GoodsLine(sku="pot", quantity=1))).rejected(
        MoreReturnedThanBought
    )


def test_the_returns_of_an_order_are_bounded() -> None:
    many = OrderLine(sku="pin", quantity=1000, unit_price=1)
    bought: list[OrderEvent] = [
        replace(placed, lines=(many,), total=1000),
        reserved,
        replace(paid, amount=1000),
        replace(confirmed, lines=(many,), total=1000),
        delivered,
    ]
    pin = replace(many, quantity=1)
    back = [sent_back(f"r-{n}", pin, complete=False) for n in range(RETURNS_MAX)]
    given(orders, *bought, *back).when(send_back("r-x", GoodsLine(sku="pin", quantity=1))).rejected(
        TooManyReturns
    )
