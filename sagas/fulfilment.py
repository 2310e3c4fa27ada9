"""Order fulfilment: from a placed order to a confirmed one, or back to nothing.

    OrderPlaced ─ reserve ─ OrderReserved ─ pay ─ OrderPaid ─ ship ─ OrderConfirmed ─ sell

Whatever fails on the way asks the order to be cancelled, and so does the customer: the order says
yes or no. From OrderCancellationRequested on, what was asked for is undone from its end: first the
shipment, which alone knows whether the parcel has won; then the payment; then the stock.
"""

from __future__ import annotations

from datetime import date, timedelta

from sagas.fulfilment_state import Fulfilment, remember
from schemas import INVENTORY, ORDERS, PAYMENTS, SHIPPING
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
    OrderConfirmed,
    OrderDelivered,
    OrderPaid,
    OrderPlaced,
    OrderReserved,
)
from schemas.payments import (
    PaymentCaptured,
    PaymentDeclined,
    PaymentRefunded,
    PaymentRefundRequested,
    PaymentRequested,
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
    ShipmentRequested,
)
from schemas.values import GoodsLine
from tidelog import Deadline, Event, Saga, on, undo
from tidelog.saga import Phase

STOCK_WITHIN = timedelta(minutes=2)
PAYMENT_WITHIN = timedelta(minutes=10)
SHIPMENT_WITHIN = timedelta(minutes=30)
UNDOING_WITHIN = timedelta(hours=1)

REASON_MAX = 1_000
"""The characters of a reason."""

# --- happy path -----------------------------------------------------------------------------


def reserve_stock(event: OrderPlaced, _: Fulfilment) -> list[ReserveStock]:
    return [
        ReserveStock(sku=line.sku, order_id=event.order_id, quantity=line.quantity)
        for line in event.lines
    ]


def mark_reserved(event: StockReserved, state: Fulfilment) -> MarkOrderReserved | None:
    if set(state.stock.values()) != {"reserved"}:
        return None
    return MarkOrderReserved(order_id=event.order_id)


def request_payment(event: OrderReserved, state: Fulfilment) -> RequestPayment:
    placed = state.placed
    return RequestPayment(
        order_id=event.order_id,
        customer_id=placed.customer_id,
        amount=placed.total,
        currency=placed.currency,
    )


def mark_paid(event: PaymentCaptured, _: Fulfilment) -> MarkOrderPaid | None:
    if event.late:
        return None  # Its refund was asked for in the same breath.
    return MarkOrderPaid(order_id=event.order_id, paid_on=event.captured_on)


def request_shipment(event: OrderPaid, state: Fulfilment) -> RequestShipment:
    placed = state.placed
    return RequestShipment(
        order_id=event.order_id,
        ship_to=placed.ship_to,
        lines=tuple(GoodsLine(sku=line.sku, quantity=line.quantity) for line in placed.lines),
    )


def confirm_order(event: ShipmentArranged, _: Fulfilment) -> ConfirmOrder | None:
    return None if event.late else ConfirmOrder(order_id=event.order_id)


def sell_stock(event: OrderConfirmed, _: Fulfilment) -> list[SellStock]:
    return [SellStock(sku=line.sku, order_id=event.order_id) for line in event.lines]


def mark_delivered(event: ShipmentDelivered, _: Fulfilment) -> MarkOrderDelivered:
    return MarkOrderDelivered(order_id=event.order_id)


# --- what turns it round --------------------------------------------------------------------


def cancel_out_of_stock(event: StockReservationRefused, _: Fulfilment) -> CancelOrder:
    return CancelOrder(order_id=event.order_id, reason=f"out of stock: {event.sku}")


def cancel_declined(event: PaymentDeclined, _: Fulfilment) -> CancelOrder:
    return CancelOrder(order_id=event.order_id, reason="the payment was declined")


def cancel_unpaid(event: PaymentVoided, _: Fulfilment) -> CancelOrder:
    return CancelOrder(order_id=event.order_id, reason="the payment did not come about")


