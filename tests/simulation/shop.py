"""The whole shop in memory: the real aggregates and sagas between queues that race.

Commands and events of one key keep their order, as in the log; everything else comes in an order
that chance decides, some of it twice, and the outside world answers as it likes.
"""

from __future__ import annotations

from collections import deque
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any, NamedTuple

from command_service.aggregates import AGGREGATES
from sagas.fulfilment import fulfilment
from sagas.returns import returns
from schemas import CONTEXTS
from schemas.inventory import ReceiveStock
from schemas.orders import CancelOrder, PlaceOrder
from schemas.payments import (
    PaymentRefundRequested,
    PaymentRequested,
    RecordPaymentCaptured,
    RecordPaymentDeclined,
    RecordPaymentVoided,
    RecordRefund,
)
from schemas.returns import (
    IssueReturnLabel,
    ReceiveReturnedGoods,
    RequestReturn,
    ReturnApproved,
    ReturnLabelIssued,
)
from schemas.shipping import (
    RecordDelivered,
    RecordDispatched,
    RecordShipmentArranged,
    RecordShipmentRefused,
    ShipmentArranged,
    ShipmentRequested,
)
from schemas.values import Address, GoodsLine, OrderLine
from tidelog.engine.deciding import decide
from tidelog.engine.reacting import DecisionRecord, Heard, Instance, Reacted, Reactor, Request
from tidelog.errors import Rejected
from tidelog.message import Command, Event

SKUS = ("apple", "pear", "plum")
DAY = "2026-01-01"


class Sent(NamedTuple):
    """A command on its way to its aggregate."""

    command: Command
    command_id: str
    correlation_id: str


