"""Order fulfilment, reaction by reaction."""

from __future__ import annotations

from datetime import timedelta

from sagas.fulfilment import (
    PAYMENT_WITHIN,
    SHIPMENT_WITHIN,
    STOCK_WITHIN,
    UNDOING_WITHIN,
    fulfilment,
)
from schemas.inventory import (
    ReleaseStock,
    ReserveStock,
    ReturnStock,
    SellStock,
    StockReleased,
    StockReservationRefused,
    StockReserved,
    StockReturned,
    StockSold,
)
from schemas.orders import (
    CancelOrder,
    CompleteCancellation,
    ConfirmOrder,
    MarkOrderDelivered,
    MarkOrderPaid,
    MarkOrderReserved,
    OrderCancellationRequested,
    OrderCancelled,
    OrderConfirmed,
    OrderPaid,
    OrderPlaced,
    OrderReserved,
)
from schemas.payments import (
    PaymentCaptured,
    PaymentDeclined,
    PaymentRefunded,
    PaymentRefundRequested,
    PaymentVoided,
    RequestPayment,
    VoidPayment,
)
from schemas.shipping import (
    CancelShipment,
    RequestShipment,
    ShipmentArranged,
    ShipmentCancelled,
    ShipmentDelivered,
    ShipmentRefused,
)
from schemas.values import Address, GoodsLine, OrderLine
from tidelog.testing import given

DAY = "2026-01-01"
HOME = Address(name="A", street="B", city="C", postal_code="1", country="DE")
LINES = (
    OrderLine(sku="tea", quantity=2, unit_price=300),
    OrderLine(sku="cup", quantity=1, unit_price=400),
)

placed = OrderPlaced(
    order_id="o", customer_id="c", currency="EUR", lines=LINES, total=1_000, ship_to=HOME
)
tea = StockReserved(sku="tea", order_id="o", quantity=2)
cup = StockReserved(sku="cup", order_id="o", quantity=1)
reserved = OrderReserved(order_id="o")
captured = PaymentCaptured(order_id="o", amount=1_000, currency="EUR", captured_on=DAY, late=False)
paid = OrderPaid(order_id="o", amount=1_000, currency="EUR", paid_on=DAY)
arranged = ShipmentArranged(order_id="o", carrier="C", tracking="t", late=False)
confirmed = OrderConfirmed(
    order_id="o", customer_id="c", currency="EUR", lines=LINES, total=1_000, paid_on=DAY
)
tea_sold = StockSold(sku="tea", order_id="o", quantity=2)
cup_sold = StockSold(sku="cup", order_id="o", quantity=1)
refund_requested = PaymentRefundRequested(
    order_id="o", amount=1_000, currency="EUR", return_id=None
)
refunded = PaymentRefunded(order_id="o", amount=1_000, currency="EUR", return_id=None)
cancelling = OrderCancellationRequested(order_id="o", reason="no", confirmed=False)

cancel_shipment = CancelShipment(order_id="o")
void_payment = VoidPayment(order_id="o")
release_tea = ReleaseStock(sku="tea", order_id="o")
release_cup = ReleaseStock(sku="cup", order_id="o")
complete = CompleteCancellation(order_id="o")
too_slow = CancelOrder(order_id="o", reason="it took too long")

TO_RESERVED = (placed, tea, cup, reserved)
TO_PAID = (*TO_RESERVED, captured, paid)
TO_CONFIRMED = (*TO_PAID, arranged, confirmed)


# --- happy path -----------------------------------------------------------------------------


def test_a_placed_order_reserves_the_stock_of_every_line() -> None:
    given(fulfilment).when(placed).then(
        ReserveStock(sku="tea", order_id="o", quantity=2),
        ReserveStock(sku="cup", order_id="o", quantity=1),
    )


def test_an_order_is_reserved_once_every_line_is() -> None:
    given(fulfilment, placed).when(tea).then()
    given(fulfilment, placed, tea).when(cup).then(MarkOrderReserved(order_id="o"))


def test_a_reserved_order_is_to_be_paid() -> None:
    given(fulfilment, placed, tea, cup).when(reserved).then(
        RequestPayment(order_id="o", customer_id="c", amount=1_000, currency="EUR")
    )


def test_captured_money_pays_the_order_on_the_providers_day() -> None:
    given(fulfilment, *TO_RESERVED).when(captured).then(MarkOrderPaid(order_id="o", paid_on=DAY))


def test_a_paid_order_is_to_be_shipped() -> None:
    given(fulfilment, *TO_RESERVED, captured).when(paid).then(
        RequestShipment(
            order_id="o",
            ship_to=HOME,
            lines=(GoodsLine(sku="tea", quantity=2), GoodsLine(sku="cup", quantity=1)),
        )
    )


def test_an_arranged_shipment_confirms_the_order() -> None:
    given(fulfilment, *TO_PAID).when(arranged).then(ConfirmOrder(order_id="o"))


def test_a_confirmed_order_sells_its_stock_and_is_complete_when_all_is_sold() -> None:
    given(fulfilment, *TO_PAID, arranged).when(confirmed).then(
        SellStock(sku="tea", order_id="o"), SellStock(sku="cup", order_id="o")
    ).then_phase("forward")
    given(fulfilment, *TO_CONFIRMED, tea_sold).when(cup_sold).then().then_phase("completed")


