"""What holds for every aggregate, whatever is sent to it, in whatever order, however often."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from command_service.aggregates import AGGREGATES
from command_service.inventory import StockItem, inventory
from command_service.notifications import notifications
from command_service.orders import Order, orders
from command_service.payments import Payment, payments
from command_service.returns import Return, returns
from command_service.shipping import Shipment, shipping
from schemas.inventory import ReceiveStock, ReserveStock, ReturnStock, SellStock, StockSold
from schemas.notifications import (
    RecordNotificationFailed,
    RecordNotificationSent,
    RequestNotification,
)
from schemas.operations import DecideParked
from schemas.orders import (
    ConfirmOrder,
    MarkOrderDelivered,
    MarkOrderPaid,
    MarkOrderReserved,
    MarkOrderReturned,
    OrderReturned,
    PlaceOrder,
)
from schemas.payments import (
    PaymentCaptured,
    PaymentRefunded,
    PaymentRefundRequested,
    PaymentRequested,
    RecordPaymentCaptured,
    RecordRefund,
    RequestPayment,
    RequestRefund,
)
from schemas.returns import (
    ApproveReturn,
    CompleteReturn,
    IssueReturnLabel,
    ReceiveReturnedGoods,
    RequestReturn,
)
from schemas.shipping import (
    RecordDelivered,
    RecordDispatched,
    RecordShipmentArranged,
    RequestShipment,
)
from schemas.values import Address, GoodsLine, OrderLine
from tidelog import Aggregate, Command, Event, Rejected, State
from tidelog.cli.docs import rules_of
from tidelog.testing import given as given_events
from tidelog.testing.strategies import commands_for, messages_of

AnyAggregate = Aggregate[Any, Any, Any]
Step = tuple[Command, State, tuple[Event, ...], State]

HOME = Address(name="Ada", street="1 Main St", city="Turin", postal_code="10121", country="IT")
TEA_AND_CUP = (
    OrderLine(sku="tea", quantity=2, unit_price=350),
    OrderLine(sku="cup", quantity=1, unit_price=900),
)
ONE_TEA = (GoodsLine(sku="tea", quantity=1),)
ONE_CUP = (GoodsLine(sku="cup", quantity=1),)
TWO_TEAS = (GoodsLine(sku="tea", quantity=2),)
NEVER_BOUGHT = (GoodsLine(sku="pot", quantity=1),)
RETURNED_LINES = st.sampled_from([ONE_TEA, TWO_TEAS, ONE_CUP, (*ONE_TEA, *ONE_CUP), NEVER_BOUGHT])

# A few values per field, so that commands agree with each other often enough to get far.
FIELDS: dict[str, dict[str, st.SearchStrategy[Any]]] = {
    "orders": {
        "customer_id": st.just("c-1"),
        "currency": st.just("EUR"),
        "PlaceOrder.lines": st.just(TEA_AND_CUP),
        "MarkOrderReturned.lines": RETURNED_LINES,
        "ship_to": st.just(HOME),
        "reason": st.just("why"),
        "paid_on": st.just("2026-07-31"),
    },
    "inventory": {"quantity": st.integers(1, 6)},
    "payments": {
        "customer_id": st.just("c-1"),
        "currency": st.just("EUR"),
        "amount": st.sampled_from([4, 10]),
        "captured_on": st.just("2026-07-31"),
        "reason": st.just("why"),
    },
    "shipping": {
        "ship_to": st.just(HOME),
        "lines": st.just(ONE_TEA),
        "carrier": st.just("Swift"),
        "tracking": st.sampled_from(["T-1", "T-2"]),
        "reason": st.just("why"),
    },
    "returns": {
        "order_id": st.just("o-1"),
        "lines": st.just(ONE_TEA),
        "carrier": st.just("Swift"),
        "tracking": st.just("T-9"),
        "amount": st.just(350),
        "currency": st.just("EUR"),
        "reason": st.just("why"),
    },
    "notifications": {
        "order_id": st.just("o-1"),
        "kind": st.just("order-confirmed"),
        "recipient": st.just("c-1@customers.example"),
        "title": st.just("Confirmed"),
        "text": st.sampled_from(["It is on its way.", "It will come."]),
        "reason": st.just("why"),
    },
    "operations": {
        "kind": st.just("projection"),
        "projection": st.just("shipments"),
        "version": st.just(1),
        "position": st.sampled_from(["shipping:0:7", "shipping:0:8"]),
        "event_type": st.sampled_from([None, "ShipmentDelivered"]),
        "replacement": st.sampled_from([None, '{"order_id":"o-1"}', "{}"]),
        "operator": st.sampled_from(["ada", "grace"]),
    },
}

# The way of one that goes well. A run follows it for a while and then leaves it, so that the
# properties are tried in every state and not only in the first.
WAYS: dict[str, list[type[Command]]] = {
    "orders": [
        PlaceOrder,
        MarkOrderReserved,
        MarkOrderPaid,
        ConfirmOrder,
        MarkOrderDelivered,
        MarkOrderReturned,
    ],
    "inventory": [ReceiveStock, ReserveStock, SellStock, ReturnStock],
    "payments": [RequestPayment, RecordPaymentCaptured, RequestRefund, RecordRefund],
    "shipping": [
        RequestShipment,
        RecordShipmentArranged,
        RecordDispatched,
        RecordDelivered,
    ],
    "returns": [
        RequestReturn,
        ApproveReturn,
        IssueReturnLabel,
        ReceiveReturnedGoods,
        CompleteReturn,
    ],
    "notifications": [RequestNotification, RecordNotificationFailed, RecordNotificationSent],
    "operations": [DecideParked],
}

# The one key of a run, where any will not do.
KEYS = {"operations": "shipments~1~shipping~0~7"}

RANDOM_COMMANDS_MAX = 20

# Each of them adds, by its meaning; a retry is known by its command id.
ADDS_EACH_TIME = (ReceiveStock,)


def runs(aggregate: AnyAggregate) -> st.SearchStrategy[list[Command]]:
    return RUNS[aggregate.name]


def _runs(aggregate: AnyAggregate) -> st.SearchStrategy[list[Command]]:
    """Some steps of the way that goes well, then commands of every kind in any order."""
    context = aggregate.context
    key = KEYS.get(context.name, "k-1")
    assert context.name in FIELDS, f"FIELDS lacks values for the commands of {context.name}"
    fields = {**FIELDS[context.name], context.key: st.just(key)}
    way = [messages_of(kind, fields=fields) for kind in WAYS[context.name]]
    steps = st.one_of([st.tuples(*way[:length]) for length in range(len(way) + 1)])
    anything = commands_for(aggregate, key=key, fields=fields)
    # Left alone, the generator likes short lists; half of the runs are as long as they may be.
    short = st.lists(anything, min_size=1, max_size=RANDOM_COMMANDS_MAX)
    long = st.lists(anything, min_size=RANDOM_COMMANDS_MAX, max_size=RANDOM_COMMANDS_MAX)
    return st.builds(lambda first, then: [*first, *then], steps, short | long)


RUNS = {aggregate.name: _runs(aggregate) for aggregate in AGGREGATES}


def run(aggregate: AnyAggregate, sent: Sequence[Command]) -> Iterator[Step]:
    """Send the commands one after the other; refusals change nothing."""
    state = aggregate.initial
    for command in sent:
        events, after = send(aggregate, command, state)
        yield command, state, events, after
        state = after


def send(
    aggregate: AnyAggregate, command: Command, state: State
) -> tuple[tuple[Event, ...], State]:
    try:
        events = tuple(aggregate.decide(command, state))
    except Rejected:
        return (), state
    for event in events:
        state = aggregate.evolve(state, event)
    return events, state


every_aggregate = pytest.mark.parametrize(
    "aggregate", AGGREGATES, ids=[aggregate.name for aggregate in AGGREGATES]
)
thorough = settings(
    max_examples=80,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


@every_aggregate
@thorough
@given(data=st.data())
def test_any_command_sent_twice_changes_nothing_the_second_time(
    aggregate: AnyAggregate, data: st.DataObject
) -> None:
    for command, _, _, after in run(aggregate, data.draw(runs(aggregate))):
        if not isinstance(command, ADDS_EACH_TIME):
            assert send(aggregate, command, after) == ((), after), command


@every_aggregate
@thorough
@given(data=st.data())
def test_a_command_repeated_at_any_later_time_adds_no_event_of_its_first_kind(
    aggregate: AnyAggregate, data: st.DataObject
) -> None:
    """A duplicate that the saga's relay sends late does not do its work again."""
    steps = list(run(aggregate, data.draw(runs(aggregate))))
    final = steps[-1][3]
    for command, _, events, _ in steps:
        if events and not isinstance(command, ADDS_EACH_TIME):
            again, _ = send(aggregate, command, final)
            assert not set(again) & set(events), command


