"""What breaks its form never reaches a rule: bounds, lists, lines and days of the messages."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from schemas.orders import MarkOrderPaid, PlaceOrder
from schemas.returns import RequestReturn
from schemas.values import TOTAL_MAX
from tidelog import Command


def order(**changes: Any) -> dict[str, Any]:
    return {
        "order_id": "o-1",
        "customer_id": "c-1",
        "currency": "EUR",
        "lines": [line()],
        "ship_to": address(),
        **changes,
    }


def line(**changes: Any) -> dict[str, Any]:
    return {"sku": "tea", "quantity": 1, "unit_price": 350, **changes}


def address(**changes: Any) -> dict[str, Any]:
    return {
        "name": "Ada",
        "street": "1 Main St",
        "city": "Turin",
        "postal_code": "10121",
        "country": "IT",
        **changes,
    }


def read(kind: type[Command], data: dict[str, Any]) -> Command:
    return msgspec.json.decode(json.dumps(data).encode(), type=kind)


def refusal(kind: type[Command], data: dict[str, Any]) -> str:
    with pytest.raises(msgspec.ValidationError) as refused:
        read(kind, data)
    return str(refused.value)


@pytest.mark.parametrize(
    "good",
    [
        order(),
        order(lines=[line(quantity=1_000_000)]),
        order(lines=[line(unit_price=0)]),
        order(lines=[line(unit_price=10**12)]),
        order(lines=[line(sku=f"s-{n}") for n in range(100)]),
        order(lines=[line(quantity=9007, unit_price=10**12)]),
        order(ship_to=address(name="Élodie d Août", postal_code="SW1A 1AA")),
        order(order_id="~a.b_c-9" * 16),
    ],
)
def test_a_well_formed_order_is_read(good: dict[str, Any]) -> None:
    read(PlaceOrder, good)


@pytest.mark.parametrize("quantity", ["7", 1.0, True, 0, -1, 1_000_001, 2**31, 2**63])
def test_a_quantity_is_a_whole_number_from_1_to_a_million(quantity: object) -> None:
    bad = order(lines=[line(quantity=quantity)])
    assert refusal(PlaceOrder, bad).endswith("at `$.lines[0].quantity`")


@pytest.mark.parametrize("price", [-1, 1e-30, 3.5, "1", 10**12 + 1, 2**64, 10**30])
def test_a_price_is_a_whole_number_of_minor_units(price: object) -> None:
    bad = order(lines=[line(unit_price=price)])
    assert refusal(PlaceOrder, bad).endswith("at `$.lines[0].unit_price`")


@pytest.mark.parametrize(
    "currency", ["EURO", "eur", "EU", "XXX", "ABC", "EUR\n", " EUR", "", None, 978]
)
def test_a_currency_is_one_of_the_list(currency: object) -> None:
    assert refusal(PlaceOrder, order(currency=currency)).endswith("at `$.currency`")


@pytest.mark.parametrize(
    "lines",
    [[], [line(sku=f"s-{n}") for n in range(101)], [line(), line(quantity=2)], {}],
)
def test_an_order_has_1_to_100_lines_with_a_sku_on_one_only(lines: object) -> None:
    assert refusal(PlaceOrder, order(lines=lines)).endswith("at `$.lines`")


def test_a_total_holds_in_every_reader() -> None:
    dear = [line(sku=f"s-{n}", quantity=9, unit_price=10**12) for n in range(100)]
    read(PlaceOrder, order(lines=dear))
    over = [line(quantity=9008, unit_price=10**12)]
    assert TOTAL_MAX < 9008 * 10**12
    assert refusal(PlaceOrder, order(lines=over)).endswith("at `$.lines`")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", ""),
        ("street", "  "),
        ("street", "a\nb"),
        ("city", "\u00a0"),
        ("city", "x" * 1001),
        ("postal_code", "1" * 1001),
        ("postal_code", "10121\n"),
        ("country", "it"),
        ("country", "ITA"),
        ("country", "IT\n"),
    ],
)
def test_an_address_is_on_lines_that_can_be_seen(field: str, value: str) -> None:
    bad = order(ship_to=address(**{field: value}))
    assert refusal(PlaceOrder, bad).endswith(f"at `$.ship_to.{field}`")


@pytest.mark.parametrize(
    "identifier", ["", ".", "..", "a b", "a/b", "ä", "a\u200bb", "a\n", "x" * 129]
)
def test_an_id_keeps_to_its_alphabet(identifier: str) -> None:
    bad = order(customer_id=identifier)
    assert refusal(PlaceOrder, bad).endswith("at `$.customer_id`")


def test_an_unknown_field_is_refused() -> None:
    assert "is_admin" in refusal(PlaceOrder, order(is_admin=True))


@pytest.mark.parametrize("day", ["2026-02-30", "2026-13-01", "26-01-01", "2026-01-01Z"])
def test_a_day_is_a_day_of_the_calendar(day: str) -> None:
    bad = {"order_id": "o-1", "paid_on": day}
    assert refusal(MarkOrderPaid, bad).endswith("at `$.paid_on`")


def test_a_return_names_a_sku_once() -> None:
    twice = [{"sku": "tea", "quantity": 1}, {"sku": "tea", "quantity": 1}]
    bad = {"return_id": "r", "order_id": "o", "lines": twice, "reason": ""}
    assert refusal(RequestReturn, bad).endswith("at `$.lines`")


def test_a_reason_has_at_most_1000_characters() -> None:
    good = {
        "return_id": "r",
        "order_id": "o",
        "lines": [{"sku": "tea", "quantity": 1}],
    }
    read(RequestReturn, {**good, "reason": "x" * 1000})
    assert refusal(RequestReturn, {**good, "reason": "x" * 1001}).endswith("`$.reason`")