def cancel_unshippable(event: ShipmentRefused, _: Fulfilment) -> CancelOrder:
    return CancelOrder(order_id=event.order_id, reason="the carrier refused the parcel")


def cancel_in_time(state: Fulfilment) -> CancelOrder:
    return CancelOrder(order_id=state.order_id, reason="it took too long")


# --- compensation ---------------------------------------------------------------------------


def cancel_shipment(state: Fulfilment) -> CancelShipment:
    return CancelShipment(order_id=state.order_id)


def void_payment(state: Fulfilment) -> VoidPayment:
    return VoidPayment(order_id=state.order_id)


def give_stock_back(state: Fulfilment) -> list[ReleaseStock | ReturnStock]:
    """Release what is reserved, return what is sold; what is being sold must first be sold."""
    commands: list[ReleaseStock | ReturnStock] = []
    for line in state.placed.lines:
        if state.stock[line.sku] in ("asked", "reserved"):
            commands.append(ReleaseStock(sku=line.sku, order_id=state.order_id))
        elif state.stock[line.sku] == "sold":
            commands.append(
                ReturnStock(sku=line.sku, order_id=state.order_id, quantity=line.quantity)
            )
    return commands


def complete_cancellation(state: Fulfilment) -> CompleteCancellation:
    return CompleteCancellation(order_id=state.order_id)


def shipment_is_under_way(state: Fulfilment) -> bool:
    return state.shipment in ("asked", "arranged")


def money_is_owed(state: Fulfilment) -> bool:
    return state.payment in ("asked", "captured", "refunding")


def stock_is_held(state: Fulfilment) -> bool:
    return any(
        status in ("asked", "reserved", "selling", "sold") for status in state.stock.values()
    )


# --- what a person may answer in the place of others ----------------------------------------
#
# Only where a later word of those others does no harm: what comes late is heard all the same. The
# work outside is stopped, so that nobody pays, sends or pays back twice.


def paid_elsewhere(state: Fulfilment, day: date) -> list[Event]:
    """The money came in another way."""
    placed = state.placed
    if state.payment != "asked":
        return []
    return [
        PaymentCaptured(
            order_id=placed.order_id,
            amount=placed.total,
            currency=placed.currency,
            captured_on=day.isoformat(),
            late=False,
        )
    ]


def shipped_by_hand(state: Fulfilment, _: date) -> list[Event]:
    """The parcel goes another way."""
    if state.shipment != "asked":
        return []
    return [
        ShipmentArranged(order_id=state.order_id, carrier="by hand", tracking="none", late=False)
    ]


def taken_off_the_shelf(state: Fulfilment, _: date) -> list[Event]:
    """The pieces left, though the books of the stock do not say so."""
    return [
        StockSold(sku=line.sku, order_id=state.order_id, quantity=line.quantity)
        for line in state.placed.lines
        if state.order == "confirmed" and state.stock[line.sku] != "sold"
    ]


def called_back(state: Fulfilment, _: date) -> list[Event]:
    """The parcel was stopped in another way."""
    return [ShipmentCancelled(order_id=state.order_id)] if shipment_is_under_way(state) else []


def paid_back_elsewhere(state: Fulfilment, _: date) -> list[Event]:
    """No money is taken any more, or it was paid back in another way."""
    if state.payment == "asked":
        return [PaymentVoided(order_id=state.order_id)]
    if not money_is_owed(state):
        return []
    placed = state.placed
    return [
        PaymentRefunded(
            order_id=placed.order_id,
            amount=placed.total,
            currency=placed.currency,
            return_id=None,
        )
    ]


def put_on_the_shelf(state: Fulfilment, _: date) -> list[Event]:
    """The pieces are back, though the books of the stock do not say so."""
    return [
        StockReleased(sku=line.sku, order_id=state.order_id, quantity=0)
        for line in state.placed.lines
        if state.stock[line.sku] in ("asked", "reserved", "selling", "sold")
    ]


