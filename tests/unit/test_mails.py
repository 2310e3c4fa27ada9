"""What customers are told, word by word, and the mail that it becomes."""

from __future__ import annotations

import email
import email.policy
from email.message import EmailMessage

import pytest

from sagas.effects.mail import mail_of, message_id_of
from sagas.notifications import texts
from sagas.notifications.requests import CUSTOMERS, Requests, address_of
from schemas.notifications import NotificationRequested, RequestNotification
from schemas.orders import OrderCancelled, OrderConfirmed
from schemas.payments import PaymentRefunded
from schemas.returns import ReturnFailed, ReturnLabelIssued, ReturnRefused
from schemas.values import LINES_MAX, OrderLine
from tidelog.effects.definition import Attempt, NotKnownYet, WorkRefused
from tidelog.effects.mail_server import FORM, MailAddress
from tidelog.errors import ConfigurationError

LINES = (
    OrderLine(sku="tea", quantity=2, unit_price=790),
    OrderLine(sku="cup", quantity=1, unit_price=1250),
)
CONFIRMED = OrderConfirmed(
    order_id="o-1", customer_id="c-1", currency="EUR", lines=LINES, total=2830, paid_on="2026-07-31"
)
CANCELLED = OrderCancelled(
    order_id="o-1",
    customer_id="c-1",
    currency="EUR",
    lines=LINES,
    total=2830,
    reason="zu groß",
    confirmed=False,
    paid_on=None,
)
REQUESTED = NotificationRequested(
    notification_id="order-cancelled.01a1ff0f-e02d-7d0e-8710-cc8e4d64464c",
    order_id="o-1",
    kind="order-cancelled",
    recipient="c-1@customers.example",
    title="Your order o-1 is cancelled",
    text="Grund: zu groß\n",
)


def test_a_confirmation_names_the_payment_and_each_line() -> None:
    kind, title, text = texts.order_confirmed(CONFIRMED)

    assert (kind, title) == ("order-confirmed", "Your order o-1 is confirmed")
    assert text == (
        "We have your payment of 28.30 EUR, and a carrier takes your parcel:\n"
        "  2 x tea at 7.90 EUR\n"
        "  1 x cup at 12.50 EUR\n"
    )


def test_a_cancellation_names_its_reason() -> None:
    kind, title, text = texts.order_cancelled(CANCELLED)

    assert (kind, title) == ("order-cancelled", "Your order o-1 is cancelled")
    assert text.startswith("It is cancelled for this reason: zu groß\n")


def test_a_refund_names_the_amount_and_the_return() -> None:
    refund = PaymentRefunded(order_id="o-1", amount=1999, currency="JPY", return_id="r-1")

    said = texts.payment_refunded(refund).text
    assert said == "We have paid back 1999 JPY for your return r-1.\n"


def test_a_return_is_told_of_its_label_refusal_and_failure() -> None:
    label = ReturnLabelIssued(return_id="r", order_id="o", carrier="north", tracking="T-1")

    assert "north under the number T-1" in texts.return_label(label).text
    refused = texts.return_refused(ReturnRefused(return_id="r", order_id="o", reason="worn"))
    failed = texts.return_failed(ReturnFailed(return_id="r", order_id="o", reason="lost"))
    assert refused.text.endswith("order o: worn\n")
    assert failed.text.endswith("The reason: lost\n")


@pytest.mark.parametrize(
    ("amount", "currency", "shown"),
    [
        (1999, "EUR", "19.99 EUR"),
        (5, "EUR", "0.05 EUR"),
        (1999, "JPY", "1999 JPY"),
        (1050, "KWD", "1.050 KWD"),
    ],
)
def test_money_is_shown_in_its_own_digits(amount: int, currency: str, shown: str) -> None:
    assert texts.money(amount, currency) == shown