class Shop:
    """One run. `step` does one thing that can happen now, or says that nothing can."""

    def __init__(self, seed: int) -> None:
        self.rng = Random(seed)
        self.now = datetime(2026, 1, 1, tzinfo=UTC)
        self.aggregates = {each.context.name: each for each in AGGREGATES}
        self.states: dict[tuple[str, str], Any] = {}
        self.versions: dict[tuple[str, str], int] = {}
        self.history: list[Event] = []
        self.commands: dict[tuple[str, str], deque[Sent]] = {}
        self.events: dict[tuple[str, str], deque[Heard]] = {}
        self.answered: set[str] = set()
        self.work: list[Command] = []
        self.reactors = {saga.name: Reactor(saga, CONTEXTS) for saga in (fulfilment, returns)}
        self.instances: dict[tuple[str, str], Instance[Any]] = {}
        self.held: dict[tuple[str, str], list[Heard]] = {}
        self.refusals: list[tuple[str, str, Rejected]] = []
        self.captured: dict[str, int] = {}
        self.refunded: dict[str, int] = {}
        self._homes = {c: context for context in CONTEXTS for c in context.command_types}
        self._ids = 0

    # --- what people do ---------------------------------------------------------------------

    def send(self, command: Command) -> None:
        """A person, or an effect, sends a command."""
        self._ids += 1
        self._queue(Sent(command, f"command-{self._ids}", f"correlation-{self._ids}"))

    def place(self, order_id: str) -> None:
        """A customer orders something."""
        skus = self.rng.sample(SKUS, self.rng.randint(1, len(SKUS)))
        lines = tuple(
            OrderLine(sku=sku, quantity=self.rng.randint(1, 4), unit_price=100) for sku in skus
        )
        self.send(
            PlaceOrder(
                order_id=order_id,
                customer_id="c-1",
                currency="EUR",
                lines=lines,
                ship_to=Address(name="A", street="B", city="C", postal_code="1", country="DE"),
            )
        )

    def stock(self, quantity: int) -> None:
        """The shelves are filled."""
        for sku in SKUS:
            self.send(ReceiveStock(sku=sku, quantity=quantity))

    def cancel(self, order_id: str) -> None:
        """The customer changes their mind."""
        self.send(CancelOrder(order_id=order_id, reason="changed my mind"))

    def send_back(self, return_id: str, order_id: str) -> None:
        """The customer wants to send something back, bought or not."""
        lines = tuple(
            GoodsLine(sku=sku, quantity=self.rng.randint(1, 3))
            for sku in self.rng.sample(SKUS, self.rng.randint(1, 2))
        )
        self.send(RequestReturn(return_id=return_id, order_id=order_id, lines=lines, reason="no"))

    def decide(self, key: str, decision: str, step: str = "", saga: str = "fulfilment") -> str:
        """An operator decides about an instance; why that was refused, if it was."""
        at = (saga, key)
        if at not in self.instances:
            return "it has not begun"
        self._ids += 1
        decided = DecisionRecord(
            target=f"decision-{self._ids}",
            decision=decision,
            step=step,
            operator="operator",
            reason="a reason",
            position=f"operations:0:{self._ids}",
            at=self.now,
        )
        for _ in range(self.rng.randint(1, 2)):  # some come twice
            self._take(at[0], decide(self.reactors[at[0]], self.instances[at], decided))
        return self.instances[at].decisions[-1].refused

    # --- what happens -----------------------------------------------------------------------

    def step(self) -> bool:
        """Do one of the things that can happen now."""
        ready = [("command", key) for key, queue in self.commands.items() if queue]
        ready += [("event", key) for key, queue in self.events.items() if queue]
        ready += [("work", ("", ""))] * len(self.work)
        if not ready:
            return False
        kind, key = self.rng.choice(ready)
        self.now += timedelta(milliseconds=self.rng.randint(0, 50))
        if kind == "command":
            self._decide(key, self.commands[key].popleft())
        elif kind == "event":
            self._hear(key[0].split()[0], self.events[key].popleft())
        else:
            self.send(self.work.pop(self.rng.randrange(len(self.work))))
        return True

    def pass_time(self) -> bool:
        """Go on to the next moment at which an instance must be looked at; False: there is none."""
        due = [(each.next_due, at) for at, each in self.instances.items() if each.next_due]
        if not due:
            return False
        when, at = min(due)
        self.now = max(self.now, when)
        self._take(at[0], self.reactors[at[0]].remind(self.instances[at], self.now))
        return True

    def settle(self) -> None:
        """Let everything happen that will."""
        for _ in range(100_000):
            if not self.step() and not self.pass_time():
                return
        raise AssertionError("the shop never comes to rest")

    # --- parts ------------------------------------------------------------------------------

    def _queue(self, sent: Sent) -> None:
        context = self._homes[type(sent.command)]
        key = (context.name, str(getattr(sent.command, context.key)))
        self.commands.setdefault(key, deque()).append(sent)
        if self.rng.random() < 0.1:
            self.commands[key].append(sent)  # sent again: the same id

    def _decide(self, key: tuple[str, str], sent: Sent) -> None:
        if sent.command_id in self.answered:
            return
        aggregate = self.aggregates[key[0]]
        state = self.states.get(key, aggregate.initial)
        try:
            events = aggregate.decide(sent.command, state)
        except Rejected as rule:
            self._refuse(sent, key, rule)
            return
        for event in events:
            state = aggregate.evolve(state, event)
            self._append(key, event, sent)
        self.states[key] = state

    def _append(self, key: tuple[str, str], event: Event, sent: Sent) -> None:
        self.answered.add(sent.command_id)
        version = self.versions[key] = self.versions.get(key, 0) + 1
        self.history.append(event)
        heard = Heard(
            event=event,
            message_id=f"{key[0]}/{key[1]}/{version}",
            causation_id=sent.command_id,
            correlation_id=sent.correlation_id,
            traceparent="",
            position=f"{key[0]}:0:{len(self.history)}",
            at=self.now,
        )
        for name, reactor in self.reactors.items():
            if type(event) in reactor.saga.event_types and reactor.saga.key_of(event):
                self.events.setdefault((f"{name} {key[0]}", key[1]), deque()).append(heard)
        self._world(event)

    def _refuse(self, sent: Sent, key: tuple[str, str], rule: Rejected) -> None:
        self.refusals.append((*key, rule))
        for (name, _), instance in list(self.instances.items()):
            reason = type(rule).__name__
            reacted = self.reactors[name].refused(instance, sent.command_id, reason, self.now)
            self._take(name, reacted)

    def _hear(self, name: str, heard: Heard) -> None:
        reactor = self.reactors[name]
        at = (name, str(reactor.saga.key_of(heard.event)))
        reacted = reactor.react(self.instances.get(at), heard)
        if reacted.instance is None:
            self.held.setdefault(at, []).append(heard)
            return
        self._take(name, reacted)
        for waiting in self.held.pop(at, []):
            self._take(name, reactor.react(self.instances[at], waiting))

    def _take(self, name: str, reacted: Reacted) -> None:
        assert reacted.instance is not None
        self.instances[name, reacted.instance.key] = reacted.instance
        for request in reacted.requests:
            self._relay(request)

    def _relay(self, request: Request) -> None:
        self._queue(Sent(request.command, request.command_id, request.correlation_id))

    # --- the world --------------------------------------------------------------------------

    def _world(self, event: Event) -> None:
        """The payment provider and the carrier get to hear of it, and answer as they like."""
        match event:
            case PaymentRequested():
                self.work += self._provider(event)
            case PaymentRefundRequested():
                order_id = event.order_id
                self.refunded[order_id] = self.refunded.get(order_id, 0) + event.amount
                self.work.append(
                    RecordRefund(order_id=order_id, amount=event.amount, return_id=event.return_id)
                )
            case ShipmentRequested():
                self.work += self._carrier(event)
            case ReturnApproved() if self.rng.random() < 0.9:
                label = IssueReturnLabel(
                    return_id=event.return_id, carrier="Carrier", tracking=f"r-{event.return_id}"
                )
                self.work.append(label)
            case ReturnLabelIssued() if self.rng.random() < 0.9:
                self.work.append(ReceiveReturnedGoods(return_id=event.return_id))
            case ShipmentArranged(late=False) if self.rng.random() < 0.5:
                self.work.append(RecordDispatched(order_id=event.order_id))
                self.work.append(RecordDelivered(order_id=event.order_id))

    def _provider(self, event: PaymentRequested) -> list[Command]:
        declined = RecordPaymentDeclined(order_id=event.order_id, reason="no")
        captured = RecordPaymentCaptured(
            order_id=event.order_id, amount=event.amount, captured_on=DAY
        )
        answer = self.rng.choice(("capture", "capture", "capture", "twice", "decline", "void", ""))
        match answer:
            case "capture" | "twice":
                self.captured[event.order_id] = event.amount
                return [captured] * (2 if answer == "twice" else 1)
            case "decline":
                return [declined]
            case "void":
                return [RecordPaymentVoided(order_id=event.order_id)]
        return []  # It never answers.

    def _carrier(self, event: ShipmentRequested) -> list[Command]:
        arranged = RecordShipmentArranged(
            order_id=event.order_id, carrier="Carrier", tracking=f"t-{event.order_id}"
        )
        refused = RecordShipmentRefused(order_id=event.order_id, reason="no")
        answers: tuple[list[Command], ...] = (
            [arranged], [arranged], [arranged, arranged], [refused], [],
        )  # fmt: skip
        return self.rng.choice(answers)
