"""The checker of the sagas' torture names every kind of damage that it is there for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest

from tests.torture.log_reader import LogRecord
from tests.torture.saga_checker import Evidence, check

BOUND_S = 600.0
LINES = [{"sku": "tea", "quantity": 2, "unit_price": 100}]


class Story:
    """A shop whose books are in order: one order stands, one is cancelled, one came back."""

    def __init__(self) -> None:
        self.records: list[LogRecord] = []
        self.provider: list[dict[str, Any]] = []
        self.carrier: list[dict[str, Any]] = []
        self.mails: list[dict[str, Any]] = []
        self.say("StockReceived", "tea", quantity=10)
        for order_id in ("bought", "undone", "back"):
            self.sell(order_id)
        self.cancel("undone")
        self.take_back("back")
        self.instances = [
            instance("fulfilment", "bought", "completed"),
            instance("fulfilment", "undone", "compensated"),
            instance("fulfilment", "back", "completed"),
            instance("returns", "r-1", "completed"),
        ]

    def sell(self, order_id: str) -> None:
        self.say("OrderPlaced", order_id, total=200, lines=LINES)
        self.say("StockReserved", "tea", order_id=order_id, quantity=2)
        self.say("PaymentRequested", order_id)
        self.enter(self.provider, order_id, "capture", f"payment:{order_id}", amount=200)
        self.say("PaymentCaptured", order_id, amount=200)
        self.enter(self.carrier, order_id, "book", f"parcel:{order_id}", carrier="north")
        self.say("ShipmentArranged", order_id)
        self.say("OrderConfirmed", order_id)
        self.tell(order_id, "confirmed")
        self.say("StockSold", "tea", order_id=order_id, quantity=2, return_id=None)

    def cancel(self, order_id: str) -> None:
        self.say("OrderCancellationRequested", order_id)
        for name in ("north", "south"):
            self.enter(self.carrier, order_id, "cancel", f"parcel:{order_id}", carrier=name)
        self.say("PaymentRefundRequested", order_id, amount=200, return_id=None)
        self.enter(self.provider, order_id, "refund", f"refund-all:{order_id}", amount=200)
        self.say("PaymentRefunded", order_id, amount=200)
        self.tell(order_id, "refunded")
        self.say("StockReturned", "tea", order_id=order_id, quantity=2, return_id=None)
        self.say("OrderCancelled", order_id)
        self.tell(order_id, "cancelled")

    def take_back(self, order_id: str) -> None:
        self.say("OrderDelivered", order_id)
        self.say("ReturnRequested", "r-1")
        self.say("StockReturned", "tea", order_id=order_id, quantity=1, return_id="r-1")
        lines = [{"sku": "tea", "quantity": 1}]
        self.say("OrderReturned", order_id, lines=lines, amount=100)
        self.say("PaymentRefundRequested", order_id, amount=100, return_id="r-1")
        self.enter(self.provider, order_id, "refund", f"refund:{order_id}:r-1", amount=100)
        self.say("PaymentRefunded", order_id, amount=100)
        self.tell(order_id, "refunded")
        self.say("ReturnCompleted", "r-1")

    def tell(self, order_id: str, kind: str) -> None:
        for name in ("NotificationRequested", "NotificationSent"):
            self.say(name, f"{kind}.{order_id}", order_id=order_id)
        self.mails.append({"message_id": f"{kind}.{order_id}"})

    def say(self, name: str, key: str, **data: Any) -> None:
        self.records.append(record(name, key, **data))

    def enter(
        self, ledger: list[dict[str, Any]], order_id: str, kind: str, key: str, **more: Any
    ) -> None:
        ledger.append({"order_id": order_id, "kind": kind, "idempotency_key": key, **more})

    def evidence(self) -> Evidence:
        return Evidence(
            records=self.records,
            placed=["bought", "undone", "back"],
            returns=["r-1"],
            provider=self.provider,
            carrier=self.carrier,
            mails=self.mails,
            instances=self.instances,
            bound_s=BOUND_S,
        )

    def forget(self, name: str, key: str, order_id: str = "") -> None:
        """Take one event out of the log."""
        self.records.remove(self.find(name, key, order_id))

    def repeat(self, name: str, key: str, order_id: str = "") -> None:
        """Put one event into the log a second time."""
        self.records.append(self.find(name, key, order_id))

    def find(self, name: str, key: str, order_id: str) -> LogRecord:
        return next(
            each
            for each in self.records
            if each.headers["ce_type"].endswith(f".{name}")
            and each.key == key
            and order_id in ("", each.data.get("order_id"))
        )

    def entry(self, ledger: list[dict[str, Any]], order_id: str, kind: str) -> dict[str, Any]:
        return next(e for e in ledger if (e["order_id"], e["kind"]) == (order_id, kind))

    def change(self, number: int, **fields: Any) -> None:
        """Change what the monitor shows of an instance."""
        self.instances[number] = {**self.instances[number], **fields}


CONTEXTS = {
    "Order": "orders", "Stock": "inventory", "Payment": "payments", "Shipment": "shipping",
    "Return": "returns", "Notification": "notifications",
}  # fmt: skip


def record(name: str, key: str, **data: Any) -> LogRecord:
    context = next(found for start, found in CONTEXTS.items() if name.startswith(start))
    headers = {"ce_type": f"tidelog.{context}.{name}", "ce_source": f"/{context}"}
    if context in ("orders", "payments", "shipping"):
        data["order_id"] = key
    return LogRecord(f"{context}.events", 0, 0, key, headers, data)


def instance(saga: str, key: str, status: str) -> dict[str, Any]:
    return {
        "id": f"{saga}:{key}", "saga": saga, "key": key, "status": status, "age_seconds": 3.0,
        "expected_next": [], "steps": [],
    }  # fmt: skip


def lose_an_order(story: Story) -> None:
    story.forget("OrderPlaced", "bought")
    story.forget("OrderConfirmed", "bought")


def leave_an_order_open(story: Story) -> None:
    story.forget("OrderConfirmed", "bought")


def leave_an_order_half_undone(story: Story) -> None:
    story.forget("OrderCancelled", "undone")


def confirm_twice(story: Story) -> None:
    story.repeat("OrderConfirmed", "bought")


def compensate_twice(story: Story) -> None:
    story.say("StockReserved", "tea", order_id="undone", quantity=0)
    story.repeat("StockReturned", "tea", "undone")


def oversell(story: Story) -> None:
    story.say("StockReserved", "tea", order_id="bought", quantity=50)
    story.say("StockReleased", "tea", order_id="bought", quantity=50)


def release_what_was_not_reserved(story: Story) -> None:
    story.say("StockReleased", "tea", order_id="bought", quantity=1)
    story.say("StockReserved", "tea", order_id="bought", quantity=1)


def leave_a_reservation(story: Story) -> None:
    story.forget("StockSold", "tea", "bought")


def sell_too_much(story: Story) -> None:
    story.say("StockReserved", "tea", order_id="bought", quantity=1)
    story.say("StockSold", "tea", order_id="bought", quantity=1, return_id=None)


def charge_twice_by_another_key(story: Story) -> None:
    story.enter(story.provider, "bought", "capture", "another", amount=200)


def charge_twice_by_one_key(story: Story) -> None:
    story.provider.append(story.entry(story.provider, "bought", "capture"))


def forget_a_capture(story: Story) -> None:
    story.forget("PaymentCaptured", "bought")


def keep_the_money(story: Story) -> None:
    """Cancelled, and neither we nor the provider paid back: both books agree."""
    story.forget("PaymentRefundRequested", "undone")
    story.forget("PaymentRefunded", "undone")
    story.provider.remove(story.entry(story.provider, "undone", "refund"))


def owe_a_refund(story: Story) -> None:
    story.forget("PaymentRefunded", "undone")
    story.provider.remove(story.entry(story.provider, "undone", "refund"))


def refund_a_unit_too_little(story: Story) -> None:
    story.entry(story.provider, "undone", "refund")["amount"] = 199


def lose_a_parcel(story: Story) -> None:
    story.carrier.remove(story.entry(story.carrier, "bought", "book"))


def book_two_parcels(story: Story) -> None:
    story.enter(story.carrier, "bought", "book", "parcel:bought", carrier="south")


def leave_a_parcel(story: Story) -> None:
    """Only the carrier that did not have it was told to cancel."""
    story.carrier.remove(story.entry(story.carrier, "undone", "cancel"))


def hang(story: Story) -> None:
    story.change(0, status="running", steps=[{"step": "ship", "status": "pending", "attempts": 1}])


def get_stuck(story: Story) -> None:
    story.change(1, status="stuck")


def contradict(story: Story) -> None:
    story.change(1, status="completed")


def take_too_long(story: Story) -> None:
    story.change(0, age_seconds=BOUND_S + 1)


def lose_an_instance(story: Story) -> None:
    del story.instances[0]


def show_an_instance_twice(story: Story) -> None:
    story.instances.append(story.instances[0])


def tell_nothing(story: Story) -> None:
    story.forget("NotificationRequested", "confirmed.bought")
    story.forget("NotificationSent", "confirmed.bought")


def tell_twice(story: Story) -> None:
    story.tell("bought", "confirmed")


def lose_a_mail(story: Story) -> None:
    """The log says that it was sent."""
    del story.mails[0]


FAULTS: Mapping[Callable[[Story], None], str] = {
    lose_an_order: "bought: acknowledged, but not in the log",
    leave_an_order_open: "bought: not ended, it is still placed",
    leave_an_order_half_undone: "undone: not ended, it is still cancelling",
    confirm_twice: "bought: OrderConfirmed 2 times",
    compensate_twice: "undone: StockReturned of tea 2 times",
    oversell: "bought: StockReserved leaves tea",
    release_what_was_not_reserved: "bought: StockReleased leaves tea with -1",
    leave_a_reservation: "bought: 2 of tea are still reserved",
    sell_too_much: "bought: 3 of tea left the shelf",
    charge_twice_by_another_key: "bought: charged 2 times",
    charge_twice_by_one_key: "bought: the provider did the capture payment:bought 2 times",
    forget_a_capture: "bought: we booked 0 as taken, the provider took 200",
    keep_the_money: "undone: we keep 200, the cancelled order owes 0",
    owe_a_refund: "undone: 200 were to be paid back, we booked 0, the provider paid 0",
    refund_a_unit_too_little: "we booked 200, the provider paid 199",
    lose_a_parcel: "bought: the carriers hold 0 parcels",
    book_two_parcels: "bought: the carriers hold 2 parcels",
    leave_a_parcel: "undone: the carriers hold 1 parcels",
    hang: "fulfilment:bought: running for 3.0 s, pending: ['ship (1)']",
    get_stuck: "fulfilment:undone: stuck",
    contradict: "fulfilment:undone: the monitor says completed, the order is cancelled",
    take_too_long: "fulfilment:bought: took 601.0 s",
    lose_an_instance: "fulfilment:bought: the monitor does not know it",
    tell_nothing: "bought: 1 mails were due, the log has {}",
    tell_twice: "bought: 1 mails were due, the log has {'NotificationRequested': 2",
    lose_a_mail: "5 different mails arrived of 6",
    show_an_instance_twice: "fulfilment:bought: the monitor shows it 2 times",
}


def test_books_in_order_have_no_faults() -> None:
    assert check(Story().evidence()) == []


@pytest.mark.parametrize("damage", FAULTS, ids=lambda damage: damage.__name__)
def test_each_kind_of_damage_is_named_with_its_order(damage: Callable[[Story], None]) -> None:
    story = Story()
    damage(story)
    found = check(story.evidence())
    assert any(FAULTS[damage] in fault for fault in found), found


def test_an_instance_that_nobody_began_is_named() -> None:
    evidence = replace(Story().evidence(), placed=["undone", "back"])
    assert "fulfilment:bought: the monitor shows it, nobody began it" in check(evidence)


def test_a_return_that_the_monitor_calls_by_another_end_is_named() -> None:
    story = Story()
    story.change(3, status="compensated")
    assert "r-1: its last event is ReturnCompleted" in check(story.evidence())[0]
