"""Holds the log, the books of the world outside and the monitor of the sagas against one another.

Pure: what it is given was read after everything had come to rest. Every fault names its order.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.torture.log_reader import LogRecord

Entry = Mapping[str, Any]

STANDING = frozenset({"confirmed", "delivered", "returned"})
ENDS = frozenset({"completed", "compensated", "failed"})
_STATUS_AFTER = {
    "OrderPlaced": "placed",
    "OrderReserved": "reserved",
    "OrderPaid": "paid",
    "OrderConfirmed": "confirmed",
    "OrderCancellationRequested": "cancelling",
    "OrderCancelled": "cancelled",
    "OrderDelivered": "delivered",
    "OrderReturned": "returned",
}
_ONCE = {
    "orders": ("OrderPlaced", "OrderPaid", "OrderConfirmed", "OrderCancelled", "OrderDelivered"),
    "payments": ("PaymentRequested", "PaymentCaptured", "PaymentVoided"),
    "shipping": ("ShipmentRequested", "ShipmentArranged", "ShipmentDelivered"),
}


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What there is in the end.

    `placed` and `returns` are the ids whose commands were acknowledged; `provider` and `carrier`
    the ledgers; `mails` what the mail server keeps; `instances` the items of `GET /sagas`;
    `bound_s` how long an order may take.
    """

    records: Sequence[LogRecord]
    placed: Iterable[str]
    returns: Iterable[str]
    provider: Sequence[Entry]
    carrier: Sequence[Entry]
    mails: Sequence[Entry]
    instances: Sequence[Entry]
    bound_s: float


@dataclass
class Order:
    """One order, folded from its own events alone."""

    status: str = "new"
    total: int = 0
    lines: dict[str, int] = field(default_factory=dict)
    returned: dict[str, int] = field(default_factory=dict)
    returned_amount: int = 0

    @property
    def stands(self) -> bool:
        """Whether the customer has bought something in the end."""
        return self.status in STANDING

    @property
    def owed(self) -> int:
        """What the customer has paid in the end."""
        return self.total - self.returned_amount if self.stands else 0

    def kept(self, sku: str) -> int:
        """How many pieces the customer has in the end."""
        return self.lines.get(sku, 0) - self.returned.get(sku, 0) if self.stands else 0


def check(evidence: Evidence) -> list[str]:
    """Everything that is wrong."""
    orders = orders_of(evidence.records)
    return [
        *check_ends(orders, evidence.placed),
        *check_once(evidence.records),
        *check_stock(evidence.records, orders),
        *check_money(evidence.records, orders, evidence.provider),
        *check_shipments(orders, evidence.carrier),
        *check_instances(orders, evidence),
        *check_returns(evidence),
        *check_mails(evidence.records, evidence.mails),
    ]


def check_ends(orders: Mapping[str, Order], placed: Iterable[str]) -> list[str]:
    """Every acknowledged order is in the log, and stands or is cancelled."""
    faults = []
    for order_id in placed:
        order = orders.get(order_id)
        if order is None:
            faults.append(f"{order_id}: acknowledged, but not in the log")
        elif not order.stands and order.status != "cancelled":
            faults.append(f"{order_id}: not ended, it is still {order.status}")
    return faults


def check_once(records: Iterable[LogRecord]) -> list[str]:
    """What may happen to an order once happened once; so did each compensation."""
    seen: Counter[tuple[str, str]] = Counter()
    for context, record, name in _named(records):
        if name in _ONCE.get(context, ()):
            seen[record.key, name] += 1
        if name == "PaymentRefundRequested" and record.data["return_id"] is None:
            seen[record.key, "PaymentRefundRequested of all"] += 1
        if name == "StockReturned" and record.data["return_id"] is None:
            seen[record.data["order_id"], f"StockReturned of {record.key}"] += 1
        if name == "StockReleased" and record.data["quantity"]:
            seen[record.data["order_id"], f"StockReleased of {record.key}"] += 1
    return [f"{key}: {name} {count} times" for (key, name), count in seen.items() if count > 1]


# --- stock ----------------------------------------------------------------------------------


@dataclass
class _Shelf:
    """The stock of one SKU."""

    on_hand: int = 0
    reserved: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    sold: dict[str, int] = field(default_factory=lambda: defaultdict(int))

    def evolve(self, name: str, data: Mapping[str, Any]) -> None:
        quantity = data["quantity"]
        match name:
            case "StockReceived":
                self.on_hand += quantity
            case "StockReserved":
                self.reserved[data["order_id"]] += quantity
            case "StockReleased":
                self.reserved[data["order_id"]] -= quantity
            case "StockSold":
                self.reserved[data["order_id"]] -= quantity
                self.sold[data["order_id"]] += quantity
                self.on_hand -= quantity
            case "StockReturned":
                self.sold[data["order_id"]] -= quantity
                self.on_hand += quantity