def test_the_longest_order_fits_into_a_notification() -> None:
    lines = tuple(
        OrderLine(sku=f"{number:0128}", quantity=1_000_000, unit_price=10**12)
        for number in range(LINES_MAX)
    )
    confirmed = OrderConfirmed(
        order_id="o" * 128,
        customer_id="c",
        currency="KWD",
        lines=lines,
        total=1,
        paid_on="2026-07-31",
    )
    words = texts.order_confirmed(confirmed)

    RequestNotification(
        notification_id="n",
        order_id="o",
        kind=words.kind,
        recipient="a@b",
        title=words.title,
        text=words.text,
    )
    assert len(words.text) < 40_000


def test_a_mail_is_read_as_it_was_written_and_holds_no_letter_beyond_ascii() -> None:
    mail = mail_of(REQUESTED, "shop@tidelog.example", "x-1")

    content = mail.as_bytes(policy=FORM)

    assert content.isascii()
    assert b"\r\nMessage-ID: <order-cancelled.01a1ff0f-e02d-7d0e-8710-cc8e4d64464c@" in content
    read = email.message_from_bytes(content, _class=EmailMessage, policy=email.policy.default)
    assert read.get_content().splitlines() == REQUESTED.text.splitlines()
    assert read["To"] == "c-1@customers.example"
    assert read["X-Correlation-Id"] == "x-1"
    assert read["Auto-Submitted"] == "auto-generated"


def test_every_copy_of_a_mail_has_the_same_message_id() -> None:
    copies = [mail_of(REQUESTED, "shop@tidelog.example", x)["Message-ID"] for x in ("", "x")]

    assert copies == [f"<{REQUESTED.notification_id}@tidelog.example>"] * 2
    assert copies[0] == message_id_of(REQUESTED.notification_id, "shop@tidelog.example")


@pytest.mark.parametrize(
    ("customer_id", "address"),
    [("c-1", "c-1@d.example"), ("a.b", "a.b@d.example"), (".a..b", '".a..b"@d.example')],
)
def test_a_customers_address_is_their_id_at_the_domain(customer_id: str, address: str) -> None:
    assert address_of(customer_id, "d.example") == address


def attempt(customers: dict[str, str]) -> Attempt:
    """A try for the event m-1; these customers are known by their orders."""

    async def remember(_: str) -> None:
        raise AssertionError("requests need no memo")

    async def known(name: str, key: str) -> str | None:
        assert name == CUSTOMERS.name
        return customers.get(key)

    return Attempt(
        number=1,
        giving_up=False,
        message_id="m-1",
        correlation_id="",
        memo="",
        remember=remember,
        known=known,
    )


async def test_an_event_asks_for_the_same_notification_however_often_it_comes() -> None:
    requests = Requests("d.example")

    asked = [await requests.tell_of_confirmation(CONFIRMED, attempt({})) for _ in range(2)]

    assert asked[0] == asked[1]
    assert asked[0].notification_id == "order-confirmed.m-1"
    assert asked[0].recipient == "c-1@d.example"


async def test_a_refund_goes_to_whoever_placed_the_order_and_waits_until_that_is_known() -> None:
    requests = Requests("d.example")
    refund = PaymentRefunded(order_id="o-1", amount=1, currency="EUR", return_id=None)

    with pytest.raises(NotKnownYet, match="o-1"):
        await requests.tell_of_refund(refund, attempt({}))

    asked = await requests.tell_of_refund(refund, attempt({"o-1": "ada"}))
    assert (asked.notification_id, asked.recipient) == ("payment-refunded.m-1", "ada@d.example")


def test_an_id_that_no_mail_can_have_waits_for_a_person() -> None:
    with pytest.raises(WorkRefused, match="longer than the 64"):
        address_of("c" * 65, "d.example")


def test_a_password_is_not_sent_in_the_clear() -> None:
    with pytest.raises(ConfigurationError, match="TIDELOG_SMTP_SECURITY"):
        MailAddress(host="h", port=25, user="shop", password="s3cret")
