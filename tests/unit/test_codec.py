"""Messages to bytes and back: exactly, or not at all."""

from __future__ import annotations

import io
import json
import tracemalloc
from datetime import UTC, date, datetime, timedelta, timezone
from datetime import time as clock_time
from decimal import Decimal
from typing import Annotated, Any
from uuid import UUID

import fastavro
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas import CONTEXTS, ORDERS
from schemas.orders import CancelOrder, OrderPlaced, PlaceOrder
from schemas.values import Address, OrderLine
from tests.unit.codec_sample import (
    SAMPLE,
    Card,
    Cash,
    Colour,
    Everything,
    Paint,
    Painted,
    Point,
)
from tidelog.avro import avro_schema
from tidelog.codec import VALUE_BYTES_MAX, Codec
from tidelog.errors import CodecError, DefinitionError, Unavailable
from tidelog.message import Command, Context, Event, Id, Message
from tidelog.registry import MemoryRegistry

REGISTRY = MemoryRegistry()
CODEC = Codec([SAMPLE, *CONTEXTS], REGISTRY)
CODEC.prepare()

LONG = st.integers(-(2**63), 2**63 - 1)
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=40)
ID = st.from_regex(r"[A-Za-z0-9_~-]{1,40}", fullmatch=True)
FLOAT = st.floats(allow_nan=False, allow_infinity=False)
POINT = st.builds(Point, x=LONG, y=LONG)

EVERYTHING = st.builds(
    Everything,
    id=ID,
    flag=st.booleans(),
    count=LONG,
    share=FLOAT,
    raw=st.binary(max_size=40),
    at=st.datetimes(timezones=st.just(UTC)),
    day=st.dates(),
    clock=st.times(),
    token=st.uuids(),
    price=st.decimals(min_value=-(10**10), max_value=10**10, places=2).filter(
        lambda price: abs(price) < 10**10
    ),
    colour=st.sampled_from(Colour),
    size=st.sampled_from(["small", "large"]),
    point=POINT,
    points=st.lists(POINT, max_size=4).map(tuple),
    names=st.dictionaries(TEXT, TEXT, max_size=4),
    note=st.none() | TEXT,
    paid=st.none() | st.builds(Card, number=TEXT) | st.builds(Cash, amount=LONG, change=LONG),
    either=st.none() | LONG | TEXT | st.booleans(),
    listed=st.lists(st.none() | FLOAT, max_size=4),
)

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


def refusal(value: bytes, codec: Codec = CODEC) -> str:
    with pytest.raises(CodecError) as refused:
        codec.decode(value)
    return str(refused.value)


def encode_refusal(message: Message, codec: Codec = CODEC) -> str:
    with pytest.raises(CodecError) as refused:
        codec.encode(message)
    return str(refused.value)


def changed(**changes: Any) -> Everything:
    return msgspec.structs.replace(SOMETHING, **changes)


# --- There and back -------------------------------------------------------------------------------


@given(EVERYTHING)
@settings(max_examples=300)
def test_what_is_encoded_is_decoded_as_it_was(event: Everything) -> None:
    assert CODEC.decode(CODEC.encode(event)) == event


@given(EVERYTHING)
@settings(max_examples=200)
def test_other_readers_of_avro_read_the_same_values(event: Everything) -> None:
    schema: Any = fastavro.parse_schema(avro_schema(Everything, "tidelog.sample.Everything"))

    read = fastavro.schemaless_reader(io.BytesIO(body(event)), schema, None)

    assert (
        msgspec.convert(read, Everything, builtin_types=(bytes, datetime, date, Decimal)) == event
    )


@given(EVERYTHING)
@settings(max_examples=200)
def test_bytes_of_other_writers_of_avro_are_the_same_message(event: Everything) -> None:
    schema: Any = fastavro.parse_schema(avro_schema(Everything, "tidelog.sample.Everything"))
    buffer = io.BytesIO()
    native = (bytes, datetime, date, clock_time, Decimal, UUID)
    fastavro.schemaless_writer(buffer, schema, msgspec.to_builtins(event, builtin_types=native))

    assert CODEC.decode(CODEC.encode(event)[:5] + buffer.getvalue()) == event


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


# --- Bytes that are not ours ----------------------------------------------------------------------


@given(st.binary(max_size=60))
@settings(max_examples=500)
def test_random_bytes_are_refused(data: bytes) -> None:
    try:
        message = CODEC.decode(data)
    except CodecError:
        return
    assert CODEC.encode(message) == data


