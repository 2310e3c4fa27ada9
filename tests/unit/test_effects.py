"""How work outside is retried, and what its definition says."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sagas.effects.payment import payment_key, refund_key
from sagas.world.books import Books
from sagas.world.payment_provider import Charge, NothingToRefund, Provider, Refund, Void
from schemas.payments import PaymentVoided
from tidelog.effects.definition import Attempt, RetryPolicy, effect
from tidelog.errors import IdempotencyKeyReused

POLICY = RetryPolicy(attempts_max=4, pause_s=1, pause_s_max=10, give_up_s=60)


def test_the_pause_doubles_up_to_a_bound() -> None:
    assert [POLICY.pause_after(number, 0) for number in (1, 2, 3, 4, 5, 1000)] == [
        1, 2, 4, 8, 10, 10,
    ]  # fmt: skip


@given(attempts=st.integers(1, 10_000), chance=st.floats(0, 1))
def test_chance_takes_at_most_half_of_a_pause(attempts: int, chance: float) -> None:
    whole = POLICY.pause_after(attempts, 0)
    assert whole / 2 <= POLICY.pause_after(attempts, chance) <= whole


@pytest.mark.parametrize(
    ("attempts", "age_s", "used_up"), [(3, 59, False), (4, 0, True), (1, 60, True)]
)
def test_tries_are_used_up_by_number_or_by_time(attempts: int, age_s: int, used_up: bool) -> None:
    assert POLICY.is_used_up(attempts, age_s) is used_up


def test_an_effect_is_named_after_its_function() -> None:
    async def tell_provider(event: PaymentVoided, attempt: Attempt) -> None:
        raise AssertionError(event, attempt)

    assert effect(PaymentVoided, tell_provider, retries=POLICY).name == "tell-provider"


def test_no_two_payments_or_refunds_share_a_key() -> None:
    keys = [
        payment_key("o"), refund_key("o", None), refund_key("o", "all"), refund_key("all", "o"),
    ]  # fmt: skip
    assert len(set(keys)) == len(keys)


# --- the books of the payment provider ------------------------------------------------------

CHARGE = Charge(order_id="o", customer_id="c", amount=500, currency="EUR")


@pytest.fixture
def books(tmp_path: Any) -> Books:
    return Books(tmp_path / "payments.jsonl")


def refund_of(amount: int) -> Refund:
    return Refund(payment="k", order_id="o", amount=amount, currency="EUR")


def test_a_key_charges_once(books: Books) -> None:
    provider = Provider(books)

    first = provider.charge("k", CHARGE, decline=False)

    assert provider.charge("k", CHARGE, decline=False) == first
    assert [entry["kind"] for entry in provider.ledger] == ["capture"]


def test_the_books_are_kept_over_a_restart_that_cut_a_line_off(books: Books, tmp_path: Any) -> None:
    provider = Provider(books)
    provider.charge("k", CHARGE, decline=False)
    provider.refund("r", refund_of(200))
    with (tmp_path / "payments.jsonl").open("ab") as file:
        file.write(b'{"entry":"refu')

    again = Provider(Books(tmp_path / "payments.jsonl"))

    assert again.ledger == provider.ledger
    assert again.refund("r", refund_of(200)) == refund_of(200)
    assert len(again.ledger) == 2


def test_a_void_holds_for_the_charge_that_comes_after_it(books: Books) -> None:
    provider = Provider(books)

    provider.void("k", Void(order_id="o"))

    assert provider.charge("k", CHARGE, decline=False).status == "voided"


def test_a_void_takes_nothing_back(books: Books) -> None:
    provider = Provider(books)
    provider.charge("k", CHARGE, decline=False)

    assert provider.void("k", Void(order_id="o")).status == "captured"


def test_no_more_is_paid_back_than_was_taken(books: Books) -> None:
    provider = Provider(books)
    provider.charge("k", CHARGE, decline=False)
    provider.refund("a", refund_of(400))

    with pytest.raises(NothingToRefund):
        provider.refund("b", refund_of(101))
    with pytest.raises(IdempotencyKeyReused):
        provider.refund("a", refund_of(100))
