"""Strict JSON: what is read, what is refused, and that a doubled key is never missed."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.orders import CancelOrder, PlaceOrder
from tests.integration.command_server import order_body
from tidelog import Command
from tidelog.errors import Invalid, Malformed, TidelogError
from tidelog.http.body import CommandReader, invalid, read_json

# Texts as they stand in JSON, with all that could lead a count of colons astray.
PIECES = ["a", ":", "::", "b:", '\\"', "\\\\", "\\/", "\\n", "\\u003a", "\\u0061", "é", "\\u00e9"]
TEXTS = st.lists(st.sampled_from(PIECES), max_size=3).map(lambda parts: f'"{"".join(parts)}"')
NUMBERS = st.sampled_from(["0", "-1", "1.5", "1e5", "123456789012345678901"])
LEAVES = st.one_of(TEXTS, NUMBERS, st.sampled_from(["true", "false", "null"]))
SPACES = st.sampled_from(["", " ", "\n", "\t "])


def objects(children: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    pairs = st.tuples(TEXTS, SPACES, SPACES, children).map(
        lambda pair: f"{pair[0]}{pair[1]}:{pair[2]}{pair[3]}"
    )
    return st.lists(pairs, max_size=4).map(lambda all_pairs: "{" + ",".join(all_pairs) + "}")


def arrays(children: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.lists(children, max_size=3).map(lambda items: "[" + ",".join(items) + "]")


DOCUMENTS = st.recursive(LEAVES, lambda inner: st.one_of(objects(inner), arrays(inner)))


def has_doubled_key(document: str) -> bool:
    doubled = False

    def look(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        nonlocal doubled
        doubled = doubled or len({key for key, _ in pairs}) < len(pairs)
        return dict(pairs)

    json.loads(document, object_pairs_hook=look)
    return doubled


@settings(max_examples=500, deadline=None)
@given(DOCUMENTS)
def test_a_doubled_key_is_refused_and_nothing_else_is(document: str) -> None:
    raw = document.encode()
    if has_doubled_key(document):
        with pytest.raises(Malformed, match="same key twice"):
            read_json(raw)
    else:
        assert read_json(raw) == json.loads(document)


@settings(max_examples=100, deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
def test_whatever_json_is_written_is_read_back_or_refused_for_a_reason(value: Any) -> None:
    plain = json.dumps(value)
    text = json.dumps(value, ensure_ascii=False)
    bad = "\\u0000" in plain and "\0" in str_of(value)
    for raw in (plain.encode(), text.encode("utf-8", "surrogatepass")):
        try:
            assert read_json(raw) == value
        except TidelogError:
            assert bad or has_surrogate(value)


def str_of(value: Any) -> str:
    if isinstance(value, dict):
        return "".join(key + str_of(child) for key, child in value.items())
    if isinstance(value, list):
        return "".join(map(str_of, value))
    return value if isinstance(value, str) else ""


def has_surrogate(value: Any) -> bool:
    return any("\ud800" <= character <= "\udfff" for character in str_of(value))


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=60))
def test_bytes_of_any_kind_raise_nothing_but_our_errors(raw: bytes) -> None:
    with suppress(Malformed, Invalid):
        read_json(raw)


READER = CommandReader(PlaceOrder, "order_id")


def test_a_command_is_made_of_the_path_and_the_body() -> None:
    command = READER.read(json.dumps(order_body()).encode(), "o-1")
    assert isinstance(command, PlaceOrder)
    assert command.order_id == "o-1"
    assert command.lines[0].sku == "tea"


@pytest.mark.parametrize(
    ("changes", "pointer", "detail"),
    [
        ({"customer_id": 7}, "/customer_id", "Expected str, got int."),
        ({"lines": {}}, "/lines", "Expected array, got object."),
        ({"lines": [[]]}, "/lines/0", "Expected object, got array."),
        ({"currency": "EVIL"}, "/currency", "This is not one of the values that the field takes."),
        ({"extra": "EVIL"}, "/extra", "There is no such field."),
        ({"EVIL - at `$.x`": 1}, "", "There is no such field."),
    ],
)
def test_a_finding_has_a_pointer_and_not_the_value(
    changes: dict[str, Any], pointer: str, detail: str
) -> None:
    with pytest.raises(Invalid) as caught:
        READER.read(json.dumps(order_body(**changes)).encode(), "o-1")
    assert (caught.value.pointer, caught.value.detail) == (pointer, detail)


def test_a_missing_field_is_pointed_at() -> None:
    body = order_body()
    del body["ship_to"]["city"]
    with pytest.raises(Invalid) as caught:
        READER.read(json.dumps(body).encode(), "o-1")
    assert caught.value.pointer == "/ship_to/city"


class Part(msgspec.Struct):
    """A record with a check of its own."""

    a: int

    def __post_init__(self) -> None:
        raise ValueError("Expected better - at `$.a`")


class Whole(Command):
    id: str
    parts: list[Part]


def test_a_check_of_a_nested_record_is_placed_where_the_record_is() -> None:
    with pytest.raises(Invalid) as caught:
        CommandReader(Whole, "id").read(b'{"parts":[{"a":1}]}', "x")
    assert (caught.value.pointer, caught.value.detail) == ("/parts/0/a", "Expected better.")


class Wide(Command):
    id: str
    amount: int
    by_name: dict[str, int] = msgspec.field(default_factory=dict)


@pytest.mark.parametrize("amount", [2**63, -(2**63) - 1, 10**30])
def test_an_integer_that_no_event_can_hold_is_invalid_whatever_the_type_says(amount: int) -> None:
    reader = CommandReader(Wide, "id")
    with pytest.raises(Invalid) as caught:
        reader.read(json.dumps({"amount": amount}).encode(), "x")
    assert caught.value.pointer == "/amount"
    with pytest.raises(Invalid) as caught:
        reader.read(json.dumps({"amount": 1, "by_name": {"a": amount}}).encode(), "x")
    assert caught.value.pointer == "/by_name/a"
    assert reader.read(b'{"amount":9223372036854775807}', "x")


def test_the_pointer_of_a_field_in_a_larger_document_is_whole() -> None:
    with pytest.raises(Invalid) as caught:
        CommandReader(CancelOrder, "order_id").build({"reason": 1}, "o-1", at="/data")
    assert caught.value.pointer == "/data/reason"


def test_an_unknown_message_of_the_checker_is_not_passed_on() -> None:
    found = invalid(msgspec.ValidationError("Something about EVIL - at `$.a[3].b`"))
    assert found.pointer == "/a/3/b"
    assert "EVIL" not in found.detail


def test_a_name_in_a_pointer_is_short_and_safe() -> None:
    for name in ("EVIL<x>", "E" * 65, "a/b", "é"):
        with pytest.raises(Invalid) as caught:
            READER.read(json.dumps(order_body(**{name: 1})).encode(), "o-1")
        assert caught.value.pointer == ""