@every_aggregate
@thorough
@given(data=st.data())
def test_what_decide_produces_survives_storage_and_evolves(
    aggregate: AnyAggregate, data: st.DataObject
) -> None:
    """The harness checks form, purity and evolve for every command."""
    history: list[Event] = []
    for command in data.draw(runs(aggregate)):
        outcome = given_events(aggregate, *history).when(command)
        history += outcome.events
        assert outcome.state == aggregate.fold(history)


@every_aggregate
def test_random_runs_reach_every_event(aggregate: AnyAggregate) -> None:
    """The properties of this page would mean little if they did not."""
    reached: set[type[Event]] = set()

    @settings(max_examples=200, derandomize=True, deadline=None, database=None)
    @given(sent=runs(aggregate))
    def explore(sent: list[Command]) -> None:
        for _, _, events, _ in run(aggregate, sent):
            reached.update(type(event) for event in events)

    explore()
    assert reached == set(aggregate.context.event_types)


# Which events may follow which status. Written from the contract, not from the code.
LEGAL: dict[str, dict[str, str]] = {
    "order": {
        "new": "OrderPlaced",
        "placed": "OrderReserved OrderCancellationRequested",
        "reserved": "OrderPaid OrderCancellationRequested",
        "paid": "OrderConfirmed OrderCancellationRequested",
        "confirmed": "OrderDelivered OrderCancellationRequested",
        "cancelling": "OrderCancelled OrderDelivered OrderConfirmed",
        "cancelled": "",
        "delivered": "OrderReturned",
        "returned": "OrderReturned",
    },
    "payment": {
        "new": "PaymentRequested PaymentVoided",
        "requested": "PaymentCaptured PaymentDeclined PaymentVoided",
        "captured": "PaymentRefundRequested PaymentRefunded",
        "declined": "PaymentCaptured",
        "voided": "PaymentCaptured",
    },
    "shipment": {
        "new": "ShipmentRequested ShipmentCancelled",
        "requested": "ShipmentArranged ShipmentRefused ShipmentCancelled",
        "arranged": "ShipmentDispatched ShipmentCancelled",
        "refused": "ShipmentArranged",
        "cancelled": "ShipmentArranged",
        "dispatched": "ShipmentDelivered ShipmentCancelled",
        "delivered": "",
    },
    "return": {
        "new": "ReturnRequested",
        "requested": "ReturnApproved ReturnRefused ReturnFailed",
        "approved": "ReturnLabelIssued ReturnFailed",
        "labelled": "ReturnGoodsReceived ReturnFailed",
        "received": "ReturnCompleted ReturnFailed",
        "completed": "",
        "refused": "",
        "failed": "",
    },
    "notification": {
        "new": "NotificationRequested",
        "requested": "NotificationSent NotificationFailed",
        "failed": "NotificationSent",
        "sent": "",
    },
}


