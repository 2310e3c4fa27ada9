"""The payment's rules: what is accepted, what is refused, what is quiet."""

from __future__ import annotations

import pytest

from command_service.payments import (
    REFUNDS_MAX,
    AmountDiffers,
    PaymentAlreadyCaptured,
    PaymentDiffers,
    PaymentNeverRequested,
    PaymentNotCaptured,
    RefundDiffers,
    RefundExceedsPayment,
    RefundNeverRequested,
    TooManyRefunds,
    payments,
)
from schemas.payments import (
    PaymentCaptured,
    PaymentCommand,
    PaymentDeclined,
    PaymentEvent,
    PaymentRefunded,
    PaymentRefundRequested,
    PaymentRequested,
    PaymentVoided,
    RecordPaymentCaptured,
    RecordPaymentDeclined,
    RecordPaymentVoided,
    RecordRefund,
    RequestPayment,
    RequestRefund,
    VoidPayment,
)
from tidelog import replace
from tidelog.testing import given

ID = "o-1"

request = RequestPayment(order_id=ID, customer_id="c-1", amount=1600, currency="EUR")
record_captured = RecordPaymentCaptured(order_id=ID, amount=1600, captured_on="2026-07-31")
record_declined = RecordPaymentDeclined(order_id=ID, reason="no funds")
record_voided = RecordPaymentVoided(order_id=ID)
void = VoidPayment(order_id=ID)
request_refund = RequestRefund(order_id=ID, return_id="r-1", amount=600)
record_refund = RecordRefund(order_id=ID, amount=600, return_id="r-1")
record_refund_of_all = RecordRefund(order_id=ID, amount=1600)

requested = PaymentRequested(order_id=ID, customer_id="c-1", amount=1600, currency="EUR")
captured = PaymentCaptured(
    order_id=ID, amount=1600, currency="EUR", captured_on="2026-07-31", late=False
)
captured_late = replace(captured, late=True)
declined = PaymentDeclined(order_id=ID, reason="no funds")
voided = PaymentVoided(order_id=ID)
refund_requested = PaymentRefundRequested(order_id=ID, amount=600, currency="EUR", return_id="r-1")
refunded = PaymentRefunded(order_id=ID, amount=600, currency="EUR", return_id="r-1")
refund_of_all_requested = replace(refund_requested, amount=1600, return_id=None)
refunded_all = replace(refunded, amount=1600, return_id=None)


def test_a_payment_is_requested_once() -> None:
    given(payments).when(request).then(requested)
    given(payments, requested).when(request).then()
    given(payments, requested, captured).when(request).then()
    given(payments, requested, declined).when(request).then()


@pytest.mark.parametrize("other", [replace(request, amount=1601), replace(request, currency="USD")])
def test_another_payment_for_the_order_is_refused(other: RequestPayment) -> None:
    given(payments, requested).when(other).rejected(PaymentDiffers)


def test_a_payment_is_captured_once() -> None:
    given(payments, requested).when(record_captured).then(captured)
    given(payments, requested, captured).when(record_captured).then()


def test_a_payment_is_declined_once() -> None:
    given(payments, requested).when(record_declined).then(declined)
    given(payments, requested, declined).when(record_declined).then()


def test_the_provider_can_confirm_that_nothing_was_taken() -> None:
    given(payments, requested).when(record_voided).then(voided)
    given(payments, requested, voided).when(record_voided).then()
    given(payments, requested, declined).when(record_voided).then()


@pytest.mark.parametrize("command", [record_captured, record_declined, record_voided])
def test_the_provider_has_nothing_to_say_about_an_unknown_payment(
    command: PaymentCommand,
) -> None:
    given(payments).when(command).rejected(PaymentNeverRequested)
    given(payments, voided).when(command).rejected(PaymentNeverRequested)


def test_a_capture_of_another_amount_is_refused() -> None:
    given(payments, requested).when(replace(record_captured, amount=1)).rejected(AmountDiffers)


@pytest.mark.parametrize("command", [record_declined, record_voided])
def test_captured_money_cannot_be_reported_as_not_taken(
    command: PaymentCommand,
) -> None:
    given(payments, requested, captured).when(command).rejected(PaymentAlreadyCaptured)


