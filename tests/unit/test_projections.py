"""Given the events of one aggregate, then this row of its read model."""

from __future__ import annotations

import pytest

from projectors import PROJECTIONS
from projectors.order_detail import OrderDetail, order_detail
from projectors.order_summary import OrderSummary, order_summary
from projectors.payment_status import PaymentStatus, payment_status
from projectors.return_status import ReturnStatus, return_status
from projectors.shipment_status import ShipmentStatus, shipment_status
from projectors.stock_level import StockLevel, stock_level
from schemas.inventory import (
    StockReceived,
    StockReleased,
    StockReservationRefused,
    StockReserved,
    StockReturned,
    StockSold,
)
from schemas.orders import (
    OrderCancellationRequested,
    OrderCancelled,
    OrderConfirmed,
    OrderDelivered,
    OrderEvent,
    OrderPaid,
    OrderPlaced,
    OrderReserved,
    OrderReturned,
)
from schemas.payments import (
    PaymentCaptured,
    PaymentDeclined,
    PaymentEvent,
    PaymentRefunded,
    PaymentRefundRequested,
    PaymentRequested,
    PaymentVoided,
)
from schemas.returns import (
    ReturnApproved,
    ReturnCompleted,
    ReturnEvent,
    ReturnFailed,
    ReturnGoodsReceived,
    ReturnLabelIssued,
    ReturnRefused,
    ReturnRequested,
)
from schemas.shipping import (
    ShipmentArranged,
    ShipmentCancelled,
    ShipmentDelivered,
    ShipmentDispatched,
    ShipmentRefused,
    ShipmentRequested,
    ShippingEvent,
)
from schemas.values import Address, GoodsLine, OrderLine
from tidelog import replace
from tidelog.testing import given

ID = "o-1"
DAY = "2026-07-31"
LINES = (
    OrderLine(sku="tea", quantity=2, unit_price=350),
    OrderLine(sku="cup", quantity=1, unit_price=900),
)
HOME = Address(name="Ada", street="1 Main St", city="Turin", postal_code="10121", country="IT")
GOODS = (GoodsLine(sku="tea", quantity=1),)

placed = OrderPlaced(
    order_id=ID, customer_id="c-1", currency="EUR", lines=LINES, total=1600, ship_to=HOME
)
reserved = OrderReserved(order_id=ID)
paid = OrderPaid(order_id=ID, amount=1600, currency="EUR", paid_on=DAY)
confirmed = OrderConfirmed(
    order_id=ID, customer_id="c-1", currency="EUR", lines=LINES, total=1600, paid_on=DAY
)
cancelling = OrderCancellationRequested(order_id=ID, reason="too slow", confirmed=False)
cancelled = OrderCancelled(
    order_id=ID,
    customer_id="c-1",
    currency="EUR",
    lines=LINES,
    total=1600,
    reason="too slow",
    confirmed=False,
    paid_on=None,
)
delivered = OrderDelivered(order_id=ID)
sent_back = OrderReturned(
    order_id=ID,
    return_id="r-1",
    customer_id="c-1",
    currency="EUR",
    lines=LINES[1:],
    amount=900,
    complete=False,
    paid_on=DAY,
)

SUMMARY = OrderSummary(
    order_id=ID, status="placed", customer_id="c-1", currency="EUR", units=3, total=1600
)
DETAIL = OrderDetail(
    order_id=ID,
    status="placed",
    customer_id="c-1",
    currency="EUR",
    lines=LINES,
    total=1600,
    ship_to=HOME,
)
JOURNEYS: list[tuple[list[OrderEvent], str, str | None]] = [
    ([placed], "placed", None),
    ([placed, reserved], "reserved", None),
    ([placed, reserved, paid], "paid", None),
    ([placed, reserved, paid, confirmed], "confirmed", None),
    ([placed, cancelling], "cancelling", "too slow"),
    ([placed, cancelling, cancelled], "cancelled", "too slow"),
    ([placed, reserved, paid, confirmed, delivered], "delivered", None),
    ([placed, reserved, paid, confirmed, delivered, sent_back], "returned", None),
    # A parcel that outruns a cancellation: the sale stands, and nobody cancelled it.
    ([placed, reserved, paid, cancelling, confirmed], "confirmed", None),
    ([placed, reserved, paid, confirmed, cancelling, delivered], "delivered", None),
]