@pytest.mark.parametrize(
    "aggregate", [orders, payments, shipping, returns, notifications], ids=list(LEGAL)
)
@thorough
@given(data=st.data())
def test_each_event_is_legal_in_the_state_before_it(
    aggregate: AnyAggregate, data: st.DataObject
) -> None:
    legal = LEGAL[aggregate.name]
    for _, before, events, _ in run(aggregate, data.draw(runs(aggregate))):
        state = before
        for event in events:
            status = getattr(state, "status", "")
            assert type(event).__name__ in legal[status].split(), state
            state = aggregate.evolve(state, event)


@pytest.mark.parametrize(
    ("aggregate", "state"),
    [
        (orders, Order(status="cancelled")),
        (shipping, Shipment(status="delivered", requested=True, tracking="T-1")),
        (returns, Return(status="completed")),
        (returns, Return(status="refused")),
        (returns, Return(status="failed")),
    ],
    ids=["cancelled", "delivered", "completed", "refused", "failed"],
)
@thorough
@given(data=st.data())
def test_a_terminal_state_is_final(
    aggregate: AnyAggregate, state: Order | Shipment | Return, data: st.DataObject
) -> None:
    steps = list(run(aggregate, data.draw(runs(aggregate))))
    ends = [s for _, _, _, s in steps if getattr(s, "status", "") == state.status]
    if ends:
        last = steps[-1][3]
        assert last == ends[0]