def turn_back(state: Fulfilment, reason: str) -> CancelOrder:
    return CancelOrder(order_id=state.order_id, reason=f"by an operator: {reason}"[:REASON_MAX])


# --- how it stands --------------------------------------------------------------------------


def phase(state: Fulfilment) -> Phase:
    """Confirmed and sold, or cancelled with everything given back, or on the way to either."""
    if state.order == "cancelled":
        return "undoing" if money_is_owed(state) else "compensated"
    if state.order == "cancelling" and state.shipment != "delivered":
        return "undoing"
    if state.order == "confirmed" and set(state.stock.values()) == {"sold"}:
        return "completed"
    return "forward"


def stock_is_awaited(state: Fulfilment) -> bool:
    return phase(state) == "forward" and "asked" in state.stock.values()


def payment_is_awaited(state: Fulfilment) -> bool:
    return phase(state) == "forward" and state.payment == "asked"


def shipment_is_awaited(state: Fulfilment) -> bool:
    return phase(state) == "forward" and state.shipment == "asked"


def is_undone(state: Fulfilment) -> bool:
    return phase(state) == "undoing"


fulfilment = Saga(
    name="fulfilment",
    key="order_id",
    contexts=[ORDERS, INVENTORY, PAYMENTS, SHIPPING],
    initial=Fulfilment(),
    starts=[OrderPlaced],
    evolve=remember,
    phase=phase,
    steps=[
        on(OrderPlaced, reserve_stock, answers=[StockReserved, StockReservationRefused]),
        on(StockReserved, mark_reserved, answers=[OrderReserved]),
        on(
            OrderReserved,
            request_payment,
            answers=[PaymentRequested],
            skipped=paid_elsewhere,
            outside=["take-payment"],
        ),
        on(PaymentCaptured, mark_paid, answers=[OrderPaid]),
        on(
            OrderPaid,
            request_shipment,
            answers=[ShipmentRequested],
            skipped=shipped_by_hand,
            outside=["book-parcel"],
        ),
        on(ShipmentArranged, confirm_order, answers=[OrderConfirmed]),
        on(OrderConfirmed, sell_stock, answers=[StockSold], skipped=taken_off_the_shelf),
        on(ShipmentDelivered, mark_delivered, answers=[OrderDelivered, OrderConfirmed]),
    ],
    failures=[
        on(StockReservationRefused, cancel_out_of_stock, answers=[OrderCancellationRequested]),
        on(PaymentDeclined, cancel_declined, answers=[OrderCancellationRequested]),
        on(PaymentVoided, cancel_unpaid, answers=[OrderCancellationRequested]),
        on(ShipmentRefused, cancel_unshippable, answers=[OrderCancellationRequested]),
    ],
    compensations=[
        undo(
            reserve_stock,
            give_stock_back,
            needed=stock_is_held,
            answers=[StockReleased, StockReturned],
            skipped=put_on_the_shelf,
        ),
        undo(
            request_payment,
            void_payment,
            needed=money_is_owed,
            answers=[PaymentVoided, PaymentRefundRequested],
            skipped=paid_back_elsewhere,
            outside=["take-payment", "void-payment", "pay-back"],
        ),
        undo(
            request_shipment,
            cancel_shipment,
            needed=shipment_is_under_way,
            answers=[ShipmentCancelled],
            skipped=called_back,
            outside=["book-parcel", "cancel-parcel"],
        ),
    ],
    undone=complete_cancellation,
    turn_back=turn_back,
    deadlines=[
        Deadline(
            name="stock", within=STOCK_WITHIN, waiting=stock_is_awaited, missed=cancel_in_time
        ),
        Deadline(
            name="payment", within=PAYMENT_WITHIN, waiting=payment_is_awaited, missed=cancel_in_time
        ),
        Deadline(
            name="shipment",
            within=SHIPMENT_WITHIN,
            waiting=shipment_is_awaited,
            missed=cancel_in_time,
        ),
        Deadline(name="undoing", within=UNDOING_WITHIN, waiting=is_undone),
    ],
)
