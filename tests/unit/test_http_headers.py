"""Request headers: what they may be, and what becomes of the rest."""

from __future__ import annotations

import pytest

from tidelog.engine.command import MUST_EXIST
from tidelog.errors import Malformed
from tidelog.http.errors import UnsupportedMediaType
from tidelog.http.headers import (
    by_name,
    check_media_type,
    check_query,
    content_length,
    continued_trace,
    correlation_id,
    decoded_segments,
    expected_version,
    idempotency_key,
    wants_async,
)


@pytest.mark.parametrize(
    ("raw", "key"),
    [(b"a", "a"), (b'"a"', "a"), (b' "a b" ', "a b"), (b'"\\"\\\\"', '"\\'), (b"it's:1", "it's:1")],
)
def test_a_key_may_be_bare_or_quoted(raw: bytes, key: str) -> None:
    assert idempotency_key(raw) == key


@pytest.mark.parametrize(
    "raw", [b"", b'""', b'"', b'"a', b'"a"b"', b"\x7f", b"\xc3\xa9", b"a" * 129]
)
def test_a_key_that_is_none_is_malformed(raw: bytes) -> None:
    with pytest.raises(Malformed):
        idempotency_key(raw)


@pytest.mark.parametrize(("raw", "version"), [(b'"0"', 0), (b'"17"', 17), (b" * ", MUST_EXIST)])
def test_if_match_is_a_strong_version_or_a_star(raw: bytes, version: int) -> None:
    assert expected_version(raw) == version


@pytest.mark.parametrize("raw", [b"", b"1", b'W/"1"', b'"1","2"', b'"+1"', b'"1 "', b'"\xd9\xa1"'])
def test_an_if_match_of_another_form_is_malformed(raw: bytes) -> None:
    with pytest.raises(Malformed):
        expected_version(raw)


def test_a_correlation_id_keeps_what_is_safe() -> None:
    assert correlation_id(b"visit-1:a/b") == "visit-1:a/b"
    assert correlation_id(b"a\r\nSet-Cookie: x=1") == "aSet-Cookie:x=1"
    assert correlation_id(b"y" * 200) == "y" * 128
    assert correlation_id(b"\xff\x00 ") is None


def test_a_valid_trace_goes_on_under_a_span_of_our_own() -> None:
    trace_id, span = b"0af7651916cd43dd8448eb211c80319c", b"b7ad6b7169203331"
    for head, tail in ((b"00", b"01"), (b"00", b"00"), (b"cc", b"01-later")):
        trace = continued_trace(b"-".join((head, trace_id, span, tail)))
        assert trace.trace_id == trace_id.decode()
        assert trace.traceparent.startswith(f"00-{trace.trace_id}-")
        assert trace.traceparent.endswith(f"-{tail[:2].decode()}")
        assert span.decode() not in trace.traceparent


@pytest.mark.parametrize(
    "raw",
    [
        None,
        b"",
        b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331",
        b"00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
        b"00-00000000000000000000000000000000-b7ad6b7169203331-01",
        b"00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
        b"ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-x",
    ],
)
def test_a_bad_trace_is_replaced_by_a_new_one(raw: bytes | None) -> None:
    one, two = continued_trace(raw), continued_trace(raw)
    assert one.trace_id != two.trace_id
    assert one.trace_id not in (raw or b"").decode()
    assert len(one.trace_id) == 32


@pytest.mark.parametrize(
    ("raw", "wanted"),
    [
        (None, False),
        (b"respond-async", True),
        (b"wait=10, Respond-Async", True),
        (b"respond-async; x=1", True),
        (b"return=minimal", False),
        (b"not-respond-async", False),
    ],
)
def test_prefer_names_respond_async_or_not(raw: bytes | None, wanted: bool) -> None:
    assert wants_async(raw) is wanted


def test_a_header_that_must_stand_alone_may_not_be_doubled() -> None:
    assert by_name([(b"accept", b"a"), (b"accept", b"b")]) == {b"accept": b"b"}
    for name in (b"if-match", b"idempotency-key", b"content-type", b"traceparent"):
        with pytest.raises(Malformed):
            by_name([(name, b"a"), (name, b"a")])


def test_a_body_is_read_as_one_media_type_only() -> None:
    check_media_type({b"content-type": b"application/json"}, b"application/json")
    check_media_type({b"content-type": b"Application/Json ; charset=UTF-8"}, b"application/json")
    identity = {b"content-type": b"application/json", b"content-encoding": b"identity"}
    check_media_type(identity, b"application/json")
    for bad in (
        {},
        {b"content-type": b"application/json5"},
        {**identity, b"content-encoding": b"br"},
    ):
        with pytest.raises(UnsupportedMediaType):
            check_media_type(bad, b"application/json")


def test_a_length_is_a_number_of_bytes() -> None:
    assert content_length({}) is None
    assert content_length({b"content-length": b"12"}) == 12
    for bad in (b"", b"-1", b"1e3", b"9" * 20):
        with pytest.raises(Malformed):
            content_length({b"content-length": bad})


def test_a_path_is_split_before_it_is_decoded() -> None:
    assert decoded_segments(b"/orders/a%2Fb/place-order") == ["", "orders", "a/b", "place-order"]
    for bad in (b"/a%00", b"/a%ff", b"/a%", b"/a%g0"):
        with pytest.raises(Malformed):
            decoded_segments(bad)
    check_query(b"a=%c3%a9&b=1")
    with pytest.raises(Malformed):
        check_query(b"a=%00")
