"""What an instance waits for, as its definition says."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from query_service.sagas import Instances, Waits
from sagas.definitions import SAGAS
from sagas.fulfilment import fulfilment
from sagas.returns import returns
from schemas import CONTEXTS
from schemas.orders import OrderPlaced, OrderReserved
from schemas.payments import PaymentRequested
from schemas.returns import ReturnApproved, ReturnRequested
from schemas.values import Address, GoodsLine, OrderLine
from tidelog.engine.reacting import Heard, Instance, Reactor
from tidelog.errors import ConfigurationError
from tidelog.message import Event
from tidelog.saga import Saga
from tidelog.saga_definitions import load_sagas

BEGINNING = datetime(2026, 1, 1, tzinfo=UTC)
HOME = Address(name="A", street="B", city="C", postal_code="1", country="DE")
LINES = (OrderLine(sku="tea", quantity=2, unit_price=300),)

placed = OrderPlaced(
    order_id="o", customer_id="c", currency="EUR", lines=LINES, total=600, ship_to=HOME
)
payment_requested = PaymentRequested(order_id="o", customer_id="c", amount=600, currency="EUR")
return_requested = ReturnRequested(
    return_id="r", order_id="o", lines=(GoodsLine(sku="tea", quantity=1),), reason="no"
)


def after(saga: Saga[Any], *events: Event) -> Instance[Any]:
    """The instance after these events, each the answer to the last command that was asked for."""
    reactor, instance, cause = Reactor(saga, CONTEXTS), None, "a-person"
    for number, event in enumerate(events):
        at = BEGINNING + timedelta(seconds=number)
        heard = Heard(event, f"m-{number}", cause, "c", "", f"test:0:{number + 1}", at)
        reacted = reactor.react(instance, heard)
        instance = reacted.instance
        cause = reacted.requests[-1].command_id if reacted.requests else cause
    assert instance is not None, "the first event begins it"
    # As it is stored: the state is read back without its type.
    return msgspec.json.decode(msgspec.json.encode(instance), type=Instance[Any])


def test_an_instance_waits_for_the_answers_to_its_pending_commands() -> None:
    assert Waits(fulfilment).expected_next(after(fulfilment, placed)) == [
        "StockReserved",
        "StockReservationRefused",
    ]


def test_a_requested_payment_waits_for_what_the_provider_says() -> None:
    waiting = after(fulfilment, placed, OrderReserved(order_id="o"), payment_requested)
    # The reservation is answered by its own answer, which this history leaves out.
    answered = msgspec.structs.replace(
        waiting, steps=tuple(step for step in waiting.steps if step.status == "done")
    )

    assert Waits(fulfilment).expected_next(answered) == [
        "PaymentCaptured",
        "PaymentDeclined",
        "PaymentVoided",
    ]


def test_a_step_without_a_command_waits_for_the_world() -> None:
    instance = after(returns, return_requested, ReturnApproved(return_id="r", order_id="o"))

    assert Waits(returns).expected_next(instance) == ["ReturnLabelIssued"]


def test_an_instance_that_has_ended_waits_for_nothing() -> None:
    ended = msgspec.structs.replace(after(fulfilment, placed), phase="compensated")

    assert Waits(fulfilment).expected_next(ended) == []


def test_a_state_of_another_version_is_shown_without_what_only_it_tells() -> None:
    instance = after(returns, return_requested, ReturnApproved(return_id="r", order_id="o"))
    other = msgspec.structs.replace(instance, state={"status": "of-tomorrow"})

    assert Waits(returns).expected_next(other) == []


def test_an_instance_shows_the_deadline_that_ends_first_and_no_other_attempts() -> None:
    instance = after(fulfilment, placed)
    due = {**instance.due, "again:give-stock-back": BEGINNING}
    stored = msgspec.json.encode(msgspec.structs.replace(instance, due=due)).decode()
    shown = Instances(projection="sagas", key="key", fields={}, waits={})

    document = shown.document(("fulfilment", "o", "running", BEGINNING, None, stored, None, None))

    assert document["deadline"] == BEGINNING + timedelta(minutes=2)
    assert document["steps"][0]["step"] == "reserve-stock"


def test_the_sagas_are_found_by_name() -> None:
    assert load_sagas("sagas.definitions:SAGAS") == SAGAS
    assert load_sagas("") == ()
    for wrong in ("nothing.here:SAGAS", "sagas.definitions", "sagas.definitions:NOTHING"):
        with pytest.raises(ConfigurationError, match="TIDELOG_SAGAS"):
            load_sagas(wrong)
