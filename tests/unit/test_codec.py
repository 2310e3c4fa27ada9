"""Messages to bytes and back: exactly, or not at all."""

from __future__ import annotations

import io
import json
from datetime import UTC, date, datetime, timedelta, timezone
from datetime import time as clock_time
from decimal import Decimal
from typing import Any
from uuid import UUID

import fastavro
import msgspec
import pytest
from hypothesis import given, settings

from schemas import CONTEXTS, ORDERS
from schemas.orders import CancelOrder, OrderPlaced, PlaceOrder
from schemas.values import Address, OrderLine
from tests.unit.codec_sample import (
    CODEC,
    EVENTS,
    FIELD_ID,
    FIELD_LITRES,
    FOREIGN,
    READER,
    REGISTRY,
    SAMPLE,
    Cash,
    Colour,
    Everything,
    Paint,
    Painted,
    Point,
    refusal,
    schema_of,
    with_schema,
    written_by_others,
)
from tidelog.avro import avro_schema
from tidelog.codec import VALUE_BYTES_MAX, Codec
from tidelog.errors import CodecError, DefinitionError, Unavailable
from tidelog.message import Command, Context, Event, Id, Message
from tidelog.registry import MemoryRegistry

SOMETHING = Everything(
    id="e-1",
    flag=True,
    count=-3,
    share=0.1,
    raw=b"\x00\xff",
    at=datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC),
    day=date(2026, 1, 2),
    clock=clock_time(23, 59, 59, 999999),
    token=UUID("0190a4f1-7c11-7cc3-9d1a-0123456789ab"),
    price=Decimal("-12.30"),
    colour=Colour.GREEN,
    size="large",
    point=Point(x=1, y=2),
    points=(Point(x=1), Point(x=-1)),
    names={"a": "é", "b": ""},
    note="noted",
    paid=Cash(amount=5),
    either="text",
    listed=[1.5, None],
)
PAINTED = Painted(id="p-1", litres=3)
PLACED = OrderPlaced(
    order_id="o-1",
    customer_id="c-1",
    currency="EUR",
    lines=(OrderLine(sku="tea", quantity=2, unit_price=350),),
    total=700,
    ship_to=Address(name="Ada", street="1 Main", city="Turin", postal_code="10121", country="IT"),
)


def body(message: Message) -> bytes:
    return CODEC.encode(message)[5:]


def encode_refusal(message: Message, codec: Codec = CODEC) -> str:
    with pytest.raises(CodecError) as refused:
        codec.encode(message)
    return str(refused.value)


def changed(**changes: Any) -> Everything:
    return msgspec.structs.replace(SOMETHING, **changes)


# --- There and back -------------------------------------------------------------------------------


@given(EVENTS)
@settings(max_examples=300)
def test_what_is_encoded_is_decoded_as_it_was(event: Event) -> None:
    assert CODEC.decode(CODEC.encode(event)) == event


@given(EVENTS)
@settings(max_examples=200)
def test_other_readers_of_avro_read_the_same_values(event: Event) -> None:
    schema = schema_of(event)

    read = fastavro.schemaless_reader(io.BytesIO(body(event)), schema, None)

    assert (
        msgspec.convert(read, type(event), builtin_types=(bytes, datetime, date, Decimal)) == event
    )


@given(EVENTS)
@settings(max_examples=200)
def test_bytes_of_other_writers_of_avro_are_the_same_message(event: Event) -> None:
    assert CODEC.decode(CODEC.encode(event)[:5] + written_by_others(event)) == event


@pytest.mark.parametrize(
    "blocks", [b"\x02\x02a\x02\x02b\x00", b"\x03\x08\x02a\x02b\x00", b"\x02\x02a\x01\x04\x02b\x00"]
)
def test_a_list_may_come_in_several_blocks_and_with_its_size(blocks: bytes) -> None:
    event = msgspec.structs.replace(PAINTED, tags=("a", "b"))
    whole = CODEC.encode(event)
    assert whole.endswith(b"\x04\x02a\x02b\x00")

    assert CODEC.decode(whole.removesuffix(b"\x04\x02a\x02b\x00") + blocks) == event


def test_a_value_starts_with_a_zero_and_the_schema_id() -> None:
    value = CODEC.encode(PLACED)
    subject = "orders.events-tidelog.orders.OrderPlaced"
    schema = json.dumps(avro_schema(OrderPlaced, "tidelog.orders.OrderPlaced"))

    assert value[0] == 0
    assert int.from_bytes(value[1:5], "big") == REGISTRY.lookup(subject, schema)


