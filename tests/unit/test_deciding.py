"""What a person may decide about an instance: skip a step, turn the whole back; and what not."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from sagas.fulfilment import UNDOING_WITHIN, fulfilment
from sagas.returns import REFUND_WITHIN, RETURN_WITHIN, returns
from schemas.orders import CancelOrder, MarkOrderPaid, OrderCancelled
from schemas.payments import PaymentCaptured, PaymentVoided
from schemas.returns import CompleteReturn, FailReturn
from schemas.shipping import ShipmentCancelled
from tests.unit.test_fulfilment import (
    TO_CONFIRMED,
    TO_PAID,
    TO_RESERVED,
    arranged,
    cancelling,
    complete,
    confirmed,
    cup_sold,
    placed,
    release_cup,
    release_tea,
    tea_sold,
    void_payment,
)
from tests.unit.test_returns_saga import (
    TO_RECEIVED,
    TO_RESTOCKED,
    TO_TAKEN_BACK,
    cup_back,
    failed,
    refunded,
    requested,
    tea_back,
    withdraw_tea,
)
from tidelog.engine.deciding import decide
from tidelog.engine.reacting import DecisionRecord, Heard, Instance, Reactor
from tidelog.message import Event, State
from tidelog.saga import Phase
from tidelog.testing import given

SECOND = timedelta(seconds=1)
NOW = datetime(2026, 1, 1, tzinfo=UTC)

cancel = CancelOrder(order_id="o", reason="by an operator: a reason")


def decision(kind: str, number: int = 1, step: str = "") -> DecisionRecord:
    return DecisionRecord(
        target=f"d-{number}",
        decision=kind,
        step=step,
        operator="ada",
        reason="a reason",
        position=f"operations:0:{number}",
        at=NOW + timedelta(minutes=number),
    )


class Walk:
    """One fulfilment, event by event and decision by decision."""

    def __init__(self, *events: Event) -> None:
        self.reactor = Reactor(fulfilment, fulfilment.contexts)
        self.instance: Instance[State] | None = None
        self.sent: list[str] = []
        for event in events:
            self.hear(event)

    def hear(self, event: Event, cause: str = "somebody") -> list[str]:
        """The event comes; the types of the commands that follow."""
        number = len(self.sent)
        heard = Heard(event, f"m-{number}", cause, "c", "", f"test:0:{number + 1}", NOW)
        reacted = self.reactor.react(self.instance, heard)
        self.instance = reacted.instance
        self.sent.append(type(event).__name__)
        return [type(request.command).__name__ for request in reacted.requests]

    def decide(self, record: DecisionRecord, parked: str = "") -> list[str]:
        """A person decides; the types of the commands that follow."""
        reacted = decide(self.reactor, self.standing, record, parked)
        self.instance = reacted.instance
        return [type(request.command).__name__ for request in reacted.requests]

    def phase(self) -> Phase:
        """How it stands."""
        return self.standing.phase

    @property
    def standing(self) -> Instance[State]:
        assert self.instance is not None
        return self.instance


# --- the whole is turned back ---------------------------------------------------------------


def test_an_order_that_a_person_turns_back_is_asked_to_cancel_itself() -> None:
    given(fulfilment, *TO_RESERVED).decided("compensate").then(cancel).then_decided()


def test_a_return_that_a_person_turns_back_fails() -> None:
    fail = FailReturn(return_id="r", reason="by an operator: a reason")

    given(returns, requested).decided("compensate").then(fail).then_decided()


def test_a_return_that_the_order_may_have_taken_back_is_turned_back_no_more() -> None:
    given(returns, *TO_RESTOCKED).decided("compensate").then().then_refused("any more")


def test_a_return_that_is_to_fail_does_not_go_on_meanwhile() -> None:
    history = (*TO_RECEIVED, tea_back)
    reactor = Reactor(returns, returns.contexts)
    instance: Instance[State] | None = None
    for number, event in enumerate(history):
        heard = Heard(event, f"m-{number}", "x", "c", "", "test:0:1", NOW)
        instance = reactor.react(instance, heard).instance
    assert instance is not None
    instance = decide(reactor, instance, decision("compensate")).instance
    assert instance is not None

    reacted = reactor.react(instance, Heard(cup_back, "m-9", "x", "c", "", "test:0:9", NOW))

    assert reacted.requests == [], "the order is not asked to take back what is to fail"


def test_what_is_turned_back_already_is_left_to_go_on() -> None:
    given(fulfilment, *TO_PAID, cancelling).decided("compensate").then().then_decided()


def test_an_undoing_that_is_stuck_is_tried_again_by_the_wish_to_turn_back() -> None:
    walk = Walk(*TO_RESERVED, cancelling)
    late = walk.reactor.remind(walk.standing, NOW + UNDOING_WITHIN + SECOND).instance
    assert late is not None and late.stuck
    walk.instance = late

    assert "VoidPayment" in walk.decide(decision("compensate"))
    assert walk.standing.stuck == ""


@pytest.mark.parametrize("what", ["skip", "compensate"])
def test_what_has_ended_is_neither_skipped_nor_turned_back(what: str) -> None:
    history = (*TO_CONFIRMED, tea_sold, cup_sold)

    given(fulfilment, *history).decided(what, "sell-stock").then().then_refused(
        "has ended: completed"
    ).then_phase("completed")


def test_a_wish_that_the_order_refuses_leaves_the_instance_as_it_was() -> None:
    walk = Walk(*TO_PAID)
    walk.decide(decision("compensate"))
    (wish,) = [step for step in walk.standing.steps if step.step == "turn-back"]

    refused = walk.reactor.refused(walk.standing, wish.command_id, "order-already-delivered", NOW)

    assert refused.instance is not None
    assert refused.instance.stuck == ""
    assert "order-already-delivered" in refused.instance.decisions[-1].refused
    walk.instance = refused.instance
    assert walk.decide(decision("compensate", 2)) == ["CancelOrder"], "and it may be tried again"


def test_what_was_stuck_on_its_way_is_not_stuck_once_it_is_undone() -> None:
    walk = Walk(*TO_PAID)
    (asked,) = [step for step in walk.standing.steps if step.step == "request-shipment"]
    stuck = walk.reactor.refused(walk.standing, asked.command_id, "no", NOW).instance
    assert stuck is not None and stuck.stuck
    walk.instance = stuck
    walk.decide(decision("compensate"))
    assert walk.standing.stuck, "nothing is undone yet"

    walk.hear(cancelling)

    assert (walk.standing.phase, walk.standing.stuck) == ("undoing", "")


# --- a step is skipped ----------------------------------------------------------------------


def test_a_payment_that_a_person_skips_counts_as_paid_on_that_day() -> None:
    given(fulfilment, *TO_RESERVED).decided("skip", "request-payment").then(
        MarkOrderPaid(order_id="o", paid_on="2026-01-01")
    ).then_decided()


def test_a_compensation_that_a_person_skips_lets_the_next_one_go_on() -> None:
    outcome = given(fulfilment, *TO_PAID, cancelling).decided("skip", "cancel-shipment")
    outcome.then(void_payment).then_decided()
    history = (*TO_PAID, cancelling, ShipmentCancelled(order_id="o"))
    given(fulfilment, *history).decided("skip", "void-payment").then(release_tea, release_cup)
    given(fulfilment, placed, cancelling).decided("skip", "give-stock-back").then(complete)


def test_a_sale_that_a_person_skips_completes_the_order() -> None:
    given(fulfilment, *TO_PAID, arranged, confirmed).decided(
        "skip", "sell-stock"
    ).then().then_phase("completed")


def test_a_refund_that_a_person_skips_completes_the_return() -> None:
    given(returns, *TO_TAKEN_BACK).decided("skip", "refund").then(
        CompleteReturn(return_id="r", amount=1_000, currency="EUR")
    )


def test_goods_that_do_not_come_off_the_shelf_are_given_up_by_a_person() -> None:
    given(returns, *TO_RESTOCKED, failed).decided("skip", "withdraw").then().then_phase(
        "compensated"
    )


def test_a_skipped_step_shows_its_answer_and_the_place_of_the_decision() -> None:
    walk = Walk(*TO_RESERVED, cancelling)

    walk.decide(decision("skip", step="void-payment"))

    (shown,) = [step for step in walk.standing.steps if step.step == "void-payment"]
    assert (shown.status, shown.event_type) == ("skipped", "PaymentVoided")
    assert (shown.position, shown.reason) == ("operations:0:1", "a reason")
    (told,) = walk.standing.decisions
    assert (told.operator, told.decision, told.step) == ("ada", "skip", "void-payment")


def test_the_same_decision_again_changes_nothing() -> None:
    walk = Walk(*TO_RESERVED)
    walk.decide(decision("skip", step="request-payment"))
    after = walk.standing

    assert walk.decide(decision("skip", step="request-payment")) == []
    assert walk.standing == after


def test_another_wish_to_skip_what_is_skipped_is_quiet() -> None:
    walk = Walk(*TO_RESERVED)
    walk.decide(decision("skip", step="request-payment"))

    assert walk.decide(decision("skip", 2, "request-payment")) == []
    assert [each.refused for each in walk.standing.decisions] == ["", ""]


@pytest.mark.parametrize(
    ("step", "why"),
    [
        ("nothing-like-it", "has no step"),
        ("reserve-stock", "only its own aggregate"),
        ("void-payment", "nothing is being undone"),
        ("request-shipment", "waits for no answer"),
    ],
)
def test_what_cannot_be_skipped_is_refused_and_says_why(step: str, why: str) -> None:
    given(fulfilment, *TO_RESERVED).decided("skip", step).then().then_refused(why)


def test_what_leads_on_is_not_skipped_while_the_whole_is_undone() -> None:
    given(fulfilment, *TO_RESERVED, cancelling).decided("skip", "request-payment").then_refused(
        "being undone"
    )


def test_a_step_in_order_is_skipped_only_when_its_turn_has_come() -> None:
    given(returns, requested).decided("skip", "refund").then_refused("approve is")


def test_an_instance_that_is_parked_hears_of_no_decision_but_records_it() -> None:
    walk = Walk(*TO_RESERVED)

    assert walk.decide(decision("compensate"), parked="a reaction fails") == []
    assert walk.standing.decisions[-1].refused == "a reaction fails"


def test_money_that_arrives_after_its_undoing_was_skipped_is_paid_back() -> None:
    walk = Walk(*TO_RESERVED, cancelling)
    walk.decide(decision("skip", step="void-payment"))
    walk.hear(_cancelled())
    assert walk.phase() == "compensated"

    captured = PaymentCaptured(
        order_id="o", amount=1_000, currency="EUR", captured_on="2026-01-01", late=False
    )

    assert walk.hear(captured) == ["VoidPayment"]
    assert walk.phase() == "undoing"
    walk.hear(PaymentVoided(order_id="o"))
    assert walk.phase() == "compensated"


def test_only_the_last_decisions_are_kept() -> None:
    walk = Walk(*TO_RESERVED)
    for number in range(150):
        walk.decide(decision("skip", number, "nothing"))

    assert len(walk.standing.decisions) == 100
    assert walk.standing.decisions[-1].target == "d-149"


# --- the time limits of a return ------------------------------------------------------------


def test_a_return_that_lasts_too_long_fails_as_a_whole() -> None:
    too_slow = FailReturn(return_id="r", reason="it took too long")
    given(returns, requested).after(RETURN_WITHIN - SECOND).then()
    given(returns, requested).after(RETURN_WITHIN + SECOND).then(too_slow)


def test_goods_that_come_back_after_the_whole_time_are_taken_off_the_shelf() -> None:
    given(returns, *TO_RECEIVED, failed).when(tea_back).then(withdraw_tea).then_phase("undoing")


def test_a_return_that_the_order_took_back_has_no_whole_time_any_more() -> None:
    given(returns, *TO_TAKEN_BACK).after(RETURN_WITHIN).then().then_stuck("refund")


def test_a_refund_that_lasts_too_long_waits_for_a_person_and_is_still_heard() -> None:
    given(returns, *TO_TAKEN_BACK).after(REFUND_WITHIN + SECOND).then().then_stuck("refund")
    given(returns, *TO_TAKEN_BACK).when(refunded).then(
        CompleteReturn(return_id="r", amount=1_000, currency="EUR")
    )


def _cancelled() -> OrderCancelled:
    return OrderCancelled(
        order_id="o",
        customer_id="c",
        currency="EUR",
        lines=placed.lines,
        total=1_000,
        reason="no",
        confirmed=False,
        paid_on=None,
    )
