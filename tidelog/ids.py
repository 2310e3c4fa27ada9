"""Fresh identifiers and times for records."""

from __future__ import annotations

import os
import random
import time
from datetime import UTC, datetime

# Identifiers are not secrets; a generator seeded by the system is as unique and ten times as fast.
_random_bits = random.Random(os.urandom(32)).getrandbits

_second = 0
_second_text = ""


def uuid7() -> str:
    """A UUID of version 7 (RFC 9562, section 5.7): milliseconds since 1970, then 74 random bits."""
    bits = _random_bits(74)
    milliseconds = time.time_ns() // 1_000_000
    version = 0x7000 | bits >> 62
    variant = 0x8000_0000_0000_0000 | bits & 0x3FFF_FFFF_FFFF_FFFF
    text = f"{milliseconds:012x}{version:04x}{variant:016x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def utc_now() -> str:
    """The time as RFC 3339 in UTC with microseconds: `2026-01-31T12:00:00.000000Z`."""
    global _second, _second_text
    second, nanoseconds = divmod(time.time_ns(), 1_000_000_000)
    if second != _second:
        text = datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S.")
        _second_text, _second = text, second
    return f"{_second_text}{nanoseconds // 1000:06d}Z"