def check_stock(records: Iterable[LogRecord], orders: Mapping[str, Order]) -> list[str]:
    """0 ≤ reserved ≤ on hand at every moment, and in the end what the orders say.

    Then nothing is kept for an order that ended, and what was sold to it is what its customer has.
    """
    shelves: dict[str, _Shelf] = defaultdict(_Shelf)
    faults = []
    for context, record, name in _named(records):
        if context != "inventory":
            continue
        shelf = shelves[record.key]
        shelf.evolve(name, record.data)
        reserved, whose = sum(shelf.reserved.values()), record.data.get("order_id", "")
        held = shelf.reserved.get(whose, 0)
        if held < 0 or not 0 <= reserved <= shelf.on_hand:
            faults.append(
                f"{whose}: {name} leaves {record.key} with {held} reserved for it, "
                f"{reserved} in all, {shelf.on_hand} on hand"
            )
    for sku, shelf in shelves.items():
        faults += _check_shelf(sku, shelf, orders)
    return faults


def _check_shelf(sku: str, shelf: _Shelf, orders: Mapping[str, Order]) -> Iterator[str]:
    wanted = {order_id for order_id, order in orders.items() if sku in order.lines}
    for order_id in sorted(wanted | set(shelf.reserved) | set(shelf.sold)):
        order = orders.get(order_id, Order())
        if shelf.reserved.get(order_id, 0):
            yield f"{order_id}: {shelf.reserved[order_id]} of {sku} are still reserved"
        if shelf.sold.get(order_id, 0) != order.kept(sku):
            yield (
                f"{order_id}: {shelf.sold.get(order_id, 0)} of {sku} left the shelf for it, "
                f"the {order.status} order holds {order.kept(sku)}"
            )


# --- money ----------------------------------------------------------------------------------


def check_money(
    records: Iterable[LogRecord], orders: Mapping[str, Order], ledger: Sequence[Entry]
) -> list[str]:
    """Our books, the provider's, and what the orders owe are equal, order by order."""
    captured: Counter[str] = Counter()
    refunded: Counter[str] = Counter()
    asked: Counter[str] = Counter()
    for _, record, name in _named(records):
        if name == "PaymentCaptured":
            captured[record.key] += record.data["amount"]
        elif name == "PaymentRefunded":
            refunded[record.key] += record.data["amount"]
        elif name == "PaymentRefundRequested":
            asked[record.key] += record.data["amount"]
    theirs = {kind: _amounts(ledger, kind) for kind in ("capture", "refund")}
    faults = [*_check_keys(ledger)]
    for order_id in sorted({*orders, *captured, *theirs["capture"], *theirs["refund"]}):
        order = orders.get(order_id, Order())
        net = captured[order_id] - refunded[order_id]
        if captured[order_id] != theirs["capture"][order_id]:
            faults.append(
                f"{order_id}: we booked {captured[order_id]} as taken, "
                f"the provider took {theirs['capture'][order_id]}"
            )
        if not asked[order_id] == refunded[order_id] == theirs["refund"][order_id]:
            faults.append(
                f"{order_id}: {asked[order_id]} were to be paid back, we booked "
                f"{refunded[order_id]}, the provider paid {theirs['refund'][order_id]}"
            )
        if net != order.owed:
            faults.append(f"{order_id}: we keep {net}, the {order.status} order owes {order.owed}")
    return faults


def _check_keys(ledger: Sequence[Entry]) -> Iterator[str]:
    """Nobody is charged twice, and no movement of money has the key of another."""
    keys = Counter((entry["idempotency_key"], entry["kind"]) for entry in ledger)
    charges = Counter(entry["order_id"] for entry in ledger if entry["kind"] == "capture")
    for entry in {(e["idempotency_key"], e["kind"]): e for e in ledger}.values():
        key, kind = entry["idempotency_key"], entry["kind"]
        if keys[key, kind] > 1:
            yield f"{entry['order_id']}: the provider did the {kind} {key} {keys[key, kind]} times"
    for order_id, count in charges.items():
        if count > 1:
            yield f"{order_id}: charged {count} times"


def _amounts(ledger: Sequence[Entry], kind: str) -> Counter[str]:
    found: Counter[str] = Counter()
    for entry in ledger:
        if entry["kind"] == kind:
            found[entry["order_id"]] += entry["amount"]
    return found


# --- parcels --------------------------------------------------------------------------------


def check_shipments(orders: Mapping[str, Order], ledger: Sequence[Entry]) -> list[str]:
    """The carriers hold one parcel for each order that stands, and none for any other."""
    booked: dict[tuple[str, str], str] = {}
    for entry in ledger:
        place = (entry["carrier"], entry["idempotency_key"])
        if entry["kind"] == "book":
            booked[place] = entry["order_id"]
        elif entry["kind"] == "cancel":
            booked.pop(place, None)
    parcels = Counter(booked.values())
    return [
        f"{order_id}: the carriers hold {parcels[order_id]} parcels, the order is "
        f"{orders.get(order_id, Order()).status}"
        for order_id in sorted({*orders, *parcels})
        if parcels[order_id] != int(orders.get(order_id, Order()).stands)
    ]