def test_a_delivered_parcel_delivers_the_order() -> None:
    delivered = ShipmentDelivered(order_id="o")

    given(fulfilment, *TO_CONFIRMED, tea_sold, cup_sold).when(delivered).then(
        MarkOrderDelivered(order_id="o")
    )


# --- what turns it round --------------------------------------------------------------------


def test_a_line_that_is_refused_cancels_the_order() -> None:
    refused = StockReservationRefused(sku="cup", order_id="o", quantity=1, available=0)

    given(fulfilment, placed, tea).when(refused).then(
        CancelOrder(order_id="o", reason="out of stock: cup")
    )


def test_a_declined_payment_cancels_the_order() -> None:
    declined = PaymentDeclined(order_id="o", reason="no")

    given(fulfilment, *TO_RESERVED).when(declined).then(
        CancelOrder(order_id="o", reason="the payment was declined")
    )


def test_a_payment_that_was_given_up_cancels_the_order() -> None:
    given(fulfilment, *TO_RESERVED).when(PaymentVoided(order_id="o")).then(
        CancelOrder(order_id="o", reason="the payment did not come about")
    )


def test_a_refused_shipment_cancels_the_order() -> None:
    refused = ShipmentRefused(order_id="o", reason="no")

    given(fulfilment, *TO_PAID).when(refused).then(
        CancelOrder(order_id="o", reason="the carrier refused the parcel")
    )


def test_what_takes_too_long_is_cancelled_once() -> None:
    for history, within in (
        ((placed,), STOCK_WITHIN),
        (TO_RESERVED, PAYMENT_WITHIN),
        (TO_PAID, SHIPMENT_WITHIN),
    ):
        given(fulfilment, *history).after(within - timedelta(seconds=1)).then()
        given(fulfilment, *history).after(within + timedelta(seconds=1)).then(too_slow)


# --- compensation ---------------------------------------------------------------------------


def test_a_cancelled_order_gives_back_also_the_stock_that_has_not_answered_yet() -> None:
    given(fulfilment, placed, tea).when(cancelling).then(release_tea, release_cup)


def test_undoing_goes_from_the_end_shipment_then_payment_then_stock() -> None:
    history = (*TO_PAID, cancelling)
    stopped = ShipmentCancelled(order_id="o")

    given(fulfilment, *TO_PAID).when(cancelling).then(cancel_shipment)
    given(fulfilment, *history).when(stopped).then(void_payment)
    given(fulfilment, *history, stopped).when(refund_requested).then()
    given(fulfilment, *history, stopped, refund_requested).when(refunded).then(
        release_tea, release_cup
    )


def test_an_order_is_cancelled_when_everything_is_given_back() -> None:
    tea_back = StockReleased(sku="tea", order_id="o", quantity=2)
    cup_back = StockReleased(sku="cup", order_id="o", quantity=0)
    cancelled = OrderCancelled(
        order_id="o",
        customer_id="c",
        currency="EUR",
        lines=LINES,
        total=1_000,
        reason="no",
        confirmed=False,
        paid_on=None,
    )
    history = (placed, tea, cancelling, tea_back)

    given(fulfilment, *history).when(cup_back).then(complete).then_phase("undoing")
    given(fulfilment, *history, cup_back).when(cancelled).then().then_phase("compensated")


def test_what_is_being_sold_is_returned_once_it_is_sold() -> None:
    history = (*TO_CONFIRMED, tea_sold, cancelling, ShipmentCancelled(order_id="o"), refunded)
    tea_returned = StockReturned(sku="tea", order_id="o", quantity=2, return_id=None)

    given(fulfilment, *history).when(cup_sold).then(
        ReturnStock(sku="cup", order_id="o", quantity=1)
    )
    given(fulfilment, *history, cup_sold).when(tea_returned).then()


def test_a_parcel_that_outran_the_cancellation_lets_the_sale_stand() -> None:
    history = (*TO_PAID, arranged, cancelling)

    given(fulfilment, *history).when(ShipmentDelivered(order_id="o")).then(
        MarkOrderDelivered(order_id="o")
    ).then_phase("forward")


def test_money_that_comes_late_goes_back_and_does_not_lead_on() -> None:
    late = PaymentCaptured(order_id="o", amount=1_000, currency="EUR", captured_on=DAY, late=True)
    history = (*TO_RESERVED, cancelling, PaymentVoided(order_id="o"))

    # The payment asks for its refund by itself; the stock waits until the money is back.
    given(fulfilment, *history).when(late).then().then_phase("undoing")
    given(fulfilment, *history, late, refund_requested).when(refunded).then().then_phase("undoing")


def test_a_compensation_without_effect_is_tried_again_and_then_waits_for_a_person() -> None:
    instance = given(fulfilment, placed, tea, cancelling)

    outcome = instance.after(timedelta(seconds=31))
    outcome.then(release_tea, release_cup)

    given(fulfilment, placed, tea, cancelling).after(UNDOING_WITHIN * 2).then_stuck("undoing")


def test_a_refused_command_without_a_branch_waits_for_a_person() -> None:
    given(fulfilment, placed).refused(ReserveStock, "reservation-differs").then().then_stuck(
        "reservation-differs"
    )


def test_an_answer_that_comes_before_the_order_is_held() -> None:
    given(fulfilment).when(tea).then().then_held()