@pytest.mark.parametrize(("events", "status", "reason"), JOURNEYS)
def test_an_order_is_as_far_as_its_last_event(
    events: list[OrderEvent], status: str, reason: str | None
) -> None:
    now = {"status": status, "cancel_reason": reason}

    given(order_summary, *events).then_row(ID, replace(SUMMARY, **now))
    given(order_detail, *events).then_row(ID, replace(DETAIL, **now))


def test_stock_counts_what_is_on_the_shelf_and_what_of_it_is_kept_for_orders() -> None:
    received = StockReceived(sku="tea", quantity=10)
    kept = StockReserved(sku="tea", order_id="o-1", quantity=4)
    sold = StockSold(sku="tea", order_id="o-1", quantity=4)
    refused = StockReservationRefused(sku="tea", order_id="o-2", quantity=7, available=6)
    released = StockReleased(sku="tea", order_id="o-1", quantity=4)
    back = StockReturned(sku="tea", order_id="o-1", quantity=1, return_id="r-1")

    stock = StockLevel(sku="tea", on_hand=10, reserved=4)
    given(stock_level, received, kept).then_row("tea", stock)
    given(stock_level, received, kept, refused).then_row("tea", stock)
    given(stock_level, received, kept, released).then_row("tea", replace(stock, reserved=0))
    given(stock_level, received, kept, sold).then_row(
        "tea", StockLevel(sku="tea", on_hand=6, reserved=0)
    )
    given(stock_level, received, kept, sold, back).then_row(
        "tea", StockLevel(sku="tea", on_hand=7, reserved=0)
    )
    given(stock_level, refused).then_row("tea", StockLevel(sku="tea"))


payment_requested = PaymentRequested(order_id=ID, customer_id="c-1", amount=1600, currency="EUR")
captured = PaymentCaptured(order_id=ID, amount=1600, currency="EUR", captured_on=DAY, late=False)
declined = PaymentDeclined(order_id=ID, reason="no funds")
voided = PaymentVoided(order_id=ID)


def refund_requested(amount: int, return_id: str | None = None) -> PaymentRefundRequested:
    return PaymentRefundRequested(order_id=ID, amount=amount, currency="EUR", return_id=return_id)


def refunded(amount: int, return_id: str | None = None) -> PaymentRefunded:
    return PaymentRefunded(order_id=ID, amount=amount, currency="EUR", return_id=return_id)


PAYMENTS: list[tuple[list[PaymentEvent], str, int, int]] = [
    ([payment_requested], "requested", 0, 0),
    ([payment_requested, captured], "captured", 1600, 0),
    ([payment_requested, declined], "declined", 0, 0),
    ([payment_requested, voided], "voided", 0, 0),
    # Asked back is not paid back.
    ([payment_requested, captured, refund_requested(1600)], "captured", 1600, 0),
    (
        [payment_requested, captured, refund_requested(1600), refunded(1600)],
        "refunded",
        1600,
        1600,
    ),
    # A part leaves the payment captured; the last part ends it.
    ([payment_requested, captured, refunded(900, "r-1")], "captured", 1600, 900),
    ([payment_requested, captured, refunded(900, "r-1"), refunded(700)], "refunded", 1600, 1600),
    # Money that comes after a void is money that was taken, until it is paid back.
    (
        [payment_requested, voided, replace(captured, late=True), refund_requested(1600)],
        "captured",
        1600,
        0,
    ),
]


@pytest.mark.parametrize(("events", "status", "taken", "paid_back"), PAYMENTS)
def test_a_payment_says_what_was_taken_and_what_was_paid_back(
    events: list[PaymentEvent], status: str, taken: int, paid_back: int
) -> None:
    row = PaymentStatus(order_id=ID, status="requested", currency="EUR")

    now = {"status": status, "captured": taken, "refunded": paid_back}
    given(payment_status, *events).then_row(ID, replace(row, **now))


