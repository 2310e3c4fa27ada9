"""What a command is, as bytes that are the same wherever it is asked: its id and its hash."""

from __future__ import annotations

import hashlib
import uuid
from typing import Final

import msgspec

from tidelog.message import Command

NAMESPACE: Final = uuid.uuid5(uuid.NAMESPACE_URL, "https://tidelog.dev/commands")

_NAMESPACE_SHA1 = hashlib.sha1(NAMESPACE.bytes, usedforsecurity=False)
_ENCODER = msgspec.json.Encoder(order="sorted")


def canonical_data(command: Command) -> bytes:
    """The command as JSON with sorted keys, the key field included, defaults filled in; UTF-8."""
    return _ENCODER.encode(command)


def command_hash(full_name: str, command: Command) -> str:
    """SHA-256 (hex) over the command's full name, a line feed, and its canonical data."""
    return hashlib.sha256(full_name.encode() + b"\n" + _ENCODER.encode(command)).hexdigest()


def command_id(caller: str, context: str, aggregate_id: str, key: str) -> str:
    """UUIDv5 of the four, joined by line feeds, in NAMESPACE (RFC 9562, section 5.5).

    Computed by hand: the standard library's function takes three times as long, and this runs for
    every command. None of the four can hold a line feed, so no two sets give the same text.
    """
    digest = _NAMESPACE_SHA1.copy()
    digest.update(f"{caller}\n{context}\n{aggregate_id}\n{key}".encode())
    value = int.from_bytes(digest.digest()[:16], "big")
    value = value & ~(0xF000 << 64) | 0x5000 << 64
    value = value & ~(0xC000 << 48) | 0x8000 << 48
    text = f"{value:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"
