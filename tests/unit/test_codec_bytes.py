"""Bytes that are not ours: whatever they are, the answer is a refusal, and a cheap one."""

from __future__ import annotations

import tracemalloc
from datetime import datetime
from typing import Annotated, Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.codec_sample import (
    CODEC,
    EVENTS,
    FIELD_ID,
    FIELD_LITRES,
    FOREIGN,
    READER,
    Paint,
    refusal,
    with_schema,
    written_by_others,
)
from tidelog.avro_record import Fields, Form, Text, read_record
from tidelog.codec import VALUE_BYTES_MAX, Codec
from tidelog.errors import CodecError
from tidelog.message import Context, Event, Id


@given(st.binary(max_size=60))
@settings(max_examples=500)
def test_random_bytes_are_refused(data: bytes) -> None:
    try:
        message = CODEC.decode(data)
    except CodecError:
        return
    assert written_by_others(message) == data[5:]


@given(EVENTS, st.data())
@settings(max_examples=300)
def test_a_truncated_value_is_refused(event: Event, data: st.DataObject) -> None:
    value = CODEC.encode(event)

    refusal(value[: data.draw(st.integers(0, len(value) - 1))])


@given(EVENTS, st.binary(min_size=1, max_size=9))
def test_bytes_behind_the_record_are_refused(event: Event, rest: bytes) -> None:
    refusal(CODEC.encode(event) + rest)


@given(EVENTS, st.data())
@settings(max_examples=500)
def test_a_flipped_bit_gives_a_refusal_or_another_whole_message(
    event: Event, data: st.DataObject
) -> None:
    value = bytearray(CODEC.encode(event))
    place = data.draw(st.integers(0, len(value) * 8 - 1))
    value[place // 8] ^= 1 << place % 8
    try:
        message = CODEC.decode(bytes(value))
    except CodecError:
        return
    # By another writer: patterns are looked at where ours writes, and not again where it is read.
    assert CODEC.decode(bytes(value[:5]) + written_by_others(message)) == message


@pytest.mark.parametrize("value", [b"", b"\x00", b"\x00\x00\x00\x00", b"\x01\x00\x00\x00\x01\x00"])
def test_what_has_no_prefix_is_refused(value: bytes) -> None:
    assert "wire format" in refusal(value)


def test_a_value_above_the_bound_is_refused() -> None:
    assert "wire format" in refusal(b"\x00" * (VALUE_BYTES_MAX + 1))


def test_an_unknown_schema_id_is_refused() -> None:
    refusal(b"\x00\x7f\xff\xff\xff\x00")


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


def test_a_schema_that_names_its_records_over_and_over_is_read_by_little_code() -> None:
    def first(data: bytes, at: int) -> tuple[Any, int]:
        return data[at], at + 1

    read: Any = first
    forms: dict[Any, Form] = {read: Text()}
    for level in range(14):
        record = Fields(f"R{level}", {"a": read, "b": read}, None)
        read = read_record(record, forms, faults=(IndexError,), reason=str)
        forms[read] = record

    assert len(read.__code__.co_code) < 50_000, "bytes"
    assert read(bytes(2**14), 0)[1] == 2**14


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


def test_what_breaks_the_bounds_of_its_type_is_refused_on_the_way_out() -> None:
    schema_id = CODEC.encode(Paint(id="p-1", litres=10))[:5]

    assert "litres" in refusal(schema_id + b"\x06p-1" + b"\x16")