def test_a_value_may_come_as_a_memoryview() -> None:
    assert CODEC.decode(memoryview(CODEC.encode(PLACED))) == PLACED


def test_names_contexts_and_subjects_are_known_by_type() -> None:
    codec = Codec(CONTEXTS, MemoryRegistry(), "test.")

    assert codec.full_name_of(OrderPlaced) == "tidelog.orders.OrderPlaced"
    assert codec.context_of(CancelOrder) is ORDERS
    assert codec.subject_of(CancelOrder) == "test.orders.commands-tidelog.orders.CancelOrder"
    assert CODEC.decode_named(CODEC.encode(PLACED)) == ("tidelog.orders.OrderPlaced", PLACED)


def test_registering_twice_gives_the_same_ids() -> None:
    again = Codec([SAMPLE, *CONTEXTS], REGISTRY)
    again.prepare()

    assert again.encode(PLACED) == CODEC.encode(PLACED)


# --- Nothing is coerced on the way in -------------------------------------------------------------


@pytest.mark.parametrize(
    ("message", "place"),
    [
        (changed(count=1.9), "count"),
        (changed(count=True), "count"),
        (changed(count="1"), "count"),
        (changed(count=2**63), "count"),
        (changed(count=-(2**63) - 1), "count"),
        (changed(flag=1), "flag"),
        (changed(share=float("nan")), "share"),
        (changed(share=float("inf")), "share"),
        (changed(share=2**53 + 1), "share"),
        (changed(listed=[float("-inf")]), "listed"),
        (changed(id="no spaces"), "id"),
        (changed(at=datetime(2026, 1, 1)), "at"),  # noqa: DTZ001 (it must be refused)
        (changed(at=datetime(2026, 1, 1, tzinfo=timezone(timedelta(hours=1)))), "at"),
        (changed(at="2026-01-01T00:00:00Z"), "at"),
        (changed(clock=clock_time(1, tzinfo=UTC)), "clock"),
        (changed(price=Decimal("0.001")), "price"),
        (changed(price=Decimal(10) ** 10), "price"),
        (changed(price=Decimal("NaN")), "price"),
        (changed(price=Decimal("Infinity")), "price"),
        (changed(price=Decimal("1E+999999")), "price"),
        (changed(price=1), "price"),
        (changed(colour="blue"), "colour"),
        (changed(size="medium"), "size"),
        (changed(point=Point(x=2**64)), "x"),
        (changed(points=[Point(x=1)]), "points"),
        (changed(names={"a": "\0"}), "names"),
        (changed(note="lone \ud800"), "note"),
        (changed(note="NUL \0"), "note"),
        (changed(either=2**63), "either"),
        (Paint(id="p-1", litres=11), "litres"),
    ],
)
def test_a_value_that_does_not_fit_is_refused_by_name(message: Message, place: str) -> None:
    text = encode_refusal(message)

    assert place in text
    assert type(message).__name__ in text or "Point" in text


def test_a_message_above_the_bound_is_refused() -> None:
    assert "bytes" in encode_refusal(changed(note="n" * VALUE_BYTES_MAX))


def test_a_message_of_no_context_is_refused() -> None:
    assert "Point is no message" in encode_refusal(Point(x=1))


def test_encoding_before_prepare_names_the_cure() -> None:
    assert "prepare()" in encode_refusal(PLACED, Codec(CONTEXTS, MemoryRegistry()))


def test_a_type_in_two_contexts_is_a_fault_of_definition() -> None:
    other = Context(name="other", key="id", commands=Paint, events=Painted)

    with pytest.raises(DefinitionError, match="two contexts"):
        Codec([SAMPLE, other], MemoryRegistry())


def test_a_refusal_never_repeats_the_content() -> None:
    prefix = with_schema(FIELD_ID, {"name": "litres", "type": "string"})

    assert "secret" not in refusal(prefix + b"\x02a" + b"\x0csecret", READER)
    assert "secret" not in encode_refusal(changed(colour="secret"))
    assert "secret" not in encode_refusal(changed(id="secret secret"))
    assert "secret" not in encode_refusal(changed(either=b"secret"))


# --- Evolution ------------------------------------------------------------------------------------