@pytest.mark.parametrize("answer", [declined, voided])
def test_a_late_capture_is_recorded_and_refunded_at_once(answer: PaymentEvent) -> None:
    given(payments, requested, answer).when(record_captured).then(
        captured_late, refund_of_all_requested
    )


def test_a_late_capture_is_refunded_once_however_often_it_is_undone() -> None:
    late = given(payments, requested, voided, captured_late, refund_of_all_requested)
    late.when(record_captured).then()
    late.when(void).then()
    late.when(record_refund_of_all).then(refunded_all)


def test_an_open_payment_is_voided() -> None:
    given(payments, requested).when(void).then(voided)
    given(payments, requested, voided).when(void).then()


def test_a_late_decline_of_a_void_payment_is_quiet() -> None:
    given(payments, requested, voided).when(record_declined).then()


def test_a_void_that_outran_its_request_keeps_it_from_being_made() -> None:
    given(payments).when(void).then(voided)
    given(payments, voided).when(request).then()


def test_a_declined_payment_needs_no_void() -> None:
    given(payments, requested, declined).when(void).then()


def test_voiding_captured_money_refunds_it_once() -> None:
    given(payments, requested, captured).when(void).then(refund_of_all_requested)
    given(payments, requested, captured, refund_of_all_requested).when(void).then()


def test_voiding_refunds_only_what_no_return_has_had() -> None:
    given(payments, requested, captured, refund_requested).when(void).then(
        replace(refund_of_all_requested, amount=1000)
    )


def test_a_refund_for_a_return_is_requested_once() -> None:
    history = (requested, captured)
    given(payments, *history).when(request_refund).then(refund_requested)
    given(payments, *history, refund_requested).when(request_refund).then()
    given(payments, *history, refund_requested, refunded).when(request_refund).then()


def test_a_return_has_one_refund_with_one_amount() -> None:
    given(payments, requested, captured, refund_requested).when(
        replace(request_refund, amount=601)
    ).rejected(RefundDiffers)


@pytest.mark.parametrize("history", [(), (requested,), (requested, declined), (requested, voided)])
def test_only_captured_money_is_refunded(history: tuple[PaymentEvent, ...]) -> None:
    given(payments, *history).when(request_refund).rejected(PaymentNotCaptured)


def test_no_more_is_refunded_than_was_captured() -> None:
    given(payments, requested, captured).when(replace(request_refund, amount=1601)).rejected(
        RefundExceedsPayment
    )
    given(payments, requested, captured, refund_requested).when(
        replace(request_refund, return_id="r-2", amount=1001)
    ).rejected(RefundExceedsPayment)


def test_a_refund_is_paid_once() -> None:
    history = (requested, captured, refund_requested)
    given(payments, *history).when(record_refund).then(refunded)
    given(payments, *history, refunded).when(record_refund).then()


def test_a_refund_that_nobody_requested_cannot_be_paid() -> None:
    given(payments, requested, captured).when(record_refund).rejected(RefundNeverRequested)
    given(payments, requested, captured, refund_requested).when(record_refund_of_all).rejected(
        RefundNeverRequested
    )


def test_a_refund_of_another_amount_is_refused() -> None:
    given(payments, requested, captured, refund_requested).when(
        replace(record_refund, amount=601)
    ).rejected(AmountDiffers)


def test_an_order_that_costs_nothing_is_paid_and_undone_like_any_other() -> None:
    free = (replace(requested, amount=0), replace(captured, amount=0))
    given(payments, *free[:1]).when(replace(record_captured, amount=0)).then(free[1])
    given(payments, *free).when(void).then(replace(refund_of_all_requested, amount=0))


def test_the_refunds_of_a_payment_are_bounded() -> None:
    many = [replace(refund_requested, return_id=f"r-{n}", amount=1) for n in range(REFUNDS_MAX)]
    given(payments, requested, captured, *many).when(
        replace(request_refund, return_id="r-x", amount=1)
    ).rejected(TooManyRefunds)
