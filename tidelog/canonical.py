"""What a command is, as bytes that are the same wherever it is asked: its id and its hash."""

from __future__ import annotations

import functools
import hashlib
import json
import uuid
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Final

import msgspec

from tidelog.avro import KEPT, avro_schema
from tidelog.message import Command

NAMESPACE: Final = uuid.uuid5(uuid.NAMESPACE_URL, "https://tidelog.dev/commands")

_NAMESPACE_SHA1 = hashlib.sha1(NAMESPACE.bytes, usedforsecurity=False)
_ENCODER = msgspec.json.Encoder(order="sorted")


def canonical_data(command: Command) -> bytes:
    """The command as JSON with sorted keys, the key field included, defaults filled in; UTF-8.

    Equal commands give equal bytes, whether they came as JSON or as Avro: a time is in UTC, and a
    decimal has no zeros at its end.
    """
    if _is_plain(type(command)):
        return _ENCODER.encode(command)
    return _ENCODER.encode(_normal(msgspec.to_builtins(command, builtin_types=KEPT)))


def command_hash(full_name: str, command: Command) -> str:
    """SHA-256 (hex) over the command's full name, a line feed, and its canonical data."""
    return hashlib.sha256(full_name.encode() + b"\n" + canonical_data(command)).hexdigest()


def command_id(caller: str, context: str, aggregate_id: str, key: str) -> str:
    """UUIDv5 of the four, joined by line feeds, in NAMESPACE (RFC 9562, section 5.5).

    Computed by hand: the standard library's function takes three times as long, and this runs for
    every command. Only a caller could hold a line feed; the three behind it cannot, so no two sets
    give the same text.
    """
    digest = _NAMESPACE_SHA1.copy()
    digest.update(f"{caller}\n{context}\n{aggregate_id}\n{key}".encode())
    text = digest.hexdigest()
    variant = _VARIANTS[text[16]]
    return f"{text[:8]}-{text[8:12]}-5{text[13:16]}-{variant}{text[17:20]}-{text[20:32]}"


# The first digit of the fourth group with its two highest bits set to 10, the variant of RFC 9562.
_VARIANTS: Final = {digit: "89ab"[int(digit, 16) & 3] for digit in "0123456789abcdef"}


@functools.cache
def _is_plain(kind: type[Command]) -> bool:
    """Whether values of the type have one form in JSON: no decimals and no times in any field."""
    schema = json.dumps(avro_schema(kind, f"tidelog.any.{kind.__name__}"))
    return '"decimal"' not in schema and '"timestamp-micros"' not in schema


def _normal(value: Any) -> Any:
    match value:
        case datetime():
            return value.astimezone(UTC)
        case Decimal():
            text = f"{value:f}"
            text = text.rstrip("0").rstrip(".") if "." in text else text
            return text if value else "0"
        case dict():
            return {name: _normal(part) for name, part in value.items()}
        case list() | tuple():
            return [_normal(part) for part in value]
    return value