def test_an_event_without_the_newer_fields_gets_their_defaults() -> None:
    prefix = with_schema(FIELD_ID, FIELD_LITRES)

    assert READER.decode(prefix + b"\x02a\x06") == Painted(id="a", litres=3)


def test_a_field_that_today_has_no_more_is_passed_over() -> None:
    prefix = with_schema(FIELD_ID, {"name": "gone", "type": ["null", "string"]}, FIELD_LITRES)

    assert READER.decode(prefix + b"\x02a\x02\x02b\x06") == Painted(id="a", litres=3)
    assert "gone" in refusal(prefix + b"\x02a\x01\x02b\x06", READER), "but never past bad bytes"


def test_an_event_without_a_field_that_has_no_default_is_refused() -> None:
    refusal(with_schema(FIELD_ID) + b"\x02a", READER)


def test_a_block_that_says_its_size_is_read() -> None:
    tags = {"name": "tags", "type": {"type": "array", "items": "string"}}
    prefix = with_schema(FIELD_ID, FIELD_LITRES, tags)

    message = READER.decode(prefix + b"\x02a\x06" + b"\x03\x08\x02x\x02y" + b"\x02\x02z" + b"\x00")

    assert message == Painted(id="a", litres=3, tags=("x", "y", "z"))
    refusal(prefix + b"\x02a\x06" + b"\x03\x0a\x02x\x02y" + b"\x00", READER)


# --- The registry ---------------------------------------------------------------------------------


class _ClosingRegistry(MemoryRegistry):
    """A registry that goes away."""

    closed = False

    def schema(self, schema_id: int) -> object:
        if self.closed:
            raise Unavailable("the registry does not answer")
        return super().schema(schema_id)


def test_an_unreachable_registry_is_no_verdict_on_the_bytes() -> None:
    registry = _ClosingRegistry()
    registry.closed = True

    with pytest.raises(Unavailable):
        Codec(CONTEXTS, registry).decode(CODEC.encode(PLACED))


def test_a_known_id_needs_no_registry() -> None:
    registry = _ClosingRegistry()
    codec = Codec(CONTEXTS, registry)
    codec.prepare()
    value = codec.encode(PLACED)
    codec.decode(value)
    registry.closed = True

    assert codec.decode(value) == PLACED


class Divided(Command):
    """A message whose own check fails in its own way."""

    id: Id
    by: int

    def __post_init__(self) -> None:
        assert 1 // self.by >= 0


def test_a_check_of_a_message_that_fails_in_its_own_way_is_still_a_refusal() -> None:
    codec = Codec([Context(name="odd", key="id", commands=Divided, events=Painted)], FOREIGN)
    codec.prepare()
    value = codec.encode(Divided(id="d-1", by=1))

    assert "Divided" in refusal(value[:-1] + b"\x00", codec)


def test_a_command_travels_like_an_event() -> None:
    command = PlaceOrder(
        order_id="o-1",
        customer_id="c-1",
        currency="EUR",
        lines=PLACED.lines,
        ship_to=PLACED.ship_to,
    )

    assert CODEC.decode(CODEC.encode(command)) == command


def test_an_event_of_todays_schema_is_built_as_the_checker_would_build_it() -> None:
    painted = Painted(id="p-1", litres=2, colour=Colour.GREEN, corner=Point(x=3), tags=("a", "b"))

    built = CODEC.decode(CODEC.encode(painted))

    assert built == painted and isinstance(built, Painted)
    assert (type(built.tags), type(built.corner), built.colour) == (tuple, Point, Colour.GREEN)


def test_bounds_that_grew_narrower_do_not_make_an_old_event_unreadable() -> None:
    written = avro_schema(Painted, "tidelog.sample.Painted")
    prefix = b"\x00" + FOREIGN.add(written).to_bytes(4, "big")
    value = CODEC.encode(Painted(id="p-1", litres=1))
    with_another_id = prefix + value[5:].replace(b"p-1", b"p 1")

    assert READER.decode(with_another_id) == Painted(id="p 1", litres=1)


def test_a_command_is_checked_again_when_it_is_read_for_anybody_may_send_one() -> None:
    value = CODEC.encode(Paint(id="p-1", litres=1))

    with pytest.raises(CodecError, match="Paint"):
        CODEC.decode(value.replace(b"p-1", b"p 1"))
