"""The id and the hash of a command are the same for ever, wherever they are computed."""

from __future__ import annotations

import json
import uuid
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Annotated

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Meta

from schemas import CONTEXTS
from schemas.inventory import ReturnStock
from schemas.orders import PlaceOrder
from schemas.values import Address, OrderLine
from tidelog.avro import Scale
from tidelog.canonical import NAMESPACE, canonical_data, command_hash, command_id
from tidelog.codec import Codec
from tidelog.message import Command, Context, Event, Id
from tidelog.registry import MemoryRegistry

PLACE = PlaceOrder(
    order_id="o-1",
    customer_id="c-1",
    currency="EUR",
    lines=(OrderLine(sku="tea", quantity=2, unit_price=350),),
    ship_to=Address(name="Zoë", street="1 Main", city="Turin", postal_code="10121", country="IT"),
)
PARTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\n"), max_size=20)


class Pay(Command):
    """A command with values that JSON can write in several ways."""

    id: Id
    price: Annotated[Decimal, Scale(precision=9, scale=3)]
    at: Annotated[datetime, Meta(tz=True)]


class Paid(Event):
    """Paid."""

    id: Id


NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)


def test_the_canonical_form_has_sorted_keys_and_the_key_field() -> None:
    assert canonical_data(PLACE).decode() == (
        '{"currency":"EUR","customer_id":"c-1",'
        '"lines":[{"quantity":2,"sku":"tea","unit_price":350}],"order_id":"o-1",'
        '"ship_to":{"city":"Turin","country":"IT","name":"Zoë","postal_code":"10121",'
        '"street":"1 Main"}}'
    )


def test_defaults_are_filled_in() -> None:
    short = ReturnStock(sku="tea", order_id="o-1", quantity=1)
    long = ReturnStock(sku="tea", order_id="o-1", quantity=1, return_id=None)

    assert canonical_data(short) == canonical_data(long)
    assert json.loads(canonical_data(short))["return_id"] is None


def test_the_hash_is_over_the_full_name_a_line_feed_and_the_data() -> None:
    assert command_hash("tidelog.orders.PlaceOrder", PLACE) == (
        "9babe3a7e9024450f7959eeeb35d00cd76ee399647c8b0811231aecf4c2e1cef"
    )


def test_another_type_or_another_value_has_another_hash() -> None:
    other = ReturnStock(sku="tea", order_id="o-1", quantity=1)

    assert command_hash("a.B", other) != command_hash("a.C", other)
    assert command_hash("a.B", other) != command_hash("a.B", PLACE)


@pytest.mark.parametrize("price", ["1.5", "1.50", "1.500"])
@pytest.mark.parametrize("hours", [-5, 0, 2])
def test_equal_commands_have_one_form_however_they_were_written(price: str, hours: int) -> None:
    there = NOON.astimezone(timezone(timedelta(hours=hours)))
    pay = Pay(id="p-1", price=Decimal(price), at=there)

    assert canonical_data(pay) == b'{"at":"2026-01-02T12:00:00Z","id":"p-1","price":"1.5"}'


@pytest.mark.parametrize(("price", "text"), [("0.000", "0"), ("-0", "0"), ("100", "100")])
def test_zeros_of_a_whole_decimal_stay(price: str, text: str) -> None:
    data = json.loads(canonical_data(Pay(id="p-1", price=Decimal(price), at=NOON)))

    assert data["price"] == text


@pytest.mark.parametrize("command", [PLACE, Pay(id="p-1", price=Decimal("1.5"), at=NOON)])
def test_the_hash_is_the_same_behind_the_topic_as_before_it(command: Command) -> None:
    codec = Codec(
        [*CONTEXTS, Context(name="pay", key="id", commands=Pay, events=Paid)], MemoryRegistry()
    )
    codec.prepare()

    received = codec.decode(codec.encode(command))

    assert isinstance(received, Command)
    assert command_hash("n", received) == command_hash("n", command)


def test_an_id_is_fixed_for_ever() -> None:
    assert str(NAMESPACE) == "378aeb24-702f-59a7-9359-8f59e198fbba"
    assert command_id("local", "orders", "o-1", "key-1") == "52bd70de-e30e-59e4-b67b-219f2b215a45"


@given(PARTS, PARTS, PARTS, PARTS)
def test_an_id_is_a_uuid_of_version_5(caller: str, context: str, aggregate: str, key: str) -> None:
    name = f"{caller}\n{context}\n{aggregate}\n{key}"

    assert command_id(caller, context, aggregate, key) == str(uuid.uuid5(NAMESPACE, name))


def test_parts_do_not_run_together() -> None:
    assert command_id("ab", "c", "d", "e") != command_id("a", "bc", "d", "e")