@given(EVERYTHING, st.data())
@settings(max_examples=300)
def test_a_truncated_value_is_refused(event: Everything, data: st.DataObject) -> None:
    value = CODEC.encode(event)

    refusal(value[: data.draw(st.integers(0, len(value) - 1))])


@given(EVERYTHING, st.binary(min_size=1, max_size=9))
def test_bytes_behind_the_record_are_refused(event: Everything, rest: bytes) -> None:
    refusal(CODEC.encode(event) + rest)


@given(EVERYTHING, st.data())
@settings(max_examples=500)
def test_a_flipped_bit_gives_a_refusal_or_another_whole_message(
    event: Everything, data: st.DataObject
) -> None:
    value = bytearray(CODEC.encode(event))
    place = data.draw(st.integers(0, len(value) * 8 - 1))
    value[place // 8] ^= 1 << place % 8
    try:
        message = CODEC.decode(bytes(value))
    except CodecError:
        return
    CODEC.encode(message)


@pytest.mark.parametrize("value", [b"", b"\x00", b"\x00\x00\x00\x00", b"\x01\x00\x00\x00\x01\x00"])
def test_what_has_no_prefix_is_refused(value: bytes) -> None:
    assert "wire format" in refusal(value)


def test_a_value_above_the_bound_is_refused() -> None:
    assert "wire format" in refusal(b"\x00" * (VALUE_BYTES_MAX + 1))


def test_an_unknown_schema_id_is_refused() -> None:
    refusal(b"\x00\x7f\xff\xff\xff\x00")


def with_schema(*fields: dict[str, Any], name: str = "tidelog.sample.Painted") -> bytes:
    """The prefix of a schema that somebody else registered."""
    schema = {"type": "record", "name": name, "fields": list(fields)}
    return b"\x00" + FOREIGN.add(schema).to_bytes(4, "big")


class _ForeignRegistry:
    """A registry that takes every schema and gives it back."""

    def __init__(self) -> None:
        self._schemas: list[object] = []

    def add(self, schema: object) -> int:
        self._schemas.append(schema)
        return len(self._schemas) - 1

    def register(self, subject: str, schema_json: str) -> int:
        return self.add(json.loads(schema_json))

    def schema(self, schema_id: int) -> object:
        return self._schemas[schema_id]

    def lookup(self, subject: str, schema_json: str) -> int | None:
        return None

    def check(self, subject: str, schema_json: str) -> list[str]:
        return []


FOREIGN = _ForeignRegistry()
READER = Codec([SAMPLE], FOREIGN)
READER.prepare()
FIELD_ID = {"name": "id", "type": "string"}
FIELD_LITRES = {"name": "litres", "type": "long"}
PREFIX = with_schema(
    FIELD_ID,
    FIELD_LITRES,
    {"name": "note", "type": ["null", "string"]},
    {"name": "colour", "type": {"type": "enum", "name": "C", "symbols": ["red", "green"]}},
)


@pytest.mark.parametrize(
    ("tail", "word"),
    [
        (b"\x01\x00", "note"),  # union index -1, which fastavro takes for the last branch
        (b"\x04\x00", "note"),  # union index 2 of 2
        (b"\x00\x01", "colour"),  # enum index -1
        (b"\x00\x04", "colour"),  # enum index 2 of 2
        (b"\x80\x00\x00", "note"),  # a zero in two bytes
        (b"\x02\x01\x00", "note"),  # a text of -1 bytes
        (b"\x02\xfe\xff\xff\xff\xff\xff\xff\xff\xff\x01\x00", "note"),  # of 2^63 - 1 bytes
        (b"\x02\x80\x80\x80\x80\x80\x80\x01", "note"),  # of 2^40 bytes
        (b"\x02\x02\xff\x00", "note"),  # not UTF-8
        (b"\x02\x02\x00\x00", "note"),  # NUL
        (b"\x00", "colour"),  # cut off
    ],
)
def test_bytes_that_are_not_avro_are_refused_by_field(tail: bytes, word: str) -> None:
    text = refusal(PREFIX + b"\x02a\x06" + tail, READER)

    assert text.startswith("Painted: Painted.")
    assert word in text


@pytest.mark.parametrize(
    "number",
    [b"\xff" * 9 + b"\x03", b"\xff" * 10 + b"\x01", b"\x80" * 11 + b"\x01", b"\x86\x00"],
)
def test_a_number_of_more_than_64_bits_or_longer_than_needed_is_refused(number: bytes) -> None:
    assert "litres" in refusal(PREFIX + b"\x02a" + number + b"\x00\x00", READER)


@pytest.mark.parametrize(
    "field",
    [
        {"name": "x", "type": {"type": "array", "items": "null"}},
        {"name": "x", "type": ["null", "tidelog.sample.Painted"]},
        {"name": "x", "type": {"type": "map", "values": {"type": "fixed", "name": "F", "size": 0}}},
        {"name": "x", "type": {"type": "fixed", "name": "F", "size": 2**40}},
        {"name": "x", "type": "nonsense"},
    ],
)
def test_a_schema_that_could_exhaust_us_is_never_used(field: dict[str, Any]) -> None:
    prefix = with_schema(FIELD_ID, FIELD_LITRES, field)
    bomb = prefix + b"\x02a\x02" + b"\xfe\xff\xff\xff\x0f"

    assert "not to be trusted" in refusal(bomb, READER)
    assert refusal(bomb, READER) == refusal(bomb, READER), "the verdict is remembered"


def test_a_schema_nested_beyond_measure_is_never_used() -> None:
    nested: Any = "string"
    for _ in range(5_000):
        nested = {"type": "array", "items": nested}

    assert "not to be trusted" in refusal(with_schema({"name": "x", "type": nested}), READER)


@pytest.mark.parametrize("name", ["tidelog.sample.Unheard", "elsewhere.Painted", "Painted"])
def test_a_registered_schema_of_no_message_of_ours_is_refused(name: str) -> None:
    assert "of no message" in refusal(with_schema(FIELD_ID, name=name) + b"\x02a", READER)


def test_hostile_lengths_take_no_memory() -> None:
    fields = {"name": "tags", "type": {"type": "array", "items": "string"}}
    prefix = with_schema(FIELD_ID, FIELD_LITRES, fields)
    huge = b"\x80\x80\x80\x80\x80\x80\x01"
    refusal(prefix, READER)
    tracemalloc.start()

    for announced in (huge, b"\x02" + huge, b"\x01" + huge, b"\xff\xff\xff\xff\x0f" + huge):
        refusal(prefix + b"\x02a\x02" + announced, READER)

    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 100_000, "bytes"


def test_more_items_than_bytes_are_refused_before_the_first_is_read() -> None:
    fields = {"name": "tags", "type": {"type": "array", "items": "string"}}
    prefix = with_schema(FIELD_ID, FIELD_LITRES, fields)

    assert "more items" in refusal(prefix + b"\x02a\x02" + b"\x06" + b"\x00", READER)


@pytest.mark.parametrize("microseconds", [2**62, -(2**62), 2**63 - 1, 253_402_300_800_000_000])
def test_a_time_that_no_calendar_has_is_refused(microseconds: int) -> None:
    prefix = timed_prefix()
    zigzag = (microseconds << 1) ^ (microseconds >> 63)
    raw = bytearray()
    while zigzag > 127:
        raw.append(zigzag & 127 | 128)
        zigzag >>= 7
    raw.append(zigzag)

    assert "at" in refusal(prefix + b"\x02a" + bytes(raw), TIMED_READER)


class Ticked(Event):
    """A moment."""

    id: Id
    at: Annotated[datetime, msgspec.Meta(tz=True)]


TIMED_READER = Codec([Context(name="timed", key="id", commands=Paint, events=Ticked)], FOREIGN)


def timed_prefix() -> bytes:
    moment = {"type": "long", "logicalType": "timestamp-micros"}
    return with_schema(FIELD_ID, {"name": "at", "type": moment}, name="tidelog.timed.Ticked")


def test_a_refusal_never_repeats_the_content() -> None:
    prefix = with_schema(FIELD_ID, {"name": "litres", "type": "string"})

    assert "secret" not in refusal(prefix + b"\x02a" + b"\x0csecret", READER)
    assert "secret" not in encode_refusal(changed(colour="secret"))
    assert "secret" not in encode_refusal(changed(id="secret secret"))
    assert "secret" not in encode_refusal(changed(either=b"secret"))


def test_what_breaks_the_bounds_of_its_type_is_refused_on_the_way_out() -> None:
    schema_id = CODEC.encode(Paint(id="p-1", litres=10))[:5]

    assert "litres" in refusal(schema_id + b"\x06p-1" + b"\x16")


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
