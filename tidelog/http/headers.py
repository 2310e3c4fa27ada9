"""Reading the request headers that mean something, and refusing what they must not be.

Pure functions of bytes. Whatever is malformed raises Malformed and is never repeated.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable
from typing import NamedTuple
from urllib.parse import unquote_to_bytes

from tidelog.engine.command import MUST_EXIST
from tidelog.errors import Malformed
from tidelog.http.errors import UnsupportedMediaType

CORRELATION_LENGTH_MAX = 128

_PRINTABLE = re.compile(rb"[\x20-\x7e]{1,128}")
_QUOTED = re.compile(rb'"((?:[\x20\x21\x23-\x5b\x5d-\x7e]|\\["\\])*)"')
_ESCAPED = re.compile(rb"\\(.)")
_STRONG_VERSION = re.compile(rb'"(0|[1-9][0-9]{0,15})"')
_ENTITY_TAG = re.compile(r'(?:W/)?"([\x21\x23-\x7e\x80-\xff]*)"')
_CORRELATION = re.compile(rb"[A-Za-z0-9._~:/+=@-]{1,128}")
_NOT_CORRELATION = re.compile(rb"[^A-Za-z0-9._~:/+=@-]+")
_TRACEPARENT = re.compile(
    rb"(?!ff)([0-9a-f]{2})-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-([0-9a-f]{2})(-.*)?"
)
_BAD_ESCAPE = re.compile(rb"%(?![0-9A-Fa-f]{2})")
_ONCE = frozenset(
    (
        b"authorization",
        b"content-type",
        b"idempotency-key",
        b"if-match",
        b"x-correlation-id",
        b"traceparent",
    )
)


class Trace(NamedTuple):
    """Our place in a trace: the caller's trace id (or a new one) and a span id of our own."""

    trace_id: str
    traceparent: str


NO_TRACE = Trace("", "")
"""Before the headers are read."""


def by_name(pairs: Iterable[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
    """Headers by name; one that must stand alone and is there twice raises Malformed."""
    listed = list(pairs)
    found = dict(listed)
    if len(found) != len(listed):
        _refuse_doubled(listed)
    return found


def _refuse_doubled(pairs: list[tuple[bytes, bytes]]) -> None:
    seen: set[bytes] = set()
    for name, _ in pairs:
        if name in seen and name in _ONCE:
            raise Malformed(f"The header {name.decode()} may be sent once only.")
        seen.add(name)


def idempotency_key(raw: bytes) -> str:
    """The key, bare or as a quoted string: 1 to 128 printable ASCII characters."""
    value = raw.strip(b" \t")
    if value.startswith(b'"'):
        quoted = _QUOTED.fullmatch(value)
        value = _ESCAPED.sub(rb"\1", quoted[1]) if quoted else b""
    if not _PRINTABLE.fullmatch(value):
        raise Malformed(
            "Idempotency-Key takes 1 to 128 printable ASCII characters, bare or quoted."
        )
    return value.decode("ascii")


def expected_version(raw: bytes) -> int:
    """The version that If-Match asks for: `"3"`, `"0"` (must not exist) or `*` (must exist)."""
    value = raw.strip(b" \t")
    if value == b"*":
        return MUST_EXIST
    strong = _STRONG_VERSION.fullmatch(value)
    if strong is None:
        raise Malformed(
            'If-Match takes one strong version in quotes, such as "3", "0" for an aggregate '
            "that must not exist, or * for one that must."
        )
    return int(strong[1])


def has_already(condition: str, tag: str) -> bool:
    """Whether If-None-Match names the tag. The comparison is weak (RFC 9110, 13.1.2)."""
    condition = condition.strip(" \t")
    if not condition:
        return False
    if condition == "*":
        return True
    found = [_ENTITY_TAG.fullmatch(part.strip(" \t")) for part in condition.split(",")]
    if None in found:
        raise Malformed('If-None-Match takes entity tags in quotes, such as "3", or *.')
    return tag in {match[1] for match in found if match}


def correlation_id(raw: bytes) -> str | None:
    """The caller's correlation id without what is unsafe in it; None if nothing is left."""
    if not _CORRELATION.fullmatch(raw):
        raw = _NOT_CORRELATION.sub(b"", raw)[:CORRELATION_LENGTH_MAX]
    return raw.decode("ascii") or None


def continued_trace(raw: bytes | None) -> Trace:
    """The caller's trace with a span of our own; a new trace where there is none or a bad one."""
    span_id = random.getrandbits(64) or 1
    match = _TRACEPARENT.fullmatch(raw) if raw is not None else None
    if match is None or (match[1] == b"00" and match[4] is not None):
        trace_id = f"{random.getrandbits(128) or 1:032x}"
        return Trace(trace_id, f"00-{trace_id}-{span_id:016x}-01")
    trace_id = match[2].decode("ascii")
    return Trace(trace_id, f"00-{trace_id}-{span_id:016x}-{match[3].decode('ascii')}")


def wants_async(raw: bytes | None) -> bool:
    """Whether Prefer (RFC 7240) names respond-async."""
    if raw is None:
        return False
    preferences = raw.lower().split(b",")
    return any(part.split(b";")[0].strip() == b"respond-async" for part in preferences)


def check_media_type(headers: dict[bytes, bytes], expected: bytes) -> None:
    """Raise UnsupportedMediaType unless the body is `expected`, in UTF-8 and not encoded."""
    given = headers.get(b"content-type", b"")
    if given != expected and not _is_media_type(given, expected):
        raise UnsupportedMediaType(f"Send the body as {expected.decode('ascii')}.")
    encoding = headers.get(b"content-encoding")
    if encoding is not None and encoding.strip().lower() != b"identity":
        raise UnsupportedMediaType("Send the body without a content encoding.")


def _is_media_type(given: bytes, expected: bytes) -> bool:
    name, *parameters = (part.strip().lower() for part in given.split(b";"))
    charsets = (b"", b"charset=utf-8", b'charset="utf-8"')
    return name == expected and all(part in charsets for part in parameters)


def content_length(headers: dict[bytes, bytes]) -> int | None:
    """The declared length of the body, or None."""
    raw = headers.get(b"content-length")
    if raw is None:
        return None
    if not (raw.isdigit() and len(raw) <= 19):
        raise Malformed("Content-Length is not a number of bytes.")
    return int(raw)


def decoded_segments(raw_path: bytes) -> list[str]:
    """The segments of a path, split before they are percent-decoded."""
    return [_decoded(segment, "path") for segment in raw_path.split(b"/")]


def check_query(query: bytes) -> None:
    """Raise Malformed where the query does not decode to text without NUL."""
    _decoded(query, "query")


def _decoded(raw: bytes, place: str) -> str:
    if _BAD_ESCAPE.search(raw):
        raise Malformed(f"The {place} holds a percent sign that escapes nothing.")
    try:
        text = unquote_to_bytes(raw).decode("utf-8")
    except UnicodeDecodeError:
        raise Malformed(f"The {place} is not UTF-8.") from None
    if "\0" in text:
        raise Malformed(f"The {place} holds a NUL character.")
    return text