def test_a_payment_that_was_voided_before_it_was_requested_knows_no_currency() -> None:
    given(payment_status, voided).then_row(ID, PaymentStatus(order_id=ID, status="voided"))


shipment_requested = ShipmentRequested(order_id=ID, ship_to=HOME, lines=GOODS)
arranged = ShipmentArranged(order_id=ID, carrier="DHL", tracking="T-1", late=False)
dispatched = ShipmentDispatched(order_id=ID)
shipment_cancelled = ShipmentCancelled(order_id=ID)
SHIPMENTS: list[tuple[list[ShippingEvent], str, bool]] = [
    ([shipment_requested, arranged], "arranged", True),
    ([shipment_requested, ShipmentRefused(order_id=ID, reason="no")], "refused", False),
    ([shipment_cancelled], "cancelled", False),
    ([shipment_requested, shipment_cancelled], "cancelled", False),
    ([shipment_requested, arranged, shipment_cancelled], "cancelled", True),
    ([shipment_requested, arranged, dispatched], "dispatched", True),
    (
        [shipment_requested, arranged, dispatched, ShipmentDelivered(order_id=ID)],
        "delivered",
        True,
    ),
    (
        [shipment_requested, shipment_cancelled, replace(arranged, late=True), shipment_cancelled],
        "cancelled",
        True,
    ),
]


@pytest.mark.parametrize(("events", "status", "taken"), SHIPMENTS)
def test_a_shipment_is_where_the_carrier_said_last(
    events: list[ShippingEvent], status: str, taken: bool
) -> None:
    row = ShipmentStatus(order_id=ID, status="arranged")
    by = {"carrier": "DHL", "tracking": "T-1"} if taken else {}

    given(shipment_status, *events).then_row(ID, replace(row, status=status, **by))


def test_there_is_no_shipment_while_the_carrier_has_only_been_asked() -> None:
    given(shipment_status, shipment_requested).then_row(ID, None)


return_requested = ReturnRequested(return_id="r-1", order_id=ID, lines=GOODS, reason="too small")
approved = ReturnApproved(return_id="r-1", order_id=ID)
labelled = ReturnLabelIssued(return_id="r-1", order_id=ID, carrier="DHL", tracking="T-2")
received = ReturnGoodsReceived(return_id="r-1", order_id=ID, lines=GOODS)
completed = ReturnCompleted(return_id="r-1", order_id=ID, lines=GOODS, amount=350, currency="EUR")
LABEL = {"carrier": "DHL", "tracking": "T-2"}
RETURNS: list[tuple[list[ReturnEvent], dict[str, object]]] = [
    ([], {"status": "requested"}),
    ([approved], {"status": "approved"}),
    ([approved, labelled], {"status": "labelled", **LABEL}),
    ([approved, labelled, received], {"status": "received", **LABEL}),
    (
        [approved, labelled, received, completed],
        {"status": "completed", **LABEL, "refunded": 350, "currency": "EUR"},
    ),
    (
        [ReturnRefused(return_id="r-1", order_id=ID, reason="worn")],
        {"status": "refused", "refusal": "worn"},
    ),
    (
        [approved, ReturnFailed(return_id="r-1", order_id=ID, reason="lost")],
        {"status": "failed", "refusal": "lost"},
    ),
]


@pytest.mark.parametrize(("events", "now"), RETURNS)
def test_a_return_is_at_its_last_step_with_all_that_was_said_of_it(
    events: list[ReturnEvent], now: dict[str, object]
) -> None:
    row = ReturnStatus(
        return_id="r-1", order_id=ID, status="requested", lines=GOODS, reason="too small"
    )

    given(return_status, return_requested, *events).then_row("r-1", replace(row, **now))


def test_every_context_of_the_shop_is_read_and_no_two_read_models_share_a_name() -> None:
    read = {context.name for each in PROJECTIONS for context in each.contexts}
    names = [each.name for each in PROJECTIONS]

    assert read >= {"orders", "inventory", "payments", "shipping", "returns"}
    assert len(set(names)) == len(names)