@thorough
@given(sent=runs(orders))
def test_an_order_is_confirmed_or_cancelled_once_and_cancelled_only_by_request(
    sent: list[Command],
) -> None:
    names = [type(event).__name__ for _, _, events, _ in run(orders, sent) for event in events]
    for once in ("OrderPlaced", "OrderPaid", "OrderConfirmed", "OrderCancelled"):
        assert names.count(once) <= 1
    assert names.count("OrderDelivered") <= 1
    if "OrderCancelled" in names:
        assert "OrderDelivered" not in names
        assert "OrderConfirmed" not in names[names.index("OrderCancelled") :]
        assert "OrderCancellationRequested" in names
    if "OrderDelivered" in names:
        assert "OrderConfirmed" in names[: names.index("OrderDelivered")]
    if "OrderConfirmed" in names:
        assert "OrderPaid" in names[: names.index("OrderConfirmed")]


@thorough
@given(sent=runs(orders))
def test_no_more_comes_back_than_was_bought(sent: list[Command]) -> None:
    back = [
        event
        for _, _, events, _ in run(orders, sent)
        for event in events
        if isinstance(event, OrderReturned)
    ]
    for line in TEA_AND_CUP:
        pieces = sum(b.quantity for event in back for b in event.lines if b.sku == line.sku)
        assert pieces <= line.quantity
    assert sum(event.amount for event in back) <= 1600
    assert [event.complete for event in back].count(True) <= 1
    assert len({event.return_id for event in back}) == len(back)


@thorough
@given(sent=runs(inventory))
def test_stock_is_never_negative_and_never_more_reserved_than_on_hand(
    sent: list[Command],
) -> None:
    for _, _, _, state in run(inventory, sent):
        assert isinstance(state, StockItem)
        assert 0 <= state.reserved <= state.on_hand
        assert state.reserved == sum(state.reservations.values())
        assert not set(state.reservations) & set(state.settled)


@thorough
@given(sent=runs(inventory))
def test_an_order_reserves_a_sku_once_and_it_is_released_or_sold_once(
    sent: list[Command],
) -> None:
    """Returns that were withdrawn apart: those are sold again."""
    names: dict[str, list[str]] = {}
    for _, _, events, _ in run(inventory, sent):
        if any(isinstance(event, StockSold) and event.return_id for event in events):
            continue
        for event in events:
            order = getattr(event, "order_id", "")
            names.setdefault(order, []).append(type(event).__name__)
    for order, happened in names.items():
        if order:
            ends = ("StockReleased", "StockSold", "StockReservationRefused")
            assert happened.count("StockReserved") <= 1
            assert sum(happened.count(end) for end in ends) <= 1


@thorough
@given(sent=runs(payments))
def test_money_is_never_created(sent: list[Command]) -> None:
    asked = captured = refund_asked = refunded = 0
    for _, _, events, _ in run(payments, sent):
        for event in events:
            match event:
                case PaymentRequested(amount=amount):
                    asked += amount
                case PaymentCaptured(amount=amount):
                    captured += amount
                case PaymentRefundRequested(amount=amount):
                    refund_asked += amount
                case PaymentRefunded(amount=amount):
                    refunded += amount
            assert refunded <= refund_asked <= captured <= asked
    assert asked in (0, 4, 10)


@thorough
@given(sent=runs(payments))
def test_money_captured_late_is_asked_back_in_full(sent: list[Command]) -> None:
    for _, _, events, after in run(payments, sent):
        if any(isinstance(event, PaymentCaptured) and event.late for event in events):
            assert isinstance(after, Payment)
            assert after.refundable == 0


@every_aggregate
@thorough
@given(data=st.data())
def test_a_command_is_refused_only_by_the_rules_that_its_reference_names(
    aggregate: AnyAggregate, data: st.DataObject
) -> None:
    named = rules_of(aggregate)
    for command, before, _, _ in run(aggregate, data.draw(runs(aggregate))):
        with suppress(*named[type(command)]):
            aggregate.decide(command, before)
