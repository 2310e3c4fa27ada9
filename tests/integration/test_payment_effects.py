"""Payments at a real provider that misbehaves: what is asked, and what is said to have happened."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest

from sagas.effects.payment import Payments
from schemas.payments import (
    PaymentRefundRequested,
    PaymentRequested,
    PaymentVoided,
    RecordPaymentCaptured,
    RecordPaymentDeclined,
    RecordPaymentVoided,
    RecordRefund,
)
from tests.effect_attempts import ATTEMPT
from tests.service_process import ServiceProcess, free_port, running
from tidelog.breaker import BreakerOptions
from tidelog.effects.definition import NoAnswer, NotNow, NotSent, WorkRefused
from tidelog.effects.dependency import Dependency

REQUESTED = PaymentRequested(order_id="o", customer_id="c", amount=500, currency="EUR")
VOIDED = PaymentVoided(order_id="o")
LAST = replace(ATTEMPT, number=9, giving_up=True)


@pytest.fixture
def provider(tmp_path: Path) -> Iterator[ServiceProcess]:
    settings = {"state_dir": tmp_path / "state"}
    process = ServiceProcess("sagas.world.payment_provider", settings, tmp_path / "provider.log")
    with running(process):
        yield process


@pytest.fixture
async def payments(provider: ServiceProcess) -> AsyncIterator[Payments]:
    dependency = Dependency("provider", provider.url, timeout_s=1.0)
    yield Payments(dependency)
    await dependency.close()


async def behave(provider: ServiceProcess, **behaviour: Any) -> None:
    async with httpx.AsyncClient(trust_env=False) as client:
        answer = await client.put(provider.url + "/behaviour", json=behaviour)
    assert answer.status_code == 200, answer.text


async def ledger(provider: ServiceProcess) -> list[tuple[str, int]]:
    async with httpx.AsyncClient(trust_env=False) as client:
        entries = (await client.get(provider.url + "/ledger")).json()
    return [(entry["kind"], entry["amount"]) for entry in entries]


async def test_a_payment_is_captured_once_however_often_it_is_asked_for(
    payments: Payments, provider: ServiceProcess
) -> None:
    found = [await payments.take_payment(REQUESTED, ATTEMPT) for _ in range(3)]

    assert isinstance(found[0], RecordPaymentCaptured)
    assert found[0].amount == 500
    assert found == [found[0]] * 3
    assert await ledger(provider) == [("capture", 500)]


async def test_a_declined_payment_says_why(payments: Payments, provider: ServiceProcess) -> None:
    declined = PaymentRequested(order_id="d", customer_id="declined-x", amount=1, currency="EUR")

    found = await payments.take_payment(declined, ATTEMPT)

    assert found == RecordPaymentDeclined(order_id="d", reason="the bank said no")
    assert await ledger(provider) == []


async def test_a_lost_answer_is_asked_for_by_the_key(
    payments: Payments, provider: ServiceProcess
) -> None:
    await behave(provider, mode="lose-answer")

    found = await payments.take_payment(REQUESTED, ATTEMPT)

    assert isinstance(found, RecordPaymentCaptured)
    assert await ledger(provider) == [("capture", 500)]


async def test_a_call_that_comes_twice_charges_once(
    payments: Payments, provider: ServiceProcess
) -> None:
    await behave(provider, mode="twice")

    await payments.take_payment(REQUESTED, ATTEMPT)

    assert await ledger(provider) == [("capture", 500)]


@pytest.mark.parametrize("mode", ["error", "hang"])
async def test_no_answer_is_not_taken_for_a_decline(
    payments: Payments, provider: ServiceProcess, mode: str
) -> None:
    await behave(provider, mode=mode)

    with pytest.raises(NoAnswer):
        await payments.take_payment(REQUESTED, ATTEMPT)


async def test_nobody_there_is_known_to_have_done_nothing() -> None:
    dependency = Dependency("nobody", f"http://127.0.0.1:{free_port()}", timeout_s=1.0)

    with pytest.raises(NotSent):
        await Payments(dependency).take_payment(REQUESTED, ATTEMPT)
    await dependency.close()


async def test_giving_up_voids_what_was_not_taken(
    payments: Payments, provider: ServiceProcess
) -> None:
    found = await payments.take_payment(REQUESTED, LAST)

    assert found == RecordPaymentVoided(order_id="o")
    # A charge that was under way all the time comes too late.
    assert await payments.take_payment(REQUESTED, ATTEMPT) == found
    assert await ledger(provider) == [("void", 0)]


async def test_giving_up_finds_out_what_was_taken(
    payments: Payments, provider: ServiceProcess
) -> None:
    captured = await payments.take_payment(REQUESTED, ATTEMPT)

    assert await payments.take_payment(REQUESTED, LAST) == captured


async def test_giving_up_goes_on_until_the_provider_has_said_how_it_stands(
    payments: Payments, provider: ServiceProcess
) -> None:
    await behave(provider, mode="error")

    with pytest.raises(NoAnswer):
        await payments.take_payment(REQUESTED, LAST)


async def test_a_void_that_comes_too_late_says_what_was_taken(payments: Payments) -> None:
    captured = await payments.take_payment(REQUESTED, ATTEMPT)

    assert await payments.void_payment(VOIDED, ATTEMPT) == captured


async def test_a_void_in_time_needs_no_command(payments: Payments) -> None:
    assert await payments.void_payment(VOIDED, ATTEMPT) is None


async def test_a_refund_whose_answer_is_lost_is_paid_once(
    payments: Payments, provider: ServiceProcess
) -> None:
    await payments.take_payment(REQUESTED, ATTEMPT)
    refund = PaymentRefundRequested(order_id="o", amount=500, currency="EUR", return_id=None)
    await behave(provider, mode="lose-answer")
    with pytest.raises(NoAnswer):
        await payments.pay_back(refund, ATTEMPT)
    await behave(provider, mode="approve")

    found = await payments.pay_back(refund, ATTEMPT)

    assert found == RecordRefund(order_id="o", amount=500)
    assert await ledger(provider) == [("capture", 500), ("refund", 500)]


async def test_a_refund_that_the_provider_will_never_pay_waits_for_a_person(
    payments: Payments,
) -> None:
    refund = PaymentRefundRequested(order_id="o", amount=500, currency="EUR", return_id="r")

    with pytest.raises(WorkRefused, match="nothing-to-refund"):
        await payments.pay_back(refund, ATTEMPT)


async def test_the_breaker_opens_and_closes_again(provider: ServiceProcess) -> None:
    breaker = BreakerOptions(calls_min=2, open_s=0.2)
    dependency = Dependency("breaking", provider.url, timeout_s=1.0, breaker=breaker)
    payments = Payments(dependency)
    await behave(provider, mode="error")
    with pytest.raises(NoAnswer):
        await payments.take_payment(REQUESTED, ATTEMPT)  # two calls: the second asks by key

    with pytest.raises(NotNow) as refused:
        await payments.take_payment(REQUESTED, ATTEMPT)

    await behave(provider, mode="approve")
    await asyncio.sleep(refused.value.after_s)
    assert isinstance(await payments.take_payment(REQUESTED, ATTEMPT), RecordPaymentCaptured)
    await dependency.close()


async def test_a_call_that_is_cancelled_says_nothing_about_the_provider(
    provider: ServiceProcess,
) -> None:
    breaker = BreakerOptions(calls_min=1, open_s=60)
    dependency = Dependency("cancelled", provider.url, timeout_s=5.0, breaker=breaker)
    payments = Payments(dependency)
    await behave(provider, mode="hang")
    call = asyncio.create_task(payments.take_payment(REQUESTED, ATTEMPT))
    await asyncio.sleep(0.1)
    call.cancel()
    await asyncio.wait({call})

    await behave(provider, mode="approve")

    assert isinstance(await payments.take_payment(REQUESTED, ATTEMPT), RecordPaymentCaptured)
    await dependency.close()
