"""The shipment's rules: what is accepted, what is refused, what is quiet."""

from __future__ import annotations

import pytest

from command_service.shipping import (
    ShipmentAlreadyArranged,
    ShipmentAlreadyCancelled,
    ShipmentNeverRequested,
    ShipmentNotArranged,
    shipping,
)
from schemas.shipping import (
    CancelShipment,
    RecordDelivered,
    RecordDispatched,
    RecordShipmentArranged,
    RecordShipmentRefused,
    RequestShipment,
    ShipmentArranged,
    ShipmentCancelled,
    ShipmentDelivered,
    ShipmentDispatched,
    ShipmentRefused,
    ShipmentRequested,
    ShippingCommand,
    ShippingEvent,
)
from schemas.values import Address, GoodsLine
from tidelog import replace
from tidelog.testing import given

ID = "o-1"
HOME = Address(name="Ada", street="1 Main St", city="Turin", postal_code="10121", country="IT")
LINES = (GoodsLine(sku="tea", quantity=2),)

request = RequestShipment(order_id=ID, ship_to=HOME, lines=LINES)
cancel = CancelShipment(order_id=ID)
record_arranged = RecordShipmentArranged(order_id=ID, carrier="Swift", tracking="T-1")
record_refused = RecordShipmentRefused(order_id=ID, reason="no such place")
record_dispatched = RecordDispatched(order_id=ID)
record_delivered = RecordDelivered(order_id=ID)

requested = ShipmentRequested(order_id=ID, ship_to=HOME, lines=LINES)
arranged = ShipmentArranged(order_id=ID, carrier="Swift", tracking="T-1", late=False)
arranged_late = replace(arranged, late=True)
refused = ShipmentRefused(order_id=ID, reason="no such place")
cancelled = ShipmentCancelled(order_id=ID)
dispatched = ShipmentDispatched(order_id=ID)
delivered = ShipmentDelivered(order_id=ID)


def test_a_shipment_is_requested_once() -> None:
    given(shipping).when(request).then(requested)
    given(shipping, requested).when(request).then()
    given(shipping, requested, refused).when(request).then()


def test_a_shipment_goes_from_requested_to_delivered() -> None:
    given(shipping, requested).when(record_arranged).then(arranged)
    given(shipping, requested, arranged).when(record_dispatched).then(dispatched)
    given(shipping, requested, arranged, dispatched).when(record_delivered).then(delivered)


@pytest.mark.parametrize("command", [record_arranged, record_dispatched, record_delivered])
def test_a_report_that_comes_twice_changes_nothing(command: ShippingCommand) -> None:
    history = (requested, arranged, dispatched, delivered)
    given(shipping, *history).when(command).then()


@pytest.mark.parametrize(
    "command", [record_arranged, record_refused, record_dispatched, record_delivered]
)
def test_the_carrier_has_nothing_to_say_about_an_unknown_shipment(
    command: ShippingCommand,
) -> None:
    given(shipping).when(command).rejected(ShipmentNeverRequested)
    given(shipping, cancelled).when(command).rejected(ShipmentNeverRequested)


def test_the_carrier_can_refuse_once() -> None:
    given(shipping, requested).when(record_refused).then(refused)
    given(shipping, requested, refused).when(record_refused).then()


def test_an_accepted_parcel_cannot_be_refused_or_booked_twice() -> None:
    booked = given(shipping, requested, arranged)
    booked.when(record_refused).rejected(ShipmentAlreadyArranged)
    booked.when(replace(record_arranged, tracking="T-2")).rejected(ShipmentAlreadyArranged)


@pytest.mark.parametrize(
    "history",
    [(), (requested,), (requested, arranged), (requested, arranged, dispatched)],
)
def test_a_shipment_can_be_cancelled_until_it_is_delivered(
    history: tuple[ShippingEvent, ...],
) -> None:
    given(shipping, *history).when(cancel).then(cancelled)
    given(shipping, *history, cancelled).when(cancel).then()


def test_cancelling_a_delivered_or_refused_shipment_is_quiet() -> None:
    given(shipping, requested, arranged, dispatched, delivered).when(cancel).then()
    given(shipping, requested, refused).when(cancel).then()


def test_a_cancel_that_outran_its_request_keeps_it_from_being_made() -> None:
    given(shipping, cancelled).when(request).then()


@pytest.mark.parametrize("answer", [cancelled, refused])
def test_a_late_arrangement_is_recorded_and_cancelled_at_once(
    answer: ShippingEvent,
) -> None:
    given(shipping, requested, answer).when(record_arranged).then(arranged_late, cancelled)
    given(shipping, requested, answer, arranged_late, cancelled).when(record_arranged).then()


def test_a_late_refusal_of_a_cancelled_shipment_is_quiet() -> None:
    given(shipping, requested, cancelled).when(record_refused).then()


def test_a_dispatch_after_the_cancel_is_quiet_for_the_parcel_is_called_back() -> None:
    given(shipping, requested, arranged, cancelled).when(record_dispatched).then()


def test_a_delivery_after_the_cancel_is_a_contradiction() -> None:
    given(shipping, requested, arranged, cancelled).when(record_delivered).rejected(
        ShipmentAlreadyCancelled
    )


def test_a_delivery_whose_dispatch_was_lost_states_both() -> None:
    given(shipping, requested, arranged).when(record_delivered).then(dispatched, delivered)


@pytest.mark.parametrize("command", [record_dispatched, record_delivered])
def test_only_an_arranged_parcel_travels(command: ShippingCommand) -> None:
    given(shipping, requested).when(command).rejected(ShipmentNotArranged)
    given(shipping, requested, refused).when(command).rejected(ShipmentNotArranged)