# --- the monitor ----------------------------------------------------------------------------


def check_instances(orders: Mapping[str, Order], evidence: Evidence) -> list[str]:
    """One instance per order and return; all ended, as their orders did, within the bound."""
    wanted = {f"fulfilment:{order_id}" for order_id in evidence.placed}
    wanted |= {f"returns:{return_id}" for return_id in evidence.returns}
    ids = Counter(item["id"] for item in evidence.instances)
    faults = [f"{lost}: the monitor does not know it" for lost in sorted(wanted - set(ids))]
    faults += [f"{more}: the monitor shows it, nobody began it" for more in sorted({*ids} - wanted)]
    faults += [f"{twice}: the monitor shows it {n} times" for twice, n in ids.items() if n > 1]
    for item in evidence.instances:
        faults += _check_instance(item, orders, evidence.bound_s)
    return faults


def _check_instance(item: Entry, orders: Mapping[str, Order], bound_s: float) -> Iterator[str]:
    status = item["status"]
    if status not in ENDS:
        waits = [
            f"{s['step']} ({s['attempts']})" for s in item["steps"] if s["status"] == "pending"
        ]
        yield (
            f"{item['id']}: {status} for {item['age_seconds']} s, pending: {waits}, "
            f"expects {item['expected_next']}"
        )
        return
    if item["age_seconds"] > bound_s:
        yield f"{item['id']}: took {item['age_seconds']} s, the bound is {bound_s} s"
    if item["saga"] == "fulfilment":
        order = orders.get(item["key"], Order())
        if status != ("completed" if order.stands else "compensated"):
            yield f"{item['id']}: the monitor says {status}, the order is {order.status}"


def check_returns(evidence: Evidence) -> list[str]:
    """A return ends once, and the monitor says how."""
    last = {
        record.key: name
        for context, record, name in _named(evidence.records)
        if context == "returns"
    }
    expected = {
        "ReturnCompleted": "completed", "ReturnFailed": "compensated", "ReturnRefused": "failed"
    }  # fmt: skip
    known = {item["key"]: item["status"] for item in evidence.instances}
    return [
        f"{return_id}: its last event is {last.get(return_id)}, the monitor says "
        f"{known.get(return_id)}"
        for return_id in evidence.returns
        if expected.get(last.get(return_id, "")) != known.get(return_id)
    ]


# --- mails ----------------------------------------------------------------------------------

_TOLD = frozenset(
    {
        "OrderConfirmed",
        "OrderCancelled",
        "PaymentRefunded",
        "ReturnLabelIssued",
        "ReturnRefused",
        "ReturnFailed",
    }
)


def check_mails(records: Iterable[LogRecord], mails: Sequence[Entry]) -> list[str]:
    """Customers are told of each thing once; a mail may come twice, but as one and the same."""
    causes: Counter[str] = Counter()
    steps: dict[str, Counter[str]] = defaultdict(Counter)
    for context, record, name in _named(records):
        if name in _TOLD:
            causes[record.data["order_id"]] += 1
        elif context == "notifications":
            steps[record.data["order_id"]][name] += 1
    faults = [
        f"{order_id}: {causes[order_id]} mails were due, the log has {dict(steps[order_id])}"
        for order_id in sorted({*causes, *steps})
        if not causes[order_id]
        == steps[order_id]["NotificationRequested"]
        == steps[order_id]["NotificationSent"]
    ]
    arrived = len({mail["message_id"] for mail in mails})
    if arrived != sum(causes.values()):
        faults.append(f"{arrived} different mails arrived of {sum(causes.values())}")
    return faults


# --- reading --------------------------------------------------------------------------------


def orders_of(records: Iterable[LogRecord]) -> dict[str, Order]:
    """Every order, folded."""
    orders: dict[str, Order] = {}
    for context, record, name in _named(records):
        if context != "orders":
            continue
        order = orders.setdefault(record.key, Order())
        order.status = _STATUS_AFTER[name]
        if name == "OrderPlaced":
            order.total = record.data["total"]
            order.lines = {line["sku"]: line["quantity"] for line in record.data["lines"]}
        elif name == "OrderReturned":
            order.returned_amount += record.data["amount"]
            for line in record.data["lines"]:
                taken_back = order.returned.get(line["sku"], 0) + line["quantity"]
                order.returned[line["sku"]] = taken_back
    return orders


def _named(records: Iterable[LogRecord]) -> Iterator[tuple[str, LogRecord, str]]:
    """Context, record, and the short name of its event."""
    for record in records:
        context = record.headers["ce_source"].removeprefix("/")
        yield context, record, record.headers["ce_type"].rsplit(".", 1)[1]
