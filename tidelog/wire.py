"""A Kafka record of ours: its names and its headers (CloudEvents in binary mode).

Pure translation between metadata and headers. What is missing or malformed raises CodecError:
such a record is not ours, and its reader parks it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from operator import itemgetter
from typing import Any

import msgspec

from tidelog.errors import CodecError

CONTENT_TYPE = b"application/avro"
SPEC_VERSION = b"1.0"
HEADER_BYTES_MAX = 1_024
HEADERS_MAX = 64

_KEPT_OF_COMMANDS = ("ce_id", "ce_correlationid", "ce_causationid", "traceparent")

Headers = list[tuple[str, bytes]]

_TIME = re.compile(rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z")
_DIGITS_MAX = 18
_ZERO = ord("0")


class EventMetadata(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What the engine keeps about an event, beside the event itself."""

    message_id: str
    type: str
    subject: str
    recorded_at: str
    sequence: int
    version: int
    correlation_id: str
    causation_id: str
    command_hash: str
    traceparent: str


class CommandMetadata(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What travels with a command through `<context>.commands`."""

    command_id: str
    type: str
    subject: str
    sent_at: str
    correlation_id: str
    causation_id: str
    command_hash: str
    traceparent: str
    expected_version: str | None = None
    deadline: str | None = None


def events_topic(context: str, prefix: str = "") -> str:
    """The topic that holds a context's events."""
    return f"{prefix}{context}.events"


def commands_topic(context: str, prefix: str = "") -> str:
    """The topic that carries a context's commands."""
    return f"{prefix}{context}.commands"


def event_headers(metadata: EventMetadata, source: str) -> Headers:
    """The headers of an event record."""
    return [
        ("ce_specversion", SPEC_VERSION),
        ("ce_id", metadata.message_id.encode()),
        ("ce_type", metadata.type.encode()),
        ("ce_source", source.encode()),
        ("ce_subject", metadata.subject.encode()),
        ("ce_time", metadata.recorded_at.encode()),
        ("ce_sequence", b"%d" % metadata.sequence),
        ("ce_aggregateversion", b"%d" % metadata.version),
        ("ce_correlationid", metadata.correlation_id.encode()),
        ("ce_causationid", metadata.causation_id.encode()),
        ("ce_commandhash", metadata.command_hash.encode()),
        ("content-type", CONTENT_TYPE),
        ("traceparent", metadata.traceparent.encode()),
    ]


def command_headers(metadata: CommandMetadata, source: str) -> Headers:
    """The headers of a command record."""
    headers = [
        ("ce_specversion", SPEC_VERSION),
        ("ce_id", metadata.command_id.encode()),
        ("ce_type", metadata.type.encode()),
        ("ce_source", source.encode()),
        ("ce_subject", metadata.subject.encode()),
        ("ce_time", metadata.sent_at.encode()),
        ("ce_correlationid", metadata.correlation_id.encode()),
        ("ce_causationid", metadata.causation_id.encode()),
        ("ce_commandhash", metadata.command_hash.encode()),
        ("content-type", CONTENT_TYPE),
        ("traceparent", metadata.traceparent.encode()),
    ]
    if metadata.expected_version is not None:
        headers.append(("tl_ifmatch", metadata.expected_version.encode()))
    if metadata.deadline is not None:
        headers.append(("tl_deadline", metadata.deadline.encode()))
    return headers


def read_event_headers(
    headers: Iterable[tuple[str, bytes | None]] | None,
) -> EventMetadata:
    """The metadata of an event record; CodecError if a header is missing or malformed."""
    found = _by_name(headers)
    message_id, type_, subject, correlation_id, causation_id, command_hash = _texts(found)
    return EventMetadata(
        message_id=message_id,
        type=type_,
        subject=subject,
        recorded_at=_time(found),
        sequence=_count(found, "ce_sequence"),
        version=_count(found, "ce_aggregateversion"),
        correlation_id=correlation_id,
        causation_id=causation_id,
        command_hash=command_hash,
        traceparent=_optional(found, "traceparent") or "",
    )


QuickHeaders = tuple[bytes, bytes, bytes, bytes, datetime]
"""ce_type, ce_subject, ce_sequence and ce_aggregateversion as they stand, and the time."""

_SAMPLE = EventMetadata(
    message_id="i",
    type="t",
    subject="s",
    recorded_at="2026-01-01T00:00:00.000000Z",
    sequence=1,
    version=1,
    correlation_id="c",
    causation_id="c",
    command_hash="h",
    traceparent="",
)
_NAMES = tuple(name for name, _ in event_headers(_SAMPLE, "/"))
_WEEK, _UTC = b"WZ"
_TIME_LENGTH = 27

_time_of: Callable[[str], datetime] = datetime.fromisoformat


def quick_headers(headers: Sequence[tuple[str, bytes | None]]) -> QuickHeaders | None:
    """What stands in headers that are exactly as we write them; None where any look is due.

    Never more lenient than `read_event_headers`: what this takes, that takes too, but for
    ce_sequence, which the caller compares with the one that is due. To take them apart in one
    statement costs a third of looking each up by its name.
    """
    parts: Any = headers
    try:
        # fmt: off
        ((n0, spec), (n1, own_id), (n2, kind), (n3, _), (n4, subject), (n5, time), (n6, sequence),
         (n7, version), (n8, correlation), (n9, cause), (n10, command), (n11, _), (n12, trace),
         ) = parts
        # fmt: on
        if (n0, n1, n2, n3, n4, n5, n6, n7, n8, n9, n10, n11, n12) != _NAMES:
            return None
        texts = b"".join((own_id, kind, subject, correlation, cause, command, trace))
        if (
            spec == SPEC_VERSION
            and own_id
            and subject
            and correlation
            and cause
            and command
            and len(texts) <= HEADER_BYTES_MAX
            and texts.isascii()
            and version.isdigit()
            and len(version) <= _DIGITS_MAX
            and version[0] != _ZERO
            and len(time) == _TIME_LENGTH
            and time[5] != _WEEK
            and time[10::9] == b"T."
            and time[26] == _UTC
        ):
            return kind, subject, sequence, version, _time_of(time.decode())
    except (AttributeError, TypeError, ValueError):
        return None
    return None


def read_command_headers(
    headers: Iterable[tuple[str, bytes | None]] | None,
) -> CommandMetadata:
    """The metadata of a command record; CodecError if a header is missing or malformed.

    Anybody may send a command, and its headers end in events and tables: none may hold a NUL.
    """
    found = _by_name(headers)
    if any(b"\0" in (found.get(name) or b"") for name in _KEPT_OF_COMMANDS):
        raise CodecError("a header holds a NUL")
    return CommandMetadata(
        command_id=_text(found, "ce_id"),
        type=_text(found, "ce_type"),
        subject=_text(found, "ce_subject"),
        sent_at=_optional(found, "ce_time") or "",
        correlation_id=_optional(found, "ce_correlationid") or _text(found, "ce_id"),
        causation_id=_optional(found, "ce_causationid") or "",
        command_hash=_optional(found, "ce_commandhash") or "",
        traceparent=_optional(found, "traceparent") or "",
        expected_version=_optional(found, "tl_ifmatch"),
        deadline=_optional(found, "tl_deadline"),
    )


_TEXTS = (
    "ce_id",
    "ce_type",
    "ce_subject",
    "ce_correlationid",
    "ce_causationid",
    "ce_commandhash",
)
_text_values = itemgetter(*_TEXTS)


def _texts(found: dict[str, bytes | None]) -> list[str]:
    """The values of an event's textual headers.

    Short ones, as they are, are decoded in one go, which is half the work; whatever is odd about
    them is found and named one by one.
    """
    try:
        joined = b"\0".join(_text_values(found))
        if len(joined) <= HEADER_BYTES_MAX:
            texts = joined.decode().split("\0")
            if len(texts) == len(_TEXTS) and all(texts):
                return texts
    except (KeyError, TypeError, UnicodeDecodeError):
        return [_text(found, name) for name in _TEXTS]
    return [_text(found, name) for name in _TEXTS]


def _count(found: dict[str, bytes | None], name: str) -> int:
    """A positive number in plain decimal digits."""
    raw = found.get(name)
    if raw is None or not raw.isdigit() or raw[0] == _ZERO or len(raw) > _DIGITS_MAX:
        raise CodecError(f"header {name} is missing or malformed")
    return int(raw)


def _time(found: dict[str, bytes | None]) -> str:
    raw = found.get("ce_time")
    if raw is None or not _TIME.fullmatch(raw):
        raise CodecError("header ce_time is missing or malformed")
    text = raw.decode()
    try:
        datetime.fromisoformat(text)
    except ValueError:
        raise CodecError("header ce_time is no time of the calendar") from None
    return text


def _by_name(
    headers: Iterable[tuple[str, bytes | None]] | None,
) -> dict[str, bytes | None]:
    pairs = list(headers or ())
    if len(pairs) > HEADERS_MAX:
        raise CodecError(f"a record of ours has at most {HEADERS_MAX} headers")
    found = dict(pairs)
    if found.get("ce_specversion") != SPEC_VERSION:
        raise CodecError("header ce_specversion is not 1.0")
    return found


def _text(found: dict[str, bytes | None], name: str) -> str:
    text = _optional(found, name)
    if not text:
        raise CodecError(f"header {name} is missing")
    return text


def _optional(found: dict[str, bytes | None], name: str) -> str | None:
    raw = found.get(name)
    if raw is None:
        return None
    if len(raw) > HEADER_BYTES_MAX:
        raise CodecError(f"header {name} is longer than {HEADER_BYTES_MAX} bytes")
    try:
        return raw.decode()
    except UnicodeDecodeError:
        raise CodecError(f"header {name} is not UTF-8") from None
